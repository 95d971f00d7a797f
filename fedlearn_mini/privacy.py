"""Clipping and noise: differential privacy in its simplest honest form.

What the noise is worth is in `accountant`, whose `epsilon`, `sigma_for` and so on can be called from here too, and
what a federation has spent is in `ledger`. NumPy's generator makes the noise: *simulation noise*, good for a lesson.
A product must not use it (floating-point attacks: Mironov 2012, doi:10.1145/2382196.2382264) but a library such as
OpenDP. Derived in notebook 12, used in notebooks 06 and 13.
"""

from typing import NamedTuple

import numpy as np

from .accountant import composed as composed
from .accountant import epsilon as epsilon
from .accountant import gaussian_delta as gaussian_delta
from .accountant import gaussian_epsilon as gaussian_epsilon
from .accountant import gaussian_sigma as gaussian_sigma
from .accountant import sigma_for as sigma_for
from .checks import number

PLACES = ("hospital", "distributed", "server")  # who adds the noise


def clip(updates, C):
    """Δ ← Δ · min(1, C / ‖Δ‖₂), one norm per row: (..., P) → (..., P).

    Bounds how far one row (a hospital's update, a record's gradient) can move a sum: sensitivity C. A row with a NaN
    comes out as NaN, never as if it were short. Abadi et al. 2016, arXiv:1607.00133. Notebook 12.
    """
    updates = np.asarray(updates)
    norm = np.linalg.norm(updates, axis=-1, keepdims=True)
    shrink = np.minimum(1, C / np.maximum(norm, 1e-12))
    return updates * shrink.astype(np.result_type(updates.dtype, np.float32))


def randomised_response(bits, epsilon, rng):
    """Each bit told truly with chance e^ε/(1 + e^ε), otherwise flipped: ε-differentially private, (...) -> (...).

    Who answers adds the noise; nobody need be trusted. Warner 1965, doi:10.1080/01621459.1965.10480775. Notebook 12.
    """
    number("epsilon", epsilon, above=0)
    if not np.isin(bits, (0, 1)).all():
        raise ValueError("randomised response is for answers 0 and 1.")
    truly = rng.random(np.shape(bits)) < 1 / (1 + np.exp(-epsilon))
    return np.where(truly, bits, 1 - np.asarray(bits))


def laplace(value, sensitivity, epsilon, rng):
    """value + Laplace(sensitivity / ε): ε-differentially private where one record moves the value by `sensitivity`.

    value is a number or an array, whose sensitivity is measured in L1. Dwork et al. 2006, doi:10.1007/11681878_14.
    Notebook 12.
    """
    number("epsilon", epsilon, above=0)
    number("sensitivity", sensitivity, above=0)
    return value + np.random.default_rng(rng).laplace(0, sensitivity / epsilon, np.shape(value))


def gaussian(value, sensitivity, sigma, rng):
    """value + sensitivity · σN(0, I), the sensitivity in L2: what it is worth, `epsilon` and `gaussian_delta` say."""
    number("sigma", sigma, least=0)
    number("sensitivity", sensitivity, above=0)
    return value + np.random.default_rng(rng).normal(0, sensitivity * sigma, np.shape(value))


# --- one record: DP-SGD inside each hospital ------------------------------------------------------------------------


