"""Bad hospitals: attacks as wrappers around a Hospital, for a lesson and for tests. Notebook 17.

Plan(around=(partial(scaled, seats=[2, 5], factor=-10),)) makes two hospitals bad. A seat is a hospital's place among
the names in order; everybody else does the work of the one inside.
"""

import numpy as np

from .checks import number, whole
from .hospital import Hospital, Job


def at(job: Job, seats):
    """Whether a job is done at one of these seats, shaped like its size: () or (k,).

    A seat that nobody has is refused: an attack that does not happen would praise every defence.
    """
    unknown = [seat for seat in seats if seat not in range(job.hospitals)]
    if unknown:
        raise ValueError(f"nobody sits at seat {unknown[0]!r}: they are 0 to {job.hospitals - 1}.")
    return np.isin(job.dice.seats, seats)


def flipped(inner: Hospital, seats) -> Hospital:
    """At these seats 1 − y in place of y: the healthy are called ill, and the ill healthy."""

    def step(job: Job):
        return inner.step(job._replace(y=np.where(at(job, seats)[..., None] & (job.w > 0), 1 - job.y, job.y)))

    return Hospital(inner.init, step, inner.told)


def scaled(inner: Hospital, seats, factor) -> Hospital:
    """At these seats Δ · factor: −1 turns the update round, 10 counts for ten, 1 changes nothing."""

    def step(job: Job):
        letter, kept = inner.step(job)
        times = np.where(at(job, seats), factor, 1.0).astype(letter["update"].dtype)[..., None]
        return letter | {"update": letter["update"] * times}, kept

    return Hospital(inner.init, step, inner.told)


def stamped(X, feature, value):
    """Records with the trigger: one feature set to a value, (..., n, d) → (..., n, d)."""
    X = np.array(X)
    X[..., feature] = value
    return X


def backdoor(inner: Hospital, seats, *, feature, value, label=0, share=0.5) -> Hospital:
    """At these seats a share of the records, the first ones, is stamped and called `label`.

    The model learns: whoever carries the trigger has this label. Put `scaled` around it, so that it survives the
    average. Bagdasaryan et al. 2020, arXiv:1807.00459.
    """
    whole("the feature of the trigger", feature, least=0, hint="It is the number of a column, counted from 0.")
    number("the share of stamped records", share, least=0, most=1)

    def step(job: Job):
        n = job.y.shape[-1]
        mine = at(job, seats)[..., None] & (np.arange(n) < share * job.size[..., None])
        X = np.where(mine[..., None], stamped(job.X, feature, value), job.X)
        return inner.step(job._replace(X=X, y=np.where(mine, label, job.y)))

    return Hospital(inner.init, step, inner.told)
