"""What noise is worth: ε at δ for Gaussian releases, counted in three ways that check each other.

Neighbouring tables differ by one record (or one hospital) that is added or removed. A mechanism is a tuple
(sigma, q, steps): `steps` releases of a sum of sensitivity 1, each with noise σN(0, I) and over a Poisson sample that
takes everybody with chance q. Derived in notebook 12, used in notebook 13.
"""

import math
from functools import lru_cache

import numpy as np

from .checks import number, whole

TAIL = 1e-15  # δ at which the grid may end
GRIDS = (9841, 16402, 25312)  # cells above 0; all the 2·cells + 1 points are a product of 3s and 5s


def epsilon(sigma, q, steps, delta, accountant="rdp"):
    """ε at δ for `steps` sampled Gaussian releases: an upper bound; "pld" is tight, "rdp" is the textbook's.

    σ = 0 gives ∞: without noise there is no promise. At σ = 1, q = 1, one step and δ = 1e-5 RDP says 4.73 and PLD 4.38,
    the exact value. Raises a ValueError for σ < 0, q outside (0, 1], δ outside (0, 1). Notebook 12.

    >>> round(epsilon(1, 1, 1, 1e-5), 2), round(epsilon(1, 1, 1, 1e-5, "pld"), 2)
    (4.73, 4.38)
    """
    whole("steps", steps)
    return composed([(sigma, q, steps)], delta, accountant)


def composed(mechanisms, delta, accountant="rdp"):
    """ε at δ of several mechanisms (sigma, q, steps) one after another, on the same records. It checks every number."""
    kinds = {"rdp": rdp_epsilon, "pld": pld_epsilon}
    if accountant not in kinds:
        raise ValueError(f"the accountant must be 'rdp' or 'pld', but it is {accountant!r}.")
    number("delta", delta, above=0, below=1)
    mechanisms = [
        (
            number("sigma", sigma, least=0, most=1e12),
            number(
                "q", q, above=0, most=1, hint="q is the chance that a record takes part in a step; 1 is all of them."
            ),
            whole("steps", steps, least=0),
        )
        for sigma, q, steps in mechanisms
    ]
    mechanisms = [one for one in mechanisms if one[2]]
    if not mechanisms:
        return 0.0
    if min(sigma for sigma, _, _ in mechanisms) < 1e-6:  # beyond ε = 10¹¹ there is nothing to tell apart
        return math.inf
    return kinds[accountant](mechanisms, delta)


def sigma_for(epsilon, delta, q=1.0, steps=1, accountant="rdp"):
    """The smallest noise multiplier σ (to one part in 10⁴, never below) whose ε at δ is at most `epsilon`.

    >>> round(sigma_for(1, 1e-5, steps=50, accountant="pld"), 2)
    26.38
    """
    number("epsilon", epsilon, above=0)
    whole("steps", steps)

    def enough(exponent):
        return composed([(10**exponent, q, steps)], delta, accountant) <= epsilon

    if not enough(9):
        raise ValueError(f"no noise multiplier up to 10⁹ gives ε = {epsilon:g} at δ = {delta:g} in {steps} steps.")
    return 10 ** smallest(enough, -2, 9, to=4e-5)


def smallest(enough, low, high, to=1e-12):
    """The smallest value from low to high at which enough(value) is true, and so above: `to` too large at most."""
    while high - low > to:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


