"""K rows to one: what the server makes of the hospitals' updates.

An aggregator is a function (updates (K, P), weights (K,), rng) -> (P,). What the server may learn is
literally that list of arguments. Derived in notebook 03.
"""


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
    return weights @ updates / (weights.sum() or 1)  # the average of nobody is 0
