"""Attack and defence: the playground of notebook 17."""

from dataclasses import replace
from functools import cache, partial

import numpy as np

from ..evaluate import auc
from ..federation import path
from ..saboteurs import backdoor, flipped, scaled, stamped
from . import plots

ATTACKS = ["backdoor × 3", "update × −10", "update × −1", "labels flipped"]
ROUNDS = 10


def attacks(name, seats, feature, value):
    """The wrappers of one attack by these seats."""
    if name == "labels flipped":
        return (partial(flipped, seats=seats),)
    shouted = partial(
        scaled, seats=seats, factor={"backdoor × 3": 3.0, "update × −10": -10.0, "update × −1": -1.0}[name]
    )
    stamp = (partial(backdoor, seats=seats, feature=feature, value=value),) if name.startswith("backdoor") else ()
    return (*stamp, shouted)


def stage(model, plan, splits, rules, *, feature, value):
    """The figure, its moving artists, and `move` for a LivePanel: (fig, artists, move).

    splits  [(hospitals, (X, y) to test on)]
    rules   {name: aggregator}
    feature, value  the trigger of the backdoor
    """

    @cache
    def curves(bad, attack, rule):
        """By split and round, AUC on clean patients and the share of stamped ill ones called healthy: (2, S, R + 1)."""
        changed = replace(
            plan, aggregate=rules[rule], around=attacks(attack, range(bad), feature, value) if bad else ()
        )
        found = []
        for many, (X, y) in splits:
            theta = path(model, many, changed, ROUNDS)
            called = model.predict(theta[:, None], stamped(X[y == 1], feature, value)[None])
            found.append([[auc(y, model.predict(one, X)) for one in theta], (called < 0.5).mean(-1).ravel()])
        return np.array(found).swapaxes(0, 1)

    fig, axes = plots.sheet(2, width=9.6, height=3.6)
    x, look = np.arange(ROUNDS + 1), {"color": "#D55E00"}
    plots.named(axes[0], "round", "AUC, held-out patients", "ordinary patients")
    plots.named(axes[1], "round", "called healthy", "ill patients with the trigger")
    middles, edges = [], []
    for ax, honest in zip(axes, curves(0, ATTACKS[0], "mean"), strict=True):
        ax.set(xlim=(0, ROUNDS), ylim=(-0.03, 1.03), xticks=range(0, ROUNDS + 1, 2))
        ax.plot(x, np.median(honest, axis=0), color="0.45", linestyle="--", label="nobody bad, mean")
        middles.append(ax.plot([], [], linewidth=2.2, label="attacked", **look)[0])
        edges += [ax.plot([], [], linewidth=0.9, **look)[0] for _ in range(2)]
    axes[0].legend(frameon=False, loc="lower right")

    def move(bad, attack, rule):
        for column, (middle, runs) in enumerate(zip(middles, curves(bad, attack, rule), strict=True)):
            middle.set_data(x, np.median(runs, axis=0))
            for edge, values in zip(edges[2 * column :], (runs.min(axis=0), runs.max(axis=0)), strict=False):
                edge.set_data(x, values)
        clean, fooled = np.median(curves(bad, attack, rule)[..., -1], axis=1)
        who = f"{bad} of 10 bad" if bad else "nobody bad"
        return f"{rule}, {who}: AUC {clean:.2f}, {fooled:.0%} of the stamped ill patients are called healthy."

    return fig, [*middles, *edges], move
