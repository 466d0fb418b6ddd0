"""Emoji: their names against Unicode's own file, what is held out, and what the font draws."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_shipped import make_emoji
from PIL import ImageFont, features

from tinyddpm.data import emoji as module
from tinyddpm.data import open_dataset
from tinyddpm.data.emoji import ALIKE, GROUPS, TONES, Emoji, composed, find_font, pair, read_names
from tinyddpm.errors import ConfigError, DataError
from tinyddpm.testing import check_dataset

EMOJI_TEST = Path("/usr/share/unicode/emoji/emoji-test.txt")
"""Where Debian's unicode-data puts it."""
COUNTS = {
    "Smileys & Emotion": 166, "People & Body": 2148, "Animals & Nature": 152, "Food & Drink": 133,
    "Travel & Places": 218, "Activities": 85, "Objects": 261, "Symbols": 223, "Flags": 269,
}  # fmt: skip
"""The fully-qualified emoji of each group in emoji-test.txt 15.0."""
CAPTIONS = [e.caption for e in read_names()]
HELD_OUT = composed(CAPTIONS)


@pytest.fixture(scope="session")
def font() -> Path:
    try:
        return find_font(None)
    except DataError as missing:
        pytest.skip(str(missing))


def test_the_names_are_those_of_unicode() -> None:
    known = read_names()
    assert Counter(e.group for e in known) == COUNTS
    assert tuple(COUNTS) == GROUPS
    assert len({e.text for e in known}) == len({e.caption for e in known}) == 3655
    assert Emoji("👋🏿", "waving hand: dark skin tone", "People & Body") in known
    assert Emoji("🇨🇱", "flag: Chile", "Flags") in known
    assert Emoji("#️⃣", "keycap: #", "Symbols") in known


@pytest.mark.skipif(not EMOJI_TEST.is_file(), reason=f"{EMOJI_TEST} is not there: apt install unicode-data")
def test_the_shipped_list_is_made_from_unicodes_file() -> None:
    """The file ends with its own count of the lines that are taken."""
    text = EMOJI_TEST.read_text(encoding="utf-8")
    if "# Version: 15.0" not in text:
        pytest.skip("unicode-data is of another version than 15.0")
    made = make_emoji(EMOJI_TEST)
    stated = re.search(r"# fully-qualified : (\d+)", text)
    assert stated is not None
    assert made.count("\t") == int(stated[1]) == 3655
    lines, group = [], None
    for e in read_names():
        lines += [e.group] if e.group != group else []
        lines.append(f"{e.text}\t{e.caption}")
        group = e.group
    assert made.splitlines() == lines


@pytest.mark.parametrize(
    ("caption", "gesture", "tone"),
    [
        ("waving hand: dark skin tone", "waving hand", "dark"),
        ("waving hand: medium-dark skin tone", "waving hand", "medium-dark"),
        ("man: medium skin tone, curly hair", "man: curly hair", "medium"),
        ("kiss: woman, man, light skin tone", "kiss: woman, man", "light"),
    ],
)
def test_a_caption_is_taken_apart(caption: str, gesture: str, tone: str) -> None:
    assert pair(caption) == (gesture, tone)


@pytest.mark.parametrize(
    "caption",
    [
        "waving hand",
        "flag: Chile",
        "handshake: light skin tone, dark skin tone",
        "kiss: woman, man, dark skin tone, light skin tone",
    ],
)
def test_a_caption_without_a_tone_or_with_two_is_no_pair(caption: str) -> None:
    assert pair(caption) is None


def test_every_gesture_is_an_emoji_of_its_own_and_comes_in_five_tones() -> None:
    pairs = [found for caption in CAPTIONS if (found := pair(caption))]
    assert len(pairs) == len(set(pairs)) == 305 * 5
    assert {found.gesture for found in pairs} <= set(CAPTIONS)
    assert {found.tone for found in pairs} == set(TONES)


def test_what_is_held_out_has_both_halves_in_training_and_never_together() -> None:
    """Of 304 gestures whose tones differ 228 lack one, 15 % of the pairs; each tone is lacking 45 or 46 times."""
    gone = [pair(caption) for caption in HELD_OUT]
    left = [found for caption in CAPTIONS if caption not in HELD_OUT and (found := pair(caption))]
    assert len(gone) == 228 == round(0.15 * 5 * 304)
    assert all(found is not None and found not in left and found.gesture not in ALIKE for found in gone)
    tones = defaultdict(set)
    gestures = defaultdict(set)
    for gesture, tone in left:
        tones[gesture].add(tone)
        gestures[tone].add(gesture)
    for found in gone:
        assert found is not None
        assert tones[found.gesture] == set(TONES) - {found.tone}
        assert len(gestures[found.tone]) > 250
    assert set(Counter(found.tone for found in gone if found).values()) == {45, 46}


