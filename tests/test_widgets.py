"""Playgrounds: nbval is blind to what happens when a slider moves, so every slider is moved here."""

import base64
import io
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from matplotlib.textpath import TextPath
from PIL import Image

from fedlearn_mini.classroom import plots, widgets
from fedlearn_mini.classroom.widgets import LivePanel, choice, log_slider, slider

PAGES = sorted((Path(__file__).resolve().parents[1] / "notebooks").rglob("*.ipynb"))
NOTEBOOKS = [  # every core page has a playground, a companion may do without
    page for page in PAGES if page.parent.name != "more" or "LivePanel" in page.read_text(encoding="utf-8")
]


def test_a_slider_shows_as_many_digits_as_its_step_has():
    assert slider(2e-5, 0, 1e-4, 1e-5, "rate").readout_format == ".5f"
    assert slider(0.3, 0.0, 1.0, 0.05, "share").readout_format == ".2f"
    assert slider(3, 1, 9, 1, "steps").readout_format == "d"


def picture(panel):
    return np.asarray(Image.open(io.BytesIO(panel.picture.value)).convert("L"), float)


def stops(widget):
    """Minimum, default and maximum of a slider, or every option of a choice."""
    if hasattr(widget, "options"):
        return [option[1] if isinstance(option, tuple) else option for option in widget.options]
    ends = (widget.min, widget.max)
    return [*((widget.base**v for v in ends) if hasattr(widget, "base") else ends), widget.value]


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def played(request):
    """The playgrounds of a notebook after *all* its cells have run, as a reader meets them."""
    panels, keep = [], LivePanel.__init__

    def remember(self, *args, **kwargs):
        keep(self, *args, **kwargs)
        panels.append(self)

    LivePanel.__init__ = remember
    here = {"__name__": "__main__"}
    try:
        for cell in nbformat.read(request.param, as_version=4).cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, f"{request.param.stem}/{cell.id}", "exec"), here)
    finally:
        LivePanel.__init__ = keep
    return panels


def test_the_name_of_every_slider_fits_beside_it(played):
    """The room is ten em of 13 pixels; "Cleveland's patients" and "patients per hospital" were cut off in a browser."""
    for panel in played:
        for widget in panel.sliders.values():
            assert TextPath((0, 0), widget.description, size=13).get_extents().width < 130, widget.description


def test_every_notebook_has_a_playground_and_every_slider_moves_it(played):
    assert played
    for panel in played:
        first = panel.picture.value
        changed = False
        for name, widget in panel.sliders.items():
            default = widget.value
            for stop in [*stops(widget), default]:
                widget.value = stop
                assert "⚠" not in panel.picture.said, f"{name} = {stop}: {panel.picture.said}"
                assert len(panel.picture.said) > 40 and "nan" not in panel.picture.said
                assert picture(panel).std() > 5, f"{name} = {stop}: a blank picture"
                changed = changed or panel.picture.value != first
            assert panel.picture.value == first, f"{name}: going back does not give the first picture again"
        assert changed


def test_both_ends_of_all_sliders_together_are_fine(played):
    for panel in played:
        for end in (0, 1, 2):
            values = {name: stops(widget)[min(end, len(stops(widget)) - 1)] for name, widget in panel.sliders.items()}
            assert "nan" not in str(panel.update(**values))
            shades = Image.open(io.BytesIO(panel.drawn())).convert("L")
            assert np.asarray(shades, float).std() > 5


def make(update, **sliders):
    fig, ax = plots.sheet()
    (line,) = ax.plot([0, 1], [0, 1])
    ax.set(xlim=(0, 1), ylim=(0, 1))
    return LivePanel(fig, [line], lambda **values: update(line, **values), alt="a line", **sliders), line, ax


def test_blitting_draws_what_a_full_redraw_draws():
    def tilt(line, slope):
        line.set_data([0.2, 0.8], [0.2, slope])  # away from the axes, which a full redraw draws on top

    panel, line, _ = make(tilt, slope=slider(0.2, 0.0, 1.0, 0.1, "slope"))
    panel.sliders["slope"].value = 0.7
    fast = picture(panel)
    line.set_animated(False)
    panel.fig.canvas.draw()
    slow = np.asarray(Image.fromarray(np.asarray(panel.fig.canvas.buffer_rgba())[..., :3]).convert("L"), float)
    assert np.abs(fast - slow).max() <= 2


