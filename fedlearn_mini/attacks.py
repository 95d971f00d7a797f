"""What an update gives away, and a lower bound on what a mechanism protects. Notebooks 11 and 13.

Attacks are functions of what the attacker sees: a gradient, an update, a model's predictions.
"""

import math

import numpy as np

from .accountant import smallest
from .checks import number, shaped, whole
from .data import stack
from .federation import alone
from .models import sigmoid


def invert_gradient(grad_W, grad_b):
    """x = ∂L/∂W · 1/∂L/∂b, the record behind each neuron: grad_W (d, h), grad_b (h,) -> candidates (h, d).

    For one record the gradient of a first layer is the outer product ∂L/∂W = x eᵀ, and ∂L/∂b = e: every neuron with
    eⱼ ≠ 0 gives x exactly. Of a batch, neuron j gives the mean of the records that switched it on, weighted by their
    errors: a record that was alone there is laid bare. An update −η∇ of one step gives the same, because η cancels.
    A neuron that nobody switched on gives NaN. Zhu, Liu and Han 2019 (arXiv:1906.08935) had to search; here it is
    division. Notebook 11.

    >>> x, error = np.array([61.0, 1.0]), np.array([0.5, 0.0])
    >>> invert_gradient(np.outer(x, error), error)  # ∂L/∂W = x eᵀ: the record, and a neuron that was silent
    array([[61.,  1.],
           [nan, nan]])
    """
    silent = abs(grad_b) <= 1e-12 * abs(grad_b).max(initial=0)
    return np.where(silent[:, None], np.nan, grad_W.T / np.where(silent, 1, grad_b)[:, None])


def revealed(candidates, records, tol=1e-3):
    """Which records (n, d) stand among the candidates (m, d), each number to within tol: (n,) of bool."""
    distance = abs(candidates[:, None] - records).max(-1)
    return (np.nan_to_num(distance, nan=np.inf) < tol).any(0)


def imprint(d, hidden, direction, thresholds):
    """A first layer that sorts records into bins: θ of `models.mlp(d, (hidden,))` that a malicious server sends, (P,).

    Every neuron measures the same number v·x, direction v (d,), and fires above its own of the thresholds
    (hidden,). The gradients of two neighbours differ by the records between their thresholds; see `read_imprint`.
    The last layer is even and small, so that every neuron counts alike and no prediction is extreme.
    Fowl et al. 2022, arXiv:2110.13057. Notebook 11.
    """
    shaped("thresholds", np.asarray(thresholds), (hidden,))
    W = np.tile(np.reshape(direction, (d, 1)), hidden)
    return np.concatenate([W.ravel(), -np.sort(thresholds), np.ones(hidden) / hidden, [0.0]])


def read_imprint(grad_W, grad_b):
    """Candidates (h, d) from the gradient of an imprinted layer: neighbours are subtracted before the division.

    From an update it works after one local step; then the last layer has moved, and neurons no longer count alike.
    """
    return invert_gradient(-np.diff(grad_W, append=0, axis=1), -np.diff(grad_b, append=0))


