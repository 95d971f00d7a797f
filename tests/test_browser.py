"""The playgrounds in JupyterLab in a real browser. Skipped where there is no Chromium; the CI always has one."""

import itertools
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

SLOW = """
import time
from fedlearn_mini.classroom import plots
from fedlearn_mini.classroom.widgets import LivePanel, choice, slider

fig, ax = plots.sheet(width=6)
(line,) = ax.plot([0, 1], [0, 0])
ax.set(xlim=(0, 1), ylim=(0, 1))


def move(shift, kind):
    if shift < -0.3:
        time.sleep(1.5)
    if shift > 0.3:
        exit()
    line.set_ydata([0, shift + 0.5])
    return f"{kind}: the line ends at {shift + 0.5:.2f}"


kinds, shifts = choice(["one", "two", "three"], "kind"), slider(0.0, -0.5, 0.5, 0.05, "shift of the line")
LivePanel(fig, [line], move, alt="a line that rises", shift=shifts, kind=kinds)
"""


@pytest.fixture(scope="module")
def tab_and_address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    for notebook in (Path(__file__).resolve().parents[1] / "notebooks").glob("0[036]*.ipynb"):
        shutil.copy(notebook, folder)
    for name, source in {"fragile": FRAGILE, "slow": SLOW}.items():
        page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
        page.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
        nbformat.write(page, folder / f"{name}.ipynb")
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


@pytest.fixture
def slow(tab_and_address):
    tab, address = tab_and_address
    return tab, browser.playground(tab, address, "slow.ipynb")


def test_a_screen_reader_gets_names_values_and_one_sentence_that_changes(slow):
    tab, panel = slow
    image, handle, said = (panel.locator(what) for what in ("img", ".noUi-handle", "[role=status]"))
    assert image.get_attribute("alt") == "a line that rises"
    assert handle.get_attribute("aria-label") == "shift of the line"
    assert panel.locator("[title=null]").count() == 0
    assert panel.get_attribute("role") == "group" and said.count() == 1
    node = said.element_handle()
    for _ in range(3):
        handle.press("ArrowRight")
    panel.locator("[role=status]", has_text="the line ends at 0.65").wait_for(timeout=30_000)
    assert handle.get_attribute("aria-valuetext") == "0.15"
    assert tab.evaluate("([a, b]) => a === b", [node, said.element_handle()]), "the node was replaced: nobody hears it"
    names = tab.locator(".fedlearn-panel").aria_snapshot()
    assert 'slider "shift of the line"' in names and 'combobox "kind"' in names and 'img "a line that rises"' in names


def test_no_key_on_a_control_reaches_jupyterlab(slow):
    """x cut the playground's cell, and an arrow left the drop-down."""
    tab, panel = slow
    cells = tab.locator(".jp-Notebook .jp-Cell").count()
    for control, key in itertools.product([".noUi-handle", "select"], ["x", "ArrowDown", "b", "d", "0"]):
        panel.locator(control).first.focus()
        tab.keyboard.press(key)
        tab.keyboard.press(key)
        tab.wait_for_timeout(100)
        assert tab.locator(".jp-Notebook .jp-Cell").count() == cells, f"{key} on {control}"
        assert tab.evaluate("selector => document.activeElement.matches(selector)", control), f"{key} on {control}"


def test_a_slow_move_shows_that_it_is_busy_and_exit_does_not_end_the_kernel(slow):
    tab, panel = slow
    handle, busy = panel.locator(".noUi-handle"), panel.locator("figure span")
    assert not busy.is_visible()
    handle.press("Home")
    busy.wait_for(state="visible", timeout=10_000)
    busy.wait_for(state="hidden", timeout=30_000)
    handle.press("End")
    panel.locator("[role=status]", has_text="⚠ SystemExit: exit() was called").wait_for(timeout=30_000)
    for _ in range(6):
        handle.press("ArrowLeft")
    panel.locator("[role=status]", has_text="the line ends at 0.70").wait_for(timeout=30_000)


def test_the_picture_grows_with_the_page_and_stays_sharp(slow):
    tab, panel = slow
    image, sizes = panel.locator("img"), []
    for width in (1280, 1920):
        tab.set_viewport_size({"width": width, "height": 1000})
        tab.wait_for_timeout(1500)
        box = image.bounding_box()
        natural = image.evaluate("image => image.naturalWidth")
        assert natural >= 0.85 * box["width"], "soft: fewer pixels than the screen has"
        sizes.append(box["width"])
    tab.set_viewport_size({"width": 1280, "height": 1000})
    assert sizes[1] > 1.15 * sizes[0]


def test_without_a_kernel_the_text_of_the_picture_is_still_there(tab_and_address):
    tab, address = tab_and_address
    tab.goto(address.format("03_federated_averaging.ipynb"), timeout=60_000)
    tab.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=60_000)
    figure = tab.locator(".jp-OutputArea figure:has(img)")
    for _ in range(100):
        if figure.count():
            break
        tab.evaluate(browser.SCROLL)
        tab.wait_for_timeout(100)
    assert len(figure.first.locator("img").get_attribute("alt")) > 40
    assert "step: 1" in figure.first.inner_text() and "Round 2 of 50" in figure.first.inner_text()
