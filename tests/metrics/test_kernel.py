"""The kernel distance: unbiased, with an error that says how far off it is."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from tinyddpm.errors import ConfigError
from tinyddpm.metrics.base import Part, Sets
from tinyddpm.metrics.kernel import kernel, kernel_distance


def test_is_its_definition(rng: np.random.Generator) -> None:
    """The means over pairs, one by one."""
    a, b = rng.normal(size=(7, 4)), 1 + rng.normal(size=(9, 4))

    def mean(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
        return float(np.mean([(x @ y / 4 + 1) ** 3 for x, y in pairs]))

    expected = mean(list(permutations(a, 2))) + mean(list(permutations(b, 2))) - 2 * mean(list(product(a, b)))
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_the_mean_over_draws_of_one_law_is_zero(rng: np.random.Generator) -> None:
    """Of 2,000 draws of 12 and 15 samples, within 4 standard errors, which a right one leaves once in 16,000."""
    found = [kernel_distance(rng.normal(size=(12, 3)), rng.normal(size=(15, 3))) for _ in range(2000)]
    assert abs(np.mean(found)) <= 4 * np.std(found) / 2000**0.5
    biased = [kernel_distance(rng.normal(size=(12, 3)), rng.normal(size=(15, 3)) + 0.2) for _ in range(2000)]
    assert np.mean(biased) > 4 * np.std(biased) / 2000**0.5


@pytest.mark.parametrize(
    ("n", "options", "m", "subsets"),
    [(9, {}, 4, 100), (9, {"size": 3, "subsets": 7}, 3, 7), (9, {"size": 2, "subsets": 2}, 2, 2), (2, {}, 2, 100)],
)
def test_the_mean_and_its_error_are_over_subsets(
    n: int, options: dict[str, int], m: int, subsets: int, rng: np.random.Generator
) -> None:
    """Of at most half of the smaller set, and at least 2; s √(m / (n − m) + 1 / subsets), but none of two samples."""
    drawn, real, chance = rng.normal(size=(n, 3)), rng.normal(size=(12, 3)), np.random.default_rng(0)
    found = [
        kernel_distance(drawn[chance.permutation(n)[:m]], real[chance.permutation(12)[:m]]) for _ in range(subsets)
    ]
    expected = {"kernel": np.mean(found)}
    if m < n:
        expected["kernel se"] = np.std(found, ddof=1) * np.sqrt(m / (n - m) + 1 / subsets)
    assert kernel(Sets(Part(drawn), Part(real)), **options) == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
def test_the_standard_error_is_that_of_the_mean_of_subsets(rng: np.random.Generator) -> None:
    """Over 200 pairs of sets of 300 from two laws; both deviations are known to a twentieth, their ratio to a sixth."""
    found = []
    for _ in range(200):
        drawn, real = rng.normal(size=(300, 3)), 0.7 + rng.normal(size=(300, 3))
        found.append(kernel(Sets(Part(drawn), Part(real)), subsets=60, size=100))
    spread = np.std([each["kernel"] for each in found], ddof=1)
    stated = np.sqrt(np.mean([each["kernel se"] ** 2 for each in found]))
    assert stated == pytest.approx(spread, rel=0.25)


def test_two_samples_say_nothing_of_the_error(rng: np.random.Generator) -> None:
    """Every subset is the whole set, so they do not differ; of three samples they do."""
    few = [Part(rng.normal(size=(3, 4))) for _ in range(2)]
    assert kernel(Sets(*few), subsets=5)["kernel se"] > 0
    two = [Part(part.features[:2]) for part in few]
    found = kernel_distance(*(part.features for part in two))
    assert kernel(Sets(*two)) == {"kernel": pytest.approx(found, rel=1e-9)}


def test_subsets_are_chosen_by_the_seed(rng: np.random.Generator) -> None:
    sets = Sets(Part(rng.normal(size=(40, 3))), Part(rng.normal(size=(50, 3))))
    assert kernel(sets, subsets=5) == kernel(sets, subsets=5)
    assert kernel(sets, subsets=5) != kernel(sets, subsets=5, seed=1)


@pytest.mark.parametrize("wrong", [{"subsets": 1}, {"size": 1}])
def test_too_few_are_refused(rng: np.random.Generator, wrong: dict[str, int]) -> None:
    sets = Sets(Part(rng.normal(size=(40, 3))), Part(rng.normal(size=(50, 3))))
    with pytest.raises(ConfigError, match="needs at least 2 of at least 2"):
        kernel(sets, **wrong)
