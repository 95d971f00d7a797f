"""The protocol: a Plan, a State, and one round that takes a state to the next.

Values in, values out. Round r draws all its chance from default_rng([seed, r]), so a run that was saved and
resumed equals the uninterrupted one bit for bit. Derived in notebook 03; saving and stopping in notebook 06.
"""

import os
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .aggregate import weighted_mean
from .checks import number, whole
from .local import draw_batches, sgd
from .server import Server, fedavg


def as_it_is(updates, rng):
    """The plainest uplink: what a hospital computed is what travels."""
    return updates


@dataclass(frozen=True)
class Plan:
    """The settings of a federation; a variant is `dataclasses.replace(plan, lr=0.05)`.

    lr η > 0 · steps local steps a round · batch records a step (None: all) · epochs instead of steps, passes
    over the records · mu FedProx's pull · fraction of the hospitals invited to a round · dropout chance that an
    invited one does not answer · aggregate (updates, weights, rng) -> (P,) · server what is done with it ·
    uplink (updates, rng) -> updates, everything that happens on the wire · block hospitals trained at a time
    (memory, never results) · seed. A setting that cannot work raises a ValueError in words. Notebook 03.
    """

    lr: float = 0.1
    steps: int = 1
    batch: int | None = None
    epochs: int | None = None
    mu: float = 0.0
    fraction: float = 1.0
    dropout: float = 0.0
    aggregate: Callable = weighted_mean
    server: Server = field(default_factory=fedavg)
    uplink: Callable = as_it_is
    block: int = 32
    seed: int = 0

    def __post_init__(self):
        number("the learning rate lr", self.lr, above=0, hint="Try lr=0.1; if training diverges, less.")
        number("mu", self.mu, least=0, hint="mu=0 is plain federated averaging.")
        number("fraction", self.fraction, above=0, most=1, hint="fraction=1 invites every hospital.")
        number("dropout", self.dropout, least=0, below=1, hint="dropout=0 means that everybody answers.")
        for name in ("steps", "block"):
            whole(name, getattr(self, name))
        for name in ("batch", "epochs"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), hint=f"Leave {name} out for full-batch steps.")
        whole("seed", self.seed, least=0)
        if self.epochs is not None and self.batch is None:
            raise ValueError("epochs are passes in batches: give batch too, as in Plan(epochs=1, batch=32).")


@dataclass(frozen=True)
class State:
    """Where a federation stands: rounds completed, theta (P,), and the server's memory (a dict of arrays)."""

    round: int
    theta: np.ndarray
    memory: dict


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


def one_round(state, model, hospitals, plan):
    """One round of federated learning: (State, …) -> State, record.

    The record says who took part, whose update was refused because it was not finite, how far the model moved
    and how many bytes travelled. A round in which nobody answers leaves θ as it was. McMahan et al. 2017,
    arXiv:1602.05629; notebook 03 derives it with an explicit loop over hospitals.
    """
    rng = np.random.default_rng([plan.seed, state.round])
    K = len(hospitals.names)
    theta = state.theta.astype(hospitals.X.dtype, copy=False)
    # 1. invite
    invited = np.sort(rng.choice(K, max(1, round(plan.fraction * K)), replace=False))
    present = invited[rng.random(invited.size) >= plan.dropout]
    # 2. train
    updates = train(model, np.broadcast_to(theta, (present.size, theta.size)), hospitals, present, plan, rng) - theta
    # 3. upload; what arrives is checked before it is used
    updates = plan.uplink(updates, rng)
    sound = np.isfinite(updates).all(axis=-1)
    # 4. aggregate   5. step
    update, memory = np.zeros_like(theta), state.memory
    if sound.any():
        update = plan.aggregate(updates[sound], hospitals.sizes[present[sound]], rng)
        theta, memory = plan.server.step(theta, update, memory)
    record = {
        "round": state.round + 1,
        "hospitals": int(sound.sum()),
        "refused": ", ".join(hospitals.names[k] for k in present[~sound]),
        "update_norm": float(np.linalg.norm(update)),
        "bytes_up": int(updates.nbytes),
        "bytes_down": int(invited.size * theta.nbytes),
    }
    return State(state.round + 1, theta, memory), record