def two_patients(thetas, gradients, reach=50.0):
    """The patients of a hospital of two, from two full-batch gradients of a logistic model: ((x, y), (x, y)).

    thetas and gradients (2, d + 1), at two different models. Both gradients are (r₁x̃₁ + r₂x̃₂)/2 with x̃ = (x, 1): they
    span the plane in which both patients lie, at x̃ = u + sv. For each pair of labels s₁ is tried from −reach to
    reach; one number of the gradients then gives s₂, and the three others tell whether the pair is right. Raises a
    ValueError where none is. Notebook 11.
    """
    shaped("thetas", thetas, np.shape(gradients))
    if np.shape(gradients)[:-1] != (2,):
        raise ValueError(f"two gradients are needed, as an array (2, d + 1), not {np.shape(gradients)}.")
    first, second = np.linalg.svd(gradients, full_matrices=False)[2]
    v = first * second[-1] - second * first[-1]  # in the plane, and 0 in the last place
    v = v / np.linalg.norm(v)
    u = max(first - first @ v * v, second - second @ v * v, key=lambda one: abs(one[-1]))
    u = u / u[-1]  # in the plane, across v, and 1 in the last place
    total = 2 * gradients[:, -1]  # r₁ + r₂ at each of the two models
    moment = (2 * gradients - total[:, None] * u) @ v  # s₁r₁ + s₂r₂
    a, b = (thetas @ u)[:, None], (thetas @ v)[:, None]  # the logit of a patient at s is a + sb
    t, found = abs(b).argmax(), []
    for y1, y2 in ((0, 0), (0, 1), (1, 1)):
        centre, width = 0.0, reach
        for _ in range(20):  # look, then look closer
            s1 = centre + np.linspace(-width, width, 4001)
            with np.errstate(all="ignore"):
                p1 = sigmoid(a + s1 * b)
                p2 = total[t] + y1 + y2 - p1[t]
                s2 = (np.log(p2 / (1 - p2)) - a[t]) / b[t]
                r1, r2 = p1 - y1, sigmoid(a + s2 * b) - y2
            missed = abs(r1 + r2 - total[:, None]) + abs(s1 * r1 + s2 * r2 - moment[:, None])
            missed = np.nan_to_num(missed.sum(0), nan=np.inf)
            at = missed.argmin()
            centre, width = s1[at], width / 8
        found.append((missed[at], s1[at], y1, s2[at], y2))
    missed, s1, y1, s2, y2 = min(found)
    if not missed < 1e-6:
        raise ValueError("no two patients explain these gradients: are they full-batch, of two records, at two models?")
    return ((u + s1 * v)[:-1], y1), ((u + s2 * v)[:-1], y2)


def membership_scores(model, theta, X, y):
    """−loss of each record: the higher, the more the model looks as if it had seen it. (..., n), theta (..., P).

    Yeom et al. 2018, arXiv:1709.01604. Notebook 11.
    """
    one = np.ones((*y.shape, 1), X.dtype)
    return -model.loss(theta[..., None, :], X[..., None, :], y[..., None], one)


