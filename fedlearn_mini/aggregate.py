"""K rows to one: what the server makes of the hospitals' updates.

An aggregator is a function (updates (K, P), weights (K,), rng) -> (P,). What the server may learn is
literally that list of arguments. Derived in notebook 03; the rules against bad hospitals in notebook 17.
"""

import math

import numpy as np

from .checks import number, whole
from .models import length, no_overflow_warning
from .privacy import clip


def mean(updates, weights=None, rng=None):
    """Σₖ Δₖ / K: every hospital counts the same, whatever its size. Of nobody it is 0.

    >>> mean(np.array([[1.0, 2.0], [3.0, 6.0]]))
    array([2., 4.])
    """
    return updates.sum(axis=0) / max(1, len(updates))


def weighted_mean(updates, weights, rng=None):
    """Σₖ nₖ Δₖ / Σₖ nₖ: every patient counts the same.

    Federated averaging, McMahan et al. 2017 (arXiv:1602.05629). Only the ratios of the weights matter.

    >>> weighted_mean(np.array([[1.0, 2.0], [3.0, 6.0]]), weights=np.array([300, 100]))
    array([1.5, 3. ])
    """
    weights = counted(weights, len(updates))
    return weights @ updates / (weights.sum() or 1)  # the average of nobody is 0


def counted(weights, K):
    """The weights as an array (K,), or a ValueError: a negative one would turn an update round."""
    weights = np.asarray(weights)
    if weights.shape != (K,):
        raise ValueError(f"{K} updates need {K} weights in a row, not an array of the shape {weights.shape}.")
    if K and not (weights.min() >= 0 and 0 < weights.sum() < math.inf):
        raise ValueError("weights are numbers of records: none is negative or missing, and they do not sum up to 0.")
    return weights


# ------------------------------------------------------------------------------------------------ when some may be bad


def median(updates, weights=None, rng=None):
    """The middle value of each number by itself: right while more than half of the hospitals are honest.

    Every hospital counts the same, as in the rules below: who lies may also lie about its size. Yin et al. 2018,
    arXiv:1803.01498. Notebook 17.

    >>> median(np.array([[1.0, 2.0], [3.0, 6.0], [-900.0, 900.0]]))
    array([1., 6.])
    """
    return np.median(updates, axis=0) if len(updates) else mean(updates)


def trimmed_mean(updates, weights=None, rng=None, *, beta=0.1):
    """The mean of each number without its ⌊βK⌋ lowest and ⌊βK⌋ highest values. β = 0: the mean.

    Good for as many bad hospitals as are cut at one end. Yin et al. 2018, arXiv:1803.01498. Notebook 17.

    >>> trimmed_mean(np.array([[1.0], [2.0], [6.0], [-900.0]]), beta=0.25)
    array([1.5])
    """
    number("beta, the share that is cut at each end,", beta, least=0, below=0.5, hint="At one half nothing is left.")
    cut = math.floor(beta * len(updates) + 1e-9)
    return mean(np.sort(updates, axis=0)[cut : len(updates) - cut])


@no_overflow_warning
def krum(updates, weights=None, rng=None, *, bad=1, keep=1):
    """The update that is nearest to its K − bad − 2 nearest neighbours; keep > 1: the mean of the best ones.

    bad   f, how many hospitals may be bad. A ValueError unless 2f + 3 letters came
    keep  how many updates are averaged ("multi-Krum"); all of them: the mean

    Blanchard et al. 2017, NeurIPS 30 (Krum: the sum of squared distances to the K − f − 2 nearest). Notebook 17.

    >>> krum(np.array([[1.0], [1.1], [1.3], [1.2], [-900.0]]), bad=1)
    array([1.1])
    """
    K, f, keep = len(updates), whole("bad", bad, least=0), whole("keep", keep)
    if not K:
        return mean(updates)
    if K < 2 * f + 3:
        raise ValueError(
            f"Krum against {f} bad hospitals needs at least 2 · {f} + 3 = {2 * f + 3} letters, and {K} came: fewer "
            "bad ones, more hospitals, or another rule."
        )
    if keep > K:
        raise ValueError(f"keep = {keep}, but only {K} letters came.")
    squared = np.array([((updates - one) ** 2).sum(axis=1) for one in updates])
    score = np.sort(squared, axis=1)[:, 1 : K - f - 1].sum(axis=1)  # the first is the distance to itself
    return mean(updates[np.argsort(score, kind="stable")[:keep]])


def geometric_median(updates, weights=None, rng=None, *, tol=1e-6, steps=1000):
    """The point with the smallest sum of distances to all updates: argmin Σₖ ‖z − Δₖ‖.

    tol    stops when a step moves z by less, relative to the middle distance; no distance counts as smaller. (Relative
           to the largest, one very long letter would choose it, and with it the answer.)
    steps  no more of them

    Weiszfeld's steps z ← Σ Δₖ/‖z − Δₖ‖ / Σ 1/‖z − Δₖ‖, as in Pillutla et al. 2022, doi:10.1109/TSP.2022.3153135,
    with equal weights. Notebook 17.

    >>> geometric_median(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    array([0.5, 0.5])
    """
    z = median(updates)
    for _ in range(steps if len(updates) else 0):
        distance = length(updates - z)
        least = tol * np.median(distance)
        if not least > 0:  # more than half of them are one point
            break
        pull = 1 / np.maximum(distance, least)
        before, z = z, (pull @ updates / pull.sum()).astype(updates.dtype)
        if length(z - before) <= least:
            break
    return z


def bounded(updates, weights, rng=None, *, C=None, times=1.0, aggregate=weighted_mean):
    """aggregate(clip(Δ, C)): no letter is longer than C; None: than `times` the median length of this round.

    Sun et al. 2019, arXiv:1911.07963. Notebook 17.

    >>> bounded(np.array([[3.0], [1.0], [-900.0]]), weights=np.ones(3), C=3)  # 3, 1 and −3
    array([0.33333333])
    """
    if C is None:
        lengths = length(updates)
        C = number("times", times, above=0) * (np.median(lengths) if len(lengths) else 1.0)
        C = max(C, np.finfo(float).tiny)  # most letters may be 0
    return aggregate(clip(updates, C), weights, rng)
