"""Random transforms of training samples, which augment the data.

`base` has the contract, `geometric` the transforms that move pixels, and `colour` the one that changes colours.
"""

from tinyddpm.transforms.base import Chance, Transform, Transforms

__all__ = ["Chance", "Transform", "Transforms"]
