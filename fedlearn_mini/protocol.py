"""The protocol: one round takes a State to the next. The cable runs through it: server, hospital, server.

Between the two sides travel values only: an Order down, letters up. The hospital's side is one function for one
hospital and for a stack of thousands; the server's side sees letters and what it keeps itself, nothing else. Values in,
values out, and chance as in `chance`, so that a run which was saved and resumed equals the uninterrupted one bit for
bit. Derived in notebook 03; whole runs are in `federation`.
"""

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from . import ledger, wire
from .chance import Dice, Purpose, stream
from .checks import shaped
from .data import Hospitals
from .desk import Desk, attendance, spanned
from .hospital import Job
from .models import Model
from .plan import Pieces, Plan, pieces
from .wire import Letters

NOBODY = np.zeros(0, int)
SILENT = ("train", "unmask")  # topics in which who is absent does not answer


@dataclass(frozen=True)
class State:
    """Where a federation stands. All but `kept` is the server's.

    round     rounds completed
    theta     (P,)
    memory    {name: (P,)} of the server's optimiser
    kept      {name: (K, P)} at the hospitals, a row for each of names: SCAFFOLD's "control", the "own" part of a
              model, what compression "lost"; or (K,), a whole number each
    names     (K,) whose rows these are, in order
    told      {name: (P,)}, what the server tells beside θ
    waiting   letters that are late
    spent     the account of privacy, a tuple of ledger.Entry; None: nothing is counted
    accepted  (K,) the last round whose letter the server used, 0 for none
    """

    round: int
    theta: np.ndarray
    memory: dict
    kept: dict = field(default_factory=dict)
    names: tuple = ()
    told: dict = field(default_factory=dict)
    waiting: Letters = field(default_factory=dict)
    spent: tuple | None = None
    accepted: np.ndarray | None = None


class Order(NamedTuple):
    """What travels down.

    round      completed before
    theta      (P,)
    told       {name: (P,)} beside it
    hospitals  how many there are; they may share noise
    accepted   (K,), or a number for one: the last round whose letter the server used
    topic      what the letter is to be about
    """

    round: int
    theta: np.ndarray
    told: dict
    hospitals: int
    accepted: np.ndarray
    topic: str = "train"


class Who(NamedTuple):
    """Rows of the hospitals in a round: invited, present (who answered), late (its letter waits), refused."""

    invited: np.ndarray
    present: np.ndarray
    late: np.ndarray
    refused: np.ndarray


def initial(model: Model, plan: Plan, theta=None) -> State:
    """The state before the first round, from given parameters (P,) or from model.init."""
    if theta is None:
        theta = model.init(stream(plan.seed, 0, Purpose.WEIGHTS))
    theta = np.array(theta)
    theta = theta.astype(np.result_type(theta, np.float32))
    if theta.shape != (model.P,):
        raise ValueError(f"theta has shape {theta.shape}, but this model has P = {model.P} parameters: ({model.P},).")
    if not np.isfinite(theta).all():
        raise ValueError("theta holds a value that is not finite (NaN or infinity). Start from model.init(rng).")
    return State(0, theta, remembered(plan.server.init(theta)))


def remembered(memory) -> dict:
    """What a server keeps, as arrays of numbers; anything else is refused in words, because it goes into files."""
    if not isinstance(memory, dict):
        raise ValueError(f"a server's memory must be a dict of arrays, such as {{}}, not {memory!r}.")
    for name, value in memory.items():
        if np.asarray(value).dtype.kind not in "fiub":
            raise ValueError(f"the server's memory {name!r} must be an array of numbers, not {value!r}.")
    return {name: np.asarray(value) for name, value in memory.items()}


# ------------------------------------------------------------------------------------------------------------ the round


def one_round(state: State, model: Model, hospitals: Hospitals, plan: Plan, ready=None):
    """One round of federated learning: (State, …) -> State, record.

    The record says who took part, whose letter was refused, how far the model moved and how many bytes travelled. A
    round in which nothing arrives leaves θ as it was, unless the aggregate adds noise. A long run prepares the pieces
    and the desk once and gives them as `ready`. McMahan et al. 2017, arXiv:1602.05629; notebook 03 derives the round
    with an explicit loop over hospitals.

    >>> from fedlearn_mini import data, models
    >>> many, model, plan = data.make_hospitals(4, 30, d=2, rng=0), models.logistic(2), Plan(lr=0.3, steps=5)
    >>> state, record = one_round(initial(model, plan), model, many, plan)
    >>> state.round, record["hospitals"], record["bytes_up"]  # four letters of three numbers of eight bytes
    (1, 4, 96)
    """
    parts, desk = ready or (pieces(plan, model), Desk.of(hospitals))
    state, kept = opened(state, parts, desk)
    order, invited, present = at_server_before(state, parts, desk)
    letters, tried = collect(order, parts, hospitals, desk, kept, invited, present)
    state, record, accepted = at_server_after(state, order, invited, letters, parts, desk)
    return settled(state, kept, tried, letters["seat"], accepted), record


