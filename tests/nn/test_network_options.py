"""What networks are made of: the papers' parameter counts, and options that cannot be built, refused at the start."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.networks import SKETCHES, Setting
from tinyddpm.backend import Backend
from tinyddpm.errors import ConfigError, RegistryError, TinyDDPMError
from tinyddpm.nn import Layout, Told, Widths, make_network
from tinyddpm.nn.blocks import NEAR_ZERO
from tinyddpm.nn.layers import GroupNorm, Norms
from tinyddpm.ops import load_operations

CIFAR10 = (32, 32, 3)
IDDPM = {"blocks": 3, "attention": (16, 8), "heads": 4, "adaptive": True, "dropout": 0.3}


def test_ddpm_has_its_published_size() -> None:
    """35.7 million on CIFAR-10 (DDPM, appendix B), to the parameter those of its released model."""
    assert Layout(make_network("unet", CIFAR10, Widths(), 3, {}).parameters).size == 35_746_307


def test_iddpm_has_its_published_size() -> None:
    """52,546,438 on CIFAR-10 with learned variances: those of improved-diffusion's released model."""
    assert Layout(make_network("unet", CIFAR10, Widths(), 6, IDDPM).parameters).size == 52_546_438


def test_ddpm_attends_where_the_paper_says() -> None:
    """At 16×16, after each block, and in the middle; nowhere else."""
    paths = {parameter.path for parameter in make_network("unet", CIFAR10, Widths(), 3, {}).parameters}
    attending = {path.removesuffix("/q/w") for path in paths if path.endswith("/q/w")}
    down, up = [f"down_1/attention_{i}" for i in range(2)], [f"up_1/attention_{i}" for i in range(3)]
    assert attending == {*down, *up, "middle/attention"}


@pytest.mark.parametrize("name", ["unet", "mlp"])
def test_branches_start_as_almost_nothing(name: str) -> None:
    """The last layer of each of DDPM's branches, and of each network, has initial scale 1e-10; the rest have 1."""
    network = make_network(
        name, (8, 8, 1) if name == "unet" else (2,), Widths(), 1, {"attention": (8,)} if name == "unet" else {}
    )
    last = ("/conv_2/w", "/out/w", "conv_out/w", "dense_out/w")
    for parameter in network.parameters:
        if parameter.init.law == "uniform":
            assert parameter.init.value == (1e-10 if parameter.path.endswith(last) else 1.0), parameter.path
    assert NEAR_ZERO == 1e-10


@pytest.mark.parametrize("name", SKETCHES)
def test_predicts_the_channels_asked_for(numpy_backend: Backend, name: str) -> None:
    setting, sketch = Setting(SKETCHES[name]), SKETCHES[name]
    out, _ = setting.forward(numpy_backend)
    assert out.shape == (len(setting.x), *sketch.shape[:-1], sketch.out_channels)


def test_starts_by_predicting_almost_nothing(numpy_backend: Backend) -> None:
    """With initial weights DDPM's last layer gives some 1e-5: the loss starts at the variance of the noise."""
    network = make_network("unet", (8, 8, 1), Widths(), 1, {"channels": 16, "multipliers": (1, 2), "attention": (4,)})
    layout = Layout(network.parameters)
    x = np.random.default_rng(1).normal(size=(2, 8, 8, 1)).astype(np.float32)
    weights = layout.views(layout.initialise(seed=1), numpy_backend.xp)
    out, _ = network.forward(load_operations(numpy_backend), weights, x, np.asarray([0, 999]), Told())
    assert out.dtype == np.float32
    assert 1e-7 < np.max(np.abs(out)) < 1e-3


