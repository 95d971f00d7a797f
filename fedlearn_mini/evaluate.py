"""How good is a model, and for whom? Metrics of labels y (n,) and predicted probabilities p (n,).

Held to scikit-learn's numbers by the tests. Notebook 05.
"""

import warnings

import numpy as np


def average(values, w=None):
    """Σ w·values / Σ w over the last axis; without w, the plain mean."""
    return values.mean(-1) if w is None else (w * values).sum(-1) / w.sum(-1)


def accuracy(y, p, w=None):
    """Share of records on the right side of ½: (..., n) -> (...). w (..., n) are row weights, 0 on padding."""
    return average((p > 0.5) == (y > 0.5), w)


def brier(y, p, w=None):
    """Mean of (p − y)²: 0 is perfect, ¼ is what p = ½ always gets. Brier 1950, Monthly Weather Review 78."""
    return average((p - y) ** 2, w)


def auc(y, p):
    """Chance that a diseased record scores above a healthy one, ties counting one half: (n,), (n,) -> float.

    Mann–Whitney form of the area under the ROC curve (Hanley and McNeil 1982, Radiology 143). With one class
    only there is no such pair: the result is NaN.
    """
    healthy, diseased = np.sort(p[y < 0.5]), p[y > 0.5]
    if not (healthy.size and diseased.size):
        return np.nan
    below = np.searchsorted(healthy, diseased, side="left")
    not_above = np.searchsorted(healthy, diseased, side="right")
    return float((below + not_above).mean() / (2 * healthy.size))


def per_hospital(metric, model, theta, hospitals):
    """The metric of each hospital on its own records: (K,). theta is one model (P,) or one each (K, P).

    Where it is undefined (AUC with one class) the value is NaN and a warning names the hospital.
    """
    p = model.predict(theta, hospitals.X)
    seen = hospitals.w > 0
    values = np.array([metric(y[s], q[s]) for y, q, s in zip(hospitals.y, p, seen, strict=True)])
    for k in np.flatnonzero(np.isnan(values)):
        kinds = "without disease" if hospitals.y[k][seen[k]].any() else "with disease"
        warnings.warn(
            f"hospital {hospitals.names[k]!r} has no patient {kinds} in this set: {metric.__name__} is undefined "
            "there. Use accuracy, or a larger share of held-out records.",
            stacklevel=2,
        )
    return values


def scoreboard(columns, names, digits=3):
    """A table with a row per hospital and a column per entry of {title: values (K,)}; undefined shows as –."""
    import pandas as pd

    table = pd.DataFrame(columns, index=pd.Index(names, name="hospital"))
    return table.map(lambda v: "–" if np.isnan(v) else f"{v:.{digits}f}")
