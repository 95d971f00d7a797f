"""The playgrounds in JupyterLab in a real browser. Skipped where there is no Chromium; the CI always has one."""

import json
import os
import shutil
from pathlib import Path

import browser
import nbformat
import pytest

pytest.importorskip("playwright", reason="Playwright is not installed: pip install -e '.[test]'")
pytestmark = pytest.mark.skipif(
    browser.chromium() is None, reason="there is no Chromium on this machine (on Debian: apt-get install chromium)"
)

FRAGILE = """
from fedlearn_mini.classroom import plots
from fedlearn_mini.classroom.widgets import LivePanel, slider

fig, ax = plots.sheet(width=4)
(line,) = ax.plot([0, 1], [0, 0])
ax.set(xlim=(0, 1), ylim=(0, 1))


def move(x):
    if x > 0.5:
        raise ValueError("there is no model for x above one half")
    line.set_ydata([0, x])
    return f"x is {x:.1f}"


LivePanel(fig, [line], move, alt="a line", x=slider(0.4, 0.0, 1.0, 0.1, "x"))
"""


@pytest.fixture(scope="module")
def tab_and_address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    for notebook in (Path(__file__).resolve().parents[1] / "notebooks").glob("0[06]*.ipynb"):
        shutil.copy(notebook, folder)
    fragile = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(FRAGILE)])
    fragile.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(fragile, folder / "fragile.ipynb")
    with browser.lab(folder) as address, browser.page() as tab:
        yield tab, address


@pytest.mark.parametrize("notebook", ["00_start_here.ipynb", "06_simulate_many_hospitals.ipynb"])
def test_a_slider_moves_the_picture_and_no_frame_is_blank(tab_and_address, notebook):
    tab, address = tab_and_address
    panel = browser.playground(tab, address, notebook)
    image, handle = panel.locator("img"), panel.locator(".noUi-handle").first
    seen = {image.get_attribute("src")}
    for key in ["ArrowRight"] * 4 + ["PageUp", "Home", "End"]:
        tab.evaluate(browser.MOVE, [image.element_handle(), handle.element_handle(), key])
        seen.add(image.get_attribute("src"))
        assert image.evaluate(browser.SHADES) > 20, f"a blank picture after {key}"
        assert "⚠" not in panel.locator("[role=status]").inner_text()
    assert len(seen) >= 6


def test_an_exception_in_a_callback_appears_in_words_and_the_picture_stays(tab_and_address):
    tab, address = tab_and_address
    panel = browser.playground(tab, address, "fragile.ipynb")
    image, handle = panel.locator("img"), panel.locator(".noUi-handle").first
    tab.evaluate(browser.MOVE, [image.element_handle(), handle.element_handle(), "ArrowRight"])
    good = image.get_attribute("src")
    handle.press("ArrowRight")
    words = panel.locator("[role=status]", has_text="⚠ ValueError: there is no model for x above one half")
    words.wait_for(timeout=30_000)
    assert image.get_attribute("src") == good
    tab.evaluate(browser.MOVE, [image.element_handle(), handle.element_handle(), "ArrowLeft"])
    panel.locator("[role=status]", has_text="x is").wait_for(timeout=30_000)


def test_the_answer_comes_while_the_hand_is_on_the_slider(tab_and_address, tmp_path):
    """Not a race against a clock (machines differ): every press is answered, and the times are kept for a reader."""
    tab, address = tab_and_address
    panel = browser.playground(tab, address, "00_start_here.ipynb")
    times = browser.latencies(tab, panel, presses=8)
    assert len(times) == 16
    target = os.environ.get("FEDLEARN_LATENCY", tmp_path / "latency.json")
    with open(target, "w") as file:
        json.dump(sorted(round(t, 1) for t in times), file)
