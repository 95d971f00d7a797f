"""What is agreed before the first round, and where a federation stands: Plan and State. Notebook 03."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .aggregate import mean, weighted_mean
from .checks import number, whole
from .ledger import Budget, mechanism
from .privacy import DPSGD, check_noisy_mean, noisy_mean
from .server import Server, fedavg


def as_it_is(updates, rng):
    """The plainest uplink: what a hospital computed is what travels."""
    return updates


@dataclass(frozen=True)
class Plan:
    """The settings of a federation; a variant is `dataclasses.replace(plan, lr=0.05)`.

    lr η > 0 · steps local steps a round · batch records a step (None: all) · epochs instead of steps, passes over the
    records · mu FedProx's pull · scaffold control variates against drift · normalise FedNova's average, by steps
    taken · shared mask (P,) of the parameters that travel, the others stay at home (None: all travel) · fraction of
    the hospitals invited to a round · poisson invites each by its own coin instead, so that their number varies ·
    dropout chance that an invited one does not answer, or a function round -> chances (K,) · stragglers chance that
    one manages only a part of its steps · late chance that an update arrives a round later · aggregate (updates,
    weights, rng) -> (P,) · server what is done with it · uplink (updates, rng) -> updates, everything that happens on
    the wire · block hospitals trained at a time (None: about what a processor's cache holds; it changes memory and
    speed, and results by rounding at most) · seed · private DP-SGD in every hospital (a DPSGD) · budget that ends the
    run before more privacy is spent (a Budget).
    A setting that cannot work raises a ValueError in words. Notebooks 03, 08, 09 and 13.
    """

    lr: float = 0.1
    steps: int = 1
    batch: int | None = None
    epochs: int | None = None
    mu: float = 0.0
    scaffold: bool = False
    normalise: bool = False
    shared: np.ndarray | None = None
    fraction: float = 1.0
    poisson: bool = False
    dropout: float | Callable = 0.0
    stragglers: float = 0.0
    late: float = 0.0
    aggregate: Callable = weighted_mean
    server: Server = field(default_factory=fedavg)
    uplink: Callable = as_it_is
    block: int | None = None
    seed: int = 0
    private: DPSGD | None = None
    budget: Budget | None = None

    def __post_init__(self):
        number("the learning rate lr", self.lr, above=0, hint="Try lr=0.1; if training diverges, less.")
        number("mu", self.mu, least=0, hint="mu=0 is plain federated averaging.")
        number("fraction", self.fraction, above=0, most=1, hint="fraction=1 invites every hospital.")
        if not callable(self.dropout):
            number("dropout", self.dropout, least=0, below=1, hint="dropout=0 means that everybody answers.")
        number("stragglers", self.stragglers, least=0, most=1, hint="stragglers=0: everybody does all its steps.")
        number("late", self.late, least=0, most=1, hint="late=0: every update arrives in its round.")
        whole("steps", self.steps)
        hints = {"batch": "full-batch steps", "epochs": "full-batch steps", "block": "a size that suits the model"}
        for name, what in hints.items():
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), hint=f"Leave {name} out for {what}.")
        whole("seed", self.seed, least=0)
        for name in ("scaffold", "normalise", "poisson"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise ValueError(f"{name} is a switch: True or False, not {getattr(self, name)!r}.")
        if self.shared is not None and not (np.ndim(self.shared) == 1 and np.asarray(self.shared).dtype == np.bool_):
            raise ValueError(
                f"shared must be an array of P times True (travels) or False (stays), not {self.shared!r}."
            )
        for name, kind in {
            "aggregate": "a function (updates, weights, rng)",
            "uplink": "a function (updates, rng)",
        }.items():
            if not callable(getattr(self, name)):
                raise ValueError(f"{name} must be {kind}, not {getattr(self, name)!r}.")
        if not isinstance(self.server, Server):
            raise ValueError(f"server must be a Server such as fedavg() or fedyogi(0.03), not {self.server!r}.")
        if self.epochs is not None and self.batch is None:
            raise ValueError("epochs are passes in batches: give batch too, as in Plan(epochs=1, batch=32).")
        if self.scaffold and self.uplink is not as_it_is:
            raise ValueError("control variates do not pass through uplink: what it does would be undone beside it.")
        self.check_privacy()

    @property
    def deterministic(self):
        """Whether nothing in a round is left to chance: then no random number is drawn."""
        left = self.batch, self.private, self.poisson, self.dropout, self.stragglers, self.late
        plain = self.aggregate in (mean, weighted_mean) and self.uplink is as_it_is
        return self.fraction == 1 and plain and not any(left)

    def check_privacy(self):
        """Refuse a plan whose noise would not be worth what the ledger says."""
        for name, kind, example in (("private", DPSGD, "DPSGD(C=1, sigma=2)"), ("budget", Budget, "Budget(3, 1e-5)")):
            if getattr(self, name) is not None and not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} must be a {kind.__name__}, such as {example}, not {getattr(self, name)!r}.")
        if getattr(self.aggregate, "func", self.aggregate) is noisy_mean:
            check_noisy_mean(getattr(self.aggregate, "keywords", {}))
            if self.private is not None:
                raise ValueError("private=… protects patients and noisy_mean hospitals: choose one of the two.")
        if self.private is not None:
            self.private.checked()
            if self.batch is not None:
                raise ValueError("DP-SGD draws its batches itself, each record by a coin: leave batch and epochs out.")
            all_there = self.fraction == 1 and not (self.poisson or callable(self.dropout) or self.dropout or self.late)
            one_sum = self.steps == 1 and self.aggregate is weighted_mean and self.uplink is as_it_is
            if self.private.where != "hospital" and not (
                all_there and one_sum and not self.scaffold and self.shared is None
            ):
                raise ValueError(
                    f"with where={self.private.where!r} the noise is right only for a plain sum of one step: steps=1, "
                    "every hospital, weighted_mean, no drop-outs, late updates, uplink, SCAFFOLD or shared. "
                    "Otherwise use where='hospital'."
                )
        what = mechanism(self)
        if (
            what is not None
            and what.unit == "hospital"
            and (self.late or self.scaffold or self.normalise or self.shared is not None)
        ):
            raise ValueError(
                "noisy_mean counts one row per hospital and round, its own: late updates and SCAFFOLD send two, "
                "normalise makes each depend on all, and what is not shared would stay without noise."
            )
        if self.budget is not None and what is None:
            raise ValueError("a budget needs noise that it can count: give private=DPSGD(…) or aggregate=noisy_mean.")


@dataclass(frozen=True)
class State:
    """Where a federation stands: rounds completed, theta (P,), the server's memory and what the hospitals keep.

    memory and kept are dicts of arrays. kept holds, where the plan needs them, SCAFFOLD's "control" (K, P), the
    "own" parameters (K, P) of a model with a part that stays home, late updates "way" (·, P) with their "load", and the
    account of the privacy "spent" by the hospitals "whose" names stand beside it (see `ledger`).
    """

    round: int
    theta: np.ndarray
    memory: dict
    kept: dict = field(default_factory=dict)


def initial(model, plan, theta=None):
    """The state before the first round, from given parameters or from model.init: State."""
    if theta is None:
        theta = model.init(np.random.default_rng(plan.seed))
    theta = np.array(theta)
    theta = theta.astype(np.result_type(theta, np.float32))
    if theta.shape != (model.P,):
        raise ValueError(f"theta has shape {theta.shape}, but this model has P = {model.P} parameters: ({model.P},).")
    if not np.isfinite(theta).all():
        raise ValueError("theta holds a value that is not finite (NaN or infinity). Start from model.init(rng).")
    return State(0, theta, plan.server.init(theta))
