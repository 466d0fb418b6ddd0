"""The reading order: which modules each chapter has, and which figures."""

from __future__ import annotations

from dataclasses import dataclass

CORE = (
    "backend", "ops", "nn", "conditions", "diffusion", "samplers", "guidance", "editing", "transforms", "model",
    "training",
)  # fmt: skip
"""The rooms that the book has whole."""


@dataclass(frozen=True)
class Figure:
    """A picture that `tinyddpm figure` draws: its command's words, and what is seen in it."""

    words: tuple[str, ...]
    caption: str
    of_run: bool = False

    @property
    def name(self) -> str:
        """The command's name."""
        return self.words[0]


@dataclass(frozen=True)
class Chapter:
    """A chapter.

    Attributes:
        slug: its page's name.
        title: its heading.
        about: what it is about, in the notation of docstrings.
        modules: in reading order.
        figures: drawn while the book is made.
    """

    slug: str
    title: str
    about: str
    modules: tuple[str, ...]
    figures: tuple[Figure, ...] = ()


def _modules(*rooms: str) -> tuple[str, ...]:
    """Return "room: a b" as room.a and room.b."""
    found = []
    for line in rooms:
        room, _, names = line.partition(": ")
        found += [f"{room}.{name}" for name in names.split()]
    return tuple(found)


CHAPTERS = (
    Chapter(
        "forward",
        "The forward process",
        "Noise is added in T small steps, by a schedule of betas. What is left of the data after t of them is known in "
        "closed form: `schedules` says how much, step by step.",
        _modules("diffusion: schedules schedule_report"),
        (
            Figure(("forward",), "Digits under the forward process: one noise along each row, its share growing."),
            Figure(("schedules", "linear", "cosine"), "Two schedules as curves, and one image under each."),
        ),
    ),
    Chapter(
        "kernel",
        "The kernel and the posterior",
        "The chain's closed form q(x_t | x_0), the step back q(x_{t−1} | x_t, x_0), and the model's step p made of it.",
        _modules("diffusion: process"),
        (
            Figure(("kernel",), "Chains walked step by step, against the closed form."),
            Figure(("diffused",), "The density of numbers over time, exact and sampled."),
            Figure(("posterior", "--schedule", "cosine"), "The step back: its coefficients, and the exact density."),
        ),
    ),
    Chapter(
        "bound",
        "The bound",
        "The variational bound on −log p(x_0): its terms, each with its gradient, and their sum.",
        _modules("diffusion: likelihood bound", "ops: loss"),
        (
            Figure(("vae",), "The bound as prior, matching and reconstruction.", of_run=True),
            Figure(("rate-distortion",), "Progressive coding: what bits buy.", of_run=True),
        ),
    ),
    Chapter(
        "simple",
        "L_simple, and what stands in its place",
        "What training makes small: the squared error of the predicted noise, its weights over time, the law that t is "
        "drawn by, and the bound itself.",
        _modules("diffusion: objectives weightings times", "ops: noising"),
        (Figure(("loss-by-time",), "The loss over t, of eps, x_0 and the bound.", of_run=True),),
    ),
    Chapter(
        "parametrisations",
        "Parametrisations",
        "What the network predicts, and what that says of x_0 and of the noise.",
        _modules("diffusion: parametrisation denoiser"),
        (Figure(("single-step",), "How well one step recovers x_0, by noise level.", of_run=True),),
    ),
    Chapter(
        "operations",
        "Operations and their gradients",
        "Each operation stands beside its backward, derived in its docstring. They are in the array API standard's "
        "terms, for any backend.",
        _modules(
            "ops: base linear convolution activation normalisation norm_activation attention resampling images __init__"
        ),
    ),
    Chapter(
        "network",
        "The network",
        "Parameters, layers, blocks, and the U-Net that is made of them; `backward` reads as `forward` upside down.",
        _modules("nn: parameters layers precision blocks network unet transformer mlp __init__"),
    ),
    Chapter(
        "training",
        "Training",
        "One step of Algorithm 1, Adam, and all that a run keeps, writes and says on its way.",
        _modules(
            "training: step",
            "ops: optimisation",
            "training: state rates base_step host_step device_step trainer feed pieces loop run assembly initial "
            "edited snapshots kept record metrics spent callbacks pictures interrupt lock",
        ),
    ),
    Chapter(
        "samplers",
        "Samplers",
        "Loops over a denoiser from noise to data: DDPM's chain, DDIM, and solvers of the probability flow.",
        _modules("samplers: base spacings ddpm implicit runge_kutta dpm_solver predictor_corrector __init__"),
        (
            Figure(("denoising",), "x_t and the predicted x_0 along the chain.", of_run=True),
            Figure(("steps",), "The same noise in fewer and fewer steps.", of_run=True),
        ),
    ),
    Chapter(
        "guidance",
        "Guidance",
        "A denoiser made of denoisers: away from what one says, towards what the other does.",
        _modules("guidance: base extrapolation blend __init__"),
    ),
    Chapter(
        "conditions",
        "Conditions",
        "What a sample is told of, from the data's column to what the network sees, with its own backward; and changes "
        "of the data by chance, of which it may be told too.",
        _modules(
            "conditions: base label text embeddings image transformed __init__",
            "transforms: base geometric colour __init__",
        ),
    ),
    Chapter(
        "editing",
        "Editing",
        "Edits of images by a denoiser and a sampler: noised in part and drawn anew, painted, mixed, enlarged.",
        _modules("editing: sdedit inpainting interpolation enlarging __init__"),
    ),
    Chapter(
        "likelihood",
        "The likelihood by the flow",
        "The density that the probability flow carries from N(0, I) to the data.",
        _modules("diffusion: flow"),
    ),
    Chapter(
        "randomness",
        "Randomness",
        "Random numbers are a function of seed, purpose, step, sample and element: there is no state to keep.",
        _modules("backend: philox random"),
    ),
    Chapter(
        "checkpoints",
        "Models and checkpoints",
        "A configuration, the weights and their averages, in a file that holds data and no code.",
        _modules("model: config tables model averages scaled denoiser sampling checkpoint load"),
    ),
    Chapter(
        "backends",
        "Backends",
        "The one place that knows NumPy from CuPy from Torch, and processors from cards.",
        _modules(
            "backend: array base __init__ numpy_backend numba_backend torch_backend cupy_backend captured workers "
            "processor memory"
        ),
    ),
    Chapter(
        "kernels",
        "How the fast kernels differ from the reference",
        "A backend has an operation of its own where a measurement says that it pays: same name, same arguments, the "
        "same numbers but for rounding. On NumPy in blocks that stay in the cache, compiled by Numba, on Torch by "
        "ATen, on CuPy by CUDA kernels and cuDNN.",
        _modules(
            "ops: numpy_operations",
            "ops.cpu: blocks linear convolution winograd normalisation silu attention",
            "ops: numba_operations",
            "ops.numba: compiling lanes arrays sharing preparing exponential reductions products linear patches "
            "transforms winograd convolution norms activations attention resampling loss optimisation random",
            "ops: torch_operations cupy_operations",
            "ops.cuda: __init__ kernels launching geometry products norms activations training_ends random cudnn "
            "cudnn_frontend",
        ),
    ),
)


def chapter_of() -> dict[str, Chapter]:
    """Return the chapter of each module."""
    return {module: chapter for chapter in CHAPTERS for module in chapter.modules}
