"""``normtune`` and ``python -m normtune``: the command line."""

import signal


def main() -> None:
    """Run the command line. Until it is loaded, Ctrl-C ends the program without a word."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from normtune.cli import app

    signal.signal(signal.SIGINT, before)
    app.main()


if __name__ == "__main__":
    main()
