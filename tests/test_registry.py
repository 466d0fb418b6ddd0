"""The registry: plugins found through the metadata of installed distributions, and loaded one by one."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from helpers.site import Site
from tinyddpm import registry
from tinyddpm.conditions import make_condition
from tinyddpm.errors import ConfigError, RegistryError
from tinyddpm.nn import Widths, make_network


def names(group: str) -> set[str]:
    return {entry.name for entry in registry.entries(group)}


# What there is


def test_built_ins_are_entries_like_any_other() -> None:
    assert {"linear", "cosine"} <= names("schedules")
    assert {"unet", "mlp"} <= names("networks")
    assert "ancestral" in names("samplers")
    assert {"numpy", "cupy", "torch"} <= names("backends")
    assert registry.find("networks", "mlp").distribution == "tinyddpm"


def test_an_installed_entry_is_listed_and_loaded(site: Site) -> None:
    site.install("made-up", "1.2", {"schedules": {"ramp": "made_up:ramp"}}, made_up="def ramp(T): return T")
    entry = registry.find("schedules", "ramp")
    assert (entry.value, entry.distribution, entry.version) == ("made_up:ramp", "made-up", "1.2")
    assert registry.load("schedules", "ramp")(7) == 7


def test_entries_come_in_alphabetical_order(site: Site) -> None:
    site.install("made-up", "1.0", {"samplers": {"zeta": "made_up:z", "alpha": "made_up:a"}})
    listed = [entry.name for entry in registry.entries("samplers")]
    assert listed == sorted(listed)
    assert {"zeta", "alpha"} <= set(listed)


def test_listing_imports_nothing(site: Site) -> None:
    """The module would raise if it were imported."""
    site.install("made-up", "1.0", {"schedules": {"ramp": "made_up:ramp"}}, made_up="raise SystemExit(9)")
    for group in registry.GROUPS:
        registry.entries(group)
    assert registry.find("schedules", "ramp").name == "ramp"
    assert "made_up" not in sys.modules


def test_a_group_is_one_of_the_known() -> None:
    with pytest.raises(RegistryError, match="unknown plugin group 'schedule': did you mean 'schedules'"):
        registry.entries("schedule")


@pytest.mark.parametrize(
    ("group", "near"),
    [
        ("tinyddpm.schedule", "did you mean 'tinyddpm.schedules'"),
        ("tinydppm.samplers", "did you mean 'tinyddpm.samplers'"),
        ("tinyddpm-networks", "did you mean 'tinyddpm.networks'"),
        ("tinyddpm.xyz", "there are: "),
        ("tinyddpm", "there are: "),
    ],
)
def test_a_group_that_looks_like_ours_and_is_none_is_told_with_the_nearest(site: Site, group: str, near: str) -> None:
    site.install("made-up", "1.0", {"schedules": {"a": "made_up:a"}}, made_up="1 / 0")
    assert registry.strange_groups() == []
    points = site.folder / "made_up-1.0.dist-info" / "entry_points.txt"
    points.write_text(f"[{group}]\nramp = made_up:ramp\n\n[made_up.schedules]\nown = made_up:own\n")
    (line,) = registry.strange_groups()
    assert line.startswith(f"made-up registers ramp: unknown entry-point group '{group}': ")
    assert near in line


def test_what_a_plugin_requires_is_looked_for_and_not_imported() -> None:
    def plugin() -> None:
        pass

    assert registry.missing(plugin) == {}
    plugin.requires = {"antigravity": "python", "no_such_package": "made-up[all]"}  # type: ignore[attr-defined]
    assert registry.missing(plugin) == {"no_such_package": "made-up[all]"}
    assert "antigravity" not in sys.modules


# What is not there, or twice, or broken


def test_an_unknown_name_lists_the_closest_first(site: Site) -> None:
    site.install("made-up", "1.0", {"schedules": {"aaa": "made_up:a", "cosinus": "made_up:c"}})
    with pytest.raises(RegistryError) as error:
        registry.find("schedules", "cosinu")
    line = str(error.value)
    assert line.startswith("unknown schedule 'cosinu': did you mean 'cosinus'? there are: cosinus, cosine, ")
    assert line.index("cosine") < line.index("aaa") < line.index("linear")


def test_a_name_claimed_twice_names_both(site: Site) -> None:
    site.install("made-up", "1.0", {"networks": {"mlp": "made_up:MLP"}})
    with pytest.raises(RegistryError) as error:
        registry.load("networks", "mlp")
    line = str(error.value)
    assert "network 'mlp' is registered twice" in line
    assert "made_up:MLP from made-up 1.0" in line
    assert "tinyddpm.nn.mlp:MLP from tinyddpm " in line
    assert "uninstall one" in line


def test_both_claims_are_listed_and_other_names_still_load(site: Site) -> None:
    site.install("made-up", "1.0", {"networks": {"mlp": "made_up:MLP"}})
    claims = [entry.distribution for entry in registry.entries("networks") if entry.name == "mlp"]
    assert sorted(claims) == ["made-up", "tinyddpm"]
    assert registry.load("networks", "unet").__name__ == "UNet"


@pytest.mark.parametrize(
    ("value", "source", "cause"),
    [
        ("made_up:ramp", "1 / 0", ZeroDivisionError),
        ("made_up:ramp", "import no_such_package", ModuleNotFoundError),
        ("made_up:ramp", "def slope(T): return T", AttributeError),
        ("made_up:ramp", "def ramp(T) return T", SyntaxError),
        ("missing_module:ramp", "", ModuleNotFoundError),
    ],
)
def test_a_broken_plugin_is_named_with_its_cause(site: Site, value: str, source: str, cause: type[Exception]) -> None:
    site.install("made-up", "3.1", {"schedules": {"ramp": value}}, made_up=source)
    with pytest.raises(RegistryError) as error:
        registry.load("schedules", "ramp")
    line = str(error.value)
    assert f"schedule 'ramp' ({value} from made-up 3.1) cannot be loaded: {cause.__name__}: " in line
    assert "\n" not in line
    assert isinstance(error.value.__cause__, cause)


def test_a_broken_plugin_breaks_only_itself(site: Site) -> None:
    """Neither its neighbours in the group, nor those of its own distribution."""
    points = {"schedules": {"ramp": "made_up:ramp", "flat": "made_up_too:flat"}}
    site.install("made-up", "1.0", points, made_up="1 / 0", made_up_too="def flat(T): return 2 * T")
    assert {"ramp", "flat", "linear"} <= names("schedules")
    assert registry.load("schedules", "flat")(4) == 8
    assert registry.load("schedules", "linear").__name__ == "linear"
    with pytest.raises(RegistryError):
        registry.load("schedules", "ramp")


# Options

SAMPLER = """
def sampler(process, *, steps=10, eta=1.0, mode="plain", clip=True, ladder=(1, 2), anything=None):
    return dict(process=process, steps=steps, eta=eta, mode=mode, clip=clip, ladder=ladder, anything=anything)
