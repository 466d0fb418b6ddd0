"""Folders of images: what is found, in which order, with which classes and splits, and what is refused by name."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.test_data_decoding import SHADES
from helpers.image_files import colours, everything, save
from tinyddpm.data import open_dataset
from tinyddpm.errors import ConfigError, DataError, TinyDDPMWarning

ROOT = Path(__file__).parents[2]


def test_the_order_is_that_of_names_and_other_files_are_passed_over(tmp_path: Path) -> None:
    for name, value in {"b.png": 200, "a.png": 100, "c.bmp": 250}.items():
        save(tmp_path / name, np.full((4, 4), value, np.uint8))
    save(tmp_path / ".hidden.png", np.zeros((9, 9), np.uint8))
    save(tmp_path / ".hidden" / "x.png", np.zeros((9, 9), np.uint8))
    (tmp_path / "notes.txt").write_text("not an image, and not called one")
    dataset = open_dataset(str(tmp_path))
    assert dataset.description == f"{tmp_path}: 3 images 4x4x1"
    assert dataset.labels is None
    assert dataset.read(np.arange(3))[:, 0, 0, 0].tolist() == [100, 200, 250]


def test_subfolders_are_classes(tmp_path: Path) -> None:
    for k, name in enumerate(["dog/1.png", "cat/1.png", "cat/2.png"], 100):
        save(tmp_path / name, np.full((4, 4), k, np.uint8))
    (tmp_path / "empty").mkdir()
    dataset = open_dataset(str(tmp_path))
    assert dataset.classes == ("cat", "dog")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 0, 1]
    assert dataset.labels.dtype == np.int64
    assert dataset.read(np.arange(3))[:, 0, 0, 0].tolist() == [101, 102, 100]


def test_split_folders(tmp_path: Path) -> None:
    save(tmp_path / "train" / "cat" / "1.png", np.full((4, 4), 100, np.uint8))
    save(tmp_path / "test" / "cat" / "1.png", np.full((4, 4), 200, np.uint8))
    assert everything(tmp_path).flat[0] == 100
    assert everything(tmp_path, split="test").flat[0] == 200
    assert open_dataset(str(tmp_path)).classes == ("cat",)


@pytest.mark.parametrize(
    ("train", "test", "beside"),
    [
        ("train", "test", []),
        ("Train", "TEST", ["valid"]),
        ("training", "testing", ["dev", "empty/"]),
        ("train_set", "test_set", ["masks/", "__MACOSX"]),
        ("train2017", "eval", ["val2017", ".hidden"]),
    ],
)
def test_splits_have_many_names(tmp_path: Path, train: str, test: str, beside: list[str]) -> None:
    """Whatever they are called, they are no classes; nor are folders beside them that hold no images."""
    for value, name in enumerate([train, test, *beside]):
        if name.endswith("/"):
            (tmp_path / name).mkdir()
        else:
            save(tmp_path / name / "1.png", np.full((4, 4), 150 + value, np.uint8))
    dataset = open_dataset(str(tmp_path))
    assert (len(dataset), dataset.classes) == (1, ())
    assert everything(tmp_path).flat[0] == 150
    assert everything(tmp_path, split="test").flat[0] == 151


@pytest.mark.parametrize(
    ("folders", "line"),
    [
        (["train", "plane"], r"holds splits \(train\) beside other folders of images \(plane\): move the others out"),
        (["train", "test", "masks/a"], r"holds splits \(test, train\) beside other folders of images \(masks\)"),
        (["train", "Training"], r"holds the split 'train' as Training, train: keep one"),
        (["val", "test"], r"has no split 'train', only 'test' and 'validation'"),
    ],
)
def test_splits_among_other_folders_are_refused(tmp_path: Path, folders: list[str], line: str) -> None:
    for name in folders:
        save(tmp_path / name / "1.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=line):
        open_dataset(str(tmp_path))


def test_every_split_that_is_named_can_be_read(tmp_path: Path) -> None:
    for name in ("train", "val"):
        save(tmp_path / name / "1.png", np.full((4, 4), 50 * len(name), np.uint8))
    with pytest.raises(DataError, match="has no split 'test', only 'train' and 'validation'"):
        open_dataset(str(tmp_path), split="test")
    assert everything(tmp_path, split="validation").flat[0] == 150


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("seg_train/a", "seg_test/a"),
        ("DIV2K_train_HR", "DIV2K_valid_HR"),
        ("HandsTrain", "handsTesting"),
        ("train1", "test1"),
        ("train/train", "test/test"),
        ("train_set/train/train", "train_set/val"),
    ],
)
def test_names_that_differ_in_the_split_alone_are_splits(tmp_path: Path, train: str, test: str) -> None:
    """Whatever else is in them; and splits lie in folders of their own."""
    for value, name in enumerate([train, test]):
        save(tmp_path / name / "1.png", np.full((4, 4), 150 + value, np.uint8))
    assert everything(tmp_path).ravel().tolist() == [150] * 16
    assert open_dataset(str(tmp_path)).classes == (("a",) if train.endswith("/a") else ())


def test_splits_of_two_data_sets_are_refused(tmp_path: Path) -> None:
    for name in ("trainA", "trainB", "testA", "testB"):
        save(tmp_path / name / "1.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=r"holds the split 'train' as trainA, trainB: keep one of them"):
        open_dataset(str(tmp_path))


def test_images_beside_a_split_in_a_split_are_not_lost(tmp_path: Path) -> None:
    for name in ("train/1.png", "train/train/2.png", "test/3.png"):
        save(tmp_path / name, np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=r"train holds images \(1\.png\) beside folders of images \(train\)"):
        open_dataset(str(tmp_path))


def test_a_class_may_begin_as_a_split_does(tmp_path: Path) -> None:
    names = ("bullet train", "contest", "retrain", "test tube", "tester", "train station", "trainer", "values")
    for name in names:
        save(tmp_path / name / "1.png", np.zeros((4, 4), np.uint8))
    assert open_dataset(str(tmp_path)).classes == names


@pytest.mark.parametrize(("one", "two"), [("caf\u00e9", "cafe\u0301"), ("cat", "cat ")])
def test_classes_that_look_alike_are_refused(tmp_path: Path, one: str, two: str) -> None:
    """They are seen in the message. A difference of capitals is one that is meant, as in letters."""
    for name in (one, two):
        save(tmp_path / name / "1.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=r"the classes .* are one name, written in two ways: rename one") as caught:
        open_dataset(str(tmp_path))
    assert ascii(one) in str(caught.value)
    assert ascii(two) in str(caught.value)
    (tmp_path / two).rename(tmp_path / one.upper())
    assert open_dataset(str(tmp_path)).classes == (one.upper(), one)


def test_a_missing_split_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "1.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="has no split 'test', only 'train'"):
        open_dataset(str(tmp_path), split="test")


@pytest.mark.parametrize(("suffix", "options"), [("gif", {}), ("png", {}), ("webp", {"lossless": True}), ("tif", {})])
def test_of_an_animation_the_first_frame_is_taken_or_all(
    tmp_path: Path, suffix: str, options: dict[str, object]
) -> None:
    """Or of a stack of pages. Without --frames all it is said how many are left out; classes go with each frame."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    first, *others = (Image.new("RGB", (4, 4), colour) for colour in colours)
    for name in ("a/x", "b/y"):
        path = tmp_path / f"{name}.{suffix}"
        path.parent.mkdir()
        first.save(path, save_all=True, append_images=others if name == "a/x" else [], **options)
    with pytest.warns(TinyDDPMWarning, match=r": 2 of 4 images are used; 2 are further frames .* --frames all takes"):
        assert everything(tmp_path)[:, 0, 0].tolist() == [[255, 0, 0]] * 2
    dataset = open_dataset(str(tmp_path), options={"frames": "all"})
    assert [tuple(pixel) for pixel in dataset.read(np.arange(4))[:, 0, 0].tolist()] == [*colours, (255, 0, 0)]
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 0, 0, 1]