class DPSGD(NamedTuple):
    """DP-SGD at every hospital: Plan(private=DPSGD(C=1, sigma=2, q=0.1)). The unit is one *record*, added or removed.

    C bounds each record's gradient (intercept included) · sigma noise multiplier, σC is the noise on a sum of clipped
    gradients · q the chance that a record takes part in a step (1: all do) · where says who adds the noise:
    "hospital", σC in every hospital, trusted by its patients and nobody else need be; "distributed", σC/√K in each of K
    hospitals, so that only the sum carries σC: worth something only if the server sees nothing but the sum;
    "server", σC added by the server to a sum that it has seen. Abadi et al. 2016, arXiv:1607.00133. Notebook 13.
    """

    C: float
    sigma: float
    q: float = 1.0
    where: str = "hospital"

    def checked(self):
        number("C", self.C, above=0, hint="C is the largest gradient that one record may have; try 1.")
        number("sigma", self.sigma, least=0, hint="sigma=0 is no noise, and no promise.")
        number("q", self.q, above=0, most=1, hint="q=1 takes every record in every step.")
        if self.where not in PLACES:
            raise ValueError(f"where must be 'hospital', 'distributed' or 'server', but it is {self.where!r}.")

    def draw(self, w, theta, steps, rng):
        """The chance of all steps: shares (k, steps, n) of every record, and noise (k, steps, P).

        A record that takes part has the share 1/(q·nₖ): the sum is divided by the *expected* batch, because the size of
        the real one would tell who was in it. An empty batch is a step of noise alone.
        """
        taken = rng.random((len(w), steps, w.shape[-1])) < self.q
        expected = w.max(-1)[:, None, None] / self.q  # 1/(q·nₖ)
        std = self.sigma * self.C * {"hospital": 1, "distributed": len(w) ** -0.5, "server": 0}[self.where]
        noise = std * expected * rng.normal(size=(len(w), steps, theta.shape[-1]))
        return taken * (w / self.q)[:, None], noise.astype(theta.dtype)

    def server_noise(self, sizes, lr, theta, rng):
        """What the server adds to the average of updates of one step each: its sum of gradients then carries σC."""
        if self.where != "server" or not sizes.size:
            return 0
        return rng.normal(0, lr * self.sigma * self.C / (self.q * sizes.sum()), theta.shape).astype(theta.dtype)


# --- one hospital: DP-FedAvg ----------------------------------------------------------------------------------------


def noisy_mean(updates, weights, rng, *, C, sigma, expected, cap=None):
    """(Σₖ vₖ clip(Δₖ, C) + σC·N(0, I)) / expected: an aggregator (K, P) → (P,) that blurs any one hospital.

    vₖ = 1, or with a cap min(nₖ/cap, 1): never the plain size, which would make the sensitivity max nₖ · C. `expected`
    is Σ vₖ as fixed *before* the round, never counted from who answered, which would give away who was there. The
    noise speaks to whoever sees the models, not to the server. Sensitivity C needs one row per hospital and round,
    which depends on no other hospital: a Plan refuses `late` updates, SCAFFOLD and FedNova's average, and an `uplink`
    must act on each row by itself. McMahan et al. 2018, arXiv:1710.06963. Notebooks 06 and 13.
    """
    clipped = clip(updates, C)
    if cap is not None:
        clipped = clipped * np.minimum(weights / cap, 1)[:, None].astype(clipped.dtype)
    total = clipped.sum(axis=0)  # of nobody it is 0, and 0 gets its noise too
    noise = rng.normal(0, sigma * C, total.shape)  # the L2 sensitivity is C, because every row was clipped
    return ((total + noise) / expected).astype(total.dtype)


def check_noisy_mean(settings):
    """A ValueError if the settings of a partial(noisy_mean, …) are missing or cannot be."""
    if not {"C", "sigma", "expected"} <= set(settings):
        raise ValueError("noisy_mean needs its settings: aggregate=partial(noisy_mean, C=1, sigma=2, expected=10).")
    number("noisy_mean's C", settings["C"], above=0)
    number("noisy_mean's sigma", settings["sigma"], least=0)
    number("noisy_mean's expected", settings["expected"], above=0)
    if settings.get("cap") is not None:
        number("noisy_mean's cap", settings["cap"], above=0)


def noisy_rows(updates, rng, *, C, sigma, share=1.0):
    """clip(Δₖ, C) + √share · σC·N(0, I): an uplink (K, P) → (K, P) for hospitals that add the noise themselves.

    share = 1: every hospital is safe from everybody, at √K times the noise on the sum. share = 1/K: only the sum
    carries σC, so the server must see nothing but the sum. Use with `aggregate.mean`. The ledger does not
    count it, and two runs with one seed carry equal noise. Notebook 13.
    """
    clipped = clip(updates, C)
    return clipped + (np.sqrt(share) * sigma * C * rng.normal(size=updates.shape)).astype(clipped.dtype)
