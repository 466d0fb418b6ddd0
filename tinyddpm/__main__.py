"""The program `tinyddpm`, also started as `python -m tinyddpm`."""

import signal
import sys
from types import TracebackType


def main() -> None:
    """Import the command line, and run it.

    Until it is imported, Ctrl-C ends the process without a word: Python would print a traceback, and nothing is lost.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # it is not where a shell has started the process in its background
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from tinyddpm.cli import main as command_line

    signal.signal(signal.SIGINT, handler)
    sys.excepthook = print_error
    command_line(prog_name="tinyddpm")


def print_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of an error that no command foresees and, if a plugin failed, a line that names its parts."""
    from tinyddpm import registry
    from tinyddpm.cli.output import say

    sys.__excepthook__(kind, error, trace)
    parts = registry.raised_in(trace)
    if parts:
        names = ", ".join(registry.called(part.group, part.name) for part in parts)
        what = f"{names} of {parts[0].distribution} {parts[0].version} failed with {kind.__name__}: {error}"
        say(f"Error: {what}; its authors need the lines above", err=True)


if __name__ == "__main__":
    main()
