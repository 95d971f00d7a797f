"""Pictures: functions of (arrays, ax) that return the ax and compute nothing but medians and ranges.

The same hospital has the same colour and marker in the whole kit. The colours are Okabe and Ito's, which colour-blind
readers can tell apart, the light ones darkened to a contrast of 3 : 1 with white; markers and line styles tell them
apart in grey.
"""

import base64
import html
import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#9C6B00", "#3E94C4", "#6A51A3", "#5B5B5B")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)))
SEATS = {"Cleveland": 0, "Hungary": 1, "Switzerland": 2, "VA Long Beach": 3, "A": 0, "B": 1, "C": 2}
SEATS |= {"pooled": 4, "local": 5, "alone": 5}  # ways to train, beside SERVER for the federated one
SERVER = {"color": "black", "marker": ".", "linestyle": "-"}  # the federated model, everywhere


def style(name, seat=0):
    """Colour, marker and line style of a hospital: fixed for the hospitals of the kit, by seat for others."""
    seat = SEATS.get(name, seat) % len(PALETTE)
    return {"color": PALETTE[seat], "marker": MARKERS[seat], "linestyle": DASHES[seat]}


def sheet(columns=1, width=None, height=3.6):
    """A figure and its axes outside pyplot, so that nothing appears before `show`, and nothing appears twice."""
    fig = Figure(figsize=(width or 5.2 * columns, height), dpi=100, layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.subplots(1, columns)
    for ax in np.atleast_1d(axes):
        ax.spines[["top", "right"]].set_visible(False)
    return fig, axes


def png(fig):
    """The figure as PNG bytes."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def as_html(picture, alt, caption=""):
    """A picture (PNG bytes) with its alternative text and a caption, as people get them wherever a notebook is shown.

    JupyterLab and nbconvert drop the text of an image/png; they keep that of an <img>. Of the picture 128 colours are
    kept, which makes it a third as large.
    """
    from PIL import Image

    buffer = io.BytesIO()
    few = Image.open(io.BytesIO(picture)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    few.save(buffer, "png", optimize=True)
    data, below = base64.b64encode(buffer.getvalue()).decode(), f"<figcaption>{caption}</figcaption>" if caption else ""
    image = f'<img alt="{html.escape(alt)}" style="max-width:100%" src="data:image/png;base64,{data}">'
    return f'<figure style="margin:0">{image}{below}</figure>'


def show(fig, alt):
    """Display a figure with its alternative text, for readers who hear the page instead of seeing it."""
    from IPython.display import display

    display({"text/html": as_html(png(fig), alt), "text/plain": f"<Figure: {alt}>"}, raw=True)


def named(ax, xlabel="", ylabel="", title="", legend=True):
    """Names on the axes, a title, and a legend without a frame where there is something to name."""
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if legend and ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False)
    return ax


def curves(x, lines, ax, **names):
    """One line per entry of {name: values (T,)}; markers on about eight points, so that grey print can tell."""
    for seat, (name, values) in enumerate(lines.items()):
        look = SERVER if name == "federated" else style(name, seat)
        ax.plot(x, values, label=name, markevery=max(1, len(x) // 8), **look)
    return named(ax, **names)


def band(x, runs, ax, label, seat=0, **names):
    """The median of runs (S, T) over S seeds as a line, their full range as a band."""
    look = SERVER if label == "federated" else style(label, seat)
    ax.fill_between(x, runs.min(0), runs.max(0), color=look["color"], alpha=0.15, linewidth=0)
    for end in (runs.min(0), runs.max(0)):
        ax.plot(x, end, color=look["color"], linewidth=0.8)
    ax.plot(x, np.median(runs, 0), label=label, markevery=max(1, len(x) // 8), **look)
    return named(ax, **names)


def dots(names, columns, ax, seat=4, **labels):
    """A row per hospital and a marker per entry of {title: values (K,) or (K, S)}; with S seeds, their range too.

    seat: the first colour for titles that have none of their own; 4 leaves the hospitals' colours to the hospitals.
    """
    rows = np.arange(len(names))[::-1]
    for place, (title, values) in enumerate(columns.items()):
        look = SERVER | {"marker": "o"} if title == "federated" else style(title, seat + place)
        look = look | {"linestyle": ""}
        offset = 0.16 * (place - (len(columns) - 1) / 2)
        values = np.asarray(values).reshape(len(names), -1)
        ax.hlines(rows - offset, values.min(1), values.max(1), color=look["color"], alpha=0.5)
        ax.plot(np.median(values, 1), rows - offset, label=title, **look)
    ax.set_yticks(rows, names)
    ax.set_ylim(-0.6, len(names) - 0.4)
    return named(ax, **labels)


def bars(names, values, ax, **labels):
    """A horizontal bar per hospital in its own colour, its value written at the end."""
    rows = np.arange(len(names))[::-1]
    drawn = ax.barh(rows, values, color=[style(n, k)["color"] for k, n in enumerate(names)])
    ax.bar_label(drawn, fmt="%g", padding=3)
    ax.set_yticks(rows, names)
    ax.margins(x=0.12)
    return named(ax, legend=False, **labels)


def heat(values, rows, columns, ax, digits=2, low=0.0, high=1.0, **labels):
    """A table (R, C) in shades from low (dark) to high (light), each cell with its number."""
    values = np.round(values, digits) + 0.0  # no −0.0
    ax.imshow(values, cmap="cividis", vmin=low, vmax=high, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        shade = "white" if value < low + 0.6 * (high - low) else "black"
        ax.text(j, i, f"{value:.{digits}f}", ha="center", va="center", color=shade)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    return named(ax, legend=False, **labels)


def surface(x, y, z, ax, levels=14, **labels):
    """Level lines of a loss z (len(y), len(x)) over two parameters."""
    ax.contour(x, y, z, levels=levels, colors="0.75", linewidths=0.8)
    return named(ax, **labels)


def frame(ax, values):
    """Limits of the y axis around the finite values, on a coarse grid, so that a small move seldom redraws it."""
    values = np.asarray(values, float)[np.isfinite(values)]
    low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
    if low > high:  # nothing finite to show: leave the axis alone
        return ax
    step = 2 ** np.ceil(np.log2(max(high - low, 1e-9))) / 2
    ax.set_ylim(np.floor(low / step - 0.1) * step, np.ceil(high / step + 0.1) * step)
    return ax