def at_server_before(state: State, parts: Pieces, desk: Desk):
    """Who is invited, who of them will answer, and what they are sent: Order, invited, present (seats)."""
    # 1. invite
    invited, present = attendance(parts.plan, state.round, desk)
    ledger.allow(state, parts, desk, present)
    # 2. send the model
    theta, told = state.theta.astype(desk.dtype, copy=False), {name: state.told[name] for name in parts.hospital.told}
    return Order(state.round, theta, told, len(desk.names), state.accepted), invited, present


def at_hospital(order: Order, parts: Pieces, kept: dict, X, y, w, size, dice: Dice):
    """What a hospital does between two messages: (Order, …) -> letter, and what it keeps if the letter is accepted.

    One hospital: kept {name: (P,)}, X (n, d), y and w (n,), its number of records and its own dice. A stack of k: a
    row each. The numbers are the same.
    """
    steps, theta = parts.effort(size, dice), order.theta.astype(X.dtype, copy=False)
    # 3. train at home
    job = Job(theta, order.told, order.hospitals, kept, X, y, w, size, steps, dice, order.topic)
    letter, kept = parts.hospital.step(job)
    # 4. send the change
    counts = {"seat": dice.seats, "round": each(order.round, size), "weight": size, "steps": each(steps, size)}
    return counts | letter, kept


def at_server_after(state: State, order: Order, invited, letters: Letters, parts: Pieces, desk: Desk):
    """Letters checked, averaged and taken as a step: State, record, and which of them were accepted (k,)."""
    sent, chance, theta = letters, partial(stream, parts.plan.seed, order.round), order.theta
    letters, waiting = on_the_way(wire.unstamped(letters), state.waiting, parts.wire, chance)
    accepted = wire.through(sent, letters, waiting)
    # 5. average
    update = parts.aggregate(letters["update"], letters["weight"], chance)
    shaped("what aggregate returns", update, theta.shape)
    told = {name: moved(c, letters.get(name), letters["weight"], desk.sizes) for name, c in state.told.items()}
    # 6. update
    theta, memory = stepped(parts.server, theta, update.astype(theta.dtype, copy=False), state.memory, letters)
    spent = ledger.account(state, parts.mechanism, desk, sent["seat"], sent["steps"])
    heard = state.accepted.copy()
    heard[sent["seat"][accepted]] = order.round + 1
    record = recorded(order, invited, sent, letters, waiting, accepted, update, parts, desk)
    return State(order.round + 1, theta, memory, state.kept, desk.names, told, waiting, spent, heard), record, accepted


def each(number, size):
    """One number for a hospital, or one for each of a stack: an array shaped like size."""
    return np.full(size.shape, number)


def on_the_way(letters: Letters, waiting: Letters, steps, chance):
    """Letters as they come out of the wire, and those that wait."""
    for step in steps:
        letters, waiting = step(letters, waiting, chance)
    return letters, waiting


def moved(c, moves, sizes, all_sizes):
    """c ← c + Σ nₖΔcₖ / Σ n: who arrived are some, the sum below is over all who are registered.

    Karimireddy et al. 2020, arXiv:1910.06378, line 17 of algorithm 1. What no letter of this plan moves stays.
    """
    if moves is None:
        return c
    return c + (sizes @ moves / all_sizes.sum()).astype(c.dtype)


def stepped(server, theta, update, memory, letters: Letters):
    """The server's step, if there is something to do: θ, memory."""
    if not (letters["seat"].size or update.any()):  # noise comes without answers too, or it would tell of the absence
        return theta, memory
    memory = {name: value.astype(theta.dtype, copy=False) for name, value in memory.items()}
    theta, memory = server.step(theta, update, memory)
    return theta, remembered(memory) if memory else memory


def recorded(order, invited, sent, letters, waiting, accepted, update, parts, desk: Desk):
    """What is said of a round: a dict.

    Bytes are those of the parameters in the orders and letters that travelled, or what letters say that they weigh.
    """
    seats = sent["seat"]
    down = sum(part.itemsize for part in (order.theta, *order.told.values()))
    up = parts.travelling * sum(part.itemsize for part in sent.values() if part.ndim == 2)
    refused = seats[~accepted]
    who = invited, seats, waiting.get("seat", NOBODY), refused
    return {
        "round": order.round + 1,
        "hospitals": letters["seat"].size,
        "refused": ", ".join(desk.names[seat] for seat in refused),
        "update_norm": math.sqrt(update.dot(update)),
        "bytes_up": int(sent["bytes"].sum()) if "bytes" in sent else seats.size * up,
        "bytes_down": invited.size * parts.travelling * down + int(sent.get("heard", NOBODY).sum()),
        "who": Who(*who if desk.rows is None else (desk.rows[seats] for seats in who)),
    }


