"""What one hospital does between two messages: gradient descent on its own records.

Derived in notebooks 01 and 02; mini-batches in notebook 05.
"""

from functools import lru_cache

import numpy as np

from .models import OfDesign, design, no_overflow_warning
from .privacy import clip


@no_overflow_warning
def sgd(model, theta, X, y, w, *, lr, steps, batches=None, mu=0.0, drift=0.0, C=None, noise=None):
    """θ ← θ − η[∇f(θ) + μ(θ − θ₀) + drift], `steps` times: (..., P) → (..., P).

    steps is one number, or one for each hospital (...). batches None uses all records in every step; otherwise
    the pair (rows, shares) of `draw_batches`, one batch a step. μ > 0 is FedProx (Li et al. 2020,
    arXiv:1812.06127), drift is SCAFFOLD's correction (Karimireddy et al. 2020, arXiv:1910.06378); at 0 this is
    plain gradient descent. With C every record's gradient is clipped, and noise (..., steps, P) added: DP-SGD, see
    `privacy.DPSGD`. Notebooks 01, 02, 08 and 13.
    """
    start, corrected = theta, mu != 0 or np.ndim(drift) > 0 or drift != 0
    fewest, most = (np.min(steps), np.max(steps)) if np.ndim(steps) else (steps, steps)
    grad = model.grad
    if isinstance(grad, OfDesign) and C is None:
        X, grad = design(X), grad.formula  # [X, 1] once, and not in every step
    for s in range(most):
        Xs, ys, ws = (X, y, w) if batches is None else take_batch(X, y, *batches, s)
        direction = grad(theta, Xs, ys, ws) if C is None else clipped_grad(model, theta, Xs, ys, ws, C)
        if noise is not None:
            direction = direction + noise[..., s, :]
        if corrected:
            direction = direction + mu * (theta - start) + drift
        rate = lr if s < fewest else (lr * (s < steps))[..., None].astype(theta.dtype)  # who has finished stays put
        step = rate * direction
        theta = np.subtract(theta, step, out=step)  # θ − η·direction; its memory is used again, for a large θ
    return theta


def draw_batches(w, size, steps, rng):
    """Which records each hospital uses in each step: rows and shares, both (..., steps, size).

    w (..., n) are row weights, 0 on padding. Each hospital shuffles its records once and walks through them
    in a circle, `size` at a time (all of them where it has fewer). A share is 1/(records in the batch), and 0 once
    the hospital has done its steps (one number, or one for each).
    """
    size, steps = min(size, w.shape[-1]), np.asarray(steps)[..., None, None]
    sizes = (w > 0).sum(-1)[..., None, None]
    shuffled = np.argsort(np.where(w > 0, rng.random(w.shape), np.inf), axis=-1)  # padding comes last
    full = np.minimum(size, sizes)
    step, seat = np.arange(steps.max(initial=0))[:, None], np.arange(size)
    place = (step * full + seat) % sizes
    flat = place.reshape(*w.shape[:-1], step.size * size)
    rows = np.take_along_axis(shuffled, flat, axis=-1).reshape(place.shape)
    return rows, ((seat < full) & (step < steps)) / full.astype(w.dtype)


def steps_in(epochs, sizes, batch):
    """⌈epochs · nₖ / batch⌉: the steps that a pass over the records takes in each hospital, (K,) → (K,)."""
    return np.ceil(epochs * sizes / np.minimum(batch, sizes)).astype(int)


def take_batch(X, y, rows, shares, s):
    """The records of step s: X (..., size, d), y (..., size) and their shares (..., size). rows None: all of them."""
    if rows is None:
        return X, y, shares[..., s, : y.shape[-1]]
    rows = rows[..., s, :]
    at = (*whose(rows.shape), rows)  # (k, rows) for a stack, (rows,) for one hospital
    return X[at], y[at], shares[..., s, :]


@lru_cache
def whose(shape):
    """The numbers of the hospitals, shaped so that they index beside rows of this shape."""
    return tuple(np.ogrid[tuple(map(slice, shape))][:-1])


def per_record_grad(model, theta, X, y):
    """∇fᵢ(θ) of every record: (..., n, P). A record is a hospital of size one."""
    one = np.ones((*y.shape, 1), X.dtype)
    return model.grad(theta[..., None, :], X[..., None, :], y[..., None], one)


def clipped_grad(model, theta, X, y, w, C):
    """Σᵢ wᵢ clip(∇fᵢ(θ), C): the gradient in which no record weighs more than wᵢC, (..., P). Notebook 13.

    A record whose gradient is not finite counts as 0: spoiling the sum, it would show by its hospital's being refused.
    """
    clipped = clip(per_record_grad(model, theta, X, y), C)
    return np.vecmat(w, np.where(np.isfinite(clipped).all(-1, keepdims=True), clipped, 0))
