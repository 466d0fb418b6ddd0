"""Neighbours and balls found in blocks are those that all distances at once give."""

from __future__ import annotations

import numpy as np
import pytest

from tinyddpm.errors import ConfigError, DataError
from tinyddpm.metrics import neighbours
from tinyddpm.metrics.base import Part, Sets
from tinyddpm.metrics.copies import closest_pairs, memorisation, obedience
from tinyddpm.metrics.manifold import density_coverage, precision_recall
from tinyddpm.metrics.neighbours import nearest, nearest_inside, radii


@pytest.fixture(autouse=True, params=[(2000, 64), (50, 8), (7, 2)], ids=str)
def _sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks larger than the sets, and so small that there are many, the last of them short."""
    monkeypatch.setattr(neighbours, "BLOCK", request.param[0])
    monkeypatch.setattr(neighbours, "GROUP", request.param[1])


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a[:, None] - b, axis=-1)


def made_up(rng: np.random.Generator, n: int, m: int, shift: float = 0.5) -> tuple[Part, Part]:
    return Part(rng.normal(size=(n, 5))), Part(shift + rng.normal(size=(m, 5)))


@pytest.mark.parametrize("k", [1, 3, 9])
@pytest.mark.parametrize(("n", "m"), [(103, 220), (4, 9), (12, 1001)])
def test_the_nearest_of_another_set(rng: np.random.Generator, n: int, m: int, k: int) -> None:
    a, b = made_up(rng, n, m)
    found, all_of_them = nearest(a, b, k), distances(a.features, b.features)
    np.testing.assert_array_equal(found.which, np.argsort(all_of_them, axis=1)[:, :k])
    np.testing.assert_allclose(found.distance, np.sort(all_of_them, axis=1)[:, :k], rtol=1e-12)


@pytest.mark.parametrize(("n", "k"), [(211, 4), (60, 1), (3, 2), (3, 9)])
def test_the_nearest_of_its_own_set(rng: np.random.Generator, n: int, k: int) -> None:
    """Not itself; all others where they are fewer than asked for."""
    a, _ = made_up(rng, n, 1)
    all_of_them = distances(a.features, a.features)
    np.fill_diagonal(all_of_them, np.inf)
    found, k = nearest_inside(a, k), min(k, n - 1)
    np.testing.assert_array_equal(found.which, np.argsort(all_of_them, axis=1)[:, :k])
    np.testing.assert_allclose(found.distance, np.sort(all_of_them, axis=1)[:, :k], rtol=1e-12)
    np.testing.assert_array_equal(radii(a, k), found.distance[:, k - 1])


def test_a_copy_far_from_the_origin_is_at_no_distance(rng: np.random.Generator) -> None:
    """In float32, where |a|² + |b|² − 2 a·b of these is off by hundreds, and the others are 80 away."""
    others = (10_000 + rng.normal(size=(300, 40))).astype(np.float32)
    found = nearest(Part(others[20:30].copy()), Part(others))
    np.testing.assert_array_equal(found.which[:, 0], np.arange(20, 30))
    assert not found.distance.any()


def brute_force(drawn: np.ndarray, real: np.ndarray, k: int) -> dict[str, float]:
    """As the papers define them."""
    across = distances(drawn, real)
    around_real = np.sort(distances(real, real), axis=1)[:, k]
    around_drawn = np.sort(distances(drawn, drawn), axis=1)[:, k]
    inside = across <= around_real
    return {
        "precision": inside.any(1).mean(),
        "recall": (across <= around_drawn[:, None]).any(0).mean(),
        "density": inside.sum() / (k * len(drawn)),
        "coverage": (across.min(0) <= around_real).mean(),
    }


@pytest.mark.parametrize("k", [1, 3, 5, 7])
@pytest.mark.parametrize(("n", "m"), [(150, 90), (90, 150), (9, 30)])
def test_balls_are_those_of_all_distances(rng: np.random.Generator, n: int, m: int, k: int) -> None:
    drawn, real = made_up(rng, n, m)
    sets = Sets(drawn, real)
    found = {**precision_recall(sets, k=k), **density_coverage(sets, k=k)}
    assert found == pytest.approx(brute_force(drawn.features, real.features, k), rel=1e-12)
    assert 0 < found["precision"] < 1 or n == 9


@pytest.mark.parametrize("levels", [2, 4, 256])
@pytest.mark.parametrize("pixels", [4, 100])
def test_a_sample_on_a_balls_surface_is_inside(rng: np.random.Generator, levels: int, pixels: int) -> None:
    """As in pictures of few grey levels, where distances are often equal, and of copies; rounding does not decide."""
    drawn, real = rng.integers(0, levels, (80, pixels)), rng.integers(0, levels, (90, pixels))
    drawn[:30] = real[:30]
    of = [Part((pictures / (levels - 1)).astype(np.float32)) for pictures in (drawn, real)]
    found = {**precision_recall(Sets(*of), k=3), **density_coverage(Sets(*of), k=3)}
    assert found == pytest.approx(brute_force(drawn, real, 3), rel=1e-12)


def test_a_ball_reaches_somewhere() -> None:
    sets = Sets(Part(np.zeros((3, 2))), Part(np.ones((3, 2))))
    for metric in (precision_recall, density_coverage):
        with pytest.raises(ConfigError, match=r"k is 0: .* give 1 or more"):
            metric(sets, k=0)


def test_one_pass_serves_both(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = Sets(*made_up(rng, 30, 40))
    precision_recall(sets)
    monkeypatch.setattr(neighbours, "_squared", None)
    density_coverage(sets)
    density_coverage(sets, k=3)


def test_sets_of_one_or_of_other_features_are_not_compared() -> None:
    two = Part(np.zeros((2, 3)))
    for other in (Part(np.zeros((1, 3))), Part(np.zeros((2, 4)))):
        for parts in ((other, two), (two, other), (two, two, other)):
            with pytest.raises(DataError, match="cannot compare features of shapes"):
                Sets(*parts)


def test_what_was_asked_for_is_what_the_neighbour_is() -> None:
    """Classes one by one; of a caption, the share of its words, whatever their case; no words asked for count not."""
    real = Part(np.eye(3), labels=np.array([0, 1, 2]), words=["red apple", "Green apple, cut", "a pear"])
    drawn = Part(
        np.eye(3)[[0, 1, 1, 2, 2]] + 0.1,
        labels=np.array([0, 1, 0, 2, 1]),
        words=["red apple", "green pear", "apple", "two plums", ""],
    )
    assert obedience(Sets(drawn, real)) == {"class obeyed": 3 / 5, "words obeyed": (1 + 1 / 2 + 1 + 0) / 4}
    assert obedience(Sets(Part(drawn.features), real)) == {}


def test_copies_are_near(rng: np.random.Generator) -> None:
    """Of 200 drawn, 30 are training samples with a little noise; the rest come from the law itself."""
    training, real = made_up(rng, 400, 300, shift=0)
    copies = training.features[50:80] + 1e-3 * rng.normal(size=(30, 5))
    drawn = Part(np.concatenate([rng.normal(size=(170, 5)), copies]))
    sets = Sets(drawn, real, training)
    found = memorisation(sets)
    assert 30 / 200 <= found["near training"] <= 36 / 200
    near, far = (distances(part.features, training.features).min(1) for part in (drawn, real))
    assert found["training distance"] == pytest.approx(np.median(near) / np.median(far))
    assert found["near training"] == np.mean(near < np.quantile(far, 0.01))
    index, of, distance = closest_pairs(sets, 30)
    assert set(index) == set(range(170, 200))
    np.testing.assert_array_equal(of, index - 170 + 50)
    assert np.all(np.diff(distance) >= 0)


def test_copies_are_near_where_real_samples_too_are_copies(rng: np.random.Generator) -> None:
    """Where 4 of 100 held-out samples are in the training set too, the 1 % quantile is 0: copies are as near."""
    training, real = made_up(rng, 400, 100, shift=0)
    real.features[:4] = training.features[:4]
    drawn = Part(np.concatenate([training.features[50:80], rng.normal(size=(170, 5))]))
    assert memorisation(Sets(drawn, real, training))["near training"] == 30 / 200


@pytest.mark.slow
def test_real_samples_are_no_copies(rng: np.random.Generator) -> None:
    """Of 1,000 more of the same law, a hundredth is nearer than a hundredth: in 0 to 26 of them at 1 − 1e-4."""
    training, real = made_up(rng, 500, 1000, shift=0)
    found = memorisation(Sets(Part(rng.normal(size=(1000, 5))), real, training))
    assert found["near training"] <= 0.026
    assert found["training distance"] == pytest.approx(1, abs=0.1)
