"""What a federation has spent of its patients' privacy, and the budget that stops it in time. Notebook 13.

Counted is every release of every hospital, over all local steps of all rounds. The account is kept in the State, with
the mechanism that was in force, so that a saved run goes on counting where it stopped, whatever the plan says later.
"""

import math
import textwrap
import warnings
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .accountant import composed
from .checks import number
from .privacy import DPSGD, PLACES, noisy_mean

NOT_COVERED = (
    "the sums that standardised the features, and the number of records of each hospital",
    "how the starting model was made, and choosing settings by looking at results: every trial run spends too",
    "scores and losses computed on the records and shown, or used to decide when to stop",
    "who was invited, answered or was refused in each round",
    "rounds that were thrown away or run again, and runs with the same seed: equal noise cancels",
    "a patient who is in two hospitals, or in two rows",
    "what the model says truly about everybody, whoever takes part",
)
UNITS = ("patient", "hospital")
AGAINST = {  # by the places that occurred
    "h": "everybody outside the hospital",
    "d": "everybody who sees the model and added no noise, and a server that sees sums only",
    "s": "everybody who sees the model, except the server",
    "ds": "everybody who sees the model and added no noise, except the server",
}
FIXED = 5  # numbers in a line of an account before the steps of the hospitals


class BudgetSpent(RuntimeError):
    """The next round would exceed the privacy budget: nothing of it was computed."""


@dataclass(frozen=True)
class Budget:
    """At most `epsilon` at `delta` for every hospital, counted by `accountant`: Plan(budget=Budget(3, 1e-5), …)."""

    epsilon: float
    delta: float
    accountant: str = "rdp"

    def __post_init__(self):
        number("the budget's epsilon", self.epsilon, above=0)
        number("the budget's delta", self.delta, above=0, below=1, hint="Choose it far below 1/(number of records).")
        composed([], self.delta, self.accountant)


class Mechanism(NamedTuple):
    """One kind of release: what it protects, who adds the noise, clipping norm C, sampling rate q, noise σ."""

    unit: str
    where: str
    C: float
    q: float
    sigma: float

    def noise(self, plan, *tags):
        """The generator of this mechanism's noise: a stream of its own, that no other draw and no other σ shares."""
        key = repr(self) if plan.fraction == 1 or plan.poisson else f"{self}, a fixed {plan.fraction} invited"
        return np.random.default_rng([plan.seed, *tags, zlib.crc32(key.encode())])


def mechanism(plan):
    """The mechanism of a plan, or None where nothing is protected.

    Where a fixed number of hospitals is invited, another one takes the place of the one that is missing: two clipped
    updates change, the sensitivity is 2C, and σ counts half.
    """
    if isinstance(plan.private, DPSGD):
        return Mechanism(
            "patient", plan.private.where, *map(float, (plan.private.C, plan.private.q, plan.private.sigma))
        )
    if getattr(plan.aggregate, "func", None) is not noisy_mean:
        return None
    C, sigma = (float(plan.aggregate.keywords[name]) for name in ("C", "sigma"))
    if plan.fraction == 1 or plan.poisson:
        return Mechanism("hospital", "server", C, float(plan.fraction), sigma)
    return Mechanism("hospital", "server", C, 1.0, sigma / 2)


def line(what, steps):
    """One line of an account: codes of unit and place, C, q, σ, then the steps of each hospital, (5 + K,)."""
    return np.array([[UNITS.index(what.unit), PLACES.index(what.where), what.C, what.q, what.sigma, *steps]])


def bare(unit):
    """A release without clipping and noise, in a federation that protects this unit."""
    return Mechanism(unit, "server", math.inf, 1.0, 0.0)


def opened(state, unit, K):
    """The account of a state that has none: all rounds before this one were releases without noise."""
    return line(bare(unit), [state.round] * K)[: state.round > 0]


def charged(state, what, names, steps):
    """The account after a round in which each hospital made `steps` (K,) releases: lines (m, 5 + K).

    what is the round's mechanism; None is a round without noise in a federation that had some. A change of unit raises
    a ValueError: the two promises do not add up.
    """
    spent = same_hospitals(state, names) if "spent" in state.kept else opened(state, what.unit, len(names))
    unit = UNITS[int(spent[0, 0])] if len(spent) else what.unit
    what = what or bare(unit)
    if what.unit != unit:
        raise ValueError(f"this state keeps an account per {unit}, and the plan protects a {what.unit}: start anew.")
    new = line(what, steps)
    if len(spent) and (spent[-1, :FIXED] == new[0, :FIXED]).all():
        spent, new[:, FIXED:] = spent[:-1], new[:, FIXED:] + spent[-1:, FIXED:]
    return np.concatenate([spent, new])


def same_hospitals(state, names):
    """The account in a state, or a ValueError if it belongs to other hospitals, or to the same in another order."""
    whose, names = state.kept["whose"].tolist(), [str(name) for name in names]
    if whose != names:
        raise ValueError(f"the account in this state is of {whose}, not of {names}.")
    return state.kept["spent"]


