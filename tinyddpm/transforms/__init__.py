"""Transforms of the samples that are learned from: what is drawn of the data is then more than the data.

`base` has the contract, `geometric` what moves pixels, and `colour` what changes them.
"""

from tinyddpm.transforms.base import Chance, Transform, Transforms

__all__ = ["Chance", "Transform", "Transforms"]
