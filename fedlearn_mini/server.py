"""What the server does with the average: Server(init, step). Notebooks 03 and 08."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .checks import number


class Server(NamedTuple):
    """What the server does with the aggregated update, and what it remembers.

    init  theta (P,) -> memory, {name: array} that is carried from round to round and saved; {} for plain averaging
    step  (theta (P,), update Δ (P,), memory) -> theta, memory
    """

    init: Callable
    step: Callable


def fedavg(lr=1.0, momentum=0.0) -> Server:
    """m ← βm + Δ, θ ← θ + ηm. At lr = 1 and momentum β = 0 the new model is the average of the hospitals' models.

    McMahan et al. 2017, arXiv:1602.05629; with momentum it is FedAvgM (Hsu et al. 2019, arXiv:1909.06335),
    without the Nesterov step of that paper.

    >>> fedavg(lr=0.5).step(np.array([1.0]), np.array([4.0]), {})
    (array([3.]), {})
    """
    number("the server's lr", lr, above=0, hint="lr=1 is plain averaging.")
    number("momentum", momentum, least=0, below=1, hint="momentum=0 is plain averaging.")

    def step(theta, update, memory):
        m = update + momentum * memory["m"] if momentum else update
        return theta + lr * m, {"m": m} if momentum else {}

    return Server(lambda theta: {"m": np.zeros_like(theta)} if momentum else {}, step)


def adaptive(v_next, lr, beta1, tau) -> Server:
    """m ← β₁m + (1 − β₁)Δ, v ← v_next(v, Δ²), θ ← θ + ηm/(√v + τ); v starts at τ².

    Algorithm 2 of Reddi et al. 2021 (arXiv:2003.00295), which has no bias correction. As τ → ∞ with η = 2τ·η′
    and β₁ = 0 it becomes plain averaging with server learning rate η′ (√v stays at τ). Notebook 08.
    """
    number("the server's lr", lr, above=0)
    number("beta1", beta1, least=0, below=1)
    number("tau", tau, above=0)

    @np.errstate(over="ignore", invalid="ignore")  # a v that is ∞ is seen by who asks whether the run diverged
    def step(theta, update, memory):
        m = beta1 * memory["m"] + (1 - beta1) * update
        v = v_next(memory["v"], update**2)
        return theta + lr * m / (np.sqrt(v) + tau), {"m": m, "v": v}

    return Server(lambda theta: {"m": np.zeros_like(theta), "v": np.full_like(theta, tau**2)}, step)


def fedadagrad(lr=0.1, beta1=0.0, tau=1e-3) -> Server:
    """`adaptive` with v ← v + Δ²: it divides by more and more."""
    return adaptive(lambda v, squared: v + squared, lr, beta1, tau)


def fedadam(lr=0.1, beta1=0.9, beta2=0.99, tau=1e-3) -> Server:
    """`adaptive` with v ← β₂v + (1 − β₂)Δ²: a moving average of the squares."""
    return adaptive(lambda v, squared: beta2 * v + (1 - beta2) * squared, lr, beta1, tau)


def fedyogi(lr=0.1, beta1=0.9, beta2=0.99, tau=1e-3) -> Server:
    """`adaptive` with v ← v − (1 − β₂)Δ² sign(v − Δ²): v moves by what came in, not by what it was."""
    return adaptive(lambda v, squared: v - (1 - beta2) * squared * np.sign(v - squared), lr, beta1, tau)