@given(st.lists(st.tuples(st.text("abc", min_size=1), st.sampled_from(TONES)), unique=True, max_size=40))
def test_the_same_holds_of_any_gestures_in_all_tones(drawn: list[tuple[str, str]]) -> None:
    gestures = {gesture for gesture, _ in drawn}
    captions = [f"{gesture}: {tone} skin tone" for gesture in gestures for tone in TONES]
    gone = [pair(caption) for caption in composed([*captions, *gestures])]
    assert len(gone) == len({found.gesture for found in gone if found}) == len(gestures) * 3 // 4
    assert composed([*captions, *gestures]) == composed([*gestures, *captions])


def test_the_held_out_pairs_stay_the_same() -> None:
    """What was never seen in a run that is over must not be in another's training, whatever changes here."""
    assert {"waving hand: dark skin tone", "clapping hands: light skin tone", "man: dark skin tone"} <= HELD_OUT
    digest = hashlib.sha256("\n".join(sorted(HELD_OUT)).encode()).hexdigest()
    assert digest == "3bb52188139729d2d2c1c799ee8fdd0f7bfa3cce446557810de7312c170eec25"


class TestDrawn:
    """What the font draws."""

    @pytest.fixture(autouse=True)
    def _font(self, font: Path) -> None:
        self.font = font

    @pytest.mark.slow
    def test_it_keeps_the_contract(self) -> None:
        check_dataset("emoji", groups=["People & Body"])
        check_dataset("emoji", split="composed")

    def test_the_splits_share_the_emoji_out(self) -> None:
        train, held_out = open_dataset("emoji"), open_dataset("emoji", split="composed")
        assert train.description == f"emoji (train) by {self.font}: 3427 images 128x136x3, 9 classes, captions"
        assert set(held_out.columns["text"]) == HELD_OUT
        assert sorted([*train.columns["text"], *held_out.columns["text"]]) == sorted(CAPTIONS)
        assert train.classes == held_out.classes == GROUPS
        assert train.labels is not None
        assert np.bincount(train.labels).tolist() == list((Counter(COUNTS) - Counter({"People & Body": 228})).values())

    @pytest.mark.slow
    def test_every_picture_is_one_glyph_and_no_two_combinations_look_alike(self) -> None:
        """Each has ink, but not at the edges that a square crop takes. None that is held out is seen in training."""
        pictures = {}
        for split in ("train", "composed"):
            dataset = open_dataset("emoji", split=split, options={"background": "#010203"})
            for i, caption in enumerate(dataset.columns["text"]):
                picture = dataset.read(np.asarray([i]))[0]
                ink = (picture != [1, 2, 3]).any(axis=2)
                assert ink.any(), caption
                assert not ink[:, :4].any(), caption
                assert not ink[:, -4:].any(), caption
                pictures[caption] = picture.tobytes()
        assert len(pictures) == 3655
        seen = {picture for caption, picture in pictures.items() if caption not in HELD_OUT}
        assert all(pictures[caption] not in seen for caption in HELD_OUT)

    def test_a_sequence_is_joined(self) -> None:
        """A flag is red, white and blue where France's is, and a tone is darker than another."""
        flags = open_dataset("emoji", options={"groups": ["Flags"]})
        assert len(flags) == 269
        assert flags.classes == ("Flags",)
        (place,) = np.flatnonzero(flags.columns["text"] == "flag: France")
        row = flags.read(np.asarray([place]))[0, 64].astype(int)
        assert row[30, 2] > row[30, 0] + 80
        assert row[68].min() > 200
        assert row[106, 0] > row[106, 2] + 80
        people = open_dataset("emoji", options={"groups": ["People & Body"]}, image_size=(32, 32))
        captions = [f"thumbs up: {tone} skin tone" for tone in TONES]
        places = [np.flatnonzero(people.columns["text"] == caption) for caption in captions if caption not in HELD_OUT]
        brightness = people.read(np.concatenate(places)).mean(axis=(1, 2, 3))
        assert (np.diff(brightness) < 0).all()

    def test_the_background_is_chosen(self) -> None:
        for name, colour in {"black": [0, 0, 0], "#ffe0c0": [255, 224, 192]}.items():
            dataset = open_dataset("emoji", options={"background": name, "groups": ["Symbols"]})
            assert dataset.read(np.asarray([0]))[0, 0, 0].tolist() == colour
        with pytest.raises(ConfigError, match=r"background of emoji is 'whitish': give a colour, such as white"):
            open_dataset("emoji", options={"background": "whitish"})

    def test_a_font_that_lacks_an_emoji_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An older font draws a sequence as several glyphs, and nothing for a character that it does not know."""
        hand = Emoji("👋", "waving hand", "Symbols")
        monkeypatch.setattr(module, "read_names", lambda: [hand, Emoji("👋👋", "two hands", "Symbols")])
        with pytest.raises(DataError, match=r"does not draw 'two hands' as one picture: get a newer NotoColorEmoji"):
            open_dataset("emoji")
        monkeypatch.setattr(module, "read_names", lambda: [hand, Emoji("\U0010ffff", "nothing", "Symbols")])
        with pytest.raises(DataError, match=r"no picture of 'nothing': get a newer NotoColorEmoji"):
            open_dataset("emoji").read(np.arange(2))

    @pytest.mark.slow
    def test_the_font_is_taken_from_the_data_folder(self, tmp_path: Path) -> None:
        (tmp_path / "fonts").mkdir()
        (tmp_path / "fonts" / self.font.name).symlink_to(self.font)
        for given_path in (tmp_path, tmp_path / "fonts" / self.font.name):
            assert str(tmp_path) in open_dataset("emoji", data_dir=str(given_path)).description


def test_the_font_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_font_folders", lambda: iter([tmp_path / "mine", tmp_path / "all"]))
    with pytest.raises(
        DataError, match=rf"NotoColorEmoji\.ttf is not in any of {tmp_path}/x, {tmp_path}/mine,.*: apt install"
    ):
        open_dataset("emoji", data_dir=str(tmp_path / "x"))
    for folder in ("all/noto", "mine/a/b"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "NotoColorEmoji.ttf").touch()
        assert find_font(None) == tmp_path / folder / "NotoColorEmoji.ttf"
    assert find_font(str(tmp_path / "all")) == tmp_path / "all/noto/NotoColorEmoji.ttf"


def test_the_users_own_fonts_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (tmp_path / "fonts").mkdir()
    (tmp_path / "fonts" / "NotoColorEmoji.ttf").touch()
    assert find_font(None) == tmp_path / "fonts" / "NotoColorEmoji.ttf"


def test_fonts_are_looked_for_where_windows_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "own"))
    monkeypatch.setenv("WINDIR", str(tmp_path / "all"))
    folders = [*module._font_folders()]
    assert folders[0] == tmp_path / "fonts"
    assert folders[-2:] == [tmp_path / "own/Microsoft/Windows/Fonts", tmp_path / "all/Fonts"]


def test_another_font_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "NotoColorEmoji.ttf"
    path.write_text("no font")
    with pytest.raises(DataError, match=r"NotoColorEmoji\.ttf is no font with pictures of 109 pixels \(.*\): get"):
        open_dataset("emoji", data_dir=str(tmp_path))
    path.write_bytes(ImageFont.load_default(20).path.getvalue())
    with pytest.raises(DataError, match=r"NotoColorEmoji\.ttf does not draw pictures of 136x128: get"):
        open_dataset("emoji", data_dir=str(tmp_path))


def test_pillow_without_raqm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "NotoColorEmoji.ttf").touch()
    monkeypatch.setattr(features, "check", lambda feature: False)
    with pytest.raises(DataError, match="this Pillow is without Raqm"):
        open_dataset("emoji", data_dir=str(tmp_path))


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(DataError, match="emoji has no split 'test', only 'train' and 'composed'"):
        open_dataset("emoji", split="test")
    with pytest.raises(DataError, match=r"the split 'composed' of groups \['Flags'\] is empty: add 'People & Body'"):
        open_dataset("emoji", split="composed", options={"groups": ["Flags"]})
    with pytest.raises(ConfigError, match="groups of emoji: unknown group 'flags': did you mean 'Flags'"):
        open_dataset("emoji", options={"groups": ["flags"]})
    with pytest.raises(ConfigError, match="option groups of dataset 'emoji' is 'Flags': give a list"):
        open_dataset("emoji", options={"groups": "Flags"})