# -------------------------------------------------------------------------------------------- hospitals in one process


def opened(state: State, parts: Pieces, desk: Desk):
    """What the server keeps and what the hospitals keep, apart: State, {name: (K, P)}, with what this plan needs.

    What the first round has not made yet is made. A state that holds something of other hospitals is refused.
    """
    theta = state.theta.astype(desk.dtype, copy=False)
    new, told = parts.hospital.init(theta), parts.hospital.told
    if state.names == desk.names and new.keys() <= state.kept.keys() and {*told} <= state.told.keys():
        return (replace(state, kept={}), state.kept) if state.kept else (state, {})
    if state.names and state.names != desk.names:
        if state.spent is not None:
            ledger.same_hospitals(state, desk.names)
        if state.kept or state.waiting:
            raise ValueError(
                f"what the hospitals keep in this state belongs to {list(state.names)}, not to {list(desk.names)}: "
                "go on with those, or start from its theta."
            )
    K = len(desk.names)
    kept = {name: np.tile(row, (K, *(1,) * row.ndim)) for name, row in new.items()} | state.kept
    told = {name: np.zeros_like(theta) for name in told} | state.told
    accepted = state.accepted if state.names == desk.names else np.zeros(K, int)
    return replace(state, kept={}, told=told, accepted=accepted, names=desk.names), kept


def collect(order: Order, parts: Pieces, hospitals: Hospitals, desk: Desk, kept: dict, invited, present):
    """The letters of a round, and what all hospitals would keep, (K, …) each: one conversation with those invited.

    Who is absent falls silent when the model has been sent.
    """
    tried, absent = kept, () if present is invited else np.setdiff1d(invited, present)

    def ask(order, seats):
        nonlocal tried
        if order.topic in SILENT and len(absent):
            seats = np.setdiff1d(seats, absent)
        letters, mine = answers(order, parts, hospitals, desk, tried, seats)
        if mine:
            new = {name: rows.copy() for name, rows in tried.items()} if tried is kept else tried
            for name, rows in mine.items():
                new[name][seats] = rows
            tried = new
        return letters

    return parts.talk(ask, order, invited), tried


def answers(order: Order, parts: Pieces, hospitals: Hospitals, desk: Desk, kept: dict, seats):
    """The letters of the hospitals in these seats, and what they would keep: a block of them at a time.

    Memory grows with the block, not with the hospitals; the block changes results by rounding at most.
    """
    P, k, at = order.theta.size, seats.size, 0
    if not k:
        return wire.none(P, parts.hospital.told, desk.dtype), {}
    letters, tried, dice = {}, {}, Dice.of(parts.plan.seed, order.round, seats)
    for some in blocks(seats, hospitals, P, parts.plan):
        rows, mine = desk.at(some), {name: part[spanned(some)] for name, part in kept.items()}
        records = hospitals.X[rows], hospitals.y[rows], hospitals.w[rows]
        letter, mine = at_hospital(order, parts, mine, *records, desk.sizes[some], dice.at(some))
        if some.size == k:
            return letter, mine
        for pages, page in ((letters, letter), (tried, mine)):
            for name, part in page.items():
                if not at:
                    pages[name] = np.empty((k, *part.shape[1:]), part.dtype)
                pages[name][at : at + some.size] = part
        at += some.size
    return letters, tried


def blocks(seats, hospitals: Hospitals, P, plan: Plan):
    """Seats, so many at a time that what they work on fits about into a processor's cache."""
    block = plan.block or max(1, 2**17 // max(P, hospitals.X[0].size))
    return [seats[at : at + block] for at in range(0, seats.size, block)]


def settled(state: State, kept: dict, tried: dict, wrote, accepted) -> State:
    """The state with what hospitals keep now: what they tried if the letter was accepted, what they had if not.

    On a network a hospital learns it from the next order (`Order.accepted`); those of one process learn it at once.
    """
    if not kept:
        return state
    if not accepted.all():
        back = wrote[~accepted]
        tried = {name: rows.copy() for name, rows in tried.items()}
        for name, rows in tried.items():
            rows[back] = kept[name][back]
    return replace(state, kept=tried)
