"""The numbered equations and algorithms of five papers, sections 2 to 5: the code of each, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = {"eq": "equation", "algorithm": "algorithm"}


@dataclass(frozen=True)
class Numbered:
    """A numbered equation or algorithm. Exactly one of `where`, `same` and `why` is given.

    Attributes:
        paper: name of the paper.
        kind: "eq" or "algorithm".
        number: number in the paper.
        about: what it states, in the notation of docstrings.
        where: "module:name" of the function or class that implements it and cites it in its docstring.
        same: paper and number of the equation that it restates.
        why: reason why it is not implemented.
    """

    paper: str
    kind: str
    number: int
    about: str
    where: str = ""
    same: tuple[str, int] | None = None
    why: str = ""

    @property
    def anchor(self) -> str:
        """HTML id on the page of equations."""
        return anchor(self.paper, self.kind, self.number)


def anchor(paper: str, kind: str, number: int) -> str:
    """Return the HTML id of an equation or algorithm on the page of equations."""
    return f"{paper.lower()}-{kind}-{number}"


PROCESS, PARAMETRISATION = "diffusion.process:GaussianProcess", "diffusion.parametrisation"

NUMBERED = (
    Numbered("DDPM", "eq", 1, "the model's reverse chain, p(x_{t−1} | x_t)", f"{PROCESS}.p_mean_variance"),
    Numbered("DDPM", "eq", 2, "a step of the forward chain, q(x_t | x_{t−1})", f"{PROCESS}.q_step"),
    Numbered("DDPM", "eq", 3, "the variational bound", why="a step of the proof: eq. 5 is computed instead"),
    Numbered("DDPM", "eq", 4, "t forward steps at once, q(x_t | x_0)", f"{PROCESS}.q_sample"),
    Numbered("DDPM", "eq", 5, "the bound as L_T, L_t and L_0", "diffusion.likelihood:bound_term"),
    Numbered("DDPM", "eq", 6, "the posterior q(x_{t−1} | x_t, x_0)", f"{PROCESS}.q_posterior"),
    Numbered("DDPM", "eq", 7, "the posterior's mean and variance", "diffusion.process:posterior_coefficients"),
    Numbered("DDPM", "eq", 8, "L_t as a squared error of means", "diffusion.weightings:vlb"),
    Numbered("DDPM", "eq", 9, "eq. 8 with x_t in terms of eps", why="a step of the derivation of eq. 12"),
    Numbered("DDPM", "eq", 10, "eq. 9, simplified", why="a step of the derivation of eq. 12"),
    Numbered("DDPM", "eq", 11, "the model's mean from the predicted eps", f"{PROCESS}.p_mean_variance"),
    Numbered("DDPM", "eq", 12, "L_t as a weighted squared error of eps", "diffusion.weightings:vlb"),
    Numbered("DDPM", "eq", 13, "the decoder of pixels in 256 levels", "ops.loss:Loss.pixel_nll"),
    Numbered("DDPM", "eq", 14, "L_simple", "diffusion.objectives:Simple"),
    Numbered("DDPM", "eq", 15, "the x_0 that eps implies", f"{PROCESS}.predict_x0"),
    Numbered("DDPM", "eq", 16, "the bound as autoregressive coding", why="a reading of the bound: nothing to compute"),
    Numbered("DDPM", "algorithm", 1, "training", "training.trainer:Trainer.train_step"),
    Numbered("DDPM", "algorithm", 2, "sampling", "samplers.ddpm:ancestral"),
    Numbered("DDPM", "algorithm", 3, "sending x_0", why="a thought experiment: its code lengths are L_T and L_t"),
    Numbered("DDPM", "algorithm", 4, "receiving x_0", why="a thought experiment, as Algorithm 3"),
    Numbered("IDDPM", "eq", 1, "the forward chain", same=("DDPM", 2)),
    Numbered("IDDPM", "eq", 2, "a step of the forward chain", same=("DDPM", 2)),
    Numbered("IDDPM", "eq", 3, "the model's reverse chain", same=("DDPM", 1)),
    Numbered("IDDPM", "eq", 4, "L_vlb, the sum of its terms", "diffusion.objectives:VariationalBound"),
    Numbered("IDDPM", "eq", 5, "L_0", "diffusion.likelihood:bound_term"),
    Numbered("IDDPM", "eq", 6, "L_t, t ≥ 1", "diffusion.likelihood:bound_term"),
    Numbered("IDDPM", "eq", 7, "L_T", "diffusion.likelihood:prior_term"),
    Numbered("IDDPM", "eq", 8, "q(x_t | x_0)", same=("DDPM", 4)),
    Numbered("IDDPM", "eq", 9, "x_t in terms of x_0 and eps", same=("DDPM", 4)),
    Numbered("IDDPM", "eq", 10, "the posterior's variance", same=("DDPM", 7)),
    Numbered("IDDPM", "eq", 11, "the posterior's mean", same=("DDPM", 7)),
    Numbered("IDDPM", "eq", 12, "the posterior", same=("DDPM", 6)),
    Numbered("IDDPM", "eq", 13, "the model's mean from eps", same=("DDPM", 11)),
    Numbered("IDDPM", "eq", 14, "L_simple", same=("DDPM", 14)),
    Numbered("IDDPM", "eq", 15, "the learned variance, between beta and beta_tilde", f"{PROCESS}.p_log_variance"),
    Numbered("IDDPM", "eq", 16, "L_hybrid", "diffusion.objectives:Hybrid"),
    Numbered("IDDPM", "eq", 17, "the cosine schedule", "diffusion.schedules:cosine"),
    Numbered("IDDPM", "eq", 18, "the importance sampling of t", "diffusion.times:LossHistory"),
    Numbered("IDDPM", "eq", 19, "betas of a respaced chain", "diffusion.process:posterior_coefficients"),
    Numbered("DDIM", "eq", 1, "the model with latent variables", why="a definition: nothing to compute"),
    Numbered("DDIM", "eq", 2, "its variational bound", why="a step of the proof: DDPM's eq. 5 is computed instead"),
    Numbered("DDIM", "eq", 3, "the forward chain; its alpha is alpha_bar here", same=("DDPM", 2)),
    Numbered("DDIM", "eq", 4, "x_t in terms of x_0 and eps", same=("DDPM", 4)),
    Numbered("DDIM", "eq", 5, "L_γ, squared errors of eps with any weights", same=("DDPM", 14)),
    Numbered("DDIM", "eq", 6, "a family of processes with one q(x_t | x_0)", why="a step of the proof of eq. 7"),
    Numbered("DDIM", "eq", 7, "their reverse step, q_σ(x_{t−1} | x_t, x_0)", "samplers.implicit:ddim"),
    Numbered("DDIM", "eq", 8, "their forward step", why="for the proof only: nothing is drawn from it"),
    Numbered("DDIM", "eq", 9, "the x_0 that eps implies", same=("DDPM", 15)),
    Numbered("DDIM", "eq", 10, "the model's step, eq. 7 at the predicted x_0", same=("DDIM", 12)),
    Numbered("DDIM", "eq", 11, "the bound of that model", why="for the proof only: it is eq. 5 with some weights"),
    Numbered("DDIM", "eq", 12, "a sampling step", "samplers.implicit:ddim"),
    Numbered("DDIM", "eq", 13, "the step as an Euler step, which can be inverted", "samplers.implicit:ddim_encode"),
    Numbered("DDIM", "eq", 14, "the ODE of these steps", "diffusion.flow:flow_log_density"),
    Numbered("DDIM", "eq", 15, "the Euler step in another time", why="for a comparison only: eq. 13 is used"),
    Numbered("DDIM", "eq", 16, "σ as a function of η", "samplers.implicit:ddim"),
    Numbered("CFG", "eq", 1, "q(z_λ | x), over the log SNR λ", same=("DDPM", 4)),
    Numbered("CFG", "eq", 2, "a step of the forward process", same=("DDPM", 2)),
    Numbered("CFG", "eq", 3, "the posterior", same=("DDPM", 7)),
    Numbered("CFG", "eq", 4, "the model's step, its variance between two bounds", same=("IDDPM", 15)),
    Numbered("CFG", "eq", 5, "the squared error of eps", same=("DDPM", 14)),
    Numbered("CFG", "eq", 6, "the guided eps", "guidance.extrapolation:cfg"),
    Numbered("CFG", "algorithm", 1, "training with and without the condition", "model.model:Model.partly_nothing"),
    Numbered("CFG", "algorithm", 2, "sampling with guidance", "guidance.extrapolation:cfg"),
    Numbered("EDM", "eq", 1, "the probability-flow ODE over σ", "samplers.runge_kutta:heun"),
    Numbered("EDM", "eq", 2, "the denoiser's squared error", same=("EDM", 8)),
    Numbered("EDM", "eq", 3, "the score from the denoiser", f"{PARAMETRISATION}:Parametrisation.implied"),
    Numbered("EDM", "eq", 4, "the ODE with a scale s(t)", why="x / α is followed instead, whose scale is 1: eq. 1"),
    Numbered("EDM", "eq", 5, "the spacing of steps in σ", "samplers.spacings:karras"),
    Numbered("EDM", "eq", 6, "the SDE that adds and removes noise", why="`ancestral` and `ddim` are stochastic here"),
    Numbered("EDM", "eq", 7, "the preconditioning", f"{PARAMETRISATION}:edm"),
    Numbered("EDM", "eq", 8, "the loss of the network's raw output", f"{PARAMETRISATION}:edm"),
    Numbered("EDM", "algorithm", 1, "Heun's method", "samplers.runge_kutta:heun"),
    Numbered("EDM", "algorithm", 2, "the stochastic sampler", why="as eq. 6"),
)  # fmt: skip
