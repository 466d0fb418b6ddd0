"""The axes of charts: where a value lies between the two ends, and which round numbers are written beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`, logarithmic or not."""

    low: float
    high: float
    log: bool

    @classmethod
    def over(cls, values: Iterable[float], log: bool) -> Axis:
        """Return the axis that has room for these finite values, at least one.

        A logarithmic axis takes values above 0; where one is not, the axis is linear. A linear axis has 0 on it.
        """
        found = list(values)
        low, high = min(found), max(found)
        if log and low > 0:
            room = max(0.03 * math.log10(high / low), 0.01)
            return cls(low * 10**-room, high * 10**room, log=True)
        low, high = min(low, 0.0), max(high, 0.0)
        return cls(low, high if high > low else low + 1.0, log=False)

    def place(self, value: float) -> float:
        """Return where a value lies: 0 at the low end, 1 at the high one."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def at(self, place: float) -> float:
        """Return the value at a place, the inverse of `place`."""
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
    """Return round numbers in equal steps, about six from `low` to `high`, the first at `low` or below it."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda step: abs(math.log(step / rough)))
    return [number * step for number in range(math.floor(low / step), math.ceil(high / step) + 1)]


def levels(low: float, high: float, fewest: int = 4) -> list[float]:
    """Return round numbers from `low` to `high`, both above 0: of ever finer sets, the first with enough of them."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for digits in ((1,), (1, 2, 5), tuple(range(1, 10)), tuple(n / 10 for n in range(10, 100))):
        found = [level for power in powers for digit in digits if low <= (level := digit * 10.0**power) <= high]
        if len(found) >= fewest:
            break
    return found
