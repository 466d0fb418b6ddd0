from __future__ import annotations

import math
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
import torch
from tinyddpm_dit import DiT
from torch.nn import functional

from tinyddpm.backend import load_backend
from tinyddpm.conditions import Conditioned
from tinyddpm.conditions.label import Label
from tinyddpm.errors import ConfigError
from tinyddpm.nn import Layout, Told, Widths
from tinyddpm.ops import load_operations
from tinyddpm.testing import check_network, random_weights

SMALL = {"width": 16, "depth": 2, "heads": 2}


@pytest.mark.parametrize(
    ("sample_shape", "options"),
    [
        ((8, 8, 2), SMALL),
        ((6, 9, 1), {**SMALL, "patch": 3, "depth": 1, "heads": 4, "mlp_ratio": 2}),
        ((6, 4, 1), {**SMALL, "text": "cross"}),
    ],
    ids=["square", "oblong", "cross"],
)
def test_keeps_the_contract(sample_shape: tuple[int, ...], options: dict[str, Any]) -> None:
    check_network("dit", sample_shape, exempt=("*/k/b",), **options)


def test_the_order_of_parameters_stays() -> None:
    """Paths, shapes and laws are those of all checkpoints so far."""
    network = DiT((8, 8, 2), Widths(vector=16), 2, width=16, depth=2, heads=2)
    parameters = Conditioned(network, Label((8, 8, 2), 3, 16, null=False)).parameters
    lines = [f"{p.path} {p.shape} {p.init.law} {p.init.value}" for p in parameters]
    assert (len(lines), sha256("\n".join(lines).encode()).hexdigest()[:16]) == (39, "e33b165ea60421e2")


