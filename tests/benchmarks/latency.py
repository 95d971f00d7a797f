"""Key press to changed picture, of every playground: `python tests/benchmarks/latency.py` writes latency.csv beside it.

A quiet machine, please: the numbers include JupyterLab, the kernel, the browser and whatever else is running.
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


def main():
    notebooks = sorted((HERE.parents[1] / "notebooks").glob("*.ipynb"))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for notebook in notebooks:
            shutil.copy(notebook, folder)
        with browser.lab(folder) as address, browser.page() as tab:
            for notebook in notebooks:
                panels = browser.playgrounds(tab, address, notebook)
                times = sorted(took for panel in panels for took in browser.latencies(tab, panel))
                p95 = times[int(0.95 * len(times))]
                rows.append([notebook.stem, len(times), round(statistics.median(times)), round(p95)])
                print(*rows[-1], flush=True)
    with open(HERE / "latency.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["notebook", "moves", "median_ms", "p95_ms"], *rows])


if __name__ == "__main__":
    main()
