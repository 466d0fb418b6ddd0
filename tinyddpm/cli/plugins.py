"""`tinyddpm plugins`."""

from __future__ import annotations

import json
from typing import Any

import click

from tinyddpm import registry
from tinyddpm.cli.options import GroupedCommand, option
from tinyddpm.cli.output import say
from tinyddpm.errors import RegistryError


@click.command(cls=GroupedCommand)
@option("--json", "as_json", is_flag=True, help="One JSON object: a list of entries.", group="Output")
def plugins(as_json: bool) -> None:
    """List the parts of every kind that there are, and where each comes from.

    Each is loaded to see whether it works; one that does not is shown as broken, with the reason, and one whose library
    is not installed with what to install. Entry-point groups that are none of tinyddpm's are warned of.
    """
    found = [
        {
            "group": entry.group,
            "name": entry.name,
            "value": entry.value,
            "distribution": entry.distribution,
            "version": entry.version,
            **_state(entry),
        }
        for group in registry.GROUPS
        for entry in registry.entries(group)
    ]
    if as_json:
        say(json.dumps({"plugins": found, "warnings": registry.strange_groups()}))
        return
    width = max(len(str(entry["name"])) for entry in found)
    for group in registry.GROUPS:
        say(group, bold=True)
        for entry in found:
            if entry["group"] == group:
                say(f"  {entry['name']:<{width}}  {entry['distribution']} {entry['version']}  {entry['value']}")
                if entry["broken"]:
                    say(f"  {'':<{width}}  broken: {entry['broken']}", fg="red")
                for module, package in entry["missing"].items():
                    line = f"needs {module}, which is not installed: pip install '{package}'"
                    say(f"  {'':<{width}}  {line}", fg="yellow")
    for line in registry.strange_groups():
        say(f"warning: {line}", fg="yellow")


def _state(entry: registry.Entry) -> dict[str, Any]:
    """Return why an entry cannot be used, None if it can, and the modules it requires that are not installed."""
    try:
        return {"broken": None, "missing": registry.missing(registry.load(entry.group, entry.name))}
    except RegistryError as error:
        return {"broken": str(error), "missing": {}}
