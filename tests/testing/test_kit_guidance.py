"""The kit for guidance passes what keeps the contract, and names what does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tinyddpm.backend import Array
from tinyddpm.diffusion.denoiser import Denoiser, Prediction
from tinyddpm.guidance import Side, cfg
from tinyddpm.testing import check_guidance


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cfg", {}),
        ("cfg", {"scale": 0.0}),
        ("cfg", {"scale": 4.0, "rescale": 0.7}),
        ("cfg", {"low": 0.3, "high": 5.0}),
        ("auto", {}),
    ],
)
def test_built_in_guidance_keeps_the_contract(name: str, options: dict[str, Any]) -> None:
    check_guidance(name, **options)


def changed(change: Callable[[Prediction, Array], Any]) -> Callable[..., Denoiser]:
    """Return cfg with every prediction changed on its way out."""

    def guidance(conditional: Side, unconditional: Side | None) -> Denoiser:
        guided = cfg(conditional, unconditional)
        return lambda x_t, t: change(guided(x_t, t), x_t)

    return guidance


def in_place(p: Prediction, x_t: Array) -> Prediction:
    x_t += 0
    return p


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda p, x: (p.x_0, p.eps), "returns a tuple, not a Prediction"),
        (lambda p, x: Prediction(p.x_0.astype(np.float64), p.eps, p.fraction), "x_0 is float64 for float32"),
        (lambda p, x: Prediction(p.x_0[:1], p.eps, p.fraction), "x_0 has shape"),
        (lambda p, x: Prediction(np.clip(p.x_0, -1, 1), p.eps, p.fraction), "x_t computed from its x_0 and eps is off"),
        (lambda p, x: Prediction(p.x_0, p.eps), "it predicts no learned variance"),
        (lambda p, x: Prediction(p.x_0, p.eps, p.fraction / 2), "learned variance differs from the conditional's"),
        (in_place, "read-only inputs"),
        (lambda p, x: Prediction(p.x_0.copy(), p.eps, p.fraction), "fails on array-api-strict: AttributeError"),
    ],
)
def test_what_breaks_the_contract_is_named(change: Callable[..., Any], line: str) -> None:
    with pytest.raises(AssertionError, match=line):
        check_guidance(changed(change))


def test_a_guidance_that_leads_from_nowhere_is_named() -> None:
    """Twice the conditional's x_0, whatever the other says."""

    def guidance(conditional: Side, unconditional: Side | None) -> Denoiser:
        def doubled(x_t: Array, t: int) -> Prediction:
            said = conditional(x_t, t)
            return Prediction(2 * said.x_0, conditional.process.predict_eps(x_t, t, 2 * said.x_0), said.fraction)

        return doubled

    with pytest.raises(AssertionError, match="where its denoisers agree, it is off from them"):
        check_guidance(guidance)


def test_a_guidance_that_looks_at_the_batch_is_named() -> None:
    def guidance(conditional: Side, unconditional: Side | None) -> Denoiser:
        guided = cfg(conditional, unconditional)

        def mixed(x_t: Array, t: int) -> Prediction:
            said = guided(x_t, t)
            x_0 = said.x_0 + 0.1 * x_t.mean() * np.ones_like(x_t)
            return Prediction(x_0, conditional.process.predict_eps(x_t, t, x_0), said.fraction)

        return mixed

    with pytest.raises(AssertionError, match="a sample alone is off"):
        check_guidance(guidance)


def test_a_guidance_that_remembers_is_named() -> None:
    """Its prediction leans on the one before, of other samples."""

    def guidance(conditional: Side, unconditional: Side | None) -> Denoiser:
        guided, last = cfg(conditional, unconditional), dict[str, Array]()

        def leaning(x_t: Array, t: int) -> Prediction:
            said = guided(x_t, t)
            x_0 = said.x_0 + 0.1 * (last.get("x_0", said.x_0) - said.x_0)
            last["x_0"] = said.x_0
            return Prediction(x_0, conditional.process.predict_eps(x_t, t, x_0), said.fraction)

        return leaning

    with pytest.raises(AssertionError, match="the same inputs give different predictions"):
        check_guidance(guidance)


def test_a_guidance_that_takes_the_unconditional_for_granted_is_named() -> None:
    def guidance(conditional: Side, unconditional: Side | None) -> Denoiser:
        pair = conditional.beside(unconditional)  # type: ignore[arg-type]

        def doubled(x_t: Array, t: int) -> Prediction:
            towards, away = pair(x_t, t)
            return Prediction(2 * towards.x_0 - away.x_0, 2 * towards.eps - away.eps, towards.fraction)

        return doubled

    with pytest.raises(AssertionError, match=r"fails without an unconditional denoiser: TypeError: .*with ConfigError"):
        check_guidance(guidance)
