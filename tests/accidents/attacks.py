"""Files that attack whoever reads them: they point elsewhere, carry code, or unfold to more than any memory has."""

from __future__ import annotations

import os
import pickle
import shutil
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

IMAGES = np.zeros((40, 8, 8), np.uint8)
LABELS = np.arange(40) % 4
FILTER = 300
"""A number that no filter has; that of the plugin which `write_plugin` makes."""

MEBIBYTE = bytes(2**20)
LARGE = 2**11
"""How many mebibytes a bomb unfolds to."""
DECLARED = {"as declared": (2**40, 8, 8), "more than declared": IMAGES.shape}
"""Shapes of arrays that bombs pretend to hold."""


class Canary:
    """What makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._path), "w")


def write_plugin(place: Path, canary: Path) -> Path | None:
    """Write a folder with a filter of HDF5 that makes a file as soon as it is loaded; None without a compiler."""
    compiler = shutil.which("cc")
    if not compiler:
        return None
    (place / "plugins").mkdir()
    source = place / "plugin.c"
    source.write_text(f"""
        #include <stdio.h>
        __attribute__((constructor)) static void sing(void) {{ fclose(fopen("{canary}", "w")); }}
    """)
    library = place / "plugins" / "libplugin.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return place / "plugins"


def _linked(file: h5py.File, name: str, array: Any) -> None:
    file[name] = h5py.ExternalLink("other.h5", "/images")


def _linked_to_a_pipe(file: h5py.File, name: str, array: Any) -> None:
    file[name] = h5py.ExternalLink("pipe", "/images")


def _soft(file: h5py.File, name: str, array: Any) -> None:
    file["elsewhere"] = array
    file[name] = h5py.SoftLink("/elsewhere")


def _raw(file: h5py.File, name: str, array: Any) -> None:
    file.create_dataset(name, array.shape, array.dtype, external=[("secret", 0, array.nbytes)])


def _raw_from_a_pipe(file: h5py.File, name: str, array: Any) -> None:
    file.create_dataset(name, array.shape, array.dtype, external=[("pipe", 0, array.nbytes)])


def _virtual(file: h5py.File, name: str, array: Any) -> None:
    layout = h5py.VirtualLayout(array.shape, array.dtype)
    layout[:] = h5py.VirtualSource("other.h5", "images", array.shape)
    file.create_virtual_dataset(name, layout)


def _virtual_of_itself(file: h5py.File, name: str, array: Any) -> None:
    file["elsewhere"] = array
    layout = h5py.VirtualLayout(array.shape, array.dtype)
    layout[:] = h5py.VirtualSource(".", "elsewhere", array.shape)
    file.create_virtual_dataset(name, layout)


def _filtered(file: h5py.File, name: str, array: Any) -> None:
    kind = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    kind.set_chunk(array.shape)
    kind.set_filter(FILTER, h5py.h5z.FLAG_OPTIONAL)
    space, group = h5py.h5s.create_simple(array.shape), file.require_group(os.path.dirname(name) or "/")
    made = h5py.h5d.create(group.id, os.path.basename(name).encode(), h5py.h5t.py_create(array.dtype), space, kind)
    made.write_direct_chunk((0,) * array.ndim, array.tobytes())


def _scaled(file: h5py.File, name: str, array: Any) -> None:
    file.create_dataset(name, data=array, chunks=array.shape, scaleoffset=2 if array.dtype.kind == "f" else True)


def _never_written(file: h5py.File, name: str, array: Any) -> None:
    file.create_dataset(name, (2**40, *array.shape[1:]), array.dtype)


def _unfolding(file: h5py.File, name: str, array: Any) -> None:
    step = 2**23 // array.dtype.itemsize
    made = file.create_dataset(name, (LARGE // 8 * step,), array.dtype, chunks=(step,), compression="gzip")
    piece = zlib.compress(8 * MEBIBYTE, 9)
    for begin in range(0, len(made), step):
        made.id.write_direct_chunk((begin,), piece)


def _text(file: h5py.File, name: str, array: Any) -> None:
    file.create_dataset(name, data=np.array(["code"] * len(array), object), dtype=h5py.string_dtype())


HDF5: dict[str, Callable[[h5py.File, str, Any], None]] = {
    "external link": _linked,
    "external link to a pipe": _linked_to_a_pipe,
    "soft link": _soft,
    "raw external storage": _raw,
    "raw external storage in a pipe": _raw_from_a_pipe,
    "virtual data set": _virtual,
    "virtual data set of its own file": _virtual_of_itself,
    "unknown filter, which a plugin claims": _filtered,
    "scale-offset filter": _scaled,
    "petabytes never written": _never_written,
    "HDF5 gzip bomb": _unfolding,
    "strings in the place of numbers": _text,
}
"""What takes the place of an array in an HDF5 file."""


def write_targets(place: Path) -> None:
    """Write what links and external storage lead to."""
    with h5py.File(place / "other.h5", "w") as file:
        file["images"] = IMAGES
    (place / "secret").write_bytes(bytes(2**16))
    os.mkfifo(place / "pipe")


def hdf5_data(place: Path) -> Iterator[tuple[str, Path]]:
    """Write a data set for each of `HDF5`: of images, or where labels are read whole, of them."""
    for i, (name, attack) in enumerate(HDF5.items()):
        path = place / f"data-{i}.h5"
        with h5py.File(path, "w", libver="latest") as file:
            attacked = "labels" if attack is _unfolding else "images"
            for key, array in {"images": IMAGES, "labels": LABELS}.items():
                if key == attacked:
                    attack(file, key, array)
                else:
                    file[key] = array
        yield f"{name} as data", path


def checkpoints(place: Path, good: Path) -> Iterator[tuple[str, Path]]:
    """Write a checkpoint for each of `HDF5`, and a pickle called one."""
    for i, (name, attack) in enumerate(HDF5.items()):
        path = place / f"checkpoint-{i}.h5"
        shutil.copy(good, path)
        with h5py.File(path, "r+") as file:
            attacked = file["weights"]
            while isinstance(attacked, h5py.Group):
                attacked = attacked[next(iter(attacked))]
            where, array = attacked.name.lstrip("/"), attacked[()]
            del file[where]
            attack(file, where, array)
        yield f"{name} in a checkpoint", path


def pickles(place: Path, canary: Path) -> Iterator[tuple[str, Path]]:
    """Write pickles that make the file `canary` when they are read, by the names of data."""
    objects = np.array([Canary(canary)] * 40, object)
    np.save(place / "objects.npy", objects, allow_pickle=True)
    np.savez(place / "objects.npz", images=objects)
    np.savez(place / "labels.npz", images=IMAGES, labels=objects)
    np.savez(place / "captions.npz", images=IMAGES, captions=objects)
    code = pickle.dumps(Canary(canary))
    for name in ("pickle.npy", "pickle.npz", "pickle.h5", "pickle.pt", "pickle.pkl"):
        (place / name).write_bytes(code)
    (place / "cifar-10-batches-py").mkdir()
    (place / "cifar-10-batches-py" / "data_batch_1").write_bytes(code)
    for path in (*place.glob("objects.*"), place / "labels.npz", place / "captions.npz", *place.glob("pickle.*")):
        yield f"pickle as {path.name}", path
    yield "pickle as CIFAR-10", place / "cifar-10-batches-py"


def unfolding(head: bytes = b"") -> bytes:
    """Return a raw deflate stream of `head` and `LARGE` mebibytes of zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = packer.compress(head + MEBIBYTE) + packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(MEBIBYTE) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + (LARGE - 1) * piece + packer.flush()


