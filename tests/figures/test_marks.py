"""What made a file, read back from it: every kind of file, every kind of text, and files of others."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tinyddpm.data import open_dataset
from tinyddpm.errors import DataError
from tinyddpm.figures.images import save_gif, save_images, save_npz, save_png
from tinyddpm.figures.marks import of_sample, read_mark, to_text
from tinyddpm.figures.style import draw_tiles

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3), np.uint8)
WORDS = ["red apple", 'a "naïve" café', "赤いりんご 🍎", "a\ttab\nand\x1b[31m\x00\x7f", "half a character: \udc80"]


def mark_of(*prompts: str) -> dict[str, Any]:
    return {"made_by": "a test", "samples": [{"number": i, "prompt": text} for i, text in enumerate(prompts)]}


def chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kind and the content of each chunk, by the PNG standard (section 5.3)."""
    at = 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += 12 + length


@pytest.mark.parametrize("text", WORDS)
def test_every_kind_of_file_keeps_every_text(text: str, tmp_path: Path) -> None:
    mark = mark_of(text)
    save_png(tmp_path / "a.png", IMAGES[0], mark)
    save_npz(tmp_path / "a.npz", IMAGES, mark=mark)
    save_gif(tmp_path / "a.gif", list(IMAGES), mark=mark)
    for name in ("a.png", "a.npz", "a.gif"):
        assert read_mark(tmp_path / name) == mark
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), IMAGES[0])
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames == 3


@pytest.mark.parametrize("ending", ["png", "svg"])
@pytest.mark.parametrize("text", [*WORDS, "no character of XML: \uffff, and & < > too"])
def test_a_figure_keeps_every_text(text: str, ending: str, tmp_path: Path) -> None:
    """Matplotlib's files, which are the same bytes again and again."""
    pytest.importorskip("matplotlib", reason="needs the figures extra")
    mark = {"made_by": "a test", "options": {"prompt": text, "count": 3}}
    files = [tmp_path / f"{name}.{ending}" for name in "ab"]
    for path in files:
        draw_tiles(IMAGES[None], [], [], path, mark)
        assert read_mark(path) == mark
    assert files[0].read_bytes() == files[1].read_bytes()


@given(st.text())
def test_a_mark_is_a_line_of_json(text: str) -> None:
    """Over all texts without halves of characters."""
    written = to_text(mark_of(text))
    assert json.loads(written) == mark_of(text)
    assert not any(ord(character) < 32 for character in written)


def test_a_png_has_it_as_latin_1_or_else_as_utf_8(tmp_path: Path) -> None:
    """In a chunk tEXt, keyword, a zero, Latin-1; or in iTXt, after three more fields, UTF-8 that is not compressed."""
    for kind, fields, coding, text in ((b"tEXt", b"\0", "latin-1", WORDS[1]), (b"iTXt", b"\0" * 5, "utf-8", WORDS[2])):
        save_png(tmp_path / "a.png", IMAGES[0], mark_of(text))
        (found,) = [content for name, content in chunks((tmp_path / "a.png").read_bytes()) if name == kind]
        assert found.startswith(b"tinyddpm" + fields)
        assert json.loads(found.removeprefix(b"tinyddpm" + fields).decode(coding)) == mark_of(text)


def test_each_single_image_says_what_it_is_itself(tmp_path: Path) -> None:
    save_images(tmp_path, IMAGES, start=7, mark=mark_of("one", "two", "three"))
    assert read_mark(tmp_path / "000008.png") == {"made_by": "a test", "samples": [{"number": 1, "prompt": "two"}]}
    assert of_sample(mark_of("one", "two"), 0) == mark_of("one")


def test_what_was_drawn_is_a_data_set_as_before(tmp_path: Path) -> None:
    save_npz(tmp_path / "a.npz", IMAGES, [2, 0, 1], ["a", "b", "c"], mark_of("a", "b", "c"))
    found = open_dataset(str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(found.read(np.arange(3)), IMAGES)
    assert list(found.columns) == ["text"]
    assert found.labels is not None
    assert found.labels.tolist() == [2, 0, 1]
    save_images(tmp_path / "folder", IMAGES, mark=mark_of("a", "b", "c"))
    np.testing.assert_array_equal(open_dataset(str(tmp_path / "folder")).read(np.arange(3)), IMAGES)


def test_files_of_others_are_one_line(tmp_path: Path) -> None:
    save_png(tmp_path / "plain.png", IMAGES[0])
    save_gif(tmp_path / "plain.gif", list(IMAGES))
    save_npz(tmp_path / "plain.npz", IMAGES)
    (tmp_path / "text.png").write_text("this is text")
    (tmp_path / "text.npz").write_text("this is text")
    Image.fromarray(IMAGES[0]).save(tmp_path / "other.gif", comment=b"\xff made by hand")
    Image.fromarray(IMAGES[0]).save(tmp_path / "list.gif", comment=b"[1, 2]")
    Image.fromarray(IMAGES[0]).save(tmp_path / "one.gif", comment=b'{"made_by": "a test", "samples": 1}')
    Image.fromarray(IMAGES[0]).save(tmp_path / "nobody.gif", comment=b'{"samples": []}')
    (tmp_path / "plain.svg").write_text("<svg/>")
    (tmp_path / "text.svg").write_text("this is text")
    (tmp_path / "cut.svg").write_bytes(b'<?xml version="1.0" encoding="utf-99"?><svg>')
    Image.fromarray(IMAGES[0]).save(tmp_path / "deep.gif", comment=b"[" * 100_000)
    np.savez(tmp_path / "numbers.npz", tinyddpm=np.arange(3))
    np.savez(tmp_path / "many.npz", tinyddpm=np.asarray(["a", "b"]))
    unsaid = "does not say what made it: give a PNG, SVG, GIF or NPZ file that tinyddpm drew"
    for name in (
        "plain.png",
        "plain.gif",
        "plain.npz",
        "other.gif",
        "list.gif",
        "one.gif",
        "nobody.gif",
        "deep.gif",
        "plain.svg",
    ):
        with pytest.raises(DataError, match=unsaid):
            read_mark(tmp_path / name)
    for name in ("text.png", "text.svg", "cut.svg", "text.npz", "numbers.npz", "many.npz"):
        with pytest.raises(DataError, match=name) as caught:
            read_mark(tmp_path / name)
        assert "\n" not in str(caught.value)
