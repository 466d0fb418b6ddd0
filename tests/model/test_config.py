"""The configuration: strict, layered, and the same after a round trip through TOML."""

from __future__ import annotations

import math
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm import registry
from tinyddpm.backend import load_backend
from tinyddpm.diffusion.objectives import Hybrid
from tinyddpm.errors import ConfigError, RegistryError
from tinyddpm.model.config import Config, defaults_for, preset, presets, read_toml, settings
from tinyddpm.model.model import Model
from tinyddpm.ops import load_operations
from tinyddpm.ops.noising import Noised

INTEGERS = st.integers(-(2**63), 2**63 - 1)
"""What TOML's numbers are."""
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@pytest.mark.parametrize("name", presets())
def test_presets_survive_toml(name: str) -> None:
    config = preset(name).config
    assert Config.from_dict(tomllib.loads(config.to_toml())) == config


@pytest.mark.parametrize("value", [math.inf, -math.inf, [0.5, math.inf]])
def test_infinity_survives_toml(value: object) -> None:
    """A run with `--clip inf`, or with guidance up to any noise, can be resumed."""
    config = Config.from_dict({"training": {"clip": math.inf}, "guidance": {"name": "cfg", "high": value}})
    assert Config.from_dict(tomllib.loads(config.to_toml())) == config