def bombs(place: Path) -> Iterator[tuple[str, Path]]:
    """Write archives and pictures that take at most three megabytes of disk and unfold to two gibibytes."""
    for i, (name, shape) in enumerate(DECLARED.items()):
        text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n".encode()
        _write_zip(place / f"bomb-{i}.npz", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)
        yield f"zip bomb, {name}", place / f"bomb-{i}.npz"
        folder = place / f"idx-{i}"
        folder.mkdir()
        header = struct.pack(">4B3I", 0, 0, 8, 3, *(min(n, 2**32 - 1) for n in shape))
        (folder / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b\x08" + bytes(7) + unfolding(header) + bytes(8))
        yield f"gzip bomb, {name}", folder
    _write_zip(place / "header.npz", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1))
    yield "zip bomb, in its header", place / "header.npz"
    with (place / "header.npy").open("wb") as file:
        file.write(b"\x93NUMPY\x02\x00" + struct.pack("<I", LARGE * 2**20))
        file.truncate(LARGE * 2**20 + 12)
    yield "a header of gibibytes that were never written", place / "header.npy"
    packed = b"\x78\xda" + unfolding() + bytes(4)
    chunks = {
        "pixels": (b"IDAT", packed),
        "text": (b"zTXt", b"Comment\0\0" + packed),
        "profile": (b"iCCP", b"x\0\0" + packed),
    }
    for name, chunk in chunks.items():
        folder = place / f"png-{name}"
        folder.mkdir()
        side = 46_000 if name == "pixels" else 8
        header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        image = (b"IDAT", zlib.compress(bytes(8 * 9)))
        written = ((b"IHDR", header), chunk, *([] if name == "pixels" else [image]), (b"IEND", b""))
        (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(*one) for one in written))
        yield f"PNG bomb, in its {name}", folder


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _write_zip(path: Path, head: bytes) -> None:
    """Write an archive of the array `images`, which begins with `head` and goes on with zeros."""
    content = unfolding(head)
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("images.npy")
        archive.writestr(info, content)
        info.compress_type, info.file_size = zipfile.ZIP_DEFLATED, len(head) + LARGE * 2**20
