"""The program `harvester`, which is `python -m harvester`, too."""

import sys


def main() -> None:
    """Load the command line and run it. Ctrl-C while it is being loaded is one line, too."""
    try:
        from harvester.cli.main import main as run  # noqa: PLC0415 - it takes long
    except KeyboardInterrupt:
        sys.stderr.write("harvester: interrupted\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
