"""The notation of docstrings as MathML: what is under which sign, what stays text, and the core equations."""

from __future__ import annotations

import re

import pytest

from tinyddpm.figures.markup import Element, node, written
from tinyddpm.report.book.library import Library
from tinyddpm.report.book.notation import NotationError, math
from tinyddpm.report.book.prose import formulas


def shape(formula: str, display: bool = True) -> str:
    """Return a formula as nested tags with their texts; rows, spaces and attributes are left out."""

    def told(element: Element) -> str:
        inside = " ".join(filter(None, map(told, element)))
        if element.tag in ("mrow", "math"):
            return inside
        if element.tag == "mspace":
            return ""
        return element.text or "" if element.tag in ("mi", "mn", "mo") else f"{element.tag[1:]}({inside})"

    return told(math(formula, display))


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("√alpha_bar_t x_0", "sqrt(sub(over(α ¯) t)) sub(x 0)"),
        ("√(1 − alpha_bar_t) eps", "sqrt(1 − sub(over(α ¯) t)) ε"),
        ("√E[L_t²]", "sqrt(E [ subsup(L t 2) ])"),
        ("a b / c d", "a frac(b c) d"),
        ("sigma_prev / sigma_t x", "frac(sub(σ prev) sub(σ t)) x"),
        ("(b x_t − σ F) / D", "frac(b sub(x t) − σ F D)"),
        ("f(t) / f(0)", "frac(f ( t ) f ( 0 ))"),
        ("sin θ / sin φ a", "frac(sin θ sin φ) a"),
        ("π/2 · t/T", "π / 2 · t / T"),
        ("2t/T", "2 t / T"),
        ("e^(−log_variance / 2)", "sup(e − log_variance / 2)"),
        ("q_log_variance", "sub(q log variance)"),
        ("cos²(x)", "sup(cos 2) ( x )"),
        ("g'_b − g'_a", "subsup(g b ′) − subsup(g a ′)"),
        ("Σ_{t=1}^{T−1} L_t", "underover(∑ t = 1 T − 1) sub(L t)"),
        ("log Σ = f log beta + (1 − f) log beta-tilde", "log Σ = f log β + ( 1 − f ) log over(β ~)"),
        ("∫_0^h e^τ dτ", "subsup(∫ 0 h) sup(e τ) d τ"),
        ("dx̄/ds = eps(x, t)", "d over(x ¯) / d s = ε ( x , t )"),
        ("dS = P (dP − Σ_j dP_j P_j)", "d S = P ( d P − under(∑ j) sub(d P j) sub(P j) )"),
        ("x̂_0 = Qᵀ K", "sub(over(x ^) 0) = sup(Q ⊤) K"),
        ("E ‖a − b‖²", "E ‖ a − b sup(‖ 2)"),
        ("1 − β₂ᵏ", "1 − subsup(β 2 k)"),
        ("x^ = n**2 * sqrt(2 / pi)", "over(x ^) = sup(n 2) · sqrt(frac(2 π))"),
        ("p in [0, 1)", "p in [ 0 , 1 )"),
    ],
)
def test_what_stands_under_which_sign(formula: str, expected: str) -> None:
    assert shape(formula) == expected


@pytest.mark.parametrize(
    "formula",
    ["a.b", "(a", "a)", "x_", "x_+", "x_{a", "2^", "a / ", "/ a", '"a"', "√", "a @ b", "x-y", "{a}", "(N, *x)"],
)
def test_what_is_not_of_the_notation_is_refused(formula: str) -> None:
    with pytest.raises(NotationError):
        math(formula)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Return a mean, as a share of a loss.", []),
        ("With η = 1, σ² is beta-tilde, and so on.", ["η=1", "σ2", "β~"]),
        ("shape (T,), of x_t's type", ["(T,)", "xt"]),
        ("with a = b, and c", ["a=b", "c"]),
        ("with D = α b − σ a, of a (N, 3) array, but x = 1 a while", ["D=αb−σa", "(N,3)", "x=1"]),
        ("SDEdit is of A100-80GB and a re-run of well-known I/O", []),
        ("(x_t − √(1 − alpha_bar_t) eps) / √alpha_bar_t (eq. 15).", ["(xt−1−α¯tε)/α¯t"]),
        ("i = 0, …, N − 1 in all", ["i=0,…,N−1"]),
        ("y = x keep / (1 − rate), whose mean", ["y=xkeep/(1−rate)"]),
        ("times 1000/T, by 1 − βᵏ of kh·kw·C numbers", ["1000/T", "1−βk", "kh·kw·C"]),
        (
            "With P(x) from N(0, I), ceil(size / stride) is dz/dtime, 2³¹ or √2",
            ["P(x)", "N(0,I)", "ceil(size/stride)", "dz/dtime", "231", "2"],
        ),
        ("a sum and/or a rate -> (N, *sample_shape), a 3×3 one of 32 × 32 numbers; −1 = the sum", ["N"]),
        ("35.7 M parameters of M, in 4 C", ["M", "C"]),
        ("Words, e.g. these: as in NumPy 2.4 or `a`", []),
        ("with B (DDPM, appendix B), batch_size, x_t and max_beta", ["B", "xt"]),
    ],
)
def test_formulas_are_found_in_sentences(text: str, found: list[str]) -> None:
    made = node("p", {}, formulas(text))
    assert ["".join(each.itertext()) for each in made.iter("math")] == found
    words = re.sub(r"<math>.*?</math>", "", written(made))
    assert all(word in text for word in re.findall(r"\w{3,}", re.sub(r"<[^>]+>", "", words)))


