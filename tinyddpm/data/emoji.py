"""Emoji: 3655 captioned pictures, 136x128x3, drawn by Pillow from Google's font Noto Color Emoji.

Captions are the names in Unicode's emoji-test.txt 15.0, which is shipped (see `shipped/NOTICE.md`); the font must be
installed. Many names are compositions, such as "waving hand: dark skin tone" or "man: medium skin tone, curly hair", so
whole combinations can be held out. The split "composed" holds pairs of a gesture (or person) and a skin tone that the
split "train" lacks, although "train" has the gesture in other tones and the tone in other gestures.
"""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyddpm.backend import Purpose, Random
from tinyddpm.data.base import CAPTIONS, Labels, Samples, describe, require_split
from tinyddpm.errors import ConfigError, DataError, unknown

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

GROUPS = (
    "Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink", "Travel & Places", "Activities",
    "Objects", "Symbols", "Flags",
)  # fmt: skip
"""Unicode's groups of emoji, in its order."""
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")

FONT = "NotoColorEmoji.ttf"
STRIKE = 109
"""The only size of the font's bitmaps, in pixels per em."""
WIDTH, HEIGHT = 136, 128
"""Size of a picture; the four columns at either edge are empty in all pictures."""

SEED = 1502_2022
"""Seed of the choice of held-out pairs."""
ALIKE = ("snowboarder",)
"""Gestures that look the same in every tone in this font, so that no tone of theirs can be held out."""


class Emoji(NamedTuple):
    """An emoji: its characters, its name and its group."""

    text: str
    caption: str
    group: str


class Pair(NamedTuple):
    """The parts of a composed caption: the caption of the gesture or person alone, and the skin tone."""

    gesture: str
    tone: str


def emoji(
    split: str, data_dir: str | None, *, background: str = "white", groups: Sequence[str] = GROUPS
) -> EmojiDataset:
    """Return emoji with their captions, pictures 136x128x3 whose middle 128x128 pixels hold everything drawn.

    The classes are the groups. The font is searched for in `data_dir`, then in the usual font folders.

    Args:
        split: "train", or "composed": the pairs of a gesture and a skin tone that "train" lacks.
        data_dir: the folder of the font, or the font file itself.
        background: the colour behind the pictures, by name or in a form such as "#ffe0c0".
        groups: the groups to include, by Unicode's names.

    Raises:
        ConfigError: a colour or group is unknown.
        DataError: the font is missing, too old or another font, Pillow cannot draw with it, or the split is unknown or
            empty.
    """
    require_split(split, ("train", "composed"), "emoji")
    strange = next((group for group in groups if group not in GROUPS), None)
    if strange is not None:
        raise ConfigError(f"option groups of emoji: {unknown('group', strange, GROUPS)}")
    known = read_names()
    held_out = composed(e.caption for e in known)
    chosen = [e for e in known if e.group in groups and (e.caption in held_out) == (split == "composed")]
    if not chosen:
        raise DataError(f"emoji: the split {split!r} of groups {list(groups)} is empty: add 'People & Body'")
    colour, path = _colour(background), find_font(data_dir)
    classes = tuple(group for group in GROUPS if group in groups)
    return EmojiDataset(chosen, classes, load_font(path, chosen), colour, name=f"emoji ({split}) by {path}")


class EmojiDataset:
    """A `Dataset` of emoji that draws each picture when it is read."""

    def __init__(
        self,
        known: Sequence[Emoji],
        classes: tuple[str, ...],
        font: FreeTypeFont,
        background: tuple[int, int, int],
        *,
        name: str,
    ) -> None:
        self._texts = [e.text for e in known]
        self._font, self._background, self._name = font, background, name
        self.shape: tuple[int, ...] = (HEIGHT, WIDTH, 3)
        self.classes = classes
        self.labels: Labels | None = np.asarray([classes.index(e.group) for e in known], np.int64)
        self.columns: Mapping[str, Samples] = {CAPTIONS: np.asarray([e.caption for e in known], object)}
        self.description = describe(name, len(known), self.shape, self.classes, self.columns)

    def __len__(self) -> int:
        return len(self._texts)

    def read(self, indices: NDArray[np.integer[Any]]) -> Samples:
        """Return the pictures at `indices`, uint8 (n, 128, 136, 3).

        Raises:
            DataError: the font lacks one of the pictures.
        """
        from PIL import Image, ImageDraw

        out = np.empty((len(indices), *self.shape), np.uint8)
        for place, i in enumerate(indices):
            image = Image.new("RGB", (WIDTH, HEIGHT), self._background)
            ImageDraw.Draw(image).text((0, 0), self._texts[i], font=self._font, embedded_color=True)
            out[place] = np.asarray(image)
            if (out[place] == self._background).all():
                raise DataError(f"{self._name}: no picture of {self.columns[CAPTIONS][i]!r}: get a newer {FONT}")
        return out


