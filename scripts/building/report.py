"""Showing a built bundle's figures."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from tokengym.scripts.building.bundle_files import BuiltBundle


def print_figures(bundle: BuiltBundle, path: Path, console: Console | None = None) -> None:
    """Print a bundle's figures and the size of its folder."""
    console = console or Console()
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    plain = {name: value for name, value in bundle.figures.items() if not isinstance(value, dict)}
    console.print(f"[bold]{bundle.task}[/bold] in {path}: {size / 1e6:.2f} MB, {plain}")
    for name, groups in bundle.figures.items():
        if not isinstance(groups, dict):
            continue
        columns = list(next(iter(groups.values())))
        table = Table(name, *columns)
        for group, values in groups.items():
            table.add_row(group, *(f"{values[column]:.3f}" for column in columns))
        console.print(table)
