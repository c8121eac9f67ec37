"""The command line: ``tokengym compare ...``, or ``python -m tokengym compare ...``."""

import sys


def main() -> int:
    """Run a command and return its exit code; Ctrl-C while it still imports is one line too."""
    try:
        # Inside, because importing the libraries takes a second in which a user may press Ctrl-C.
        from tokengym.scripts.cli import main as run_command
    except KeyboardInterrupt:
        print("stopped before it began", file=sys.stderr)
        return 130
    return run_command()


if __name__ == "__main__":
    raise SystemExit(main())
