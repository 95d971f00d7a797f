"""Sliders around a function: the one class that carries every playground.

ipywidgets is imported only here. What the browser does is in widgets.js. Notebook 00 shows how to build a panel of your
own.
"""

import html
import numbers
import struct
import weakref
import zlib
from pathlib import Path

import anywidget
import ipywidgets as ipw
import numpy as np
import traitlets

from . import guard, plots

WIDE = {"style": {"description_width": "10em"}, "layout": {"width": "31em", "max_width": "100%"}}
OWNERS = weakref.WeakKeyDictionary()  # the panel that a figure belongs to


def slider(value, least, most, step, label):
    """A slider for one setting; whole numbers where value, ends and step are whole. The label names it in words."""
    whole = all(isinstance(v, numbers.Integral) for v in (value, least, most, step))
    value, least, most, step = map(int if whole else float, (value, least, most, step))
    places = len(np.format_float_positional(step, trim="-").partition(".")[2])
    kind, digits = (ipw.IntSlider, "d") if whole else (ipw.FloatSlider, f".{places}f")
    setting = {"min": least, "max": most, "step": step, "readout_format": digits}
    return kind(value, description=label, tooltip=label, **setting, **WIDE)


def log_slider(value, least, most, label):
    """A slider on a logarithmic scale, four steps to a factor of ten: for learning rates."""
    if not 0 < least < most:
        raise ValueError(
            f"{label}: a logarithmic slider goes from a number above 0 to a larger one, not {least} to {most}."
        )
    digits = ".3g" if least >= 1e-3 else ".1e"
    setting = {"min": np.log10(least), "max": np.log10(most), "step": 0.25, "readout_format": digits}
    return ipw.FloatLogSlider(value, description=label, tooltip=label, **setting, **WIDE)


def choice(options, label):
    """A choice between named options, the first one chosen. Of a dictionary {name: value} `update` gets the value."""
    options = list(options.items()) if isinstance(options, dict) else list(options)
    return ipw.Dropdown(options=options, description=label, tooltip=label, **WIDE)


def png(pixels):
    """A picture (height, width, 3) as PNG bytes. Pillow tries five filters on every row: 20 ms, where this takes 6."""
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # a row begins with the number of its filter, 0 for none
    rows[:, 1:] = pixels.reshape(height, -1)
    parts = {b"IHDR": struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0), b"IDAT": zlib.compress(rows, 1), b"IEND": b""}
    chunks = [struct.pack(">I", len(part)) + name + part for name, part in parts.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk + struct.pack(">I", zlib.crc32(chunk[4:])) for chunk in chunks)


class Picture(anywidget.AnyWidget):
    """A picture and the sentence below it, as the browser shows them: widgets.js."""

    _esm = Path(__file__).with_name("widgets.js")
    value = traitlets.Bytes().tag(sync=True)
    alt = traitlets.Unicode().tag(sync=True)
    said = traitlets.Unicode().tag(sync=True)
    busy = traitlets.Bool(False).tag(sync=True)
    width = traitlets.Float().tag(sync=True)  # in CSS pixels, as the figure was made
    pixels = traitlets.Int().tag(sync=True)  # of the screen, that the browser has for it