def twin(
    w: dict[str, torch.Tensor], x: torch.Tensor, t: torch.Tensor, told: dict[str, torch.Tensor], patch: int, heads: int
) -> torch.Tensor:
    """DiT of depth 3 written a second time, on Torch's own operations and in its NCHW layout."""

    def linear(path: str, h: torch.Tensor) -> torch.Tensor:
        return functional.linear(h, w[f"{path}/w"].T, w[f"{path}/b"])

    def sinusoids(position: torch.Tensor, dim: int) -> torch.Tensor:
        steps = torch.arange(dim // 2, dtype=torch.float64) / (dim // 2 - 1)
        angles = torch.outer(position.to(torch.float64), torch.exp(-math.log(10000) * steps))
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    def norm(h: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale) + shift

    height, breadth = x.shape[1:3]
    rows, columns, width = height // patch, breadth // patch, w["tokens_in/b"].shape[0]
    c = linear("time/dense_2", functional.silu(linear("time/dense_1", sinusoids(t, 256))))
    c = functional.silu(c + told["vector"])

    # A convolution whose stride is its kernel is the patch embedding.
    x = torch.cat([x, told["image"]], dim=-1) if "image" in told else x
    kernel = w["tokens_in/w"].reshape(patch, patch, -1, width).permute(3, 2, 0, 1)
    h = functional.conv2d(x.permute(0, 3, 1, 2), kernel, w["tokens_in/b"], stride=patch).flatten(2).transpose(1, 2)
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    h = h + torch.cat([sinusoids(places[:, 0], width // 2), sinusoids(places[:, 1], width // 2)], dim=1)

    there = torch.ones(h.shape[:2], dtype=torch.bool)
    crossing = "block_0/cross/q/w" in w
    if "tokens" in told and not crossing:
        h = torch.cat([h, linear("context", told["tokens"])], dim=1)
        there = torch.cat([there, told["mask"]], dim=1)

    for i in range(3):
        modulation = linear(f"block_{i}/modulation", c)[:, None]
        scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = modulation.chunk(6, dim=-1)
        a = norm(h, scale_1, shift_1)
        q, k, v = (linear(f"block_{i}/{name}", a).unflatten(-1, (heads, -1)).transpose(1, 2) for name in "qkv")
        a = functional.scaled_dot_product_attention(q, k, v, there[:, None, None]).transpose(1, 2).flatten(2)
        h = h + gate_1 * linear(f"block_{i}/out", a)
        if crossing:
            asked = (
                ("q", functional.layer_norm(h, h.shape[-1:], eps=1e-6)),
                ("k", told["tokens"]),
                ("v", told["tokens"]),
            )
            q, k, v = (linear(f"block_{i}/cross/{n}", x).unflatten(-1, (heads, -1)).transpose(1, 2) for n, x in asked)
            a = functional.scaled_dot_product_attention(q, k, v, told["mask"][:, None, None])
            h = h + linear(f"block_{i}/cross/out", a.transpose(1, 2).flatten(2))
        a = functional.gelu(linear(f"block_{i}/dense_1", norm(h, scale_2, shift_2)), approximate="tanh")
        h = h + gate_2 * linear(f"block_{i}/dense_2", a)

    scale, shift = linear("modulation", c)[:, None].chunk(2, dim=-1)
    h = linear("tokens_out", norm(h[:, : rows * columns], scale, shift))
    h = h.unflatten(2, (patch * patch, -1)).permute(0, 3, 2, 1).flatten(1, 2)  # fold wants (N, C·p·p, L)
    return functional.fold(h, (height, breadth), kernel_size=patch, stride=patch).permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("shape", "patch", "tokens", "image", "text"),
    [
        ((3, 8, 6, 2), 2, 0, 0, "context"),
        ((2, 6, 9, 1), 3, 0, 2, "cross"),
        ((1, 4, 4, 3), 1, 0, 0, "context"),
        ((3, 4, 6, 2), 2, 7, 0, "context"),
        ((2, 4, 6, 2), 2, 7, 3, "cross"),
    ],
)
def test_agrees_with_torch(shape: tuple[int, ...], patch: int, tokens: int, image: int, text: Any) -> None:
    """Prediction, dx, dtold and every gradient in float64, against automatic differentiation of the twin."""
    rng = np.random.default_rng(7)
    n, *sample_shape = shape
    network = DiT(tuple(sample_shape), Widths(16, tokens, image), 5, patch=patch, width=16, depth=3, heads=2, text=text)
    w = random_weights(network)
    x, dout = rng.standard_normal(shape), rng.standard_normal((*shape[:-1], 5))
    t, told = rng.integers(0, 1000, n), {"vector": rng.standard_normal((n, 16))}
    if tokens:
        told |= {"tokens": rng.standard_normal((n, 4, tokens)), "mask": np.arange(4) < np.array([[4], [1], [0]])[:n]}
    if image:
        told["image"] = rng.standard_normal((*shape[:-1], image))

    ops = load_operations(load_backend("numpy"), training=True)
    out, saved = network.forward(ops, w, x, t, Told(**told))
    dw = {path: np.zeros_like(array) for path, array in w.items()}
    dx, dtold = network.backward(saved, dw, dout)

    leaves = {path: torch.tensor(array, requires_grad=True) for path, array in w.items()}
    x_leaf = torch.tensor(x, requires_grad=True)
    heard = {part: torch.tensor(array, requires_grad=part != "mask") for part, array in told.items()}
    expected = twin(leaves, x_leaf, torch.tensor(t), heard, patch, heads=2)
    expected.backward(torch.tensor(dout))

    close("prediction", out, expected.detach().numpy())
    close("dx", dx, x_leaf.grad)
    for part in told.keys() - {"mask"}:
        close(part, getattr(dtold, part), heard[part].grad)
    for path, leaf in leaves.items():
        close(path, dw[path], leaf.grad, floor=1.0)


def close(name: str, actual: Any, expected: Any, floor: float = 0.0) -> None:
    """Within 1e-10 of the largest element, or of `floor`: the keys' biases have no gradient but rounding."""
    expected = np.asarray(expected)
    size = max(floor, np.max(np.abs(expected)))
    assert np.max(np.abs(actual - expected)) <= 1e-10 * size, name


def count(patch: int, width: int, depth: int, c_in: int, c_out: int, mlp_ratio: int) -> int:
    """The number of parameters, added up by hand."""
    time = (256 + 1) * width + (width + 1) * width
    tokens_in = (patch**2 * c_in + 1) * width
    attention = 4 * (width + 1) * width
    perceptron = (width + 1) * mlp_ratio * width + (mlp_ratio * width + 1) * width
    block = (width + 1) * 6 * width + attention + perceptron
    tokens_out = (width + 1) * 2 * width + (width + 1) * patch**2 * c_out
    return time + tokens_in + depth * block + tokens_out


@pytest.mark.parametrize(("patch", "width", "depth", "heads", "mlp_ratio"), [(2, 128, 4, 4, 4), (4, 24, 1, 3, 2)])
def test_parameter_count(patch: int, width: int, depth: int, heads: int, mlp_ratio: int) -> None:
    network = DiT((16, 8, 3), Widths(), 6, patch=patch, width=width, depth=depth, heads=heads, mlp_ratio=mlp_ratio)
    assert Layout(network.parameters).size == count(patch, width, depth, 3, 6, mlp_ratio)


@pytest.mark.parametrize(
    ("millions", "width", "depth", "heads"),
    [(33, 384, 12, 6), (130, 768, 12, 12), (458, 1024, 24, 16), (675, 1152, 28, 16)],
    ids=["S/2", "B/2", "L/2", "XL/2"],
)
def test_parameter_count_is_the_papers(millions: int, width: int, depth: int, heads: int) -> None:
    """DiT, table 4: latents of 32×32×4, noise and variance predicted, 1000 classes and one for none."""
    network = DiT((32, 32, 4), Widths(vector=width), 8, width=width, depth=depth, heads=heads)
    both = Conditioned(network, Label((32, 32, 4), 1000, width, null=True))
    assert round(Layout(both.parameters).size / 1e6) == millions


def test_starts_with_every_block_as_identity() -> None:
    """adaLN-zero: all modulations and the last layer start at zero, so the first prediction is zero."""
    network = DiT((4, 4, 1), Widths(), 1, **SMALL)
    layout = Layout(network.parameters)
    w = layout.views(layout.initialise(3), np)
    zeros = {path for path, array in w.items() if path.endswith("/w") and not np.any(array)}
    assert zeros == {"block_0/modulation/w", "block_1/modulation/w", "modulation/w", "tokens_out/w"}
    x = np.ones((2, 4, 4, 1), np.float32)
    out, _ = network.forward(load_operations(load_backend("numpy")), w, x, np.arange(2), Told())
    assert not np.any(out)


@pytest.mark.parametrize(
    ("sample_shape", "options", "line"),
    [
        ((28, 30, 1), {"patch": 4}, r"patch is 4, which does not divide 28x30 images: use one of \[1, 2\]"),
        ((2,), {}, "use the network 'mlp'"),
        ((8, 8, 1), {"width": 30}, "width is 30"),
        ((8, 8, 1), {"width": 16, "heads": 3}, "heads is 3"),
        ((8, 8, 1), {"depth": 0}, "depth is 0"),
        ((8, 8, 1), {"text": "beside"}, "text is 'beside'"),
    ],
)
def test_what_does_not_fit_is_refused(sample_shape: tuple[int, ...], options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        DiT(sample_shape, Widths(), 1, **options)