@given(channels=st.integers(1, 600), most=st.integers(1, 64))
def test_groups_divide_the_channels(channels: int, most: int) -> None:
    """For any channels: the largest number of groups that divides them, at most `most`, of 4 channels or alone."""
    groups = GroupNorm("norm", channels, Norms(most)).groups

    def fits(g: int) -> bool:
        return g <= most and channels % g == 0 and (g == 1 or channels // g >= 4)

    assert fits(groups)
    assert not any(fits(g) for g in range(groups + 1, channels + 1))


@pytest.mark.parametrize("channels", [128, 256, 384, 512])
def test_groups_are_ddpms(channels: int) -> None:
    """32 wherever DDPM normalises, skips included."""
    assert GroupNorm("norm", channels).groups == 32


@pytest.mark.parametrize(
    ("shape", "options", "said"),
    [
        ((28, 30, 1), {}, ["28x30", "4 levels", "24x24", "32x32"]),
        ((4, 32, 1), {"attention": ()}, ["4x32", "8x32"]),
        ((32, 30, 3), {"multipliers": (1, 2), "attention": (7,)}, ["attention at 7", "32, 16"]),
        ((32, 32, 3), {"attention": (16, 5)}, ["attention at 5", "32, 16, 8, 4"]),
        ((32, 32, 3), {"heads": 3}, ["heads is 3", "divide", "128"]),
        ((32, 32, 3), {"channels": 6, "heads": 4}, ["heads is 4"]),
        ((32, 32, 3), {"heads": 0}, ["heads is 0"]),
        ((32, 32, 3), {"channels": 31}, ["channels is 31", "even"]),
        ((32, 32, 3), {"channels": 2}, ["channels is 2", "at least 4"]),
        ((32, 32, 3), {"channels": -128}, ["channels is -128"]),
        ((32, 32, 3), {"multipliers": ()}, ["multipliers"]),
        ((32, 32, 3), {"multipliers": (1, 0)}, ["multipliers", "0"]),
        ((32, 32, 3), {"blocks": 0}, ["blocks is 0"]),
        ((32, 32, 3), {"dropout": 1.0}, ["dropout is 1.0"]),
        ((32, 32, 3), {"dropout": -0.1}, ["dropout is -0.1"]),
        ((32, 32, 3), {"dropout": float("nan")}, ["dropout is nan"]),
        ((32, 32, 3), {"groups": 48}, ["groups is 48", "divide", "128"]),
        ((32, 32, 3), {"groups": -1}, ["groups is -1"]),
        ((32, 32, 3), {"head_channels": 48}, ["head_channels is 48", "divide"]),
        ((32, 32, 3), {"head_channels": 64, "heads": 2}, ["heads is 2 and head_channels 64"]),
        ((32, 32, 3), {"norm_eps": 0.0}, ["norm_eps is 0.0"]),
        ((32, 32, 3), {"halving": "middle"}, ["halving is 'middle'"]),
        ((32, 32, 3), {"frequency_shift": 2.0}, ["frequency_shift is 2.0"]),
        ((32, 32, 3), {"time_scale": 0.0}, ["time_scale is 0.0"]),
        ((32, 32, 3), {"time_scale": float("inf")}, ["time_scale is inf"]),
        ((32, 32, 3), {"time_channels": 5}, ["time_channels is 5", "even"]),
        ((32, 32, 3), {"time_channels": 2}, ["time_channels is 2", "at least 4"]),
        ((32, 32, 3), {"resampling": "none"}, ["resampling is 'none'", "'blocks'"]),
        ((32, 32, 3), {"text": "both"}, ["text is 'both'", "'cross' or 'concat'"]),
        ((2,), {}, ["points", "mlp"]),
    ],
)
def test_unet_refuses(shape: tuple[int, ...], options: dict[str, Any], said: list[str]) -> None:
    """In one line, with the value, and with what would do."""
    refused("unet", shape, options, said)


@pytest.mark.parametrize(
    ("shape", "options", "said"),
    [
        ((8, 8, 1), {}, ["images", "unet"]),
        ((2,), {"width": 7}, ["width is 7", "even"]),
        ((2,), {"width": 2}, ["width is 2", "at least 4"]),
        ((2,), {"depth": 0}, ["depth is 0"]),
    ],
)
def test_mlp_refuses(shape: tuple[int, ...], options: dict[str, Any], said: list[str]) -> None:
    refused("mlp", shape, options, said)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("unet", {"chanels": 64}, ["chanels", "did you mean 'channels'"]),
        ("unet", {"head": 4}, ["head", "did you mean 'heads'"]),
        ("mlp", {"widht": 64}, ["widht", "did you mean 'width'"]),
        ("mlp", {"channels": 64}, ["channels", "width"]),
        ("unet", {"channels": "64"}, ["channels", "'64'", "whole number"]),
        ("unet", {"channels": 64.0}, ["channels", "64.0", "whole number"]),
        ("unet", {"channels": True}, ["channels", "True", "whole number"]),
        ("unet", {"channels": None}, ["channels", "None", "whole number"]),
        ("unet", {"multipliers": 2}, ["multipliers", "2", "list"]),
        ("unet", {"multipliers": "1,2"}, ["multipliers", "'1,2'", "list"]),
        ("unet", {"multipliers": (1, 2.5)}, ["multipliers", "2.5", "list"]),
        ("unet", {"attention": ["16"]}, ["attention", "'16'", "list"]),
        ("unet", {"adaptive": 1}, ["adaptive", "1", "true or false"]),
        ("unet", {"adaptive": "yes"}, ["adaptive", "'yes'", "true or false"]),
        ("unet", {"dropout": "0.1"}, ["dropout", "'0.1'", "number"]),
        ("unet", {"dropout": False}, ["dropout", "False", "number"]),
    ],
)
def test_unknown_options_and_wrong_types_are_refused(name: str, options: dict[str, Any], said: list[str]) -> None:
    """With the nearest option there is, or the kind of value it takes."""
    refused(name, CIFAR10 if name == "unet" else (2,), options, said)


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(RegistryError, match="did you mean 'unet'"):
        make_network("u-net", CIFAR10, Widths(), 3, {})