def test_frames_of_several_sizes_are_refused_without_one(tmp_path: Path) -> None:
    large, small = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (4, 4), "red")
    large.save(tmp_path / "x.tif", save_all=True, append_images=[small])
    with pytest.raises(DataError, match=r"x\.tif has frames of several sizes: bring them to one with --image-size HxW"):
        everything(tmp_path, options={"frames": "all"})
    assert everything(tmp_path, options={"frames": "all"}, image_size=(4, 4)).shape == (2, 4, 4, 3)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    """In one line: images in deeper folders and beside splits, and files of other kinds; texts are none."""
    for name in ("train/cat/1.png", "train/cat/old/2.png", "train/dog/3.png", "train/dog/a/b/4.png", "5.png"):
        save(tmp_path / name, np.full((4, 4), 200, np.uint8))
    for name in ("train/cat/6.heic", "train/7.svg", "train/README.md", "train/LICENSE", "train/dog/3.txt.json"):
        (tmp_path / name).write_text("?")
    with pytest.warns(TinyDDPMWarning) as said:
        assert len(open_dataset(str(tmp_path))) == 2
    line = (
        f"{tmp_path}: 2 of 7 images are used; 3 lie in other folders (5.png, train/cat/old/2.png, train/dog/a/b/4.png);"
        " 2 are of kinds that are not read (train/7.svg, train/cat/6.heic)"
    )
    assert [str(warning.message) for warning in said] == [line]