class LivePanel(ipw.VBox):
    """A kept figure, the artists that move, and a function that moves them when a slider does.

    fig       a figure from plots.sheet; give its axes their limits, they are drawn once
    moving    the artists that `update` changes; only these are drawn again (blitting), which is what makes the
              picture follow the hand. If `update` changes anything else (limits, a title, an artist that is not in
              the list or is new), everything is drawn again: right, and slower.
    update    called with the sliders' values by name; what it returns is shown as a sentence below the picture
    alt       what the picture shows, for readers who hear it
    sliders   name=widget, from `slider`, `log_slider` or `choice`

    Whatever happens in `update` (an exception, exit(), the stop button) is shown below the picture in words; the last
    good picture stays, and the sentence says so. A figure belongs to one panel, the last one that was made of it.
    """

    def __init__(self, fig, moving, update, *, alt, **sliders):
        self.fig, self.moving, self.update, self.alt, self.sliders = fig, list(moving), update, alt, sliders
        self.still, self.dpi = None, fig.dpi
        for artist in self.moving:
            if artist.get_figure() is not fig:
                raise ValueError(f"{artist} is in another figure: run all cells from the figure's to this one again.")
            artist.set_animated(True)
        OWNERS[fig] = self
        self.picture = Picture(alt=alt, width=fig.bbox.width)
        controls = ipw.Box(list(sliders.values()), layout={"flex_flow": "row wrap"})
        super().__init__([controls, self.picture])
        self.add_class("fedlearn-panel")
        self.refresh()
        for widget in sliders.values():
            widget.observe(self.refresh, names="value")
        self.picture.observe(self.grow, names="pixels")

    def refresh(self, change=None):
        """Move the artists, draw them over the kept background, and send the picture and the sentence."""
        picture, self.picture.busy = self.picture.value, True  # the browser says so if it takes long
        try:
            picture, said = self.moved()
        except guard.ANYTHING as error:  # whatever it is, the person at the slider must see it
            said = f"⚠ {guard.words(error)}." + " The picture is still that of the settings before." * bool(picture)
        with self.picture.hold_sync():
            self.picture.value, self.picture.said, self.picture.busy = picture, said, False

    def moved(self):
        """The picture and the sentence for where the sliders stand."""
        if OWNERS[self.fig] is not self:
            return (
                self.picture.value,
                "⚠ This figure now belongs to another panel: run the figure's cell and this one again.",
            )
        for artist in self.moving:
            artist.stale = False
        with guard.no_exit():
            said = self.update(**{name: widget.value for name, widget in self.sliders.items()})
        if self.still == self.looks() and not any(artist.stale for artist in self.moving):
            said = "⚠ Nothing in this picture moved. If the figure's cell was run again, run this cell again too."
        try:
            picture = self.drawn()
        except RuntimeError:  # FreeType has refused the first glyph of a size, and not the second time
            self.still = None
            picture = self.drawn()
        return picture, "" if said is None else str(said)

    def looks(self):
        """What the background depends on, as far as `update` can change it: limits, titles, and who is there."""
        found = [self.fig.dpi]
        for ax in self.fig.axes:
            rest = [artist for artist in (*ax.lines, *ax.collections, *ax.patches, *ax.texts, *ax.images)]
            found += [ax.axis(), ax.get_title(), ax.get_xlabel(), ax.get_ylabel()]
            found += [id(artist) for artist in rest] + [artist.stale for artist in rest if not artist.get_animated()]
        return found

    def drawn(self):
        """The picture as PNG bytes: kept background, moving artists on top."""
        canvas = self.fig.canvas
        if self.still != self.looks():
            canvas.draw()
            self.still, self.background = self.looks(), canvas.copy_from_bbox(self.fig.bbox)
        canvas.restore_region(self.background)
        for artist in self.moving:
            self.fig.draw_artist(artist)
        return png(np.asarray(canvas.buffer_rgba())[..., :3])

    def grow(self, change):
        """Draw for the pixels that there are, in steps of a fifth: sharp when zoomed, large on a projector."""
        scale = np.clip(round(5 * self.picture.pixels / self.picture.width) / 5, 1, 2.6)
        if OWNERS[self.fig] is self and self.fig.dpi != self.dpi * scale:
            self.fig.set_dpi(self.dpi * scale)
            self.picture.value = self.drawn()

    def settings(self):
        """Where the sliders stand, in words."""
        values = {
            widget.description: getattr(widget, "label", None) or widget.value for widget in self.sliders.values()
        }
        return ", ".join(
            f"{name}: {value:.6g}" if isinstance(value, float) else f"{name}: {value}" for name, value in values.items()
        )

    def __repr__(self):
        return f"<LivePanel: {self.alt}>"

    def _repr_mimebundle_(self, **kwargs):
        """The live widget, and for readers without a kernel the picture with its text, settings and sentence."""
        data = super()._repr_mimebundle_(**kwargs) or {}
        caption = f"{html.escape(self.settings())}. {html.escape(self.picture.said)}"
        shown = plots.as_html(self.picture.value, self.alt, caption) if self.picture.value else caption
        return data | {"text/plain": repr(self), "text/html": shown}
