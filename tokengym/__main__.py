"""The command line where no script is on the path: ``python -m tokengym compare ...``."""

from tokengym.scripts.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
