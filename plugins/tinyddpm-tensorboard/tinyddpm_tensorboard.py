"""A run's metrics and pictures in TensorBoard's event files, as a plugin of tinyddpm.

TensorFlow, PyTorch and TensorBoard are not needed to write them. An event file is a sequence of TFRecords, each of
which holds an Event in the wire format of Protocol Buffers. Both formats are written here by hand, with those fields of
`event.proto`, `summary.proto` and `tensor.proto` that TensorBoard reads.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent

from PIL import Image

START = 1
"""Status of a SessionLog that makes TensorBoard discard all earlier events from this event's step on."""

STRING = 7
"""Type of a tensor of strings, DT_STRING."""


class TensorBoard:
    """A callback that writes scalars, grids of samples and the settings for TensorBoard.

    The scalars have the names and values of `metrics.jsonl`. Each event is passed to the operating system at once, so
    that a killed run loses none. A resumed run starts a file of its own, and marks the steps that it repeats.

    Args:
        folder: folder of the event files, relative to the run's folder.
    """

    def __init__(self, *, folder: str = "tensorboard") -> None:
        self.folder = folder

    def started(self, step: int, steps: int, folder: Path) -> None:
        """Start a file with the settings; TensorBoard reads the files of a folder in the order of their names."""
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        self.file = folder / self.folder / f"events.out.tfevents.{seconds:010d}.{nanoseconds:09d}.tinyddpm"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._write(0, _bytes(3, b"brain.Event:2"))
        if step:
            self._write(step + 1, _bytes(7, _int(1, START)))
        settings = (folder / "config.toml").read_text(encoding="utf-8")
        self._write(step, _summary(_text("settings", indent(settings, "    "))))  # indented: a code block in Markdown

    def logged(self, step: int, **values: float) -> None:
        """Write the values of a line of metrics as scalars."""
        self._write(step, _summary(*(_scalar(tag, value) for tag, value in values.items())))

    def validated(self, step: int, loss: float) -> None:
        """Write the loss on held-out samples."""
        self._write(step, _summary(_scalar("validation_loss", loss)))

    def drew(self, step: int, paths: Sequence[Path]) -> None:
        """Write the grids of samples; animations are left out."""
        for path in paths:
            if path.suffix == ".png":
                self._write(step, _summary(_image("samples", path)))

    def _write(self, step: int, content: bytes) -> None:
        """Append an Event to the file: the time, the step, and its content, an encoded field."""
        with self.file.open("ab") as file:
            file.write(framed(_double(1, time.time()) + _int(2, step) + content))


def _summary(*values: bytes) -> bytes:
    """Return the field of an Event that holds a Summary of these values."""
    return _bytes(5, b"".join(_bytes(1, value) for value in values))


def _scalar(tag: str, value: float) -> bytes:
    """Return a Summary.Value of one number, stored as float32."""
    return _bytes(1, tag.encode()) + _float(2, value)


def _image(tag: str, path: Path) -> bytes:
    """Return a Summary.Value of a picture, with the bytes of its file."""
    with Image.open(path) as image:
        (width, height), channels = image.size, len(image.getbands())
    picture = _int(1, height) + _int(2, width) + _int(3, channels) + _bytes(4, path.read_bytes())
    return _bytes(1, tag.encode()) + _bytes(4, picture)


def _text(tag: str, text: str) -> bytes:
    """Return a Summary.Value of a text in Markdown: a tensor of one string, and the plugin that shows it, "text"."""
    tensor = _int(1, STRING) + _bytes(2, b"") + _bytes(8, text.encode())
    return _bytes(1, tag.encode()) + _bytes(8, tensor) + _bytes(9, _bytes(1, _bytes(1, b"text")))


# Protocol Buffers: a field is a varint of its number and its wire type, followed by its content.


def _varint(number: int) -> bytes:
    """Return a number, not below 0, in groups of seven bits, the lowest first; the eighth bit says that more follow."""
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])


def _int(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    """Return a field of bytes: a text in UTF-8, or an encoded message."""
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


# TFRecord: the length of the data, its checksum, the data, and their checksum.


def framed(data: bytes) -> bytes:
    """Return data as a TFRecord."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", _masked(length)) + data + struct.pack("<I", _masked(data))


def _masked(data: bytes) -> int:
    """Return the checksum of data as TFRecord stores it: rotated by 15 bits, and a constant added."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _divided(byte: int) -> int:
    """Return the remainder of a byte divided by Castagnoli's polynomial, with bits in reverse order."""
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


TABLE = [_divided(byte) for byte in range(256)]


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of data (RFC 3720, section 12.1)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF
