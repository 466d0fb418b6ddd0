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
@option("--json", "as_json", is_flag=True, help="Print one JSON object: entries and warnings.", group="Output")
def plugins(as_json: bool) -> None:
    """List the parts of every kind, and the package of each.

    Each part is imported to see whether it works. The list says why a part is broken, and which package to install for
    a part that needs one. Unknown groups of entry points, tinyddpm.NAME, get a warning.
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
    """Return why an entry is broken, None if it is not, and the packages to install for modules that it lacks."""
    try:
        return {"broken": None, "missing": registry.missing(registry.load(entry.group, entry.name))}
    except RegistryError as error:
        return {"broken": str(error), "missing": {}}
