"""Execute the notebooks of docs/ in place: ``make notebooks``."""

import os
import shutil
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "notebooks"


def execute(path: Path) -> None:
    """Execute one notebook and store its outputs without times and versions, which only churn."""
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook, record_timing=False, resources={"metadata": {"path": path.parent}}
    ).execute()
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.execution_count = None
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = None
    nbformat.write(notebook, path)


def main() -> None:
    """Execute the notebooks named on the command line, or all of them."""
    # Progress bars as text: a notebook's own need ipywidgets, and the warning names a path.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")
    for path in [Path(name) for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb")):
        shutil.rmtree(path.parent / "runs", ignore_errors=True)  # or finished runs would be shown
        start = time.monotonic()
        execute(path)
        print(f"{path.name}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
