"""The array layer: NumPy, CuPy or Torch behind one object, and random numbers that are the same on all of them."""

from typing import Any

from tinyddpm.backend.array import Array, clipped
from tinyddpm.backend.base import Backend
from tinyddpm.backend.random import Purpose, Random
from tinyddpm.errors import BackendError

__all__ = ["Array", "Backend", "Purpose", "Random", "clipped", "load_backend"]


def load_backend(
    name: str = "numpy", device: str | None = None, precision: str = "fp32", graph: bool = True
) -> Backend:
    """Return the backend registered as `name`, ready to compute.

    Args:
        name: a name of the registry's `backends` group.
        device: the device to compute on, in the backend's own terms; None for its default.
        precision: the precision of networks, one of the backend's `precisions`.
        graph: whether a backend that can record launches does so; others ignore it.

    Raises:
        RegistryError: no such backend.
        BackendError: its package, driver or device is missing, it lacks this precision, or is no subclass of `Backend`.
    """
    from tinyddpm import registry

    make = registry.load("backends", name)
    if not (isinstance(make, type) and issubclass(make, Backend)):
        raise BackendError(f"backend {name!r} is {make!r}: register a class, a subclass of tinyddpm.backend.Backend")
    if precision != "fp32" and precision not in make.precisions:
        raise BackendError(f"the {name} backend has no precision {precision!r}: there is {', '.join(make.precisions)}")
    options: dict[str, Any] = {} if precision == "fp32" else {"precision": precision}
    if make.graphs:
        options["graph"] = graph
    backend: Backend = make(device, **options)
    return backend