def test_a_change_of_limits_draws_the_axes_again():
    def stretch(line, top):
        line.axes.set_ylim(0, top)

    panel, _, ax = make(stretch, top=slider(1.0, 1.0, 9.0, 1.0, "top"))
    before = picture(panel)
    panel.sliders["top"].value = 9.0
    assert np.abs(picture(panel)[:, :60] - before[:, :60]).max() > 50  # the tick labels on the left have changed


def test_51_an_exception_is_shown_in_words_and_the_picture_stays():
    def fragile(line, x):
        line.set_data([0, 1], [0, x])
        if x > 0.5:
            raise ValueError("<b>no</b> model for x > 0.5")
        return "fine & well"

    panel, _, _ = make(fragile, x=slider(0.1, 0.0, 1.0, 0.1, "x"))
    good = panel.picture.value
    panel.sliders["x"].value = 0.9
    assert "⚠ ValueError: <b>no</b> model" in panel.picture.said  # 56: the browser shows it as text, not as HTML
    assert "The picture is still that of the settings before." in panel.picture.said
    assert panel.picture.value == good
    panel.sliders["x"].value = 0.2
    assert "fine & well" in panel.picture.said and panel.picture.value != good


def test_a_reader_without_a_kernel_gets_the_picture_its_text_the_settings_and_the_sentence():
    panel, _, _ = make(lambda line, x: line.set_alpha(1) or "x < 2 & fine", x=slider(1, 0, 2, 1, "the x"))
    bundle = panel._repr_mimebundle_()
    assert bundle["text/plain"] == repr(panel) == "<LivePanel: a line>"
    assert '<img alt="a line" ' in bundle["text/html"] and "image/png" not in bundle
    assert "<figcaption>the x: 1. x &lt; 2 &amp; fine</figcaption>" in bundle["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_a_panel_that_fails_as_it_opens_says_so_and_can_be_shown():
    panel, _, _ = make(lambda line, x: 1 / 0, x=slider(1, 0, 2, 1, "x"))
    assert panel.picture.said == "⚠ ZeroDivisionError: division by zero."
    assert "<img" not in panel._repr_mimebundle_()["text/html"]


def test_settings_are_said_as_a_person_reads_them():
    sliders = {"a": slider(0.3, 0.0, 1.0, 0.1, "a"), "b": log_slider(0.1, 0.01, 1, "b"), "c": choice({"few": 3}, "c")}
    panel, _, _ = make(lambda line, **values: line.set_alpha(1), **sliders)
    assert panel.settings() == "a: 0.3, b: 0.1, c: few"


def test_a_stored_picture_has_few_colours_and_the_same_look():
    fig, ax = plots.sheet()
    ax.plot(np.sin(np.arange(50)), label="a wave")
    kept = plots.as_html(plots.png(fig), 'a "wave" & more')
    assert 'alt="a &quot;wave&quot; &amp; more"' in kept
    small = Image.open(io.BytesIO(base64.b64decode(kept.split("base64,")[1].split('"')[0])))
    whole = Image.open(io.BytesIO(plots.png(fig))).convert("RGB")
    assert len(small.getcolors()) <= 128
    assert np.abs(np.asarray(small.convert("RGB"), float) - np.asarray(whole, float)).mean() < 1


def test_a_png_has_every_pixel():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(widgets.png(pixels)))), pixels)


def test_a_number_is_a_sentence_too():
    panel, _, _ = make(lambda line, x: line.set_alpha(1) or 0.0, x=slider(1, 0, 2, 1, "x"))
    assert panel.picture.said == "0.0"


@pytest.mark.parametrize("how", [exit, lambda: 1 / 0, lambda: (_ for _ in ()).throw(KeyboardInterrupt), sys.exit])
def test_62_whatever_update_does_is_said_and_the_next_move_works(how):
    def update(line, x):
        line.set_ydata([0, x])
        if x == 2:
            how()

    panel, _, _ = make(update, x=slider(1, 0, 2, 1, "x"))
    good = panel.picture.value
    panel.sliders["x"].value = 2
    assert panel.picture.said.startswith("⚠ ") and panel.picture.value == good and not panel.picture.busy
    panel.sliders["x"].value = 0
    assert "⚠" not in panel.picture.said and panel.picture.value != good


def test_71_a_title_that_update_changes_is_drawn():
    panel, _, ax = make(lambda line, x: line.axes.set_title("n" * x), x=slider(1, 0, 9, 1, "x"))
    before = picture(panel)
    panel.sliders["x"].value = 9
    assert "⚠" not in panel.picture.said and np.abs(picture(panel) - before).max() > 50


