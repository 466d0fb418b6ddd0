"""The notation of docstrings, `x_t = √alpha_bar_t x_0 + √(1 − alpha_bar_t) eps`, as MathML.

Subscripts follow `_` or are digits below the line, Greek letters are written by name, `alpha_bar` is ᾱ, and a letter
may carry a hat or bar. `^` and raised digits are exponents; braces enclose a script of several signs. `/` divides one
factor by the next, so that `a b / c d` is a (b / c) d. A name directly before a bracket is a function of the bracket's
content. Anything else raises `NotationError`, and the caller then leaves the text as it is.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from tinyddpm.figures.markup import Element, node

GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "eps": "ε", "eta": "η", "theta": "θ", "lambda": "λ",
    "mu": "μ", "rho": "ρ", "sigma": "σ", "sigma2": "σ²", "tau": "τ", "phi": "φ", "omega": "ω", "pi": "π",
}  # fmt: skip
ACCENTS = {"bar": "¯", "hat": "^", "tilde": "~", "\u0304": "¯", "\u0302": "^", "\u0303": "~"}
FUNCTIONS = {
    "log", "log2", "ln", "exp", "expm1", "sin", "cos", "tan", "tanh", "min", "max", "sign", "tr", "mean", "var",
    "softmax", "softplus", "argmin", "argmax", "ceil", "SiLU", "silu",
}  # fmt: skip
WORDS = {
    "scale", "shift", "mean", "out", "skip", "level", "factor", "size", "noise", "signal", "heads", "dscale", "dshift",
    "dmean", "time", "contrast", "brightness", "saturation",
}  # fmt: skip
"""Variables whose names are English words: in a sentence they count as part of a formula only beside an operator."""

RELATIONS = frozenset("=≈~∝≤≥<>≠∈←→⇒∼")
BINARY = frozenset("+−-±∓·*×⊗⊙∘")
LIMITS = {"Σ": "∑", "∑": "∑", "Π": "∏", "∏": "∏", "∫": "∫"}
RAISED = {**dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789−+", strict=True)), "ᵀ": "⊤", "ᵏ": "k"}
SPELLINGS = {"**": "^", "<=": "≤", ">=": "≥", "sqrt(": "√(", **{sign: f"_{n}" for n, sign in enumerate("₀₁₂₃₄₅₆₇₈₉")}}
"""Other spellings of signs, as in code and with digits below the line."""
HAT = re.compile(r"(?<=\b[a-z])\^(?![\w({−-])")
"""A hat after its letter, as in comments without other letters than ASCII's."""

HALVES = {"½": ("1", "2"), "¼": ("1", "4"), "¾": ("3", "4"), "⅓": ("1", "3")}
CLOSING = {"(": ")", "[": "]"}

LETTER = "(?:[A-Za-zℓ]|(?![ΣΠ])[Α-Ωα-ω])[\u0302-\u0304]*"
TOKEN = re.compile(
    rf"(?P<space> +)|(?P<number>\d+(?:\.\d+)?)|(?P<name>{LETTER}(?:{LETTER}|\d(?!_))*)(?P<accent>-(?:tilde|hat|bar)\b)?"
    rf"|(?P<sub>_)|(?P<raised>[{''.join(RAISED)}]+)|(?P<sign>.)"
)
SIGNS = RELATIONS | BINARY | set(LIMITS) | set(HALVES) | set("^'/,;:|‖…()[]{}√∂∇∞!")


class NotationError(ValueError):
    """A text does not follow the notation."""


@dataclass(frozen=True)
class Token:
    """A sign, name, number or space of a formula. `accent` is "tilde", "hat" or "bar" of a name such as beta-tilde."""

    kind: str
    text: str
    accent: str = ""


def tokens(text: str) -> list[Token]:
    """Split a formula into tokens.

    Raises:
        NotationError: a character is not part of the notation.
    """
    found = []
    for spelling, sign in SPELLINGS.items():
        text = text.replace(spelling, sign)
    text = HAT.sub("\u0302", text)
    apart = "".join(unicodedata.normalize("NFD", sign) if sign.isalpha() else sign for sign in text)
    for match in TOKEN.finditer(apart):
        kind = next(name for name in ("space", "number", "name", "sub", "raised", "sign") if match[name] is not None)
        if kind == "sign" and match["sign"] not in SIGNS:
            raise NotationError(f"no place for {match[0]!r}")
        found.append(Token(kind, match[kind], (match["accent"] or "")[1:]))
    return found


