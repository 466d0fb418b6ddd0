"""The axes of charts: the position of a value between the two ends, and round numbers as ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`, logarithmic if `log`, otherwise linear."""

    low: float
    high: float
    log: bool

    @classmethod
    def over(cls, values: Iterable[float], log: bool) -> Axis:
        """Return an axis that covers finite values, at least one.

        If `log` is asked for but a value is not above 0, the axis is linear. A linear axis always includes 0.
        """
        found = list(values)
        low, high = min(found), max(found)
        if log and low > 0:
            room = max(0.03 * math.log10(high / low), 0.01)
            return cls(low * 10**-room, high * 10**room, log=True)
        low, high = min(low, 0.0), max(high, 0.0)
        return cls(low, high if high > low else low + 1.0, log=False)

    def place(self, value: float) -> float:
        """Return the position of a value: 0 at `low`, 1 at `high`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def at(self, place: float) -> float:
        """Return the value at a position, the inverse of `place`."""
        if self.log:
            return self.low * math.pow(self.high / self.low, place)
        return self.low + (self.high - self.low) * place

    @property
    def ticks(self) -> list[float]:
        """Round numbers on the axis, at least two of them."""
        logarithmic = levels(self.low, self.high, fewest=3) if self.log else []
        numbers = logarithmic if len(logarithmic) > 1 else steps(self.low, self.high)
        return [number for number in numbers if self.low <= number <= self.high]


def steps(low: float, high: float) -> list[float]:
    """Return about six evenly spaced round numbers that enclose the range from `low` to `high`."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda step: abs(math.log(step / rough)))
    return [number * step for number in range(math.floor(low / step), math.ceil(high / step) + 1)]


def levels(low: float, high: float, fewest: int = 4) -> list[float]:
    """Return round numbers between `low` and `high`, both above 0, for a logarithmic axis.

    They have one significant digit 1; 1, 2 or 5; any digit; or two digits in steps of 5, 2 or 1: the first of these
    sets that has at least `fewest` members in the range.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for digits in ((1,), (1, 2, 5), *(tuple(n / 10 for n in range(10, 100, step)) for step in (10, 5, 2, 1))):
        found = [level for power in powers for digit in digits if low <= (level := digit * 10.0**power) <= high]
        if len(found) >= fewest:
            break
    return found
