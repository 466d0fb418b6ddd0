"""The array layer: NumPy, CuPy or Torch behind one object, and random numbers that are the same on all of them."""

from tinyddpm.backend.array import Array
from tinyddpm.backend.base import Backend
from tinyddpm.backend.random import Purpose, Random

__all__ = ["Array", "Backend", "Purpose", "Random", "load_backend"]


def load_backend(name: str = "numpy", device: str | None = None) -> Backend:
    """Return the backend registered as `name`, ready to compute.

    Args:
        name: a name of the registry's `backends` group.
        device: where to compute, in the backend's own terms; None for its default.

    Raises:
        RegistryError: no such backend.
        BackendError: its package, driver or device is missing.
    """
    from tinyddpm import registry

    backend: Backend = registry.load("backends", name)(device)
    return backend
