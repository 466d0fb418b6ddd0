"""The chapters in reading order, each with its modules and figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A picture drawn by `tinyddpm figure`.

    Attributes:
        words: arguments of `tinyddpm figure`; the first is the name of the figure.
        caption: text below the picture.
        of_run: whether the figure needs a trained run.
    """

    words: tuple[str, ...]
    caption: str
    of_run: bool = False

    @property
    def name(self) -> str:
        """Name of the figure on the command line."""
        return self.words[0]


@dataclass(frozen=True)
class Chapter:
    """A chapter of the book.

    Attributes:
        slug: name of the chapter in addresses of pages.
        title: heading.
        about: introduction, in the notation of docstrings.
        modules: dotted names of its modules, in reading order; those of CUDA sources end in the file's suffix.
        figures: pictures drawn while the book is built.
    """

    slug: str
    title: str
    about: str
    modules: tuple[str, ...]
    figures: tuple[Figure, ...] = ()


def _modules(*rooms: str) -> tuple[str, ...]:
    """Expand "room: a b" to ("room.a", "room.b")."""
    found = []
    for line in rooms:
        room, _, names = line.partition(": ")
        found += [f"{room}.{name}" for name in names.split()]
    return tuple(found)


CHAPTERS = (
    Chapter(
        "forward",
        "The forward process",
        "Noise is added in T small steps, whose variances are the schedule of betas. The share of signal and noise "
        "after t steps is known in closed form: `schedules` computes it.",
        _modules("diffusion: schedules schedule_report"),
        (
            Figure(("forward",), "Digits under the forward process: the same noise along each row, growing in share."),
            Figure(("schedules", "linear", "cosine"), "Two schedules as curves, and one image under each."),
        ),
    ),
    Chapter(
        "kernel",
        "The kernel and the posterior",
        "The closed form q(x_t | x_0), the posterior q(x_{t−1} | x_t, x_0), and the model's reverse step, built on it.",
        _modules("diffusion: process"),
        (
            Figure(("kernel",), "Chains simulated step by step, against the closed form."),
            Figure(("diffused",), "The density of one-dimensional data over time, exact and sampled."),
            Figure(("posterior", "--schedule", "cosine"), "The posterior: its coefficients and its exact density."),
        ),
    ),
    Chapter(
        "bound",
        "The bound",
        "The variational bound on −log p(x_0): its terms, the gradient of each, and their sum.",
        _modules("diffusion: likelihood bound", "ops: loss"),
        (
            Figure(("vae",), "The bound as prior, matching and reconstruction.", of_run=True),
            Figure(("rate-distortion",), "Progressive coding: error of x_0 against bits received.", of_run=True),
        ),
    ),
    Chapter(
        "simple",
        "L_simple and other objectives",
        "What training minimises: the squared error of the predicted noise, its weights over time, the distribution "
        "that t is drawn from, and the bound itself.",
        _modules("diffusion: objectives weightings times", "ops: noising"),
        (Figure(("loss-by-time",), "The errors of eps and x_0, and the bound, over t.", of_run=True),),
    ),
    Chapter(
        "parametrisations",
        "Parametrisations",
        "What the network predicts, and how x_0 and the noise are computed from it.",
        _modules("diffusion: parametrisation denoiser"),
        (Figure(("single-step",), "How well one prediction recovers x_0, by noise level.", of_run=True),),
    ),
    Chapter(
        "operations",
        "Operations and their gradients",
        "Each operation is followed by its backward, whose gradient is derived in the docstring. All are written in "
        "the array API standard and run on any backend.",
        _modules(
            "ops: base linear convolution activation normalisation norm_activation attention resampling images __init__"
        ),
    ),
    Chapter(
        "network",
        "The network",
        "Parameters, layers, blocks, and networks made of them. `backward` reads as `forward` upside down.",
        _modules("nn: parameters layers precision blocks network unet transformer mlp __init__"),
    ),
    Chapter(
        "training",
        "Training",
        "One step of Algorithm 1, Adam, and everything that a run keeps, writes and reports.",
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
        "Loops over a denoiser, from noise to data: DDPM's chain, DDIM, and solvers of the probability-flow ODE.",
        _modules("samplers: base spacings ddpm implicit runge_kutta dpm_solver predictor_corrector __init__"),
        (
            Figure(("denoising",), "x_t and the predicted x_0 along the chain.", of_run=True),
            Figure(("steps",), "Samples from the same noise in fewer and fewer steps.", of_run=True),
        ),
    ),
    Chapter(
        "guidance",
        "Guidance",
        "A denoiser made of two others: it extrapolates from the prediction of one to that of the other.",
        _modules("guidance: base extrapolation blend __init__"),
    ),
    Chapter(
        "conditions",
        "Conditions",
        "From a column of the data set to the network's additional inputs, each condition with its own backward; and "
        "random transforms of the data, which the network may be told of.",
        _modules(
            "conditions: base label text embeddings image transformed __init__",
            "transforms: base geometric colour __init__",
        ),
    ),
    Chapter(
        "editing",
        "Editing",
        "Edits of images by a denoiser and a sampler: partial noising and resampling, inpainting, interpolation, "
        "enlarging.",
        _modules("editing: sdedit inpainting interpolation enlarging __init__"),
    ),
    Chapter(
        "likelihood",
        "The likelihood by the flow",
        "The log density of data, by transport along the probability-flow ODE to N(0, I).",
        _modules("diffusion: flow"),
    ),
    Chapter(
        "randomness",
        "Randomness",
        "Random numbers are a function of seed, purpose, step, sample and element. There is no state.",
        _modules("backend: philox random"),
    ),
    Chapter(
        "checkpoints",
        "Models and checkpoints",
        "A configuration, the weights and their averages, in a file of data without code.",
        _modules("model: config tables model averages scaled denoiser sampling checkpoint load"),
    ),
    Chapter(
        "backends",
        "Backends",
        "The only package that distinguishes NumPy from CuPy from Torch, and the CPU from the GPU.",
        _modules(
            "backend: array base __init__ numpy_backend numba_backend torch_backend cupy_backend captured workers "
            "processor memory"
        ),
    ),
    Chapter(
        "kernels",
        "How the fast kernels differ from the reference",
        "A backend overrides an operation where a measurement shows that it pays: same name, same arguments, the same "
        "numbers up to rounding. NumPy works in blocks that fit the cache, Numba compiles loops, Torch calls ATen, "
        "CuPy launches CUDA kernels and cuDNN.",
        _modules(
            "ops: numpy_operations",
            "ops.cpu: blocks linear convolution winograd normalisation silu attention",
            "ops: numba_operations",
            "ops.numba: compiling lanes arrays sharing preparing exponential reductions products linear patches "
            "transforms winograd convolution norms activations attention resampling loss optimisation random",
            "ops: torch_operations cupy_operations",
            "ops.cuda: __init__ kernels launching geometry products norms activations training_ends random cudnn "
            "cudnn_frontend choices common.cuh activation.cu channels.cu group_norm.cu loss.cu optimisation.cu "
            "packing.cu philox.cuh random.cu resampling.cu softmax.cu sums.cu product.cuh "
            "tensor_cores.cuh convolution.cu gemm.cu",
        ),
    ),
)


def chapter_of() -> dict[str, Chapter]:
    """Return the chapter of each module, by the module's dotted name."""
    return {module: chapter for chapter in CHAPTERS for module in chapter.modules}
