"""What a letter weighs, what it costs on a bad line, and what training makes of it: the playground of notebook 16."""

from functools import cache

import numpy as np

from ..compress import Link, sent
from . import plots

SPEED, DELAY = 2000.0, 0.1  # bytes a second of one stream, seconds from a question to its answer


def stage(curves, lengths, P, *, seeds=10):
    """The figure, its moving artists, and `move` for a LivePanel: (fig, artists, move).

    curves   {method: AUC by split and round (S, R + 1)}, the first one uncompressed
    lengths  {method: bytes of a letter}
    """
    plain, *_ = curves
    fig, (left, right) = plots.sheet(2, width=9.6, height=3.6)
    x = np.arange(curves[plain].shape[1])
    left.plot(x, np.median(curves[plain], axis=0), color="0.45", linestyle="--", label=f"{plain}, whole letters")
    look = {"color": "#D55E00"}
    middle = left.plot([], [], linewidth=2.2, label="chosen method", **look)[0]
    edges = [left.plot([], [], linewidth=0.9, **look)[0] for _ in range(2)]
    left.set(xlim=(0, x[-1]), ylim=(0.45, 1.0), xticks=range(0, x[-1] + 1, 5))
    plots.named(left, "round", "AUC, held-out patients", "what training makes of it")
    left.legend(frameon=False, loc="lower right")
    names = ["one bare letter", "on the line"]
    bars = right.barh([1, 0], [1, 1], color=["#0072B2", "#3E94C4"])
    right.set(xscale="log", xlim=(100, 3e5), yticks=[1, 0])
    right.set_yticklabels(names)
    plots.named(right, "bytes, logarithmic", "", "one letter", legend=False)
    full = right.axvline(8 * P, color="0.45", linestyle="--")
    full.set_label(plain)

    @cache
    def trips(method, size, loss, streams):
        """Bytes and seconds of one letter on this line, means over seeds."""
        line, letter = Link(loss, SPEED, DELAY, streams), bytes(lengths[method])
        found = [sent(letter, size, line, np.random.default_rng(seed))[1] for seed in range(seeds)]
        return np.mean([trip.bytes for trip in found]), np.mean([trip.seconds for trip in found])

    def move(method, size, loss, streams):
        runs = curves[method]
        middle.set_data(x, np.median(runs, axis=0))
        for edge, values in zip(edges, (runs.min(axis=0), runs.max(axis=0)), strict=True):
            edge.set_data(x, values)
        total, seconds = trips(method, size, round(loss, 3), streams)
        for bar, width in zip(bars, (lengths[method], total), strict=True):
            bar.set_width(width)
        return (
            f"{method}: {lengths[method]:,} bytes, {lengths[plain] / lengths[method]:.3g} times fewer than whole. In "
            f"chunks of {size:,} on this line {total:,.0f} bytes and {seconds:.1f} s. "
            f"AUC {np.median(runs[:, -1]):.2f} at the end."
        )

    return fig, [middle, *edges, *bars], move