def read_names() -> list[Emoji]:
    """Return all shipped emoji in Unicode's order."""
    file = resources.files("tinyddpm.data") / "shipped" / "emoji.txt.gz"
    known, group = [], ""
    for line in gzip.decompress(file.read_bytes()).decode().splitlines():
        text, tab, caption = line.partition("\t")
        if tab:
            known.append(Emoji(text, caption, group))
        else:
            group = line
    return known


def pair(caption: str) -> Pair | None:
    """Return the parts of a caption with exactly one skin tone; None for others, such as two people with two tones."""
    found = re.findall(rf"(?<=[:,] )({'|'.join(TONES)}) skin tone", caption)
    if len(found) != 1:
        return None
    gesture = caption.replace(f": {found[0]} skin tone, ", ": ")
    return Pair(re.sub(f"[:,] {found[0]} skin tone$", "", gesture), found[0])


def composed(captions: Iterable[str]) -> set[str]:
    """Return the held-out captions: one tone each of three quarters of the gestures, 15 % of all pairs.

    The gestures are drawn at random and take the tones in turn, so each tone is held out equally often, to within one.
    """
    of_gesture: dict[str, dict[str, str]] = {}
    for caption in captions:
        found = pair(caption)
        if found is not None and found.gesture not in ALIKE:
            of_gesture.setdefault(found.gesture, {})[found.tone] = caption
    gestures = list(of_gesture)
    order = Random(np, SEED).permutation(Purpose.SPLIT, 0, len(gestures))[: len(gestures) * 3 // 4]
    return {of_gesture[gestures[i]][TONES[k % len(TONES)]] for k, i in enumerate(order)}


def find_font(data_dir: str | None) -> Path:
    """Return the path of the font in `data_dir` (or that file itself), the user's or the system's font folders.

    Raises:
        DataError: the font is in none of them.
    """
    folders = [Path(data_dir).expanduser()] if data_dir else []
    folders += [folder.expanduser() for folder in _font_folders()]
    for folder in folders:
        if folder.is_file():
            return folder
        found = min(folder.rglob(FONT), default=None)
        if found is not None:
            return found
    raise DataError(
        f"emoji: {FONT} is not in any of {', '.join(map(str, folders))}: apt install fonts-noto-color-emoji, or get it"
        " from https://github.com/googlefonts/noto-emoji and name its folder with --data-dir"
    )


def load_font(path: Path, known: Sequence[Emoji]) -> FreeTypeFont:
    """Return the font, after a check that it draws the characters of each emoji as one picture.

    Raises:
        DataError: it does not, it is another font, or Pillow lacks Raqm, which joins characters.
    """
    from PIL import ImageFont, features

    if not features.check("raqm"):
        raise DataError(
            "emoji: this Pillow is without Raqm, which joins characters: pip install --force-reinstall pillow"
        )
    try:
        content = BytesIO(path.read_bytes())  # given a path, Pillow would search for its name in other folders
        font = ImageFont.truetype(content, STRIKE, layout_engine=ImageFont.Layout.RAQM)
    except OSError as cause:
        raise DataError(f"{path} is no font with pictures of {STRIKE} pixels ({cause}): get {FONT}") from cause
    advance = font.getlength(known[0].text)
    if font.getbbox(known[0].text) != (0, 0, WIDTH, HEIGHT):
        raise DataError(f"{path} does not draw pictures of {WIDTH}x{HEIGHT}: get {FONT}, the version with bitmaps")
    for text, caption, _ in known:
        if font.getlength(text) != advance:
            raise DataError(
                f"{path} does not draw {caption!r} as one picture: get a newer {FONT} (Emoji 15.0 or later)"
            )
    return font


def _font_folders() -> Iterator[Path]:
    """Yield the font folders of the user and of the system, on Linux, macOS and Windows."""
    yield Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share", "fonts")
    yield from map(
        Path, ("~/.fonts", "/usr/local/share/fonts", "/usr/share/fonts", "~/Library/Fonts", "/Library/Fonts")
    )
    for variable, folder in (("LOCALAPPDATA", "Microsoft/Windows/Fonts"), ("WINDIR", "Fonts")):
        if variable in os.environ:
            yield Path(os.environ[variable], folder)


def _colour(name: str) -> tuple[int, int, int]:
    from PIL import ImageColor

    try:
        red, green, blue, *_ = ImageColor.getrgb(name)
    except ValueError as cause:
        raise ConfigError(f"option background of emoji is {name!r}: give a colour, such as white or #ffe0c0") from cause
    return red, green, blue
