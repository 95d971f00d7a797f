"""How good is a model, and for whom? Metrics of labels y (n,) and predicted probabilities p (n,).

Held to scikit-learn's numbers by the tests. Notebooks 05 and 10.
"""

import itertools
import math
import warnings

import numpy as np

from .checks import title


def average(values, w=None):
    """Σ w·values / Σ w over the last axis; without w, the plain mean."""
    return values.mean(-1) if w is None else (w * values).sum(-1) / w.sum(-1)


def paired(y, p):
    """Labels and predictions as arrays that belong together by position, whatever they came in; or a sentence."""
    y, p = np.asarray(y, float), np.asarray(p, float)
    if y.shape[-1:] != p.shape[-1:] or not y.ndim or y.ndim > p.ndim:
        raise ValueError(
            f"labels {y.shape} and predictions {p.shape} do not belong together: a metric needs one prediction for "
            "each label, (n,) and (n,). A column (n, 1) is made a row by p[:, 0]."
        )
    if np.isnan(y).any():
        raise ValueError(f"a label is missing in {np.isnan(y).sum()} record(s): leave them out before you measure.")
    return y, p


def accuracy(y, p, w=None):
    """Share of records on the right side of ½: (..., n) -> (...). w (..., n) are row weights, 0 on padding."""
    y, p = paired(y, p)
    return average(np.where(np.isnan(p), np.nan, (p > 0.5) == (y > 0.5)), w)


def sensitivity(y, p, threshold=0.5):
    """Share of the diseased records that are called ill, p > threshold: (n,), (n,) -> float. NaN where nobody is ill.

    threshold  one for all, or one for each record (n,)

    >>> sensitivity(np.array([1, 1, 1, 1, 0]), np.array([0.9, 0.8, 0.6, 0.2, 0.7]))
    0.75

    Altman and Bland 1994, BMJ 308, 1552. Notebook 10.
    """
    called = np.where(np.isnan(p), np.nan, p > threshold)[y > 0.5]
    return float(called.mean()) if called.size else np.nan


def specificity(y, p, threshold=0.5):
    """Share of the healthy records that are called healthy, p ≤ threshold: (n,), (n,) -> float. NaN where all are ill.

    threshold  as in `sensitivity`

    >>> specificity(np.array([0, 0, 0, 0, 1]), np.array([0.1, 0.2, 0.6, 0.7, 0.8]))
    0.5

    Notebook 10.
    """
    called = np.where(np.isnan(p), np.nan, p <= threshold)[y < 0.5]
    return float(called.mean()) if called.size else np.nan


def brier(y, p, w=None):
    """Mean of (p − y)²: 0 is perfect, ¼ is what p = ½ always gets.

    Half of the sum over both classes in Brier 1950, Monthly Weather Review 78. Notebook 05.
    """
    y, p = paired(y, p)
    return average((p - y) ** 2, w)


def auc(y, p):
    """Chance that a diseased record scores above a healthy one, ties counting one half: (n,), (n,) -> float.

    Mann–Whitney form of the area under the ROC curve (Hanley and McNeil 1982, Radiology 143). With one class
    only there is no such pair: the result is NaN, as it is where a prediction is NaN.

    >>> auc(np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.2, 0.2]))
    0.875
    """
    y, p = paired(y, p)
    healthy, diseased = np.sort(p[y < 0.5]), p[y > 0.5]
    if not (healthy.size and diseased.size) or np.isnan(p).any():
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
    one_class = [len(np.unique(y[s])) < 2 for y, s in zip(hospitals.y, seen, strict=True)]
    for k in np.flatnonzero(np.isnan(values) & one_class):
        kinds = "without disease" if hospitals.y[k][seen[k]].any() else "with disease"
        warnings.warn(
            f"hospital {hospitals.names[k]!r} has no patient {kinds} in this set: {title(metric)} is undefined "
            "there. Use accuracy, or a larger share of held-out records.",
            stacklevel=2,
        )
    return values


def average_loss(model, theta, hospitals):
    """Σₖ nₖ Lₖ(θ) / Σₖ nₖ: what the federation minimises, one number."""
    sizes = hospitals.sizes
    return float(sizes @ model.loss(theta, hospitals.X, hospitals.y, hospitals.w) / sizes.sum())


