"""Showing a built bundle's figures."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from tokengym.lab.makers.building.bundle_files import BuiltBundle


def print_figures(bundle: BuiltBundle, path: Path, console: Console | None = None) -> None:
    """Print a bundle's figures and the size of its folder."""
    console = console or Console()
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    plain = {name: value for name, value in bundle.figures.items() if not isinstance(value, dict)}
    console.print(f"{path}: {bundle.task}, {size / 1e6:.2f} MB, {plain}", soft_wrap=True)
    for name, groups in bundle.figures.items():
        if not isinstance(groups, dict):
            continue
        table = Table(name.replace("_", " "), *groups)
        for figure in next(iter(groups.values())):
            table.add_row(figure, *(f"{values[figure]:.3f}" for values in groups.values()))
        console.print(table)
