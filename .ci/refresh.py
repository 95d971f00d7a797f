"""Run notebooks from clean kernels and store them as they should be: `python .ci/refresh.py [notebooks …]`.

Without arguments: all of them, companions too. Outputs are kept; widget state, timings and machine details are not.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
VIEW = "application/vnd.jupyter.widget-view+json"


def refresh(path):
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = KERNEL
    client = NotebookClient(
        notebook,
        timeout=120,
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        resources={"metadata": {"path": path.parent}},
    )
    client.execute()
    notebook.metadata = {**KERNEL, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(VIEW, None)  # a reader without a kernel sees the picture instead
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in [Path(name) for name in sys.argv[1:]] or sorted(FOLDER.rglob("*.ipynb")):
        print(path.name, flush=True)
        refresh(path)
