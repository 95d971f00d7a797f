"""Models on one flat parameter vector θ of length P.

Every function reads its axes from the right, X (..., n, d), y and w (..., n), theta (..., P), and never
mentions the number of hospitals: the line for one hospital is the line for a thousand. Row weights w
(1/n on each record, 0 on padding) turn a sum into a mean and make unequal hospitals need no mask.
Derived in notebooks 02 (linear, logistic) and 05 (network).
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Model(NamedTuple):
    """Four functions and a number; a new model is a new set of these five.

    init(rng) -> theta (P,) · predict(theta, X) -> (..., n) · loss(theta, X, y, w) -> (...)
    grad(theta, X, y, w) -> (..., P), the derivative of the loss · P, the number of parameters.
    """

    init: Callable
    predict: Callable
    loss: Callable
    grad: Callable
    P: int


no_overflow_warning = np.errstate(over="ignore")  # e⁻ᶻ too large for a float is ∞, and 1/∞ = 0 is the right σ(z)


def sigmoid(z):
    """σ(z) = 1 / (1 + e⁻ᶻ)."""
    return 1 / (1 + np.exp(-z))


def cross_entropy(z, y, w):
    """Σᵢ wᵢ [log(1 + e^zᵢ) − yᵢ zᵢ]: the loss −log p(y) of logits z (..., n), safe at any z."""
    return (w * (np.logaddexp(0, z) - y * z)).sum(-1)


def affine(theta, X):
    """Xβ + b, with θ = (β, b): (..., d+1), (..., n, d) → (..., n)."""
    return np.matvec(X, theta[..., :-1]) + theta[..., -1:]


def design(X):
    """[X, 1], the design matrix: one feature more that is 1 for everybody, whose weight is the intercept."""
    return np.concatenate([X, np.ones((*X.shape[:-1], 1), X.dtype)], axis=-1)


class OfDesign(NamedTuple):
    """A formula of (θ, [X, 1], …) that is called with (θ, X, …).

    Who calls it again and again on the same X makes design(X) once and calls `formula` instead, as `local.sgd` does.
    """

    formula: Callable

    def __call__(self, theta, X, *rest):
        """formula(θ, [X, 1], …)"""
        return self.formula(theta, design(X), *rest)


def linear(d):
    """Linear regression: ŷ = Xβ + b, loss ½ Σ w (ŷ − y)², P = d + 1 (intercept last). Notebook 02."""
    return Model(
        init=lambda rng: np.zeros(d + 1),
        predict=affine,
        loss=lambda theta, X, y, w: 0.5 * (w * (affine(theta, X) - y) ** 2).sum(-1),
        grad=OfDesign(lambda theta, Z, y, w: np.vecmat(w * (np.matvec(Z, theta) - y), Z)),
        P=d + 1,
    )


def logistic(d):
    """Logistic regression: p = σ(Xβ + b), loss = cross-entropy, P = d + 1 (intercept last). Notebook 02.

    The gradient is the linear one with p in place of ŷ: Zᵀ w(p − y), where Z = [X, 1].
    """
    return Model(
        init=lambda rng: np.zeros(d + 1),
        predict=no_overflow_warning(lambda theta, X: sigmoid(affine(theta, X))),
        loss=lambda theta, X, y, w: cross_entropy(affine(theta, X), y, w),
        grad=OfDesign(lambda theta, Z, y, w: np.vecmat(w * (sigmoid(np.matvec(Z, theta)) - y), Z)),
        P=d + 1,
    )


def bowl(P=1):
    """½ Σⱼ aⱼ(θⱼ − bⱼ)², the simplest loss there is; a record is (a, b), 2P numbers, and has no label. Notebook 07.

    Everything about a federation of bowls can be worked out on paper, so that is where theory is tried.
    """

    def away(theta, X):
        return theta[..., None, :] - X[..., P:]

    return Model(
        init=lambda rng: np.full(P, 5.0),
        predict=lambda theta, X: X[..., 0],
        loss=lambda theta, X, y, w: (w[..., None] * X[..., :P] * away(theta, X) ** 2 / 2).sum((-1, -2)),
        grad=lambda theta, X, y, w: (w[..., None] * X[..., :P] * away(theta, X)).sum(-2),
        P=P,
    )


def mlp(d, hidden=(64, 64)):
    """A network d → hidden → 1: ReLU between layers, sigmoid at the end, cross-entropy loss.

    θ lists, layer by layer, the weights W (in, out) row by row and then the biases b (out). He et al. 2015
    (arXiv:1502.01852) starting values: W ~ N(0, 2/in), b = 0. Derived in notebook 05.
    """
    widths = (d, *hidden)
    shapes = list(itertools.pairwise(widths))
    head = widths[-1] + 1  # the last layer is logistic regression on what the hidden ones make of x
    P = sum((i + 1) * o for i, o in shapes) + head

    def layers(theta):
        """Views [(W, b), …] of the hidden layers into θ: nothing is copied."""
        found, at = [], 0
        for i, o in shapes:
            W = theta[..., at : at + i * o].reshape(*theta.shape[:-1], i, o)
            b = theta[..., at + i * o : at + (i + 1) * o]
            found.append((W, b))
            at += (i + 1) * o
        return found

    def forward(pairs, X):
        """x and the activations of every hidden layer, max(0, aW + b): [(..., n, width), …]."""
        activations = [X]
        for W, b in pairs:
            activations.append(np.maximum(0, activations[-1] @ W + b[..., None, :]))
        return activations

    def init(rng):
        pairs = [(rng.normal(0, np.sqrt(2 / i), i * o), np.zeros(o)) for i, o in (*shapes, (widths[-1], 1))]
        return np.concatenate([part for pair in pairs for part in pair])

    def logits(theta, X):
        return affine(theta[..., -head:], forward(layers(theta), X)[-1])

    def grad(theta, X, y, w):
        """Backpropagation: the error of a layer is the next one's, through Wᵀ, where the ReLU was open."""
        pairs, last = layers(theta), theta[..., -head:]
        activations = forward(pairs, X)
        residual = w * (sigmoid(affine(last, activations[-1])) - y)
        found = np.empty((*residual.shape[:-1], P), residual.dtype)  # filled through the views of layers(found)
        np.vecmat(residual, activations[-1], out=found[..., -head:-1])
        found[..., -1] = residual.sum(-1)
        error = residual[..., None] * last[..., None, :-1]
        below = enumerate(zip(pairs, layers(found), strict=True))
        for at, ((W, _), (dW, db)) in reversed(list(below)):
            error *= activations[at + 1] > 0
            np.matmul(activations[at].mT, error, out=dW)
            db[...] = error.sum(-2)
            if at:  # below the first layer there is nobody to blame
                error = error @ W.mT
        return found

    return Model(
        init,
        no_overflow_warning(lambda theta, X: sigmoid(logits(theta, X))),
        lambda theta, X, y, w: cross_entropy(logits(theta, X), y, w),
        grad,
        P,
    )
