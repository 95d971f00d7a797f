"""Clipping, Gaussian noise and what they are worth: differential privacy in its simplest honest form.

The unit of protection here is one whole *hospital* (add or remove one), the noise is added by the *server*,
which is trusted, and NumPy's generator makes it: simulation noise, good for a lesson. A product must not use
it (floating-point attacks: Mironov 2012, doi:10.1145/2382196.2382264) but a library such as OpenDP.
Shown in notebook 06.
"""

import math

import numpy as np

from .checks import number, whole

ORDERS = np.concatenate([np.arange(1.01, 2, 0.01), np.arange(2, 64, 0.1), np.geomspace(64, 1e6, 400)])


def clip(updates, C):
    """Δ ← Δ · min(1, C / ‖Δ‖₂), one norm per row: (..., P) → (..., P).

    Bounds how far one hospital can move the sum: sensitivity C. Abadi et al. 2016, arXiv:1607.00133. Notebook 06.
    """
    norm = np.linalg.norm(updates, axis=-1, keepdims=True)
    shrink = np.minimum(1, C / np.maximum(norm, 1e-12))
    return updates * shrink.astype(np.result_type(updates.dtype, np.float32))


def noisy_mean(updates, weights, rng, *, C, sigma, expected):
    """(Σₖ clip(Δₖ, C) + σC·N(0, I)) / expected: an aggregator (K, P) → (P,) that blurs any one hospital.

    Every hospital counts the same: with size weights the sensitivity would not be C, and sizes are themselves
    records. `expected` is the number of hospitals fixed *before* the round, never the number that answered, which
    would give away who was there. The noise speaks to whoever sees the models, not to the server. Sensitivity C needs
    one row per hospital and round: `late` updates (two rows) and SCAFFOLD (controls travel too) are not covered.
    McMahan et al. 2018, arXiv:1710.06963. Notebook 06.
    """
    total = clip(updates, C).sum(axis=0)  # of nobody it is 0, and 0 gets its noise too
    noise = rng.normal(0, sigma * C, total.shape)  # the L2 sensitivity is C, because every row was clipped
    return ((total + noise) / expected).astype(total.dtype)


def epsilon(sigma, steps, delta):
    """ε at δ for `steps` Gaussian releases with noise multiplier σ in which everybody may take part.

    Rényi divergence of order a is a·T/(2σ²) (Mironov 2017, arXiv:1702.07476); the best order is converted by
    ε = aT/2σ² + log((a−1)/a) − (log δ + log a)/(a−1) (Canonne, Kamath and Steinke 2020, arXiv:2004.00010).
    An upper bound: at σ = 1, T = 1, δ = 1e-5 it says 4.73 where 4.38 is exact, and for small ε it is looser. σ = 0
    gives ∞: without noise there is no promise. Hospitals that are invited at random are counted as if always there.
    """
    number("sigma", sigma, least=0)
    number("delta", delta, above=0, below=1)
    whole("steps", steps)
    if sigma == 0:
        return math.inf
    a = ORDERS
    bound = a * steps / (2 * sigma**2) + np.log((a - 1) / a) - (np.log(delta) + np.log(a)) / (a - 1)
    return float(max(0, bound.min()))
