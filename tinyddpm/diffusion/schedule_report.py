"""Reports on noise schedules: how much noise the first and the last step have, and which known faults there are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyddpm.diffusion.schedules import Betas, check_betas

END_LIMIT = 0.01
"""Upper limit of sqrt(alpha_bar_T): a chain that does not fall below it ends with some of the image left."""

START_LIMIT = 0.99
"""Lower limit of the first alpha_bar: below it the first noise has a standard deviation above 0.1 and hides detail."""

BETA_LIMIT = 0.999
"""IDDPM's upper limit of a beta (section 3.2). The cosine schedule meets it once, at its end."""


@dataclass(frozen=True)
class ScheduleReport:
    """The numbers of one schedule. SNR is the signal-to-noise ratio alpha_bar / (1 - alpha_bar); logs are natural."""

    name: str
    T: int
    beta_min: float
    beta_max: float
    betas_at_limit: int
    sqrt_alpha_bar_T: float  # noqa: N815 - the papers' name
    snr_max: float
    snr_min: float
    log_snr_max: float
    log_snr_min: float
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain numbers, strings and a list, ready for JSON: None for the logarithm of 0."""
        return {name: None if value == -np.inf else value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        lines = [
            f"{self.name}, T = {self.T}",
            f"  beta               {self.beta_min:.3g} to {self.beta_max:.3g}, {self.betas_at_limit} at the limit",
            f"  sqrt(alpha_bar_T)  {self.sqrt_alpha_bar_T:.3g}",
            f"  SNR                {self.snr_max:.3g} to {self.snr_min:.3g}",
            f"  log SNR            {self.log_snr_max:.2f} to {self.log_snr_min:.2f}",
        ]
        return "\n".join(lines + [f"  warning: {warning}" for warning in self.warnings])


def curves(betas: Betas) -> dict[str, NDArray[np.float64]]:
    """Return the curves of a schedule by name, each of shape (T,): √alpha_bar, √(1 − alpha_bar), log SNR and beta.

    alpha_bar is computed in logarithms, so that log SNR stays finite where alpha_bar itself underflows. Log SNR is
    minus infinity where the last beta is 1.
    """
    with np.errstate(divide="ignore"):
        log_alpha_bar = np.cumsum(np.log1p(-betas))
    one_minus_alpha_bar = -np.expm1(log_alpha_bar)
    return {
        "sqrt(alpha_bar)": np.exp(log_alpha_bar / 2),
        "sqrt(1 - alpha_bar)": np.sqrt(one_minus_alpha_bar),
        "log SNR": log_alpha_bar - np.log(one_minus_alpha_bar),
        "beta": betas,
    }


def report(name: str, betas: Betas) -> ScheduleReport:
    """Return the numbers of `betas`, reported under `name`, with a warning for every fault found.

    Raises:
        ConfigError: `betas` fails `check_betas`; the last may be 1.
    """
    check_betas(betas, name, terminal=True)
    curve = curves(betas)
    log_snr = curve["log SNR"]
    return ScheduleReport(
        name=name,
        T=len(betas),
        beta_min=float(betas.min()),
        beta_max=float(betas.max()),
        betas_at_limit=int(np.count_nonzero(betas >= BETA_LIMIT)),
        sqrt_alpha_bar_T=float(curve["sqrt(alpha_bar)"][-1]),
        snr_max=float(np.exp(log_snr[0])),
        snr_min=float(np.exp(log_snr[-1])),
        log_snr_max=float(log_snr[0]),
        log_snr_min=float(log_snr[-1]),
        warnings=_warnings(betas, float(curve["sqrt(alpha_bar)"][-1])),
    )


def _warnings(betas: Betas, end: float) -> list[str]:
    found = []
    if end >= END_LIMIT:
        found.append(
            f"the last step still shows the image: sqrt(alpha_bar_T) is {end:.2g} and should be below {END_LIMIT}, "
            f"for sampling starts from pure noise; raise T or the last betas"
        )
    if 1 - betas[0] < START_LIMIT:
        found.append(
            f"the first step already hides detail: it adds noise of standard deviation {np.sqrt(betas[0]):.2g} "
            f"(alpha_bar_1 is {1 - betas[0]:.3g} and should be above {START_LIMIT}); raise T or lower the first betas"
        )
    at_limit = np.flatnonzero(betas >= BETA_LIMIT)
    if len(at_limit) > 1:
        found.append(
            f"{len(at_limit)} betas are at or above {BETA_LIMIT}, the first at index {at_limit[0]}: after it "
            f"nothing is left of the image, and the steps that follow teach nothing; lower the last betas"
        )
    falling = np.flatnonzero(np.diff(betas) < 0)
    if len(falling):
        t = falling[0] + 1
        found.append(
            f"the betas fall at index {t}, from {betas[t - 1]:.3g} to {betas[t]:.3g}: "
            f"the noisier the image, the more noise a step should add; let them rise"
        )
    return found
