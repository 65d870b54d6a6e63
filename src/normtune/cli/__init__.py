"""The commands of the command line, one module each; `normtune.cli.app` gathers them."""