@dataclass(frozen=True)
class Ledger:
    """The accounts of all hospitals, names (K,), in lines (m, 5 + K) as `charged` keeps them; δ and the accountant.

    `Ledger.of(plan, state, names, delta)` reads it off a federation; str() of it is the statement to publish.
    """

    names: tuple
    spent: np.ndarray
    delta: float
    accountant: str = "rdp"

    @classmethod
    def of(cls, plan, state, names, delta=None, accountant=None):
        """What was done is read from the state; δ and accountant, if not given, from the plan's budget."""
        sizes, what = getattr(names, "sizes", None), mechanism(plan)  # names may be the Hospitals themselves
        names = tuple(names if sizes is None else names.names)
        if "spent" in state.kept:
            spent = same_hospitals(state, names)
        elif what is None:
            raise ValueError("this plan adds no noise that a ledger counts: it has neither private=… nor noisy_mean.")
        else:
            spent = np.concatenate([opened(state, what.unit, len(names)), line(what, [0] * len(names))])
        if delta is None and plan.budget is None:
            raise ValueError("a guarantee needs a delta: give delta=…, or the plan a budget.")
        delta = plan.budget.delta if delta is None else number("delta", delta, above=0, below=1)
        warn_of_delta(delta, UNITS[int(spent[0, 0])], names, sizes)
        return cls(names, spent, delta, accountant or (plan.budget.accountant if plan.budget else "rdp"))

    @property
    def steps(self):
        """Releases of each hospital so far, local steps of all rounds: (K,)."""
        return self.spent[:, FIXED:].sum(0).astype(int)

    def guarantees(self):
        """The Guarantee of each hospital, in the order of names."""
        q, sigma = self.spent[:, 3], self.spent[:, 4]
        accounts, which = np.unique(self.spent[:, FIXED:].astype(int), axis=1, return_inverse=True)
        values = [composed(zip(sigma, q, steps, strict=True), self.delta, self.accountant) for steps in accounts.T]
        unit, places = UNITS[int(self.spent[0, 0])], {PLACES[int(code)][0] for code in self.spent[:, 1]}
        against = AGAINST["".join(sorted(places - {"h"})) or "h"]  # the weakest that occurred
        return [Guarantee(values[i], self.delta, unit, against, self.accountant) for i in np.ravel(which)]

    @property
    def guarantee(self):
        """The federation's: that of the hospital which has spent most."""
        return max(self.guarantees(), key=lambda one: one.epsilon)

    def table(self):
        """One row a hospital; settings that changed on the way are listed in order: a DataFrame."""
        import pandas as pd

        each = self.guarantees()
        settings = {
            name: ", ".join(f"{x:g}" for x in self.spent[:, at]) for at, name in ((2, "C"), (3, "q"), (4, "sigma"))
        }
        rows = {"steps": self.steps} | settings
        rows |= {f"ε at δ = {self.delta:g}": [rounded_up(one.epsilon) for one in each]}
        rows |= {"unit": each[0].unit, "relation": "add or remove one, sizes public", "accountant": self.accountant}
        return pd.DataFrame(rows, index=pd.Index(self.names, name="hospital"))

    def __str__(self):
        return "\n".join([str(self.guarantee), "Not covered:", *(f"- {one}" for one in NOT_COVERED)])

    __repr__ = __str__


class Guarantee(NamedTuple):
    """ε never alone: with its δ, what is protected against whom, and how it was counted. Printed, it is a sentence."""

    epsilon: float
    delta: float
    unit: str
    against: str
    accountant: str

    def __str__(self):
        amount = f"ε = {rounded_up(self.epsilon)} at δ = {self.delta:g}"
        amount = amount if math.isfinite(self.epsilon) else "no guarantee (ε = ∞, some release had no noise)"
        said = (
            f"{amount} for one {self.unit} added or removed, against {self.against} "
            f"({self.accountant.upper()} accountant, sizes public, simulation noise)"
        )
        return textwrap.fill(said, 100)

    __repr__ = __str__


def rounded_up(epsilon):
    """ε to three decimals, never below: what is shown is still a bound."""
    return math.ceil(1000 * epsilon) / 1000 if math.isfinite(epsilon) else epsilon


def stop_before(budget, ledger):
    """Raise BudgetSpent if these accounts, which include the round to come, are over the budget."""
    found = ledger.guarantee
    if not found.epsilon <= budget.epsilon:
        worst, sentence = ledger.names[ledger.guarantees().index(found)], " ".join(str(found).split())
        raise BudgetSpent(
            f"the next round would bring hospital {worst!r} to {sentence}, over the budget of ε = {budget.epsilon:g}. "
            "Stop here, or plan more noise or fewer steps from the beginning."
        )


def warn_of_delta(delta, unit, names, sizes=None):
    """Warn if δ is so large that a mechanism which simply publishes a record at random would keep the promise."""
    n, whose = len(names), f"there are {len(names)} hospitals"
    if unit == "patient":
        n = 1 if sizes is None else max(sizes)
        whose = f"hospital {names[int(np.argmax(sizes))]!r} has {n} records" if n > 1 else ""
    if delta >= 1 / n:
        warnings.warn(
            f"delta = {delta:g}, and {whose}: a mechanism with so large a delta could publish one of them. "
            f"Choose delta far below 1/{n}.",
            stacklevel=3,
        )
