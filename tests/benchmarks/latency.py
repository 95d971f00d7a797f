"""Key press to changed picture, of every playground: `python tests/benchmarks/latency.py [08 14 …]`.

It writes latency.csv beside it, page by page; of pages that are not named the rows stay. A quiet machine, please: the
numbers include JupyterLab, the kernel, the browser and whatever else is running.
"""

import csv
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import browser  # noqa: E402

TABLE = HERE / "latency.csv"


def main():
    notebooks = sorted((HERE.parents[1] / "notebooks").glob("*.ipynb"))
    with open(TABLE, newline="") as file:
        rows = {row["notebook"]: row for row in csv.DictReader(file)}
    wanted = sys.argv[1:] or [notebook.name[:2] for notebook in notebooks]
    with tempfile.TemporaryDirectory() as folder:
        for notebook in notebooks:
            shutil.copy(notebook, folder)
        with browser.lab(folder) as address, browser.page() as tab:
            for notebook in (notebook for notebook in notebooks if notebook.name[:2] in wanted):
                panels = browser.playgrounds(tab, address, notebook)
                times = sorted(took for panel in panels for took in browser.latencies(tab, panel))
                median, p95 = round(statistics.median(times)), round(times[int(0.95 * len(times))])
                found = {"notebook": notebook.stem, "moves": len(times), "median_ms": median, "p95_ms": p95}
                rows[notebook.stem] = found
                print(*found.values(), flush=True)
                write([rows[one.stem] for one in notebooks if one.stem in rows])


def write(rows):
    """The table, whole: a page that fails later takes nothing away."""
    with open(TABLE, "w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()
