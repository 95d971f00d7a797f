"""The server's desk: what it knows of the hospitals before a round, and whom it invites. Notebook 09.

The server never sees a record. It knows who is registered, with how many records, and draws who is invited; who does
not answer it learns by waiting (here, by a coin). Letters that were written elsewhere come in by `received`.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from .chance import Purpose, by_name, stream
from .checks import shaped
from .wire import STAMPS, Letters, none

MANY = 2**31 - 1


class Desk(NamedTuple):
    """Who is registered.

    A hospital's place among the sorted names is its *seat*: chance depends on it, and not on where in the caller's
    arrays the hospital lies.

    names  (K,) in their order
    sizes  (K,) records nₖ of each
    dtype  type of the numbers that travel
    rows   (K,) where in the caller's arrays each seat lies; None where these are in the order of names
    """

    names: tuple
    sizes: np.ndarray
    dtype: np.dtype
    rows: np.ndarray | None = None

    @classmethod
    def of(cls, hospitals):
        """The desk of hospitals that lie in one process."""
        names, rows = by_name(hospitals.names)
        return cls(names, hospitals.sizes if rows is None else hospitals.sizes[rows], hospitals.X.dtype, rows)

    def at(self, seats):
        """The rows of these sorted seats; a slice where they have no gap, so that NumPy need not copy them."""
        return spanned(seats) if self.rows is None else self.rows[seats]


def spanned(seats):
    """Sorted numbers as a slice where they have no gap."""
    gapless = seats[-1] - seats[0] + 1 == seats.size
    return slice(seats[0], seats[-1] + 1) if gapless else seats


def attendance(plan, r, desk: Desk):
    """Who is invited to the round after r rounds, and who of them will answer: two arrays of sorted seats."""
    K, chance = len(desk.names), partial(stream, plan.seed, r)
    if plan.poisson:
        invited = np.flatnonzero(chance(Purpose.INVITATIONS).random(K) < plan.fraction)
    elif plan.fraction < 1:
        invited = np.sort(chance(Purpose.INVITATIONS).choice(K, max(1, round(plan.fraction * K)), replace=False))
    else:
        invited = np.arange(K)
    if not callable(plan.dropout) and not plan.dropout:
        return invited, invited
    absence = np.full(K, plan.dropout) if not callable(plan.dropout) else np.asarray(plan.dropout(r))
    shaped("what dropout returns", absence, (K,))
    if not ((absence >= 0) & (absence <= 1)).all():
        raise ValueError(f"dropout must return chances between 0 and 1, but for round {r} it returned {absence}.")
    absence = absence if desk.rows is None else absence[desk.rows]
    there = chance(Purpose.ABSENCES).random(K) >= absence  # a coin each, whoever else is invited
    return invited, invited[there[invited]]


def received(said: dict, asked, sizes, r, told, theta, most=MANY, blank=None) -> tuple[Letters, dict]:
    """Letters that were written elsewhere, as rows in the order of their seats, and {seat: why} of those refused.

    said   {seat: letter}, by whoever it was that sent it: a letter is {name: number or array (P,)}
    asked  the seats that were sent an order
    sizes  (K,) the records of every hospital, as registered: a letter does not say what it counts for
    r      rounds that were complete when the order went out
    told   names that a letter carries beside "update"
    theta  (P,), whose shape and type of number a letter must have
    most   the most steps that the plan asks of anybody: with FedNova, who says more would count for less
    blank  letters of nobody that say which parts, shapes and types a letter must have; None: those of told and theta

    NumPy would let a scalar or a short vector spread out over θ, and a hospital of 10⁹ records decide alone. What a
    finite update may do is not looked at. A hospital whose letter is refused has spent its noise: charge it as well.
    """
    blank, rows, asked = blank or none(theta.size, told, theta.dtype), [], np.asarray(asked)
    refused = {seat: "nobody asked this hospital" for seat in said if seat not in set(asked.tolist())}
    for seat in (int(seat) for seat in asked if seat in said):
        try:
            why = wrong(said[seat], seat, sizes, r, blank, most)
        except (TypeError, ValueError):  # no dict, keys that are no text, rows of unequal length
            why = "it cannot be read as a letter"
        if why:
            refused[seat] = why
        else:
            rows.append(said[seat])
    if not rows:
        return blank, refused
    return {name: np.array([row[name] for row in rows], part.dtype) for name, part in blank.items()}, refused


def wrong(letter, seat, sizes, r, blank, most):
    """What is wrong with one letter, in words, or ""."""
    if set(letter) - set(STAMPS) != set(blank):  # what it says of its own length counts for nothing here
        return f"it holds {sorted(letter)}, not {sorted(blank)}"
    for name, part in blank.items():
        found = np.asarray(letter[name])
        kinds = "f" if part.dtype.kind == "f" else "iu"
        exact = part.ndim > 1 and kinds == "iu"  # words of random bits must be just these
        if found.shape != part.shape[1:] or found.dtype.kind not in kinds or (exact and found.dtype != part.dtype):
            return f"its {name} has the shape {found.shape} and the type {found.dtype}"
    if letter["seat"] != seat or letter["round"] != r:
        return f"it is of hospital number {letter['seat']} in round {letter['round']}"
    if letter["weight"] != sizes[seat]:
        return f"it counts for {letter['weight']} records, and {sizes[seat]} are registered"
    return "" if 1 <= letter["steps"] <= most else f"it says that {letter['steps']} steps were taken"