@pytest.mark.parametrize("option", [{"dropout": 0}, {"multipliers": [1, 2]}, {"attention": []}])
def test_equivalent_types_are_taken(option: dict[str, Any]) -> None:
    """A whole number where a real one is expected, lists where there are tuples: what TOML and JSON give."""
    assert make_network("unet", (16, 16, 1), Widths(), 1, {"channels": 8, "attention": (16,), **option}).parameters


@pytest.mark.slow
@given(height=st.integers(1, 40), width=st.integers(1, 40), levels=st.integers(1, 4))
def test_any_size_is_built_or_refused_with_sizes_that_work(height: int, width: int, levels: int) -> None:
    """For all sizes and levels: refused if and only if a side is no multiple of 2^(levels − 1); then the sizes that
    the message names can be built."""
    options = {"channels": 4, "multipliers": (1,) * levels, "attention": ()}
    unit = 2 ** (levels - 1)
    if height % unit == 0 and width % unit == 0:
        assert make_network("unet", (height, width, 1), Widths(), 1, options).parameters
        return
    with pytest.raises(ConfigError) as error:
        make_network("unet", (height, width, 1), Widths(), 1, options)
    advice = re.findall(r"(\d+)x(\d+)(?= or | would)", str(error.value))
    assert len(advice) in (1, 2)
    for h, w in (map(int, size) for size in advice):
        assert make_network("unet", (h, w, 1), Widths(), 1, options).parameters


def refused(name: str, shape: tuple[int, ...], options: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        make_network(name, shape, Widths(), shape[-1], options)
    message = str(error.value)
    assert isinstance(error.value, TinyDDPMError)
    assert "\n" not in message
    assert all(part in message for part in said), message


@pytest.mark.parametrize(
    ("size", "levels", "attending"),
    [((32, 32), 3, {1, 2}), ((24, 40), 3, {2}), ((64, 48), 2, {1}), ((8, 16), 2, {0, 1}), ((68, 20), 3, {2})],
)
def test_attention_finds_its_levels(size: tuple[int, int], levels: int, attending: set[int]) -> None:
    """Those whose larger side is at most 16 pixels, and the last where there is none."""
    options = {"channels": 4, "multipliers": [1] * levels, "blocks": 1, "attention": "auto"}
    network = make_network("unet", (*size, 3), Widths(), 3, options)
    found = {p.path.split("/")[0] for p in network.parameters if "/attention_" in p.path}
    assert found == {f"{way}_{level}" for way in ("down", "up") for level in attending}


def test_attention_that_does_not_fit_is_told_what_to_give() -> None:
    options = {"multipliers": [1, 2, 2], "attention": [8]}
    with pytest.raises(ConfigError, match=r"give some of their sides, \[40, 20, 10\], or 'auto'"):
        make_network("unet", (24, 40, 3), Widths(), 3, options)
    with pytest.raises(ConfigError, match=r"option attention of network 'unet' is 'all': give a list, .* or 'auto'"):
        make_network("unet", (24, 40, 3), Widths(), 3, {**options, "attention": "all"})
