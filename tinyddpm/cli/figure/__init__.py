"""`tinyddpm figure`: pictures of processes, data and trained models."""

from tinyddpm.cli.figure import drawn, measured, process
from tinyddpm.cli.figure.group import figure

__all__ = ["drawn", "figure", "measured", "process"]