def pooled_scores(model, theta, hospitals, metrics):
    """{metric's name: its value over all records of all hospitals together}."""
    seen = hospitals.w > 0
    y, p = hospitals.y[seen], model.predict(theta, hospitals.X)[seen]
    return {title(metric): float(metric(y, p)) for metric in metrics}


def held_out(metric, model, thetas, draws):
    """The metric of each θ on all held-out records of its own draw (train, test, seed): thetas (D, P) -> (D,)."""
    pairs = zip(thetas, draws, strict=True)
    return np.array([pooled_scores(model, theta, test, [metric])[title(metric)] for theta, (_, test, _) in pairs])


def calibration(y, p, bins=10):
    """In `bins` equal slices of [0, 1]: mean prediction, share that is diseased, and number of records, each (bins,).

    Empty slices have NaN and 0. A calibrated model has the first two equal. Notebook 10.
    """
    y, p = paired(y, p)
    place = np.minimum((p * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        return np.bincount(place, p, bins) / count, np.bincount(place, y, bins) / count, count


def calibration_error(y, p, bins=10):
    """Σ (records in the slice / n) · |mean prediction − share diseased|: the expected calibration error.

    Naeini et al. 2015, AAAI. It depends on `bins`, and with few records it is above 0 for a perfect model too.
    """
    predicted, observed, count = calibration(y, p, bins)
    return float(np.nansum(count * np.abs(predicted - observed)) / len(y))


def jain(values):
    """(Σ xₖ)² / (K Σ xₖ²): 1 if all hospitals have the same, 1/K if one has everything. Jain et al. 1984.

    >>> jain([1, 1, 1, 1]), jain([1, 0, 0, 0])
    (1.0, 0.25)
    """
    values = np.asarray(values, float)
    return float(np.sum(values) ** 2 / (len(values) * np.sum(np.square(values))))


def leave_one_out(value, K):
    """What the whole is worth more than the whole without hospital k: (K,). value takes a tuple of hospitals."""
    everybody = tuple(range(K))
    return np.array([value(everybody) - value(everybody[:k] + everybody[k + 1 :]) for k in everybody])


def shapley(value, K):
    """Hospital k's average gain over all orders of joining: (K,), exact, from all 2ᴷ coalitions (K ≤ 10).

    Σ over S without k of |S|! (K − |S| − 1)! / K! · (v(S + k) − v(S)); the shares sum to v(all) − v(nobody).
    Shapley 1953. value takes a sorted tuple of hospital numbers. Notebook 10.
    """
    if K > 10:
        raise ValueError(f"{K} hospitals have {2**K} coalitions. Exact Shapley values are for at most 10.")
    worth = {S: value(S) for size in range(K + 1) for S in itertools.combinations(range(K), size)}
    shares = np.zeros(K)
    for S, v in worth.items():
        for k in set(range(K)) - set(S):
            chance = math.factorial(len(S)) * math.factorial(K - len(S) - 1) / math.factorial(K)
            shares[k] += chance * (worth[tuple(sorted((*S, k)))] - v)
    return shares


def permutation_importance(metric, model, theta, hospitals, *, repeats=5, rng):
    """How much the metric falls at each hospital when one feature is shuffled among its patients: (K, d).

    Breiman 2001, Machine Learning 45. Correlated features share their importance. Notebook 10.
    """
    fall, rng = np.zeros((len(hospitals.names), hospitals.X.shape[-1])), np.random.default_rng(rng)
    for k, name in enumerate(hospitals.names):
        X, y = hospitals.one(name)
        own = theta if theta.ndim == 1 else theta[k]
        whole = metric(y, model.predict(own, X))
        for j in range(X.shape[1]):
            for _ in range(repeats):
                shuffled = X.copy()
                shuffled[:, j] = rng.permutation(X[:, j])
                fall[k, j] += (whole - metric(y, model.predict(own, shuffled))) / repeats
    return fall


def scoreboard(columns, names, digits=3):
    """A table with a row per hospital and a column per entry of {title: values (K,)}; undefined shows as –."""
    import pandas as pd

    table = pd.DataFrame(columns, index=pd.Index(names, name="hospital"))
    return table.map(lambda v: "–" if np.isnan(v) else f"{v:.{digits}f}")