def math(text: str, display: bool = False) -> Element:
    """Return a formula as a `math` element.

    Args:
        text: the formula in the notation of docstrings.
        display: whether the formula stands on a line of its own, where quotients are set as fractions.

    Raises:
        NotationError: the text does not follow the notation.
    """
    parser = _Parser(tokens(text.strip()), display)
    content = parser.sequence(())
    if not parser.at_end:
        raise NotationError(f"a bracket is closed that was not opened: {text}")
    return node("math", {"display": "block"} if display else {}, node("mrow", {}, content))


def is_formula(text: str) -> bool:
    """Whether a text parses and is more than a word: a symbol, or with a relation, an operator or a script."""
    try:
        found = tokens(text.strip())
        math(text, display=True)
    except NotationError:
        return False
    names = [token for token in found if token.kind == "name"]
    telling = RELATIONS | BINARY | set(LIMITS) | set("^/√∂∇")
    signs = any(token.kind in ("sub", "raised") or token.text in telling for token in found)
    return signs or (len(names) == 1 == len(found) and is_symbol(names[0].text))


def relates(text: str) -> bool:
    """Whether a formula contains a relation, such as =."""
    return any(sign in text for sign in RELATIONS)


def is_symbol(name: str) -> bool:
    """Whether a name is one letter, a Greek letter's name, d before either, a function, or up to four capitals."""
    plain = "".join(sign for sign in name if not unicodedata.combining(sign))
    of_d = plain.startswith("d") and (len(plain) == 2 or plain[1:] in GREEK)
    return len(plain) == 1 or plain in GREEK or plain in FUNCTIONS or of_d or (plain.isupper() and len(plain) < 5)


