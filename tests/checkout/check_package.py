"""Build the distributions, look into them, and try the wheels as a newcomer would.

python tests/checkout/check_package.py [--out build/package] [--dist dist]
python tests/checkout/check_package.py --alone [arguments of pytest]

The wheels and the suite's sources stand in dist/ afterwards. The suite's wheel is tried alone in an
empty environment, outside of the checkout; then the laboratory's joins it.

With --alone, as `make test` does, the suite's wheel stands beside links to what is installed here,
the laboratory left out, and a copy of the suite's tests runs against it; no network is needed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
LABORATORY = ("tests", "docs", "studies", "benchmarks", "lab")
TESTS = ("conftest.py", "support", "suite")
"""Tests that the suite's wheel must pass alone: all of ``tests/suite``, and its helpers."""
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
    parser.add_argument("--dist", type=Path, default=ROOT / "dist")
    parser.add_argument("--alone", nargs=argparse.REMAINDER, metavar="...")
    options = parser.parse_args()
    if options.alone is not None:
        sys.exit(test_alone(ROOT / "build" / "alone", options.alone or ["tests/suite"]))
    check_distributions(options.out.resolve(), options.dist.resolve())


def check_distributions(out: Path, dist: Path) -> None:
    """Build all into ``dist``, and try them in an empty environment: the suite alone, then all."""
    tools, empty = out / "tools", out / "empty"
    for folder in (tools, empty):
        venv.create(folder, with_pip=True, clear=True)
    shutil.rmtree(dist, ignore_errors=True)
    step("tools", tools, "-m", "pip", "install", "--quiet", "build", "twine")
    step("build", tools, "-m", "build", "--outdir", str(dist), str(ROOT))
    for name in ("lab", "audit"):
        build = ("-m", "build", "--wheel", "--outdir", str(dist), str(ROOT / name))
        step(f"build {name}", tools, *build)
    (wheel,) = dist.glob("tokengym-*.whl")
    (sdist,) = dist.glob("tokengym-*.tar.gz")
    files = (wheel, sdist, *dist.glob("tokengym_*.whl"))
    step("twine check", tools, "-m", "twine", "check", "--strict", *map(str, files))
    check_contents(wheel, sdist)
    pip = ("-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"))
    install = step("install", empty, *pip, str(wheel))
    example = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    step("README's example", empty, "-c", example)
    comparison = ("compare", "--updates", "2", "--seeds", "1", "--out", str(out / "comparison"))
    curve = step("a learning curve", empty, "-m", "tokengym.scripts.cli", *comparison)
    print(f"from pip install to a learning curve: {install + curve:.0f} s")
    step("test tools", empty, *pip, f"{wheel}[dev]")
    copy_tests(empty)
    shared = ("--numprocesses", "2", "--dist", "loadfile")
    step("the suite's tests", empty, "-m", "pytest", *shared, "tests/suite")
    # README's line; what is installed already is not sought again.
    step("install the rest from the folder", empty, *pip, *map(str, dist.glob("*.whl")))
    step("a task and a rule of the laboratory", empty, "-c", ORACLE)
    step("the audit", empty, "-c", "import tokengym_audit")


def test_alone(out: Path, arguments: list[str]) -> int:
    """Run tests of the suite against its wheel, beside links to what is installed here."""
    for stale in (out, ROOT / "build" / "lib"):  # setuptools would pack what was built before
        shutil.rmtree(stale, ignore_errors=True)
    build = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out))
    subprocess.run([sys.executable, "-m", "pip", *build, str(ROOT)], check=True)
    venv.create(out / "venv", with_pip=False)
    python = python_of(out / "venv")
    ask = ("-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    packages = Path(subprocess.check_output([python, *ask], text=True).strip())
    for installed in Path(sysconfig.get_path("purelib")).iterdir():
        if "tokengym" not in installed.name and installed.name != "__pycache__":
            (packages / installed.name).symlink_to(installed)
    (wheel,) = out.glob("tokengym-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    copy_tests(out)
    environment = {**os.environ, "PYTHONPATH": ""}
    return subprocess.run(
        [python, "-m", "pytest", *arguments], cwd=out, check=False, env=environment
    ).returncode


def copy_tests(folder: Path) -> None:
    """Copy the tests of the suite, and pytest's options, beside nothing else of the checkout."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in TESTS:
        source, target = ROOT / "tests" / name, folder / "tests" / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)


def python_of(environment: Path) -> Path:
    """Return the interpreter of a virtual environment."""
    return environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"


def step(name: str, environment: Path, *arguments: str) -> float:
    """Run the Python of a virtual environment and return the seconds it took."""
    started = time.monotonic()
    done = subprocess.run([python_of(environment), *arguments], cwd=environment, check=False)
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