def test_images_that_lie_too_deep_are_named(tmp_path: Path) -> None:
    save(tmp_path / "animals" / "cat" / "1.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(
        DataError, match=r"holds images only deeper, such as .*cat/1\.png: give the folder of their clas"
    ):
        open_dataset(str(tmp_path))


@pytest.mark.filterwarnings("error")
def test_where_nothing_is_left_out_nothing_is_said(tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/1.png"):
        save(tmp_path / name, np.full((4, 4), 200, np.uint8))
    for name in ("notes.txt", "Notes.TXT", "Thumbs.db", ".DS_Store", "LICENSE", "__MACOSX/1.png", "cat/.old/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("?")
    (tmp_path / "cat" / "folder.png").mkdir()
    (tmp_path / "cat" / "more").mkdir()
    (tmp_path / "cat" / "1.jpg").symlink_to("1.png")
    assert len(open_dataset(str(tmp_path))) == 3


def test_links_to_nothing_are_counted(tmp_path: Path) -> None:
    """As of a data set whose files were never fetched, or were moved."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).symlink_to("nowhere.png")
    with pytest.raises(DataError, match=r"holds no images .*; 2 are links to nothing \(a\.png\): check the path$"):
        open_dataset(str(tmp_path))
    save(tmp_path / "c.png", np.full((4, 4), 200, np.uint8))
    with pytest.warns(TinyDDPMWarning, match=r": 1 of 3 images are used; 2 are links to nothing \(a\.png, b\.png\)$"):
        assert len(open_dataset(str(tmp_path))) == 1


def test_links_that_lead_in_circles_hinder_nothing(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "1.png", np.full((4, 4), 200, np.uint8))
    for name in ("round", "cat/round", "cat/2.png", "cat/notes.csv"):
        (tmp_path / name).symlink_to(tmp_path / name)
    with pytest.warns(TinyDDPMWarning, match=r": 1 of 2 images are used; 1 are links to nothing \(cat/2\.png\)$"):
        assert len(open_dataset(str(tmp_path))) == 1


def test_photos_with_names_in_capitals_are_counted(tmp_path: Path) -> None:
    """As phones and cameras call them; LICENSE and the like are no photos."""
    save(tmp_path / "1.png", np.full((4, 4), 200, np.uint8))
    for name in ("IMG_0001.HEIC", "DSC_0001.NEF", "README", "LICENSE"):
        (tmp_path / name).write_text("?")
    with pytest.warns(TinyDDPMWarning, match=r"; 2 are of kinds that are not read \(DSC_0001\.NEF, IMG_0001\.HEIC\)$"):
        open_dataset(str(tmp_path))


def test_each_frame_has_the_caption_of_its_file(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "y.png")
    for name, caption in (("x", "moving"), ("y", "still")):
        (tmp_path / f"{name}.txt").write_text(caption)
    dataset = open_dataset(str(tmp_path), options={"frames": "all"})
    assert dataset.columns["text"].tolist() == ["moving", "moving", "moving", "still"]


@pytest.mark.filterwarnings("error")
def test_the_preview_in_a_photo_is_no_frame(tmp_path: Path, rng: np.random.Generator) -> None:
    photo, preview = (Image.fromarray(colours(rng, *size)) for size in ((16, 16), (8, 8)))
    photo.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[preview])
    for frames in ("first", "all"):
        assert everything(tmp_path, options={"frames": frames}).shape == (1, 16, 16, 3)


def test_frames_are_counted_as_images(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    for name in "abcd":
        (tmp_path / f"{name}.heic").write_text("?")
    with pytest.warns(TinyDDPMWarning, match=r": 3 of 7 images .*; 4 are of .* \(a\.heic, b\.heic, c\.heic, …\)$"):
        open_dataset(str(tmp_path), options={"frames": "all"})


def test_images_of_several_sizes_are_refused_without_one(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.zeros((4, 5), np.uint8))
    save(tmp_path / "b.png", np.zeros((6, 7), np.uint8))
    with pytest.raises(DataError, match=r"a\.png is 4x5 and .*b\.png is 6x7: .*--image-size HxW"):
        open_dataset(str(tmp_path))


def test_a_text_file_as_image_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    (tmp_path / "b.png").write_text("hello")
    with pytest.raises(DataError, match=r"b\.png is no image.*: remove it"):
        open_dataset(str(tmp_path))


def test_all_broken_images_are_named_at_once(tmp_path: Path, rng: np.random.Generator) -> None:
    """Those that are none as well as those that end too early, and no others."""
    for name in "abcd":
        save(tmp_path / f"{name}.png", colours(rng, 40, 40))
    (tmp_path / "a.png").write_text("hello")
    (tmp_path / "c.png").write_bytes((tmp_path / "c.png").read_bytes()[:-300])
    with pytest.raises(DataError) as caught:
        open_dataset(str(tmp_path))
    names = "; ".join(str(tmp_path / name) for name in ("a.png", "c.png"))
    assert str(caught.value) == f"2 of 4 images are none or broken: {names}: remove them, or save them anew"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"background": "whitish"}, "there is no colour 'whitish': give a name or such as #ffe0c0"),
        ({"frames": "some"}, "frames are 'some': give first or all"),
        ({"frames": 3}, "option frames of .* is 3: give a text"),
        ({"colour": "red"}, "is a path: unknown option 'colour'"),
    ],
)
def test_options_that_are_wrong_are_refused(tmp_path: Path, options: dict[str, Any], line: str) -> None:
    save(tmp_path / "x.png", SHADES)
    with pytest.raises(ConfigError, match=line):
        open_dataset(str(tmp_path), options=options)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(DataError, match=rf"{tmp_path} holds no images .*: check the path"):
        open_dataset(str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000.tfrecord").write_bytes(b"\0")
    with pytest.raises(DataError, match=r"; 1 are of kinds that are not read \(data/train-00000\.tfrecord\): "):
        open_dataset(str(tmp_path))


def test_images_beside_classes_are_refused(tmp_path: Path) -> None:
    for name in ("stray.png", "cat/1.png"):
        save(tmp_path / name, np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=r"holds images \(stray\.png\) beside folders of images \(cat\)"):
        open_dataset(str(tmp_path))


def test_more_than_fits_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(3):
        save(tmp_path / f"{k}.png", np.zeros((10, 10, 3), np.uint8))
    monkeypatch.setattr("tinyddpm.data.base.MEMORY_LIMIT", 899)
    with pytest.raises(DataError, match=r"GiB.*HDF5.*examples/pack_folder\.py"):
        open_dataset(str(tmp_path))
    monkeypatch.setattr("tinyddpm.data.base.MEMORY_LIMIT", 900)
    assert len(open_dataset(str(tmp_path))) == 3


def test_many_images_stay_in_order(tmp_path: Path) -> None:
    """The threads that decode them put each in its place."""
    for k in range(100):
        save(tmp_path / f"{k:03d}.png", np.full((3, 3), k, np.uint8))
    assert everything(tmp_path)[:, 1, 1, 0].tolist() == list(range(100))


@pytest.mark.parametrize("size", [None, "4x4"])
def test_a_packed_folder_is_the_folder(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, size: str | None
) -> None:
    """examples/pack_folder.py, with classes."""
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        save(tmp_path / "images" / name, colours(rng))
    target = tmp_path / "packed.h5"
    monkeypatch.setattr(sys, "argv", ["pack", str(tmp_path / "images"), str(target), *([size] if size else [])])
    runpy.run_path(str(ROOT / "examples" / "pack_folder.py"), run_name="__main__")
    packed = open_dataset(str(target))
    folder = open_dataset(str(tmp_path / "images"), image_size=(4, 4) if size else None)
    assert packed.classes == folder.classes
    np.testing.assert_array_equal(packed.labels, folder.labels)
    np.testing.assert_array_equal(packed.read(np.arange(3)), folder.read(np.arange(3)))
    with pytest.raises(SystemExit, match=r"error: .*exist"):
        runpy.run_path(str(ROOT / "examples" / "pack_folder.py"), run_name="__main__")
