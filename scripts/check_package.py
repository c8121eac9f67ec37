"""Build sdist and wheel, look into them, and try the wheel as a newcomer would.

python scripts/check_package.py [--out build/package]

The wheel is installed into an empty virtual environment, where the README's first example and
a short comparison run outside of the checkout. Prints the seconds of each step.
"""

import argparse
import re
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LABORATORY = ("tests", "docs", "studies", "benchmarks", "lab/makers/bundles", "lab/makers/corpora")


def main() -> None:
    """Build, check and try the distributions."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "package")
    out = parser.parse_args().out.resolve()
    tools, empty = out / "tools", out / "empty"
    for folder in (tools, empty):
        venv.create(folder, with_pip=True, clear=True)
    step("tools", tools, "-m", "pip", "install", "--quiet", "build", "twine")
    step("build", tools, "-m", "build", "--outdir", str(out / "dist"), str(ROOT))
    (wheel,) = (out / "dist").glob("*.whl")
    (sdist,) = (out / "dist").glob("*.tar.gz")
    step("twine check", tools, "-m", "twine", "check", "--strict", str(wheel), str(sdist))
    check_contents(wheel, sdist)
    pins = ("--constraint", str(ROOT / "constraints.txt"))
    install = step("install", empty, "-m", "pip", "install", "--quiet", *pins, str(wheel))
    example = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    step("README's example", empty, "-c", example)
    comparison = ("compare", "--steps", "2", "--seeds", "1", "--out", str(out / "comparison"))
    curve = step("a learning curve", empty, "-m", "tokengym.scripts.cli", *comparison)
    print(f"from pip install to a learning curve: {install + curve:.0f} s")


def step(name: str, environment: Path, *arguments: str) -> float:
    """Run the Python of a virtual environment and return the seconds it took."""
    started = time.monotonic()
    python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    done = subprocess.run([python, *arguments], cwd=environment, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{name} failed with exit code {done.returncode}")
    seconds = time.monotonic() - started
    print(f"{name}: {seconds:.0f} s", flush=True)
    return seconds


def check_contents(wheel: Path, sdist: Path) -> None:
    """Stop if a distribution holds tests or the laboratory."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name.removeprefix("tokengym/") for name in archive.namelist()]
    with tarfile.open(sdist) as archive:
        names += [name.partition("/")[2] for name in archive.getnames()]
    strays = sorted(name for name in names if name.startswith(LABORATORY))
    if strays:
        raise SystemExit(f"not for users: {', '.join(strays[:5])}")


if __name__ == "__main__":
    main()