@pytest.mark.slow
@given(
    steps=st.integers(1, 10**9),
    rate=st.floats(0, 1, allow_subnormal=False),
    source=NAMES,
    size=st.none() | NAMES,
    option=INTEGERS
    | st.booleans()
    | st.floats(allow_nan=False)
    | NAMES
    | st.lists(INTEGERS | st.floats(allow_nan=False)),
)
def test_any_values_survive_toml(steps: int, rate: float, source: str, size: str | None, option: object) -> None:
    """Over values of every type that TOML has, quotes, control characters and other scripts in texts included."""
    tables = {
        "data": {"source": source, **({"image_size": size} if size else {})},
        "network": {"name": source, "depth": option},
        "training": {"steps": steps, "learning_rate": rate},
    }
    config = Config.from_dict(tables)
    assert Config.from_dict(tomllib.loads(config.to_toml())) == config
    assert config.network.options == {"depth": option}


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"trainin": {}}, "unknown key 'trainin': did you mean 'training'?"),
        ({"training": {"stps": 1}}, "training: unknown key 'stps': did you mean 'steps'?"),
        ({"sampling": {"spacing": "karras"}}, "spacing has a table of its own: write name = 'karras' under [spacing]"),
        ({"training": {"steps": 1.5}}, "training.steps is 1.5: give a whole number"),
        ({"training": {"steps": True}}, "training.steps is True: give a whole number"),
        ({"data": {"flip": 1}}, "data.flip is 1: give true or false"),
        ({"data": {"source": 3}}, "data.source is 3: give a text"),
        ({"training": 7}, "training is a table of settings, not 7"),
        ({"training": {"steps": 0}}, "training.steps is 0: it must be at least 1"),
        ({"training": {"steps": 10**9 + 1}}, "training.steps is 1000000001: it must be at most 1000000000"),
        ({"training": {"warmup": 10**9 + 1}}, "training.warmup is 1000000001: it must be at most 1000000000"),
        ({"sampling": {"count": 10**6 + 1}}, "sampling.count is 1000001: it must be at most 1000000"),
        ({"training": {"learning_rate": math.inf}}, "training.learning_rate is inf: it must be at most 1e+38"),
        ({"training": {"learning_rate": float("nan")}}, "learning_rate is nan"),
        ({"training": {"ema": 1.0}}, "training.ema is 1.0: it must lie in"),
        ({"training": {"batch_size": 4, "accumulate": 5}}, "give at most the batch size"),
        ({"schedule": {"timesteps": 1}}, "schedule.timesteps is 1: it must be at least 2"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_settings_are_refused_in_one_line(tables: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_dict(tables, "file.toml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("file.toml: ")
    assert "\n" not in str(caught.value)


def test_whole_numbers_are_numbers() -> None:
    """TOML's `learning_rate = 1` is the number 1.0, and true none."""
    rate = Config.from_dict({"training": {"learning_rate": 1}}).training.learning_rate
    assert (rate, type(rate)) == (1.0, float)
    with pytest.raises(ConfigError, match=r"training\.learning_rate is True: give a number"):
        Config.from_dict({"training": {"learning_rate": True}})


def test_layers_override_setting_by_setting() -> None:
    base = Config.from_dict({"network": {"name": "unet", "channels": 32}, "training": {"steps": 5, "clip": 2.0}})
    config = base.updated({"network": {"heads": 2}, "training": {"steps": 6}})
    assert config.network.options == {"channels": 32, "heads": 2}
    assert (config.training.steps, config.training.clip) == (6, 2.0)


def test_another_plugin_does_not_inherit_options() -> None:
    base = Config.from_dict({"network": {"name": "unet", "channels": 32}})
    assert base.updated({"network": {"name": "mlp", "depth": 2}}).network.options == {"depth": 2}


def test_defaults_follow_the_data() -> None:
    assert defaults_for("digits") == preset("digits").config
    assert defaults_for("ring").network.name == "mlp"
    assert defaults_for("./photos") == Config()


@pytest.mark.parametrize(("name", "like"), [("flow-digits", "digits"), ("flow-fashion", "fashion-mini")])
def test_presets_of_flow_have_the_network_and_the_budget_of_others(name: str, like: str) -> None:
    """They differ in schedule, prediction, law of t, weighting and sampler alone, and their loss is plain flow
    matching's: |F − F_θ|² counts the same at all times."""
    ours, theirs = preset(name), preset(like)
    tables = {"training": {"predict": "flow", "times": "logit-normal"}, "weighting": {"name": "uniform"}}
    assert (ours.sample_shape, ours.classes) == (theirs.sample_shape, theirs.classes)
    changed = replace(theirs.config.updated(tables), schedule=ours.config.schedule, sampling=ours.config.sampling)
    assert ours.config == changed
    assert ours.config.schedule.name == "flow"
    model = Model(ours.config, ours.sample_shape, tuple("0123456789"), load_backend("numpy"))
    x_0, eps, F = np.random.default_rng(0).normal(size=(3, 5, *ours.sample_shape)).astype(np.float32)
    t = np.array([0, 1, 60, 200, model.process.T - 1])
    batch = Noised(x_0, t, eps, model.process.q_sample(x_0, t, eps))
    losses, _ = model.objective.forward(load_operations(model.backend), F, batch)
    np.testing.assert_allclose(losses, np.mean((eps - x_0 - F) ** 2, axis=(1, 2, 3)), rtol=1e-5)


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(RegistryError, match="did you mean 'cifar10'"):
        preset("cifar")


@pytest.mark.parametrize("about", [None, {}, {"sample_shape": 3, "classes": 0}, {"sample_shape": [2], "classes": "2"}])
def test_a_preset_says_what_it_is_for(about: object, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {"network": {"name": "mlp", "width": 8}} | ({"about": about} if about is not None else {})
    monkeypatch.setattr(registry, "load", lambda group, name: lambda: tables)
    with pytest.raises(ConfigError, match="preset 'own': its table `about` must have sample_shape"):
        preset("own")
    tables["about"] = {"sample_shape": [2], "classes": 0}
    assert preset("own").config.network.options == {"width": 8}
    assert preset("own").sample_shape == (2,)


def test_callbacks_are_chosen_by_name_with_their_options() -> None:
    config = Config.from_dict({"callbacks": {"early-stop": {"patience": 3}, "a b.c": {}}})
    assert Config.from_dict(tomllib.loads(config.to_toml())) == config
    assert config.updated({"callbacks": {"early-stop": {"least": 0.1}}}).callbacks["early-stop"] == {
        "patience": 3, "least": 0.1,
    }  # fmt: skip
    assert "callbacks" not in Config().to_toml()
    with pytest.raises(ConfigError, match=r"callbacks is 'early-stop': give a table of options for each"):
        Config.from_dict({"callbacks": "early-stop"})
    with pytest.raises(ConfigError, match=r"callbacks is .*: give a table of options for each"):
        Config.from_dict({"callbacks": {"early-stop": 3}})


def test_command_line_names_are_unique() -> None:
    names = [name for _, _, name, _, _ in settings()]
    assert len(set(names)) == len(names)


def test_files_that_are_no_toml(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    with pytest.raises(ConfigError, match=r"cannot read .*x\.toml: No such file"):
        read_toml(path)
    path.write_text("steps = = 3")
    with pytest.raises(ConfigError, match=r"x\.toml is not valid TOML"):
        read_toml(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"x\.toml is not valid TOML"):
        read_toml(path)


def test_a_weighting_has_options_of_its_own() -> None:
    config = Config.from_dict({"weighting": {"name": "min-snr", "gamma": 3.0}})
    assert config.weighting.options == {"gamma": 3.0}
    assert config.updated({"weighting": {"name": "p2"}}).weighting.options == {}


def test_what_is_drawn_by_carries_its_spacing() -> None:
    """The table `spacing` is held by the sampling, and stands beside it in what is written."""
    config = Config.from_dict({"spacing": {"name": "karras", "rho": 3}})
    assert (config.sampling.spacing.name, config.sampling.spacing.options) == ("karras", {"rho": 3})
    assert config.to_dict()["spacing"] == {"name": "karras", "rho": 3}
    assert "spacing" not in config.to_dict()["sampling"]
    assert config.updated({"spacing": {"name": "uniform"}}).sampling.spacing.options == {}
    assert config.updated({"sampling": {"steps": 9}}).sampling.spacing == config.sampling.spacing


def test_a_data_set_has_options_that_another_does_not_inherit() -> None:
    config = Config.from_dict({"data": {"source": "ring", "noise": 0.2}})
    assert config.data.options == {"noise": 0.2}
    assert config.updated({"data": {"labels": True}}).data.options == {"noise": 0.2}
    assert config.updated({"data": {"source": "moons"}}).data.options == {}


def test_cifar10_improved_is_iddpms_to_the_parameter() -> None:
    """52,546,438, with the channels of the learned variance; DDPM's 35,746,307 has none."""
    for name, size in (("cifar10-improved", 52_546_438), ("cifar10", 35_746_307)):
        found = preset(name)
        model = Model(found.config, found.sample_shape, (), load_backend("numpy"))
        assert model.layout.size == size


def test_parts_named_in_training_have_tables_of_their_options() -> None:
    """They survive TOML, an unknown one is refused, and another part drops those of the one before, in any order."""
    tables = {"parametrisation": {"sigma_data": 0.3}, "training": {"predict": "edm", "times": "log-normal"}}
    config = Config.from_dict({**tables, "times": {"std": 1.0}, "weighting": {"name": "uniform"}})
    assert Config.from_dict(tomllib.loads(config.to_toml())) == config
    assert config.parametrisation.options == {"sigma_data": 0.3}
    assert config.times.options == {"std": 1.0}
    assert config.updated({"parametrisation": {"sigma_data": 0.4}}).parametrisation.options == {"sigma_data": 0.4}
    other = config.updated({"training": {"predict": "v"}})
    assert (other.parametrisation.options, other.times.options) == ({}, {"std": 1.0})
    assert config.updated({"training": {"times": "auto"}}).times.options == {}
    wrong = config.updated({"parametrisation": {"sigma": 1.0}})
    with pytest.raises(
        ConfigError, match=r"unknown option of parametrisation 'edm' 'sigma': did you mean 'sigma_data'"
    ):
        Model(wrong, (2,), (), load_backend("numpy"))


@pytest.mark.parametrize(("given", "expected"), [({}, 0.25), ({"objective": {"vlb_weight": 0.5}}, 0.5)])
def test_the_weight_of_the_bound_reaches_the_objective(given: dict[str, object], expected: float) -> None:
    config = preset("toy").config.updated({"training": {"loss": "hybrid", "vlb_weight": 0.25}, **given})
    objective = Model(config, (2,), (), load_backend("numpy")).objective
    assert isinstance(objective, Hybrid)
    assert objective.weight == expected
