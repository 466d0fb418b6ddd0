"""`tinyddpm figure`: what processes, data and trained models do, as pictures."""

from tinyddpm.cli.figure import drawn, measured, process
from tinyddpm.cli.figure.group import figure

__all__ = ["drawn", "figure", "measured", "process"]