class _Parser:
    """Recursive-descent parser over tokens. Each method consumes tokens and returns their MathML elements."""

    def __init__(self, found: list[Token], display: bool) -> None:
        self.tokens, self.display, self.place, self.script = found, display, 0, 0

    @property
    def at_end(self) -> bool:
        return self.place >= len(self.tokens)

    def peek(self) -> str:
        """Return the text of the current token, without consuming it; "" past the end."""
        return "" if self.at_end else self.tokens[self.place].text

    def skip_space(self) -> bool:
        """Consume a space if there is one; return whether there was."""
        there = not self.at_end and self.tokens[self.place].kind == "space"
        self.place += there
        return there

    def sequence(self, closing: tuple[str, ...]) -> list[Element]:
        """Parse up to the end or to a closing sign, which is not consumed."""
        made: list[Element] = []
        factor: Element | None = None  # the last element, if it can be divided
        while True:
            space = self.skip_space()
            if self.at_end or self.peek() in closing or self.peek() in (")", "]", "}"):
                return made
            sign = self.peek()
            if sign == "/":
                if factor is None:
                    raise NotationError("nothing is divided")
                self.place += 1
                spaced = self.skip_space()
                made[-1] = factor = self._quotient(factor, self.factor(), spaced)
            elif sign in LIMITS and self._is_operator():
                made.append(self._large())
                factor = None
            elif sign in RELATIONS or sign in BINARY or sign in ",;:|‖…!":
                made.append(self._operator(space))
                factor = None
            else:
                factor, before = self.factor(), factor
                words = before is not None and (_is_word(before) or _is_word(factor))
                if space and before is not None:
                    made.append(node("mspace", {"width": "0.3em" if words else "0.12em"}))
                made.append(factor)

    def _operator(self, space: bool) -> Element:
        """Parse a relation, a binary operator or a separator; `space` says whether a space precedes it."""
        sign = self.peek()
        self.place += 1
        spaced = space and not self.at_end and self.tokens[self.place].kind == "space"
        if sign in "-*" and not spaced and not self.script:
            raise NotationError("a hyphen is no minus, nor a star of code a product")
        if sign in "|‖":
            room = "0.28em" if spaced else "0"
            bar = node("mo", {"stretchy": "false", "lspace": room, "rspace": room}, sign)
            return bar if spaced else _scripted(bar, None, self._scripts()[1])
        if sign in ",;":
            return node("mo", {"separator": "true"}, sign)
        return node("mo", {}, {"~": "∼", "-": "−", "*": "·"}.get(sign, sign))

    def _is_operator(self) -> bool:
        """Whether a large sign has an operand or a limit; Σ alone is a covariance."""
        if self.peek() not in "ΣΠ":
            return True
        after = self.place + 1
        if after < len(self.tokens) and self.tokens[after].kind == "sub":
            return True
        while after < len(self.tokens) and self.tokens[after].kind == "space":
            after += 1
        if after >= len(self.tokens):
            return False
        token = self.tokens[after]
        return token.kind in ("name", "number") or token.text in "(√∂"

    def _large(self) -> Element:
        """Parse a sum, product or integral sign with its limits."""
        sign = self.peek()
        self.place += 1
        base = node("mo", {}, LIMITS[sign])
        low, high = self._scripts()
        names = ("msub", "msup", "msubsup") if sign == "∫" or not self.display else ("munder", "mover", "munderover")
        return _scripted(base, low, high, names)

    def factor(self) -> Element:
        """Parse one factor: a name, number, bracket or root, with its scripts and its argument if it has one."""
        self.skip_space()
        if self.at_end:
            raise NotationError("a factor is missing at the end")
        token = self.tokens[self.place]
        self.place += 1
        if token.kind == "number":
            number = _scripted(node("mn", {}, token.text), *self._scripts())
            tight = not self.at_end and (self.tokens[self.place].kind == "name" or self.peek() == "√")
            return node("mrow", {}, number, self.factor()) if tight else number
        if token.kind == "name":
            return self._name(token)
        if token.text in HALVES:
            return node("mfrac", {}, [node("mn", {}, part) for part in HALVES[token.text]])
        if token.text in CLOSING:
            return _scripted(self._bracket(token.text), *self._scripts())
        if token.text == "√":
            return node("msqrt", {}, _bare(self.factor()))
        if token.text in "∂∇":
            return node("mrow", {}, node("mo", {"lspace": "0", "rspace": "0"}, token.text), self.factor())
        if token.text in "∞ΣΠ":
            return _scripted(node("mi", {}, token.text), *self._scripts())
        raise NotationError(f"no factor begins with {token.text!r}")

    def _bracket(self, opening: str) -> Element:
        inside = self.sequence((CLOSING[opening],))
        closing = self.peek()
        if closing not in (")", "]"):  # [0, 1) is an interval
            raise NotationError("a bracket is not closed")
        self.place += 1
        still = {} if self.display else {"stretchy": "false"}  # tall brackets would spread the lines of a paragraph
        return node("mrow", {"class": "group"}, node("mo", still, opening), inside, node("mo", still, closing))

    def _name(self, token: Token) -> Element:
        """Parse a name with accents, subscripts, exponents and its argument: a bracket directly after it."""
        subs: list[Element] = []
        words, accents = [token.text], [token.accent] if token.accent else []
        while not self.at_end and self.tokens[self.place].kind == "sub":
            self.place += 1
            word = self.peek()
            if word in ACCENTS:
                self.place += 1
                accents.append(word)
                words.append(word)
            else:
                subs.append(self._subscript())
                words.append(word)
        if not is_symbol(token.text) or (subs and token.text in FUNCTIONS):
            base = node("mi", {"mathvariant": "normal", "class": "word"}, "_".join(words))
            low, high = self._scripts()
        else:
            base = _symbol(token.text)
            for accent in accents:
                base = node("mover", {}, base, node("mo", {"stretchy": "false"}, ACCENTS[accent]))
            below, high = self._scripts()
            subs += [] if below is None else [below]
            low = _joined(subs) if subs else None
        made = _scripted(base, low, high)
        if self.peek() in CLOSING:
            opening = self.peek()
            self.place += 1
            made = node("mrow", {}, made, _scripted(self._bracket(opening), *self._scripts()))
        elif token.text in FUNCTIONS and not subs and self._operand_follows():
            self.skip_space()
            made = node("mrow", {}, made, node("mspace", {"width": "0.17em"}), self.factor())
        return made

    def _operand_follows(self) -> bool:
        if self.at_end or self.tokens[self.place].kind != "space" or self.place + 1 >= len(self.tokens):
            return False
        token = self.tokens[self.place + 1]
        return token.kind in ("name", "number") or token.text in "√∂½(["

    def _subscript(self) -> Element:
        """Parse what follows _: a name, a number, or a sequence in braces."""
        if self.at_end:
            raise NotationError("a subscript is missing")
        token = self.tokens[self.place]
        self.place += 1
        if token.text == "{":
            self.script += 1
            inside = self.sequence(("}",))
            self.script -= 1
            if self.peek() != "}":
                raise NotationError("a brace is not closed")
            self.place += 1
            return node("mrow", {}, inside)
        if token.kind == "number":
            return node("mn", {}, token.text)
        if token.kind == "name":
            return _symbol(token.text)
        raise NotationError(f"{token.text!r} is no subscript")

    def _scripts(self) -> tuple[Element | None, Element | None]:
        """Parse the following subscript and superscript; None for each that is absent."""
        low: Element | None = None
        high: list[Element] = []
        while not self.at_end:
            token = self.tokens[self.place]
            if token.kind == "sub":
                self.place += 1
                low = self._subscript()
            elif token.kind == "raised":
                self.place += 1
                raised = "".join(RAISED[sign] for sign in token.text)
                high.append(node("mn" if raised.isdigit() else "mi" if raised.isalpha() else "mo", {}, raised))
            elif token.text == "'":
                self.place += 1
                high.append(node("mo", {}, "′"))
            elif token.text == "^":
                self.place += 1
                self.script += 1
                high.append(self._exponent())
                self.script -= 1
            else:
                break
        return low, (node("mrow", {}, high) if len(high) > 1 else high[0] if high else None)

    def _exponent(self) -> Element:
        sign = self.peek()
        if sign in "-−" and sign:
            self.place += 1
            return node("mrow", {}, node("mo", {}, "−"), self._exponent())
        if sign == "(":
            self.place += 1
            return _bare(self._bracket("("))
        if sign == "{":
            return self._subscript()
        token = self.tokens[self.place] if not self.at_end else Token("space", "")
        if token.kind == "number":
            self.place += 1
            return node("mn", {}, token.text)
        if token.kind != "name":
            raise NotationError("an exponent is missing")
        self.place += 1
        return self._name(token)

    def _quotient(self, above: Element, below: Element, spaced: bool) -> Element:
        if self.display and not self.script and spaced:
            return node("mfrac", {}, _bare(above), _bare(below))
        return node("mrow", {}, above, node("mo", {"lspace": "0.05em", "rspace": "0.05em"}, "/"), below)