def train(model, theta, hospitals, present, plan, rng):
    """The local steps of the hospitals in `present` (sorted row numbers), from their rows of theta: (k, P) → (k, P).

    Hospitals are taken a block at a time, so that memory does not grow with their number; all chance is drawn
    before, so that the block size changes nothing.
    """
    batches, steps, trained = None, plan.steps, np.empty(theta.shape, theta.dtype)
    if plan.batch is not None and present.size:
        batches = draw_batches(hospitals.w[present], plan.batch, plan.steps, rng, plan.epochs)
        steps = batches[0].shape[-2]
    sizes = hospitals.sizes
    for at in range(0, present.size, plan.block):
        seats = slice(at, at + plan.block)
        rows = spanned(present[seats])
        mine = None if batches is None else [part[seats] for part in batches]
        n = sizes[rows].max()  # the padding that only larger hospitals elsewhere need stays behind
        data = hospitals.X[rows, :n], hospitals.y[rows, :n], hospitals.w[rows, :n]
        trained[seats] = sgd(model, theta[seats], *data, lr=plan.lr, steps=steps, batches=mine, mu=plan.mu)
    return trained


def spanned(rows):
    """Sorted row numbers as a slice where they have no gap, so that NumPy need not copy the hospitals."""
    gapless = rows[-1] - rows[0] + 1 == rows.size
    return slice(rows[0], rows[-1] + 1) if gapless else rows


def rounds(model, hospitals, plan, state=None):
    """State and record after round 1, 2, 3, … without end: the caller's `for` decides when to stop."""
    state = state or initial(model, plan)
    while True:
        state, record = one_round(state, model, hospitals, plan)
        yield state, record


def alone(model, hospitals, plan, rounds, theta=None):
    """θₖ of every hospital after the local steps of `rounds` rounds by itself, nothing sent, nothing averaged: (K, P).

    With `Hospitals.pooled()` in `fit`, one of the two yardsticks of a federation. Notebook 03.
    """
    ready(hospitals, model)
    K, start = len(hospitals.names), initial(model, plan, theta).theta.astype(hospitals.X.dtype)
    own = np.broadcast_to(start, (K, start.size))
    for r in range(whole("rounds", rounds)):
        own = train(model, own, hospitals, np.arange(K), plan, np.random.default_rng([plan.seed, r]))
    return own


def average_loss(model, theta, hospitals):
    """Σₖ nₖ Lₖ(θ) / Σₖ nₖ: what the federation minimises, one number."""
    sizes = hospitals.sizes
    return float(sizes @ model.loss(theta, hospitals.X, hospitals.y, hospitals.w) / sizes.sum())


def pooled_scores(model, theta, hospitals, metrics):
    """{metric's name: its value over all records of all hospitals together}."""
    seen = hospitals.w > 0
    y, p = hospitals.y[seen], model.predict(theta, hospitals.X)[seen]
    return {metric.__name__: float(metric(y, p)) for metric in metrics}


def plateau(metric="loss", patience=5, tol=1e-4):
    """A stopping rule: the metric has moved by less than tol over the last `patience` rounds."""
    return lambda records: len(records) > patience and abs(records[-1][metric] - records[-1 - patience][metric]) < tol


def small_update(tol=1e-3):
    """A stopping rule: ‖aggregated update‖ < tol. (With drop-outs or mini-batches, prefer `plateau`.)"""
    return lambda records: records[-1]["hospitals"] > 0 and records[-1]["update_norm"] < tol


