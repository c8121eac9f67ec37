"""Run `benchmarks/ppo_peer.py`, by its earlier address."""

import runpy
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

if __name__ == "__main__":
    sys.path.insert(0, str(BENCHMARKS))
    runpy.run_path(str(BENCHMARKS / "ppo_peer.py"), run_name="__main__")
