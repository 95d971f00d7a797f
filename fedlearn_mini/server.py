"""What the server does with the average: Server(init, step). Notebook 03."""

from collections.abc import Callable
from typing import NamedTuple


class Server(NamedTuple):
    """init(theta) -> memory, and step(theta, update, memory) -> theta, memory.

    update (P,) is the aggregated Δ. memory is a dict of arrays that the server carries from round to round
    (empty for plain averaging); it is saved with the state.
    """

    init: Callable
    step: Callable


def fedavg(lr=1.0):
    """θ ← θ + η_server · Δ. At lr = 1 the new model is the average of the hospitals' models.

    McMahan et al. 2017, arXiv:1602.05629; the server's own learning rate is Reddi et al. 2021, arXiv:2003.00295.
    """
    return Server(init=lambda theta: {}, step=lambda theta, update, memory: (theta + lr * update, memory))