CORE = {
    ("diffusion.process", "GaussianProcess.q_step"): ["x_t ~ q(x_t | x_{t−1}) = N(√(1 − beta_t) x_{t−1}, beta_t I)"],
    ("diffusion.process", "GaussianProcess.q_sample"): [
        "x_t ~ q(x_t | x_0) = N(√alpha_bar_t x_0, (1 − alpha_bar_t) I)"
    ],
    ("diffusion.process", "GaussianProcess.predict_x0"): ["(x_t − √(1 − alpha_bar_t) eps) / √alpha_bar_t"],
    ("diffusion.process", "GaussianProcess.p_log_variance"): ["log Σ = f log beta + (1 − f) log beta-tilde"],
    ("diffusion.process", "Posterior"): ["q(x_prev | x_t, x_0) = N(c_0 x_0 + c_t x_t, beta_tilde I)"],
    ("diffusion.likelihood", ""): ["L = L_T + Σ_{t=1}^{T−1} L_t + L_0"],
    ("diffusion.objectives", "Hybrid"): ["L_hybrid = L_simple + λ L_vlb"],
    ("diffusion.schedules", "cosine"): ["f(t) = cos²(π/2 · (t/T + s) / (1 + s)),"],
    ("diffusion.times", "LossHistory"): ["p_t ∝ √E[L_t²]"],
    ("diffusion.parametrisation", ""): ["x_0 = skip x_t + out F = (b x_t − σ F) / D,"],
    ("diffusion.parametrisation", "edm"): ["c_in", "= 1 / √(s² + sigma_data²)"],
    ("diffusion.flow", ""): [
        "dx̄/ds = eps(x, t)",
        "log p̄_0(x̄_0) = log p̄_T(x̄_T) + ∫ tr(∂eps/∂x̄) ds",
        "= log p̄_T(x̄_T) + ∫ tr(s ∂eps/∂x̄) d log s",
    ],
    ("samplers.implicit", "ddim"): [
        "x_prev = √alpha_bar_prev x_0 + √(1 − alpha_bar_prev − σ²) eps + σ z",
        "σ = η √((1 − alpha_bar_prev) / (1 − alpha_bar_t)) √(1 − alpha_bar_t / alpha_bar_prev)",
    ],
    ("samplers.runge_kutta", "euler"): ["z_prev = z + (τ_prev − τ) (eps − x_0),"],
    ("samplers.spacings", "karras"): ["σ_i = (σ_max^(1/ρ) + i / (N − 1) (σ_min^(1/ρ) − σ_max^(1/ρ)))^ρ,"],
    ("guidance.extrapolation", ""): ["eps = eps_other + w (eps_conditional − eps_other),"],
    ("ops.attention", "Attention.attention"): ["dS = P (dP − Σ_j dP_j P_j)", "dV = Pᵀ dO"],
    ("ops.normalisation", "Normalisation"): ["dx = r (g − mean(g) − x̂ mean(g x̂))"],
    ("ops.activation", "Activation.silu"): ["dx = dy σ (1 + x (1 − σ))"],
    ("ops.linear", "Linear.linear"): ["dW = Σ xᵀ dy"],
    ("ops.loss", "Loss.gaussian_kl"): ["KL = ½ (e^δ − 1 − δ + z²),", "dlog_variance = dKL · ½ (1 − e^δ − z²)"],
    ("ops.loss", "Loss.pixel_nll"): ["L = softplus(−g_b) + softplus(g_a) − log(1 − e^(−h))"],
}


@pytest.mark.slow
def test_the_core_equations_are_mathematics(library: Library) -> None:
    """Each is found whole where its docstring has it."""
    lost = []
    for (name, owner), equations in CORE.items():
        module = library.modules[name]
        page = "".join(map(written, library.writer(module).document(module.docs[owner])))
        for equation in equations:
            forms = [written(math(equation, display)) for display in (True, False)]
            if not any(form in page for form in forms):
                lost.append((name, owner, equation))
    assert lost == []


@pytest.mark.slow
def test_indented_lines_of_the_diffusion_are_all_mathematics(library: Library) -> None:
    """No formula of these rooms is left as text; what is code stays code."""
    left = {
        name: lines
        for name, module in library.modules.items()
        if name.startswith(("diffusion", "samplers", "guidance", "ops.loss"))
        and (lines := _as_text(library, name, list(module.docs.values())))
    }
    assert left == {
        "diffusion.objectives": [
            "losses, saved = objective.forward(ops, out, batch)\ndout          = objective.backward(ops, saved, share)"
        ]
    }


def _as_text(library: Library, name: str, docs: list[str]) -> list[str]:
    writer = library.writer(library.modules[name])
    return ["".join(part.itertext()) for doc in docs for part in writer.document(doc) if part.tag == "pre"]