"""


@pytest.fixture
def sampler(site: Site) -> str:
    site.install("made-up", "1.0", {"samplers": {"made-up": "made_up:sampler"}}, made_up=SAMPLER)
    return "made-up"


def test_options_are_the_keyword_only_parameters(sampler: str) -> None:
    known = registry.options(registry.load("samplers", sampler))
    assert list(known) == ["steps", "eta", "mode", "clip", "ladder", "anything"]
    assert known["eta"].default == 1.0


def test_build_passes_arguments_and_options(sampler: str) -> None:
    built = registry.build("samplers", sampler, ["p"], {"steps": 3})
    assert built == {
        "process": "p", "steps": 3, "eta": 1.0, "mode": "plain", "clip": True, "ladder": (1, 2), "anything": None,
    }  # fmt: skip


def test_build_refuses_an_unknown_option_with_the_nearest(sampler: str) -> None:
    with pytest.raises(ConfigError, match="unknown option of sampler 'made-up' 'step': did you mean 'steps'"):
        registry.build("samplers", sampler, ["p"], {"step": 3})


def test_an_option_without_a_default_is_asked_for(site: Site) -> None:
    site.install(
        "made-up", "1.0", {"networks": {"bare": "made_up:bare"}}, made_up="def bare(a, *, width): return width"
    )
    with pytest.raises(ConfigError, match="option width of network 'bare' has no default: give it a value"):
        registry.build("networks", "bare", [1], {})
    assert registry.build("networks", "bare", [1], {"width": 3}) == 3


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("part = 3", "network 'odd' cannot be used: 3 is not a callable object: register a function or a class"),
        ("def part(a, b): pass", r"network 'odd' cannot be called with the 1 arguments .* its signature is \(a, b\)"),
        ("def part(): pass", r"network 'odd' cannot be called with the 1 arguments .* its signature is \(\)"),
    ],
)
def test_what_cannot_be_called_as_its_group_is_one_line(site: Site, source: str, line: str) -> None:
    site.install("made-up", "1.0", {"networks": {"odd": "made_up:part"}}, made_up=source)
    with pytest.raises(RegistryError, match=line):
        registry.build("networks", "odd", ["a"], {})


def test_what_lacks_parts_of_its_contract_is_one_line(site: Site) -> None:
    points = {"networks": {"odd": "made_up:part"}, "conditions": {"odd": "made_up:part"}}
    site.install("made-up", "1.0", points, made_up="def part(*arguments): return 3 + 1j")
    line = "network 'odd' returns a complex, which has no takes, parameters, forward, backward: return an object"
    with pytest.raises(RegistryError, match=line):
        make_network("odd", (8, 8, 1), Widths(), 1, {})
    with pytest.raises(
        RegistryError, match="condition 'odd' returns a complex, which has no gives, null, parameters, "
    ):
        make_condition("odd", (8, 8, 1), 0, 4, False, {})


WORDS = """
from __future__ import annotations
from typing import TYPE_CHECKING, Literal
if TYPE_CHECKING:
    from nowhere import Nothing
