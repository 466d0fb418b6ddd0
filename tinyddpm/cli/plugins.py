"""`tinyddpm plugins`."""

from __future__ import annotations

import json

import click

from tinyddpm import registry
from tinyddpm.cli.options import GroupedCommand, option
from tinyddpm.errors import RegistryError


@click.command(cls=GroupedCommand)
@option("--json", "as_json", is_flag=True, help="One JSON object: a list of entries.", group="Output")
def plugins(as_json: bool) -> None:
    """List every schedule, network, sampler, spacing, data set and backend there is, and where it comes from.

    Each is loaded to see whether it works; one that does not is shown as broken, with the reason.
    """
    found = [
        {
            "group": entry.group,
            "name": entry.name,
            "value": entry.value,
            "distribution": entry.distribution,
            "version": entry.version,
            "broken": _reason(entry),
        }
        for group in registry.GROUPS
        for entry in registry.entries(group)
    ]
    if as_json:
        click.echo(json.dumps({"plugins": found}))
        return
    width = max(len(str(entry["name"])) for entry in found)
    for group in registry.GROUPS:
        click.echo(click.style(group, bold=True))
        for entry in found:
            if entry["group"] == group:
                click.echo(f"  {entry['name']:<{width}}  {entry['distribution']} {entry['version']}  {entry['value']}")
                if entry["broken"]:
                    click.echo(click.style(f"  {'':<{width}}  broken: {entry['broken']}", fg="red"))


def _reason(entry: registry.Entry) -> str | None:
    """Return why an entry cannot be used, None if it can."""
    try:
        registry.load(entry.group, entry.name)
    except RegistryError as error:
        return str(error)
    return None