def worlds(model, plan, X, y, *, shadows=32, rng):
    """Who is in which hospital, (1 + shadows, n) of bool, and the model that each trains alone: (1 + shadows, P).

    model, plan  the recipe: one round by itself, all in one call, because a hospital is a row
    X, y         records (n, d) and labels (n,); the first half of them is hospital 0, the real one
    shadows      hospitals of the attacker's own; every record is in half of them
    rng          draws who is in which

    What `lira` is made from. Notebooks 11 and 13.
    """
    member = np.zeros((1 + whole("shadows", shadows, least=2), len(y)), bool)
    member[0, : len(y) // 2] = True
    for column in member[1:].T:
        column[rng.permutation(shadows)[: shadows // 2]] = True
    row, who = np.nonzero(member)
    names = [f"{k:0{len(str(shadows))}d}" for k in row]  # sorted as they are counted
    return member, alone(model, stack(X[who], y[who], names), plan, rounds=1)


def lira(scores, member, observed):
    """log N(o; μ_in, s) − log N(o; μ_out, s) of each record: (S, n), (S, n) of bool, (n,) -> (n,).

    scores are log(p/(1−p)) of the true label under S shadow models that the attacker trained, member says which of them
    had which record, observed are the attacked model's. One spread s for all, because S is small: a
    light form of LiRA, "online, fixed variance" in the program of Carlini et al. 2022, arXiv:2112.03570. Notebook 11.
    """
    scores, member, observed = np.asarray(scores), np.asarray(member, bool), np.asarray(observed)
    shaped("member", member, np.shape(scores))
    shaped("observed", observed, np.shape(scores)[1:])
    if member.all(0).any() or not member.any(0).all():
        raise ValueError("every record must be in some of the shadow models and out of some of them.")
    ins, outs = (np.where(mask, scores, np.nan) for mask in (member, ~member))
    middle_in, middle_out = np.nanmean(ins, axis=0), np.nanmean(outs, axis=0)
    spread = np.where(member, scores - middle_in, scores - middle_out).std()
    return ((observed - middle_out) ** 2 - (observed - middle_in) ** 2) / (2 * spread**2)


def logit_scores(model, theta, X, y):
    """log(p/(1−p)) of the true label, which the loss gives: p = e^−loss. (..., n)"""
    score = np.minimum(membership_scores(model, theta, X, y), -1e-12)
    return score - np.log(-np.expm1(score))


def clopper_pearson(successes, trials, level=0.95):
    """Lower and upper limit of a chance, each wrong at most (1 − level)/2 of the time: (low, high).

    The chances at which so many successes, or so few, would be that unlikely. Clopper and Pearson 1934, Biometrika 26.

    >>> low, high = clopper_pearson(7, 10)
    >>> round(low, 3), round(high, 3)
    (0.348, 0.933)
    """
    k, n = whole("successes", successes, least=0), whole("trials", trials)
    number("level", level, above=0, below=1)
    if k > n:
        raise ValueError(f"there cannot be more successes ({k}) than trials ({n}).")
    wrong = (1 - level) / 2
    ways = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(n + 1)]

    def tail(p, counts):
        """P(the number of successes is one of counts) where each has the chance p."""
        return sum(math.exp(ways[i] + i * math.log(p) + (n - i) * math.log1p(-p)) for i in counts)

    low = 0.0 if k == 0 else smallest(lambda p: tail(p, range(k, n + 1)) >= wrong, 0, 1)
    high = 1.0 if k == n else smallest(lambda p: tail(p, range(k + 1)) <= wrong, 0, 1)
    return low, high


def audit(with_record, without_record, delta=0.0, level=0.95):
    """A lower bound on ε from an experiment: scores (m,) of runs with one record, and (m,) of runs without it.

    (ε, δ)-differential privacy bounds every attacker: TPR ≤ e^ε FPR + δ. Half of the runs choose the threshold, the
    other half count, and log((TPR − δ)/FPR) with Clopper–Pearson limits on both is below the true ε with the chance
    `level`. If it is above the claimed ε the mechanism is broken; if not, nothing is proved. Jagielski, Ullman and
    Oprea 2020, arXiv:2006.07709. Notebook 13.
    """
    number("delta", delta, least=0, below=1)
    a, b = (np.asarray(scores, float) for scores in (with_record, without_record))
    if min(a.size, b.size) < 20 or not (a.ndim == b.ndim == 1 and np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(f"an audit needs two lists of at least 20 finite scores, but has {a.shape} and {b.shape}.")
    best = (-1.0, np.inf, 1)
    for sign in (1, -1):  # the record may raise the score or lower it
        ins, outs = np.sort(sign * a[::2]), np.sort(sign * b[::2])
        thresholds = np.concatenate([ins, outs])
        missed = np.searchsorted(ins, thresholds, side="right"), np.searchsorted(outs, thresholds, side="right")
        tpr, fpr = 1 - missed[0] / ins.size, 1 - missed[1] / outs.size
        guess = np.maximum(tpr - delta - 2 / ins.size, 0) / (fpr + 4 / outs.size)  # roughly what the limits will be
        at = guess.argmax()
        best = max(best, (guess[at], thresholds[at], sign))
    _, threshold, sign = best
    hits, false = int((sign * a[1::2] > threshold).sum()), int((sign * b[1::2] > threshold).sum())
    low, high = clopper_pearson(hits, a[1::2].size, level)[0], clopper_pearson(false, b[1::2].size, level)[1]
    return max(0.0, math.log(max(low - delta, 1e-300) / high))
