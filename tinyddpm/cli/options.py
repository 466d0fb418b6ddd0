"""Options of commands: headings in help, environment variables, settings of the configuration, and figures' marks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args

import click

from tinyddpm import __version__
from tinyddpm.cli.completion import OF_SETTINGS, FilePath, Named
from tinyddpm.data import PATH_OPTIONS
from tinyddpm.errors import ConfigError
from tinyddpm.model.config import Config, defaults_for, parse_toml, preset, read_toml, settings, tables_of

ENV_PREFIX = "TINYDDPM_"

HELP = ["-h", "--help"]
"""The names of the help option. A command keeps those of its first call, so each call of one must give them."""

UNSEEN = ("batch_size", "device", "follow", "graph", "no_cache", "threads")
"""Options that do not change what is drawn and are left out of marks, as those under the heading Output are."""

F = TypeVar("F", bound=Callable[..., Any])


class GroupedOption(click.Option):
    """An option that help lists under the heading `group`, and that the variable `TINYDDPM_<FLAG>` sets.

    Args:
        args: as for `click.Option`.
        group: the heading.
        env: whether a variable sets the option. False where a setting of the configuration has the same name and
            another meaning: the variable then belongs to the setting.
        kwargs: as for `click.Option`.
    """

    def __init__(self, *args: Any, group: str = "Options", env: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group
        named = env and not self.multiple
        self.envvar = ENV_PREFIX + flag_of(self).replace("-", "_").upper() if named else None


def flag_of(given: click.Parameter) -> str:
    """Return the longest name of an option on the command line, without its leading dashes."""
    return max(given.opts, key=len).lstrip("-")


class GroupedCommand(click.Command):
    """A command whose help lists the arguments, then the options under their headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the arguments, the options by heading in order of appearance, and last those without a heading."""
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for given in self.get_params(ctx):
            record = given.get_help_record(ctx)
            if record:
                groups.setdefault(getattr(given, "group", "Other"), []).append(record)
        groups["Other"] = groups.pop("Other", [])
        for heading, records in groups.items():
            if not records:
                continue
            with formatter.section(heading):
                formatter.write_dl(records)


class ToldArgument(click.Argument):
    """An argument with a description, `told`, that help lists."""

    group = "Arguments"

    def __init__(self, *args: Any, told: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.told = told

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """Return the argument's name and its description."""
        return self.human_readable_name, self.told


def argument(name: str, told: str, **kwargs: Any) -> Callable[[F], F]:
    """Return the decorator that adds an argument, which help describes by `told`."""
    return click.argument(name, cls=ToldArgument, told=told, **kwargs)


def option(*names: str, **kwargs: Any) -> Callable[[F], F]:
    """Return the decorator that adds a `GroupedOption`."""
    return click.option(*names, cls=GroupedOption, **kwargs)


def options(*decorators: Callable[..., Any]) -> Callable[[F], F]:
    """Return the decorator that adds several options, in this order."""

    def decorate(function: F) -> F:
        for each in reversed(decorators):
            function = each(function)
        return function

    return decorate


def cache_option(function: F) -> F:
    """Add the option `--no-cache`."""
    text = "Decode images again, and do not keep them decoded for the next start."
    return option("--no-cache", is_flag=True, help=text, group="Data")(function)


def setting_options(function: F) -> F:
    """Add an option for every setting of the configuration, under its table's name; None where it is not given."""
    for table, _, name, kind, text in reversed(list(settings())):
        flag = name.replace("_", "-")
        plain = next((k for k in get_args(kind) if k is not NoneType), kind)
        declaration = f"--{flag}/--no-{flag}" if plain is bool else f"--{flag}"
        decorate = option(
            declaration,
            name,
            type=OF_SETTINGS.get(name, plain),
            default=None,
            help=text,
            group=(table or "general").capitalize(),
        )
        function = decorate(function)
    return function


