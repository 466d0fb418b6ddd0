"""The program `tinyddpm`, also started as `python -m tinyddpm`."""

import signal


def main() -> None:
    """Import the command line, and run it.

    Until it is imported, Ctrl-C ends the process without a word: Python would print a traceback, and nothing is lost.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # it is not where a shell has started the process in its background
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from tinyddpm.cli import main as command_line

    signal.signal(signal.SIGINT, handler)
    command_line(prog_name="tinyddpm")


if __name__ == "__main__":
    main()
