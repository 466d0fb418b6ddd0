"""`tinyddpm book`."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tinyddpm.cli.completion import FilePath
from tinyddpm.cli.options import HELP, GroupedCommand, option
from tinyddpm.cli.output import say
from tinyddpm.errors import ConfigError, TinyDDPMError

if TYPE_CHECKING:
    from tinyddpm.report.book.chapters import Figure

NO_RUN = "This figure needs a trained model: `tinyddpm book --run RUN`."


@click.command(cls=GroupedCommand)
@option(
    "--run",
    "checkpoint",
    metavar="RUN",
    type=FilePath(),
    help="A checkpoint, or a run folder, for the figures of a trained model.",
    group="Figures",
)
@option("--no-figures", is_flag=True, help="Leave all figures out.", group="Figures")
@option(
    "--out",
    type=FilePath(),
    default=Path("site"),
    show_default=True,
    help="The folder to write the pages to.",
    group="Output",
)
def book(checkpoint: Path | None, no_figures: bool, out: Path) -> None:
    """Write the annotated source as HTML pages.

    Open index.html in the folder. Prose and equations, from docstrings and comments, stand beside the code. There are
    chapters in reading order, a table from the papers' equations to the lines that implement them, all parts with their
    options, an index and a search. It needs no network and no server.
    """
    from tempfile import TemporaryDirectory

    from tinyddpm.files import check_folder
    from tinyddpm.progress import Progress
    from tinyddpm.report.book.build import draw_pictures, write_book
    from tinyddpm.report.book.guide import require_markdown

    require_markdown()
    if checkpoint is not None and no_figures:
        raise ConfigError(f"--run {checkpoint} is for figures, and --no-figures leaves them out: give one of the two")
    check_folder(out)
    progress = Progress()
    with TemporaryDirectory() as folder:
        pictures = {} if no_figures else draw_pictures(_Drawer(checkpoint), Path(folder), progress.update)
    count = write_book(out, pictures, progress.update)
    progress.close()
    say(f"wrote {count} pages: open {out / 'index.html'}")


class _Drawer:
    """A function that draws figures as `tinyddpm figure` does. Each reason to leave figures out is printed once.

    Args:
        checkpoint: the model for figures of a trained model; None leaves those figures out.

    Raises:
        ConfigError: a checkpoint is given, but matplotlib is not installed.
        CheckpointError: the checkpoint cannot be read.
    """

    def __init__(self, checkpoint: Path | None) -> None:
        from tinyddpm.figures.style import check_figure
        from tinyddpm.model.checkpoint import read_checkpoint_header
        from tinyddpm.model.load import checkpoint_file

        self.checkpoint = checkpoint
        self.said: set[str] = set()
        if checkpoint is not None:
            check_figure("figure.png")
            read_checkpoint_header(checkpoint_file(checkpoint))

    def __call__(self, figure: Figure, path: Path) -> str:
        """Draw a figure into the file `path`. Return the reason if it was left out, else an empty text."""
        from tinyddpm.cli.figure import figure as command

        if figure.of_run and self.checkpoint is None:
            return NO_RUN
        words = [*figure.words, *([str(self.checkpoint)] if figure.of_run else []), "--out", str(path)]
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # discard its charts and "wrote PATH"
                command.main(words, "tinyddpm figure", standalone_mode=False, help_option_names=HELP)
        except TinyDDPMError as error:
            if str(error) not in self.said:
                say(f"note: figures are left out: {error}", err=True)
            self.said.add(str(error))
            return f"It is left out: {error}."
        return ""
