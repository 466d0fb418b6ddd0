"""The array API standard itself as a backend."""

from __future__ import annotations

import array_api_strict

from tinyddpm.backend import Backend


class StrictBackend(Backend):
    """array-api-strict: NumPy's arrays, but everything that the standard does not promise is an error."""

    name = "strict"

    def __init__(self) -> None:
        super().__init__(array_api_strict)