configuration_options = options(
    option(
        "--preset",
        "preset_name",
        type=Named("presets"),
        help="Start from these settings; `info PRESET` shows them.",
        group="Run",
    ),
    option("--config", "config_file", type=FilePath(), help="A TOML file of settings.", group="Run"),
    option(
        "--set",
        "assignments",
        multiple=True,
        metavar="TABLE.KEY=VALUE",
        help="Any setting, such as network.channels=64; also options of plugins.",
        group="Run",
    ),
    setting_options,
    option("--background", metavar="COLOUR", help="Colour behind transparent images of a folder.", group="Data"),
    option(
        "--frames",
        type=Named(others=("all", "first")),
        help="Frames to read of an image file: first or all; first if not given.",
        group="Data",
    ),
    option("--levels", metavar="BLACK:WHITE", help="Levels of black and white, such as 0:4095.", group="Data"),
)
"""The options that `configuration` reads: preset, file, every setting, and how files of images are read."""


def configuration(
    preset_name: str | None,
    config_file: Path | None,
    assignments: tuple[str, ...],
    values: dict[str, Any],
    base: Config | None = None,
) -> Config:
    """Return the configuration that the options of `configuration_options` describe.

    It starts from the preset, or else from `base`, or else from the preset of the data set. The file changes it, then
    variables and flags do.
    """
    from_file = read_toml(config_file) if config_file else {}
    of_data = {name: values[name] for name in PATH_OPTIONS if values.get(name) is not None}
    from_flags = merged(chosen_settings(values), {"data": of_data} if of_data else {})
    from_flags = merged(from_flags, parse_assignments(assignments, depth=3))
    wanted = merged(from_file, from_flags).get("data")
    source = wanted.get("source", "digits") if isinstance(wanted, dict) else "digits"
    config = preset(preset_name).config if preset_name else base or defaults_for(str(source))
    if from_file:
        config = config.updated(from_file, str(config_file))
    return config.updated(from_flags, "options")


def chosen_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Return the tables of those settings that are given; `values` are the command's parameters by name."""
    return tables_of({name: values[name] for _, _, name, *_ in settings() if values.get(name) is not None})


def parse_assignments(assignments: Iterable[str], depth: int) -> dict[str, Any]:
    """Return nested tables from texts `KEY=VALUE`. VALUE is read as TOML, or taken as a text if it is no TOML.

    Args:
        assignments: such as `variance=small` (depth 1), `network.channels=64` or `callbacks.early-stop.patience=3`.
        depth: largest number of names in a key.

    Raises:
        ConfigError: a text has another form.
    """
    tables: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        *folders, name = key.strip().split(".")
        if not equals or not name or len(folders) >= depth:
            form, such = ("KEY=VALUE", "variance=small") if depth == 1 else ("TABLE.KEY=VALUE", "network.channels=64")
            raise ConfigError(f"{text!r} is no setting: write {form}, such as {such}")
        try:
            parsed = parse_toml(f"value = {value}")["value"]
        except ValueError:
            parsed = value.strip()
        target = tables
        for folder in folders:
            target = target.setdefault(folder, {})
            if not isinstance(target, dict):
                raise ConfigError(f"{text!r}: {folder} is a value already: give it once, or as a table")
        target[name] = parsed
    return tables


def command_mark(checkpoint: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the mark of a figure that the running command draws: the command, its version and its options.

    Args:
        checkpoint: entry of the checkpoint that the figure is drawn from, if there is one.
    """
    context = click.get_current_context()
    told = {
        flag_of(given): _plain(context.params[str(given.name)])
        for given in context.command.params
        if given.name not in UNSEEN
        and getattr(given, "group", "") != "Output"
        and context.params[str(given.name)] not in (None, ())
    }
    made_by = "tinyddpm" + context.command_path.removeprefix(context.find_root().command_path)
    return {
        "made_by": made_by,
        "version": __version__,
        **({} if checkpoint is None else {"checkpoint": checkpoint}),
        "options": told,
    }


def _plain(value: Any) -> Any:
    """Return the value of an option as JSON can hold it: paths as texts, tuples as lists."""
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return the union of two nested tables. Where both have a key, the value of `above` wins."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result