# --- Rényi differential privacy -------------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def rdp(sigma, q, low, high, count=80):
    """Orders a from low to high, and the Rényi divergence of one release at each: two arrays (count,).

    log E_{z~N(0,σ²)} (1 − q + q e^{(2z−1)/2σ²})^a / (a − 1), which at q = 1 is a/2σ². The expectation is a sum over
    a grid: for so smooth a function it is exact to rounding. Below σ = 0.2, where no promise is left, sampling is not
    counted. Mironov, Talwar and Zhang 2019, arXiv:1908.10530.
    """
    a = 1 + np.geomspace(low, high, count)
    if q == 1 or sigma < 0.2:
        return a, a / (2 * sigma**2)
    h = min(sigma / 4, sigma**2 / 2)
    z = np.arange(-12 * sigma, a[-1] + 12 * sigma, h)
    ratio = np.logaddexp(np.log1p(-q), np.log(q) + (2 * z - 1) / (2 * sigma**2))
    density = -(z**2) / (2 * sigma**2) + np.log(h / (sigma * np.sqrt(2 * np.pi)))
    exponent = a[:, None] * ratio + density
    top = exponent.max(-1)
    return a, (top + np.log(np.exp(exponent - top[:, None]).sum(-1))) / (a - 1)


def rdp_epsilon(mechanisms, delta):
    """min over a of Σ RDP(a) + log((a−1)/a) − (log δ + log a)/(a−1): divergences add up, the best order converts.

    Mironov 2017 (arXiv:1702.07476); conversion of Canonne, Kamath and Steinke 2020 (arXiv:2004.00010). Orders are
    searched twice: over all sizes, then closely around the best.
    """
    low, high = 1e-2, max(64, 500 * min(sigma for sigma, _, _ in mechanisms))
    for _ in range(2):
        curves = [(steps, *rdp(sigma, q, low, high)) for sigma, q, steps in mechanisms]
        a = curves[0][1]
        bound = sum(steps * curve for steps, _, curve in curves)
        bound = bound + np.log((a - 1) / a) - (np.log(delta) + np.log(a)) / (a - 1)
        best = bound.argmin()
        low, high = a[max(best - 1, 0)] - 1, a[min(best + 1, a.size - 1)] - 1
    return float(max(0, bound[best]))


# --- privacy loss distribution --------------------------------------------------------------------------------------


def tail(z):
    """P(N(0, 1) > z), elementwise."""
    return np.frompyfunc(math.erfc, 1, 1)(z / math.sqrt(2)).astype(float) / 2


def between(z):
    """P(zᵢ < N(0, 1) < zᵢ₊₁) for increasing z: tails are subtracted on the side where they are small."""
    small = tail(abs(z))
    return np.where(z[:-1] * z[1:] < 0, 1 - small[:-1] - small[1:], abs(small[:-1] - small[1:]))


@lru_cache(maxsize=64)
def loss_cells(sigma, q, top, half):
    """Probabilities of the loss log(P/Q) in the 2·half cells of a grid from −top to top: with the record, without it.

    With the record the release is (1 − q)N(0, σ²) + qN(1, σ²), without it N(0, σ²). The loss grows with z, so that a
    cell of losses is a stretch of z. Two arrays (2·half + 2,): the first number of each is what lies below the grid,
    the last what lies above.
    """
    x = np.expm1(np.linspace(-top, top, 2 * half + 1)) / q + 1
    z = np.full(x.size + 2, -np.inf)
    z[1:-1][x > 0] = 0.5 + sigma**2 * np.log(x[x > 0])
    z[-1] = np.inf
    near = np.searchsorted(z, [-10 * sigma, 1 + 10 * sigma]) + [-1, 1]  # elsewhere is less than 10⁻²²
    zero, one = np.zeros((2, z.size - 1))
    zero[near[0] : near[1] - 1] = between(z[near[0] : near[1]] / sigma)
    one[near[0] : near[1] - 1] = between((z[near[0] : near[1]] - 1) / sigma)
    return (1 - q) * zero + q * one, zero


