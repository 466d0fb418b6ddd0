"""`python -m tinyddpm` is `tinyddpm`."""

from tinyddpm.cli import main

main(prog_name="tinyddpm")