def _symbol(name: str) -> Element:
    """Return the `mi` element of a letter, a Greek letter's name, a function's name or a word."""
    plain = "".join(sign for sign in name if not unicodedata.combining(sign))
    if plain in GREEK:
        return node("mi", {}, GREEK[plain])
    if plain == "log2":
        return node("msub", {}, node("mi", {"mathvariant": "normal"}, "log"), node("mn", {}, "2"))
    if len(plain) == 1:
        made = node("mi", {}, plain)
        for mark in name[1:]:
            made = node("mover", {}, made, node("mo", {"stretchy": "false"}, ACCENTS[mark]))
        return made
    if plain not in FUNCTIONS and plain.startswith("d") and (len(plain) == 2 or plain[1:] in GREEK):
        return node("mrow", {}, node("mi", {"mathvariant": "normal"}, "d"), _symbol(name[1:]))
    return node("mi", {"mathvariant": "normal"}, plain)


def _scripted(
    base: Element, low: Element | None, high: Element | None, names: tuple[str, str, str] = ("msub", "msup", "msubsup")
) -> Element:
    below, above, both = names
    if low is not None and high is not None:
        return node(both, {}, base, low, high)
    if low is not None:
        return node(below, {}, base, low)
    return base if high is None else node(above, {}, base, high)


def _joined(subs: list[Element]) -> Element:
    """Return several subscripts as one, separated by commas; by a space between two words."""
    if len(subs) == 1:
        return subs[0]
    row: list[Element] = []
    for before, sub in zip([None, *subs], subs, strict=False):
        words = before is not None and _is_word(before) and _is_word(sub)
        if before is not None:
            row.append(node("mspace", {"width": "0.3em"}) if words else node("mo", {"separator": "true"}, ","))
        row.append(sub)
    return node("mrow", {}, row)


def _bare(found: Element) -> Element:
    """Return a group without its parentheses, which a root, fraction or exponent makes redundant."""
    if found.get("class") != "group" or found[0].text != "(" or found[-1].text != ")":
        return found
    return node("mrow", {}, list(found)[1:-1])


def _is_word(found: Element) -> bool:
    """Whether a factor contains a word or a function's name, which needs a wider space beside it."""
    return any(part.get("mathvariant") == "normal" and len(part.text or "") > 1 for part in found.iter("mi"))