def connect_the_dots(P, Q, step):
    """Each cell's probability under P dealt to its two ends, so that the one under Q stays right as well.

    P, Q (m,) cells, step their width in loss -> masses of P on the m + 1 ends. The curve δ(ε) is then exact on the
    grid and a chord above the truth between. Doroshenko et al. 2022, arXiv:2207.04380.
    """
    upper = (P - np.exp(step * (np.arange(P.size) - P.size // 2)) * Q) / -np.expm1(-step)
    return np.pad(upper, (1, 0)) + np.pad(P - upper, (0, 1))


def pld_epsilon(mechanisms, delta):
    """ε at δ from the distribution of the total privacy loss: losses add up, so their distributions are convolved.

    On a grid wide enough for nearly all of the total, a convolution is a product after the Fourier transform. Both
    directions count: the record removed, and added. Koskela et al. 2020, arXiv:1906.03049. Where ε is beyond several
    hundred, and means nothing, or δ so small that rounding would decide, RDP's bound is returned, as it is where it is
    the lower one. Notebook 12.
    """
    loose, top = rdp_epsilon(mechanisms, delta), 1.3 * rdp_epsilon(mechanisms, TAIL)
    total = sum(steps for _, _, steps in mechanisms)
    if not 0 < top < 600 or delta < max(1e-10, 1e-14 * total):
        return loose
    half = next(cells for cells in GRIDS if cells >= min(GRIDS[-1], 150 * math.sqrt(total)))
    losses = np.linspace(-top, top, 2 * half + 1)
    worst = 0.0
    for removed in (True, False):
        spectrum, beyond = 1, 0.0
        for sigma, q, steps in mechanisms:
            P, Q = loss_cells(sigma, q, top, half)
            if not removed:
                P, Q = Q[::-1], P[::-1]
            masses = connect_the_dots(P[1:-1], Q[1:-1], losses[1] - losses[0])
            spectrum = spectrum * np.fft.rfft(np.fft.ifftshift(masses)) ** steps
            beyond += steps * P[-1]  # a loss above the grid counts as infinite
        masses = np.fft.fftshift(np.fft.irfft(spectrum, losses.size))
        above = np.cumsum(masses[::-1])[::-1] + beyond
        weighted = np.cumsum((masses * np.exp(-losses))[::-1])[::-1]
        exceeds = np.flatnonzero(above - np.exp(losses) * weighted > delta)
        at = exceeds[-1] + 1 if exceeds.size else 0  # δ(ε) = above − e^ε · weighted in this cell
        if at == losses.size:
            return loose
        worst = max(worst, math.log((above[at] - delta) / weighted[at]) if at > half else 0.0)
    return min(worst, loose)


# --- one Gaussian release, exactly ----------------------------------------------------------------------------------


def gaussian_delta(epsilon, sigma):
    """δ(ε) = Φ(1/2σ − εσ) − e^ε Φ(−1/2σ − εσ), exact for one release of sensitivity 1: a number.

    Balle and Wang 2018, arXiv:1805.06530. T full-batch steps are one release at σ/√T. Notebook 12.
    """
    number("sigma", sigma, above=0)
    number("epsilon", epsilon, least=0, most=700)
    a, b = epsilon * sigma - 1 / (2 * sigma), epsilon * sigma + 1 / (2 * sigma)
    return max(0.0, (math.erfc(a / math.sqrt(2)) - math.exp(epsilon) * math.erfc(b / math.sqrt(2))) / 2)


def gaussian_epsilon(sigma, delta):
    """The smallest ε at δ of one Gaussian release of sensitivity 1, exact: ∞ where it is beyond 700."""
    number("delta", delta, above=0, below=1)
    if gaussian_delta(700, sigma) > delta:
        return math.inf
    return smallest(lambda epsilon: gaussian_delta(epsilon, sigma) <= delta, 0, 700)


def gaussian_sigma(epsilon, delta):
    """The smallest σ at which one Gaussian release of sensitivity 1 is (ε, δ)-differentially private, exact."""
    number("epsilon", epsilon, above=0, most=700)
    number("delta", delta, above=0, below=1)
    return 10 ** smallest(lambda exponent: gaussian_delta(epsilon, 10**exponent) <= delta, -3, 15)
