"""`python -m tinyddpm` runs the command `tinyddpm`."""

from tinyddpm.cli import main

main(prog_name="tinyddpm")