def test_71_an_artist_that_update_adds_is_drawn_and_no_false_sentence_is_said():
    panel, _, _ = make(lambda line, x: line.axes.axhline(x / 10, color="black") and f"{x}", x=slider(1, 0, 9, 1, "x"))
    before = picture(panel)
    panel.sliders["x"].value = 9
    assert panel.picture.said == "9" and np.abs(picture(panel) - before).max() > 50


def test_71_an_artist_that_is_not_in_the_list_is_drawn_too():
    fig, ax = plots.sheet()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    (line,), (other,) = ax.plot([0, 1], [0, 1]), ax.plot([0, 1], [1, 0])
    panel = LivePanel(fig, [line], lambda x: other.set_ydata([x, x]), alt="two", x=slider(0.5, 0.0, 1.0, 0.1, "x"))
    before = picture(panel)
    panel.sliders["x"].value = 0.1
    assert "⚠" not in panel.picture.said and np.abs(picture(panel) - before).max() > 50


def test_71_a_figure_belongs_to_the_last_panel_made_of_it():
    first, line, _ = make(lambda line, x: line.set_ydata([0, x]), x=slider(0.5, 0.0, 1.0, 0.1, "x"))
    second = LivePanel(
        first.fig, [line], lambda x: line.set_ydata([x, 0]), alt="a line", x=slider(0.5, 0.0, 1.0, 0.1, "x")
    )
    good = first.picture.value
    first.sliders["x"].value = 0.9
    assert "belongs to another panel" in first.picture.said and first.picture.value == good
    second.sliders["x"].value = 0.1
    assert "⚠" not in second.picture.said


def test_71_numbers_of_numpy_make_whole_sliders_and_a_dictionary_gives_its_values():
    whole = slider(np.int64(1), 1, np.array([3, 9]).max(), 1, "n")
    assert type(whole).__name__ == "IntSlider" and (whole.value, whole.max) == (1, 9)
    assert choice({"small": 1, "large": 9}, "size").value == 1
    with pytest.raises(ValueError, match="rate: a logarithmic slider goes from a number above 0"):
        log_slider(0.1, 0, 1, "rate")


def test_a_picture_grows_with_its_cell_and_is_sharp_when_zoomed():
    panel, _, _ = make(lambda line, x: line.set_ydata([0, x]) or "fine", x=slider(0.5, 0.0, 1.0, 0.1, "x"))
    width = Image.open(io.BytesIO(panel.picture.value)).width
    for pixels, wanted in ((width * 2, 2.0), (100, 1.0), (width * 9, 2.6), (width, 1.0)):
        panel.picture.pixels = pixels
        assert Image.open(io.BytesIO(panel.picture.value)).width == pytest.approx(wanted * width, abs=1)
        panel.sliders["x"].value = 0.1 + wanted / 10
        assert Image.open(io.BytesIO(panel.picture.value)).width == pytest.approx(wanted * width, abs=1)


def test_sliders_are_whole_where_their_numbers_are():
    assert type(slider(1, 0, 9, 1, "n")).__name__ == "IntSlider"
    assert slider(0.25, 0.0, 1.0, 0.05, "x").readout_format == ".2f"
    assert slider(0.5, 0.0, 1.0, 0.5, "x").readout_format == ".1f"
    assert slider(0.25, 0.0, 1.0, 0.25, "x").readout_format == ".2f"
    assert np.isclose(log_slider(0.1, 0.01, 1.0, "lr").value, 0.1)
    assert choice(["a", "b"], "which").value == "a"


def test_a_panel_whose_figure_was_made_again_says_so():
    """A reader runs the figure's cell again, and then moves a slider of the panel that stands below it."""
    fig, ax = plots.sheet()
    (line,) = ax.plot([0, 1], [0, 1])
    drawn = {"line": line}
    panel = LivePanel(
        fig, [line], lambda a: drawn["line"].set_ydata([0, a]), alt="a line", a=slider(0.5, 0, 1, 0.1, "a")
    )
    panel.sliders["a"].value = 0.7
    assert "⚠" not in panel.picture.said
    again, ax = plots.sheet()
    (drawn["line"],) = ax.plot([0, 1], [0, 1])
    panel.sliders["a"].value = 0.2
    assert "run this cell again too" in panel.picture.said
    with pytest.raises(ValueError, match="is in another figure: run all cells from the figure's"):
        LivePanel(again, [line], lambda a: None, alt="a line", a=slider(0.5, 0, 1, 0.1, "a"))