def fit(model, hospitals, plan, *, rounds=100, theta=None, state=None, history=None, until=None, test=None, metrics=()):
    """Train until `rounds` are done or `until(records)` is true: -> State, history (a table, one row a round).

    Start from `theta`, from a saved `state` (with its `history`), or from model.init. The history holds the
    records of `one_round`, the average training loss, and each of `metrics` on the held-out hospitals `test`.
    Nothing is lost: after Ctrl-C (or the stop button), or when the model is no longer finite, you get the last
    good state and every completed round; `history.attrs["stopped"]` says why it ended: "rounds", "converged",
    "interrupted" or "diverged". Notebooks 03 and 05.
    """
    import pandas as pd

    whole("rounds", rounds)
    ready(hospitals, model)
    state = state or initial(model, plan, theta)
    records = [] if history is None else history.reset_index().to_dict("records")

    def scores(theta):
        found = pooled_scores(model, theta, test, metrics) if test is not None else {}
        return {"loss": average_loss(model, theta, hospitals), **found}

    stopped = "rounds"
    try:
        for _ in range(rounds):
            new, record = one_round(state, model, hospitals, plan)
            record |= scores(new.theta)
            if not np.isfinite(record["loss"]) or (record["refused"] and not record["hospitals"]):
                stopped = "diverged"
                break
            records.append(record)
            state = new
            if until is not None and until(records):
                stopped = "converged"
                break
    except KeyboardInterrupt:
        stopped = "interrupted"
    table = pd.DataFrame([r for r in records if r["round"] <= state.round]).set_index("round")
    table.attrs["stopped"] = stopped
    return state, table


def ready(hospitals, model):
    """Refuse what cannot be trained on: missing values, or another number of features than the model has."""
    if not np.isfinite(hospitals.X).all():
        k, _, j = np.argwhere(~np.isfinite(hospitals.X))[0]
        raise ValueError(
            f"hospital {hospitals.names[k]!r} has a missing value in feature {j}. Fill the gaps first, for example "
            "with data.standardise, which puts the average of all hospitals in their place."
        )
    try:
        model.predict(np.zeros(model.P), hospitals.X[:1, :1])
    except ValueError as error:
        d = hospitals.X.shape[-1]
        raise ValueError(f"the hospitals have d = {d} features, but the model was made for another number.") from error


def save(path, state, history=None):
    """Write state and history to one .npz file, whole or not at all: an older file survives a full disk."""
    held = {"round": state.round, "theta": state.theta}
    held |= {f"memory/{name}": value for name, value in state.memory.items()}
    if history is not None:
        held |= {f"history/{name}": column.to_numpy() for name, column in history.reset_index().items()}
        held = {name: np.asarray(v, dtype=str) if np.asarray(v).dtype == object else v for name, v in held.items()}
    folder = os.path.dirname(os.path.abspath(path))
    handle, draft = tempfile.mkstemp(dir=folder, suffix=".draft")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **held)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


def load(path, model=None, *, most_bytes=10**9):
    """State and history (or None) from a file that `save` wrote: they resume as if never interrupted.

    A file that is damaged, of another model, far too large, or a pickle is refused in words; pickles are never
    opened, because opening one runs whatever its author wrote in it.
    """
    import pandas as pd

    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > most_bytes:
            raise ValueError(f"it would unpack to {size:.2g} bytes, more than most_bytes = {most_bytes:.2g}")
        with np.load(path, allow_pickle=False) as held:
            held = {name: held[name] for name in held.files}
        state = State(
            int(held["round"]),
            held["theta"],
            {name.removeprefix("memory/"): v for name, v in held.items() if name.startswith("memory/")},
        )
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, OSError, MemoryError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{os.fspath(path)!r} is not a state that save() wrote, or it is damaged: {error}.") from error
    if model is not None and state.theta.shape != (model.P,):
        raise ValueError(
            f"{os.fspath(path)!r} holds {state.theta.size} parameters, but this model has {model.P}: "
            "it was saved with another model."
        )
    columns = {name.removeprefix("history/"): v for name, v in held.items() if name.startswith("history/")}
    return state, pd.DataFrame(columns).set_index("round") if columns else None
