"""What a federation has spent of its patients' privacy, and the budget that stops it in time. Notebook 13.

Counted are the releases of every hospital, over all local steps of all rounds, in one account per hospital.
"""

import math
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .accountant import composed
from .checks import number
from .privacy import noisy_mean

NOT_COVERED = (
    "the sums that standardised the features",
    "the number of records of each hospital",
    "choosing settings by looking at results: every trial run spends too",
    "scores and losses computed on the records and shown",
    "a patient who is in two hospitals, or in two rows",
    "what the model says truly about everybody, whoever takes part",
)
MODEL = "everybody who sees the model, except the server"
AGAINST = {
    "hospital": "everybody outside the hospital",
    "distributed": "everybody who sees the model, and a server that sees sums only",
    "server": MODEL,
}


class BudgetSpent(RuntimeError):
    """The next round would exceed the privacy budget: nothing of it was computed."""


@dataclass(frozen=True)
class Budget:
    """At most `epsilon` at `delta` for every hospital, counted by `accountant`: Plan(budget=Budget(3, 1e-3), …)."""

    epsilon: float
    delta: float
    accountant: str = "rdp"

    def __post_init__(self):
        number("the budget's epsilon", self.epsilon, above=0)
        number("the budget's delta", self.delta, above=0, below=1, hint="Choose it far below 1/(number of records).")
        composed([], self.delta, self.accountant)


class Mechanism(NamedTuple):
    """What one release protects, against whom, its clipping norm C, noise multiplier σ and sampling rate q."""

    unit: str
    against: str
    C: float
    sigma: float
    q: float


def mechanism(plan):
    """The mechanism of a plan, or None where nothing is protected.

    Where a fixed number of hospitals is invited, another one takes the place of the one that is missing: two clipped
    updates change, the sensitivity is 2C, and σ counts half.
    """
    if plan.private is not None:
        return Mechanism("patient", AGAINST[plan.private.where], plan.private.C, plan.private.sigma, plan.private.q)
    if getattr(plan.aggregate, "func", plan.aggregate) is not noisy_mean:
        return None
    C, sigma = (plan.aggregate.keywords[name] for name in ("C", "sigma"))
    if plan.fraction == 1 or plan.poisson:
        return Mechanism("hospital", MODEL, C, sigma, plan.fraction)
    return Mechanism("hospital", MODEL, C, sigma / 2, 1.0)


def charged(spent, what, steps):
    """The accounts after `steps` (K,) more releases of a mechanism: rows (q, σ, steps of each hospital), (m, 2 + K)."""
    line = np.concatenate([[what.q, what.sigma], steps])
    if spent is None:
        return line[None]
    if (spent[-1, :2] == line[:2]).all():  # the same mechanism goes on
        return np.concatenate([spent[:-1], spent[-1:] + np.concatenate([[0, 0], steps])])
    return np.concatenate([spent, line[None]])


@dataclass(frozen=True)
class Ledger:
    """The account of every hospital: names (K,), what is protected, and spent (m, 2 + K) as `charged` keeps it.

    `Ledger.of(plan, state, names, delta)` reads it off a federation; str() of it is the statement to publish.
    """

    names: tuple
    what: Mechanism
    delta: float
    accountant: str
    spent: np.ndarray

    @classmethod
    def of(cls, plan, state, names, delta=None, accountant=None):
        """delta and accountant are those of the plan's budget where they are not given."""
        what, budget = mechanism(plan), plan.budget
        if what is None:
            raise ValueError("this plan adds no noise that a ledger counts: it has neither private=… nor noisy_mean.")
        if delta is None and budget is None:
            raise ValueError("a guarantee needs a delta: give delta=…, or the plan a budget.")
        delta = budget.delta if delta is None else number("delta", delta, above=0, below=1)
        accountant = accountant or (budget.accountant if budget else "rdp")
        spent = state.kept.get("spent", np.zeros((0, 2 + len(names))))
        return cls(tuple(names), what, delta, accountant, spent)

    @property
    def steps(self):
        """Releases of each hospital so far, local steps of all rounds: (K,)."""
        return self.spent[:, 2:].sum(0).astype(int)

    def guarantees(self):
        """The Guarantee of each hospital, in the order of names."""
        q, sigma = self.spent[:, 0], self.spent[:, 1]
        accounts, which = np.unique(self.spent[:, 2:], axis=1, return_inverse=True)
        values = [composed(zip(sigma, q, steps, strict=True), self.delta, self.accountant) for steps in accounts.T]
        return [Guarantee(values[i], self.delta, self.what, self.accountant) for i in np.ravel(which)]

    @property
    def guarantee(self):
        """The federation's: that of the hospital which has spent most."""
        return max(self.guarantees(), key=lambda one: one.epsilon)

    def table(self):
        """One row a hospital, never an ε without its δ, unit and relation: a DataFrame."""
        import pandas as pd

        def listed(column):
            return ", ".join(f"{value:g}" for value in dict.fromkeys(self.spent[:, column]))

        rows = {
            "steps": self.steps,
            "q": listed(0),
            "sigma": listed(1),
            "C": self.what.C,
            "epsilon": [rounded_up(one.epsilon) for one in self.guarantees()],
            "delta": self.delta,
            "unit": self.what.unit,
            "relation": "add or remove one",
            "accountant": self.accountant,
        }
        return pd.DataFrame(rows, index=pd.Index(self.names, name="hospital"))

    def __str__(self):
        return f"{self.guarantee}\nNot covered: " + "; ".join(NOT_COVERED) + "."

    __repr__ = __str__


def rounded_up(epsilon):
    """ε to three decimals, never below: what is shown is still a bound."""
    return math.ceil(1000 * epsilon) / 1000 if math.isfinite(epsilon) else epsilon


class Guarantee(NamedTuple):
    """ε never alone: with its δ, what is protected against whom, and how it was counted. Printed, it is a sentence."""

    epsilon: float
    delta: float
    what: Mechanism
    accountant: str

    def __str__(self):
        amount = f"ε = {rounded_up(self.epsilon)} at δ = {self.delta:g}"
        amount = amount if math.isfinite(self.epsilon) else "no guarantee, ε = ∞,"
        return (
            f"{amount} for one {self.what.unit} added or removed, against {self.what.against} "
            f"({self.accountant.upper()} accountant, simulation noise)"
        )

    __repr__ = __str__


def warn_of_delta(budget, what, hospitals):
    """Warn if δ is so large that a mechanism which simply publishes a record at random would keep the promise."""
    one = np.argmax(hospitals.sizes)
    n, whose = hospitals.sizes[one], f"hospital {hospitals.names[one]!r} has {hospitals.sizes[one]} records"
    if what.unit == "hospital":
        n, whose = len(hospitals.names), f"there are {len(hospitals.names)} hospitals"
    if budget.delta >= 1 / n:
        warnings.warn(
            f"delta = {budget.delta:g}, and {whose}: a mechanism with so large a delta could publish one of them. "
            f"Choose delta far below 1/{n}.",
            stacklevel=3,
        )


def stop_before(budget, ledger):
    """Raise BudgetSpent if these accounts, which include the round to come, are over the budget."""
    found = ledger.guarantee
    if not found.epsilon <= budget.epsilon:
        worst = ledger.guarantees().index(found)
        raise BudgetSpent(
            f"the next round would bring hospital {ledger.names[worst]!r} to {found}, over the budget of "
            f"ε = {budget.epsilon:g}. Stop here, or plan more noise or fewer steps from the beginning."
        )
