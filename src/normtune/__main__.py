"""``python -m normtune``: the command line."""

from normtune.cli.app import main

main()
