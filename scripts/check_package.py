"""Build the distributions, look into them, and try the wheels as a newcomer would.

python scripts/check_package.py [--out build/package]

The suite's wheel is installed alone into an empty virtual environment, where the README's first
example, a short comparison and the suite's tests run outside of the checkout: all of `SUITE` but
the files that name something of the laboratory. Then the laboratory's wheel joins it, and a
response of its Oracle is scored. Prints the seconds of each step.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LABORATORY = ("tests", "docs", "studies", "benchmarks", "lab")
SUITE = [
    f"tests/{name}"
    for name in (
        "base",
        "envs",
        "rewards",
        "evaluation/measure",
        "evaluation/statistics",
        "agents/losses",
    )
]
"""Tests of the suite that its wheel must pass alone."""
ORACLE = """
import gymnasium as gym, tokengym
env = gym.make("tokengym/Oracle-v0", reward="scar")
env.reset(seed=0)
while not env.step(env.unwrapped.tokenizer.eos_token_id)[2]: pass
"""


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
    build_lab = ("-m", "build", "--outdir", str(out / "dist"), str(ROOT / "lab"))
    step("build the laboratory", tools, *build_lab)
    (wheel,) = (out / "dist").glob("tokengym-*.whl")
    (sdist,) = (out / "dist").glob("tokengym-*.tar.gz")
    (lab,) = (out / "dist").glob("tokengym_lab-*.whl")
    step("twine check", tools, "-m", "twine", "check", "--strict", str(wheel), str(sdist))
    check_contents(wheel, sdist)
    pins = ("--constraint", str(ROOT / "constraints.txt"))
    install = step("install", empty, "-m", "pip", "install", "--quiet", *pins, str(wheel))
    example = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    step("README's example", empty, "-c", example)
    comparison = ("compare", "--steps", "2", "--seeds", "1", "--out", str(out / "comparison"))
    curve = step("a learning curve", empty, "-m", "tokengym.scripts.cli", *comparison)
    print(f"from pip install to a learning curve: {install + curve:.0f} s")
    step("test tools", empty, "-m", "pip", "install", "--quiet", *pins, "pytest", "hypothesis")
    copy = empty / "tests"  # beside no folder that could be taken for the package
    shutil.copytree(ROOT / "tests", copy)
    tests = (*SUITE, "--import-mode=importlib", "-q", "-rs")
    step("the suite's tests", empty, "-m", "pytest", *tests)
    step("install the laboratory", empty, "-m", "pip", "install", "--quiet", *pins, str(lab))
    step("a task and a rule of the laboratory", empty, "-c", ORACLE)


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