def with_words(*, sides: tuple[int, ...] | Literal["auto"] = (16,)): return sides
def unevaluated(a: Nothing, *, side: int = 1): return side
"""


def test_words_that_the_annotation_names_are_taken_too(site: Site) -> None:
    points = {"samplers": {"with-words": "made_up:with_words", "unevaluated": "made_up:unevaluated"}}
    site.install("made-up", "1.0", points, made_up=WORDS)
    assert registry.build("samplers", "with-words", [], {"sides": "auto"}) == "auto"
    assert registry.build("samplers", "with-words", [], {"sides": [8]}) == [8]
    with pytest.raises(ConfigError, match=r"is 'all': give a list, such as \(16,\), or 'auto'"):
        registry.build("samplers", "with-words", [], {"sides": "all"})
    assert registry.build("samplers", "unevaluated", [0], {"side": 2}) == 2


def test_build_refuses_a_positional_argument_as_an_option(sampler: str) -> None:
    with pytest.raises(ConfigError, match="unknown option of sampler 'made-up' 'process'"):
        registry.build("samplers", sampler, [], {"process": 1})


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("steps", 2.5, "a whole number, such as 10"),
        ("steps", True, "a whole number, such as 10"),
        ("steps", "3", "a whole number, such as 10"),
        ("eta", "high", "a number, such as 1.0"),
        ("eta", False, "a number, such as 1.0"),
        ("mode", 1, "a text, such as 'plain'"),
        ("clip", 1, "true or false, such as True"),
        ("ladder", 4, r"a list, such as \(1, 2\)"),
        ("ladder", [1, "b"], r"a list, such as \(1, 2\)"),
        ("ladder", "ab", r"a list, such as \(1, 2\)"),
    ],
)
def test_build_refuses_a_value_of_another_type(sampler: str, option: str, value: object, wanted: str) -> None:
    with pytest.raises(ConfigError, match=f"option {option} of sampler 'made-up' is .*: give {wanted}"):
        registry.build("samplers", sampler, ["p"], {option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [("steps", 3), ("eta", 0), ("eta", 0.5), ("mode", "x"), ("clip", False), ("ladder", []), ("ladder", [3, 4, 5])]
    + [("anything", value) for value in (1, "x", True, None, [1])],
)
def test_build_takes_a_value_of_the_type_of_the_default(sampler: str, option: str, value: Any) -> None:
    """A whole number does for a real one, a list for a tuple, and anything where the default is None."""
    assert registry.build("samplers", sampler, ["p"], {option: value})[option] == value


# Imports


def loaded_after(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after `statement`."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import tinyddpm",
        "import tinyddpm.registry",
        "from tinyddpm import registry; [registry.entries(group) for group in registry.GROUPS]",
    ],
)
def test_the_package_and_the_registry_are_light(statement: str) -> None:
    """Neither arrays nor files nor images are needed to say what there is."""
    heavy = {"numpy", "h5py", "PIL", "torch", "cupy", "array_api_compat", "click", "matplotlib"}
    assert not loaded_after(statement) & heavy


@pytest.mark.slow
def test_the_array_layer_imports_no_other_backend() -> None:
    found = loaded_after("from tinyddpm.backend import load_backend; load_backend('numpy')")
    assert "numpy" in found
    assert not found & {"torch", "cupy", "h5py", "PIL"}


# What fails in use


FAILING = """
def sampler(process, denoiser, x, pairs, noise):
    for t, t_prev in pairs:
        yield {}["eps"]
"""


@pytest.mark.slow
def test_a_part_that_fails_in_use_is_named_after_its_traceback(site: Site) -> None:
    """The traceback is for the authors of the part, the line for those who use it."""
    both = {"samplers": {"far": "made_up:sampler"}, "schedules": {"ramp": "made_up_too:ramp"}}
    site.install("made-up", "1.2", both, made_up=FAILING)
    draw = ["train", "--data", "moons", "--steps", "1", "--sampler", "far", "--out", str(site.folder / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "tinyddpm", *draw],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site.folder), *sys.path])},
    )
    assert done.returncode == 1
    *lines, last = done.stderr.splitlines()
    assert lines[-1] == "KeyError: 'eps'"
    assert "Traceback (most recent call last):" in lines
    assert last == "Error: sampler 'far' of made-up 1.2 failed with KeyError: 'eps'; its authors need the lines above"


def test_of_our_own_failures_no_plugin_is_named() -> None:
    with pytest.raises(RegistryError) as caught:
        registry.load("schedules", "nowhere")
    assert registry.raised_in(caught.tb) == []
