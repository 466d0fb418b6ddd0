"""The machine: its processor, and the versions of packages."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

INSTRUCTIONS = {
    "AVX2": "avx2",
    "AVX-512": "avx512f",
    "bfloat16 (AVX-512)": "avx512_bf16",
    "bfloat16 (AMX)": "amx_bf16",
    "NEON": "asimd",
    "SVE": "sve",
    "bfloat16 (ARM)": "bf16",
}
"""Vector instructions that speed depends on, with Linux's names for them."""


def cpu_model() -> str:
    """Return the processor's name."""
    return _of_cpu("model name") or platform.processor() or platform.machine()


def vector_instructions() -> list[str]:
    """Return the processor's vector instructions among `INSTRUCTIONS`; none if the system does not list them."""
    flags = (_of_cpu("flags") or _of_cpu("Features")).split()
    return [name for name, flag in INSTRUCTIONS.items() if flag in flags]


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of the packages by name, without packages that are not installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _of_cpu(field: str) -> str:
    """Return a field of the first processor in Linux's /proc/cpuinfo; "" if it is missing."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), "")
