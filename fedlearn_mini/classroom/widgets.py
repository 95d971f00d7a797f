"""Sliders around a function: the one class that carries every playground.

ipywidgets is imported only here. Notebook 00 shows how to build a panel of your own.
"""

import base64
import html
import io

import ipywidgets as ipw
import numpy as np
from PIL import Image

WIDE = {"style": {"description_width": "10em"}, "layout": {"width": "25em"}}


def slider(value, least, most, step, label):
    """A slider for one setting; whole numbers where value and step are whole. The label names it in words."""
    whole = all(isinstance(v, int) for v in (value, least, most, step))
    places = len(np.format_float_positional(step, trim="-").partition(".")[2])
    kind, digits = (ipw.IntSlider, "d") if whole else (ipw.FloatSlider, f".{places}f")
    return kind(value, min=least, max=most, step=step, description=label, readout_format=digits, **WIDE)


def log_slider(value, least, most, label):
    """A slider on a logarithmic scale, four steps to a factor of ten: for learning rates."""
    low, high = np.log10(least), np.log10(most)
    digits = ".3g" if least >= 1e-3 else ".1e"
    return ipw.FloatLogSlider(value, min=low, max=high, step=0.25, description=label, readout_format=digits, **WIDE)


def choice(options, label):
    """A choice between named options, the first one chosen."""
    return ipw.Dropdown(options=list(options), description=label, **WIDE)


class LivePanel(ipw.VBox):
    """A kept figure, the artists that move, and a function that moves them when a slider does.

    fig       a figure from plots.sheet; give its axes their limits, they are drawn once
    moving    the artists that `update` changes; only these are drawn again (blitting), which is what makes the
              picture follow the hand. If `update` changes the limits of an axis, everything is drawn again.
    update    called with the sliders' values by name; what it returns is shown as a sentence below the picture
    alt       what the picture shows, for readers who hear it
    sliders   name=widget, from `slider`, `log_slider` or `choice`

    An exception in `update` is shown below the picture in words; the last good picture stays. Where the figure's cell
    was run again and the panel's was not, `update` moves artists that nobody sees: that is said too.
    """

    def __init__(self, fig, moving, update, *, alt, **sliders):
        self.fig, self.moving, self.update, self.alt, self.sliders = fig, list(moving), update, alt, sliders
        self.limits = None
        for artist in self.moving:
            if artist.get_figure() is not fig:
                raise ValueError(f"{artist} is in another figure: run all cells from the figure's to this one again.")
            artist.set_animated(True)
        width = f"{fig.bbox.width:.0f}px"
        self.picture = ipw.Image(format="png", layout={"width": width, "max_width": "100%"})
        self.said = ipw.HTML()
        controls = ipw.Box(list(sliders.values()), layout={"flex_flow": "row wrap"})
        super().__init__([controls, self.picture, self.said])
        for widget in sliders.values():
            widget.observe(self.refresh, names="value")
        self.refresh()

    def refresh(self, change=None):
        """Move the artists, draw them over the kept background, and send the picture."""
        try:
            for artist in self.moving:
                artist.stale = False
            said = self.update(**{name: widget.value for name, widget in self.sliders.items()})
            if not any(artist.stale for artist in self.moving):
                said = "⚠ Nothing in this picture moved. If the figure's cell was run again, run this cell again too."
            self.picture.value = self.drawn()
        except Exception as error:  # whatever it is, the person at the slider must see it
            said = f"⚠ {type(error).__name__}: {error}"
        said = "" if said is None else html.escape(str(said))
        self.said.value = f'<p role="status" style="line-height:1.4">{said}</p>'

    def drawn(self):
        """The picture as PNG bytes: kept background, moving artists on top."""
        canvas = self.fig.canvas
        limits = [ax.axis() for ax in self.fig.axes]
        if limits != self.limits:
            canvas.draw()
            self.limits, self.background = limits, canvas.copy_from_bbox(self.fig.bbox)
        canvas.restore_region(self.background)
        for artist in self.moving:
            self.fig.draw_artist(artist)
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).save(buffer, "png", compress_level=1)
        return buffer.getvalue()

    def __repr__(self):
        return f"<LivePanel: {self.alt}>"

    def _repr_mimebundle_(self, **kwargs):
        """The live widget, and for readers without a kernel the picture with its text."""
        data = super()._repr_mimebundle_(**kwargs) or {}
        data |= {"text/plain": repr(self), "image/png": base64.b64encode(self.picture.value).decode()}
        return data, {"image/png": {"alt": self.alt}}
