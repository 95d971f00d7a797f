"""The protocol: one round takes a State to the next, as a Plan says.

Values in, values out. Round r draws all its chance from default_rng([seed, r]), so a run that was saved and
resumed equals the uninterrupted one bit for bit. Derived in notebook 03; saving and stopping in notebook 06.
Plan and State are made in `plan`, save and load in `store`; both can be called from here too.
"""

import math
import warnings

import numpy as np

from .checks import meant, shaped, title, whole
from .ledger import BudgetSpent, Ledger, charged, mechanism, stop_before, warn_of_delta
from .local import draw_batches, sgd, steps_in
from .plan import Plan as Plan
from .plan import State as State
from .plan import as_it_is as as_it_is
from .plan import initial as initial
from .store import load as load
from .store import save as save


def one_round(state, model, hospitals, plan):
    """One round of federated learning: (State, …) -> State, record.

    The record says who took part, whose update was refused because it was not finite, how far the model moved
    and how many bytes travelled. A round in which nothing arrives leaves θ as it was, unless the aggregate adds noise.
    McMahan et al. 2017, arXiv:1602.05629; notebook 03 derives it with an explicit loop over hospitals.
    """
    rng = None if plan.deterministic else np.random.default_rng([plan.seed, state.round])
    what = mechanism(plan)
    chance = rng if what is None else what.noise(plan, state.round, 1)  # noise never shares a stream
    theta, K = state.theta.astype(hospitals.X.dtype, copy=False), len(hospitals.names)
    kept = at_home(state.kept, theta, K, plan, what)
    # 1. invite
    invited, present = attendance(plan, state.round, K, rng)
    sizes = hospitals.sizes[present]
    # 2. train
    steps = local_steps(plan, sizes, rng)
    kept = kept | account(state, plan, what, hospitals.names, present, steps)  # the budget may refuse, before all else
    start = theta if plan.shared is None else np.where(plan.shared, theta, kept["own"][present])
    control, drift = 0, 0.0
    if plan.scaffold:
        control = plan.aggregate(kept["control"], hospitals.sizes, rng)  # c, weighted as the updates are
        drift = control - kept["control"][present]
    updates = train(model, start, hospitals, present, sizes, steps, drift, plan, rng, chance)
    # 3. upload; what arrives is checked before it is used
    kept = remember(kept, present, start, updates, control, steps, plan)
    wire = rng if plan.uplink is as_it_is else np.random.default_rng([plan.seed, state.round, 2])
    updates = plan.uplink(outgoing(updates, sizes, steps, plan), wire)
    shaped("what uplink returns", updates, (present.size, theta.size))
    arrived, load, refused = updates, sizes, []
    if not np.isfinite(updates).all():
        sound = np.isfinite(updates).all(axis=-1)
        if what is not None and what.where == "distributed":
            sound[:] = False  # without one share of the noise the sum is not protected: nothing of it is used
        arrived, load, refused = updates[sound], sizes[sound], [hospitals.names[k] for k in present[~sound]]
    if plan.late or "way" in kept:
        arrived, load, kept = delayed(arrived, load, kept, plan, rng)
    # 4. aggregate   5. step
    memory = {name: value.astype(theta.dtype, copy=False) for name, value in state.memory.items()}
    update = plan.aggregate(arrived, load, chance)
    if plan.private is not None:
        update = update + plan.private.server_noise(load, plan.lr, theta, chance)
    shaped("what aggregate returns", update, theta.shape)
    update = update.astype(theta.dtype, copy=False)
    if load.size or update.any():  # noise is added in a round without answers too, or it would tell of the absence
        theta, memory = plan.server.step(theta, update, memory)
    cargo = theta.itemsize * (theta.size if plan.shared is None else np.count_nonzero(plan.shared))
    cargo *= 2 if plan.scaffold else 1  # a control variate travels beside the model, both ways
    record = {
        "round": state.round + 1,
        "hospitals": int(load.size),
        "refused": ", ".join(refused),
        "update_norm": math.sqrt(update @ update),
        "bytes_up": int(present.size * cargo),
        "bytes_down": int(invited.size * cargo),
    }
    return State(state.round + 1, theta, memory, kept), record


def attendance(plan, r, K, rng):
    """Who is invited to round r, and who of them answers: sorted row numbers."""
    if plan.deterministic:
        everyone = np.arange(K)
        return everyone, everyone
    if plan.poisson:
        invited = np.flatnonzero(rng.random(K) < plan.fraction)
    else:
        invited = np.sort(rng.choice(K, max(1, round(plan.fraction * K)), replace=False))
    absence = np.full(K, plan.dropout) if not callable(plan.dropout) else np.asarray(plan.dropout(r))
    shaped("what dropout returns", absence, (K,))
    if not ((absence >= 0) & (absence <= 1)).all():
        raise ValueError(f"dropout must return chances between 0 and 1, but for round {r} it returned {absence}.")
    return invited, invited[rng.random(invited.size) >= absence[invited]]


def at_home(kept, theta, K, plan, what):
    """What the hospitals keep, with the rows that this plan needs and the first round has not made yet."""
    if plan.shared is not None:
        shaped("the mask `shared` of the plan", plan.shared, theta.shape)
    if what is not None and what.where != "hospital" and np.size(kept.get("load", ())):
        raise ValueError(
            "updates of an earlier plan are still on their way, and this plan's noise is right for one update of each "
            "hospital only. Let them arrive first: a round with late=0 and without that noise."
        )
    rows = {"control": np.zeros((K, theta.size), theta.dtype)} if plan.scaffold else {}
    rows |= {"own": np.tile(theta, (K, 1))} if plan.shared is not None else {}
    return rows | kept


def account(state, plan, what, names, present, steps):
    """What the ledger keeps after this round, {"spent": …, "whose": …}, or {}. Who trains is charged before."""
    if what is None and "spent" not in state.kept:
        return {}
    releases = np.ones(len(names), int)  # the unit "hospital": every round speaks about every hospital
    if plan.private is not None:
        releases[:] = 0
        releases[present] = steps
    spent = charged(state, what, names, releases)
    if plan.budget is not None:
        stop_before(plan.budget, Ledger(names, spent, plan.budget.delta, plan.budget.accountant))
    return {"spent": spent, "whose": np.array([str(name) for name in names])}


def local_steps(plan, sizes, rng):
    """How many steps the hospitals take: one number, or one each (k,). A straggler stops after a random part."""
    steps = plan.steps if plan.epochs is None else steps_in(plan.epochs, sizes, plan.batch)
    if plan.stragglers:
        slow = rng.random(sizes.size) < plan.stragglers
        steps = np.where(slow, rng.integers(1, np.maximum(np.broadcast_to(steps, sizes.shape), 2)), steps)
    return steps


def train(model, theta, hospitals, present, sizes, steps, drift, plan, rng, chance):
    """The updates Δ (k, P) of the hospitals in `present` (sorted row numbers), from theta: one for all (P,), or (k, P).

    Hospitals are taken a block at a time, so that memory does not grow with their number. The block size changes
    nothing: batches are drawn hospital after hospital, and all of DP-SGD's chance, from `chance`, before the first.
    """
    updates, C = np.empty((present.size, theta.shape[-1]), theta.dtype), None
    each = {"steps": steps, "drift": drift}  # one number for all, or one each, as is all that follows
    block = plan.block or max(1, 2**17 // max(theta.shape[-1], hospitals.X[0].size))  # about what a cache holds
    if plan.private is not None and present.size:
        C = plan.private.C
        each["shares"], each["noise"] = plan.private.draw(hospitals.w[present], theta, np.max(steps), chance)
    for at in range(0, present.size, block):
        seats = slice(at, at + block)
        rows, n = spanned(present[seats]), sizes[seats].max()  # padding that only other blocks need stays behind
        data = hospitals.X[rows, :n], hospitals.y[rows, :n], hospitals.w[rows, :n]
        mine = {name: part[seats] if isinstance(part, np.ndarray) else part for name, part in each.items()}
        if plan.batch is not None:
            mine["batches"] = draw_batches(hospitals.w[rows], plan.batch, mine["steps"], rng)
        elif C is not None:
            mine["batches"] = None, mine.pop("shares")
        start = theta if theta.ndim == 1 else theta[seats]
        trained = sgd(model, start, *data, lr=plan.lr, mu=plan.mu, C=C, **mine)
        np.subtract(trained, start, out=updates[seats])
    return updates


def remember(kept, present, start, updates, control, steps, plan):
    """What stays at the hospitals after training: control variates (SCAFFOLD) and the part of θ that is their own."""
    staying = {name: kept[name] for name in ("way", "load", "spent", "whose") if name in kept}
    if not plan.scaffold and plan.shared is None:
        return staying
    new, sound = {}, np.isfinite(updates).all(axis=-1)
    at, moved = present[sound], updates[sound]
    if plan.scaffold:  # Karimireddy et al. 2020, option II: cₖ ← cₖ − c + (θ − θₖ)/(steps · η)
        new["control"] = kept["control"].copy()
        taken = np.broadcast_to(steps, present.shape)[sound, None]
        less = control + moved / (taken * plan.lr).astype(moved.dtype)
        new["control"][at] -= less if plan.shared is None else np.where(plan.shared, less, 0)  # no drift in what stays
    if plan.shared is not None:
        new["own"] = kept["own"].copy()
        new["own"][at] = np.broadcast_to(start, updates.shape)[sound] + moved
    return new | staying


def outgoing(updates, sizes, steps, plan):
    """What a hospital sends of its update: the shared part, and with FedNova scaled as if all had taken equal steps.

    Δₖ · τ̄/τₖ with τ̄ = Σ nₖτₖ / Σ nₖ: Wang et al. 2020, arXiv:2007.07481. FedProx's pull shrinks what earlier steps did
    by 1 − ημ each time, so there τₖ is Σᵢ (1 − ημ)ⁱ over i < τₖ, as in that paper. Notebook 08.
    """
    if plan.shared is not None:
        updates = np.where(plan.shared, updates, 0)
    if plan.normalise and sizes.size:
        steps = np.broadcast_to(steps, sizes.shape)
        if plan.mu:
            steps = (1 - (1 - plan.lr * plan.mu) ** steps) / (plan.lr * plan.mu)
        updates = updates * (sizes @ steps / sizes.sum() / steps)[:, None].astype(updates.dtype)
    return updates


def delayed(arrived, load, kept, plan, rng):
    """Some updates are late: they wait in `kept` and join the next round's, computed from the older model.

    A hospital that was late and is on time again counts twice in that round. Notebook 09.
    """
    late = rng.random(load.size) < plan.late if plan.late else np.zeros(load.size, bool)
    before = kept.get("way", arrived[:0]), kept.get("load", load[:0])
    now = np.concatenate([before[0], arrived[~late]]), np.concatenate([before[1], load[~late]])
    return *now, kept | {"way": arrived[late], "load": load[late]}


def spanned(rows):
    """Sorted row numbers as a slice where they have no gap, so that NumPy need not copy the hospitals."""
    gapless = rows[-1] - rows[0] + 1 == rows.size
    return slice(rows[0], rows[-1] + 1) if gapless else rows


def rounds(model, hospitals, plan, state=None):
    """State and record after round 1, 2, 3, … until the caller's `for` stops, or a privacy budget is spent."""
    first = state = state or initial(model, plan)
    if plan.budget is not None:
        warn_of_delta(plan.budget.delta, mechanism(plan).unit, hospitals.names, hospitals.sizes)
    while True:
        try:
            state, record = one_round(state, model, hospitals, plan)
        except BudgetSpent as refusal:
            if state is first:
                raise
            warnings.warn(f"the rounds end here: {refusal}", stacklevel=2)
            return
        yield state, record


def alone(model, hospitals, plan, rounds, theta=None, *, first=0):
    """θₖ of every hospital after the local steps of `rounds` rounds by itself, nothing sent, nothing averaged: (K, P).

    theta is where they start: one for all (P,), or one each (K, P), which makes this the fine-tuning of a model. With
    `Hospitals.pooled()` in `fit`, one of the two yardsticks of a federation. No State, so no ledger: with private=…
    count rounds · steps releases yourself, by `privacy.epsilon`. In pieces, `first` says how many rounds came before,
    or their chance and noise repeat. Notebooks 03 and 10.
    """
    ready(hospitals, model)
    if plan.budget is not None:
        raise ValueError("alone() keeps no account and cannot watch a budget: count with privacy.epsilon instead.")
    K, sizes = len(hospitals.names), hospitals.sizes
    own = initial(model, plan, theta).theta if np.ndim(theta) < 2 else np.asarray(theta)
    own = np.broadcast_to(own, (K, model.P)).astype(hospitals.X.dtype)
    for r in range(whole("first", first, least=0), first + whole("rounds", rounds)):
        rng = np.random.default_rng([plan.seed, r])
        steps = local_steps(plan, sizes, rng)
        chance = rng if plan.private is None else mechanism(plan).noise(plan, r, 3)
        own = own + train(model, own, hospitals, np.arange(K), sizes, steps, 0.0, plan, rng, chance)
    return own


def personal(state, plan):
    """Each hospital's model where a part stays at home: the shared part of θ, and its own of the rest: (K, P)."""
    if plan.shared is None or "own" not in state.kept:
        raise ValueError(
            "no part of this model has stayed at home: give the plan with shared=…, after its first round."
        )
    return np.where(plan.shared, state.theta, state.kept["own"])


def average_loss(model, theta, hospitals):
    """Σₖ nₖ Lₖ(θ) / Σₖ nₖ: what the federation minimises, one number."""
    sizes = hospitals.sizes
    return float(sizes @ model.loss(theta, hospitals.X, hospitals.y, hospitals.w) / sizes.sum())


def pooled_scores(model, theta, hospitals, metrics):
    """{metric's name: its value over all records of all hospitals together}."""
    seen = hospitals.w > 0
    y, p = hospitals.y[seen], model.predict(theta, hospitals.X)[seen]
    return {title(metric): float(metric(y, p)) for metric in metrics}


def plateau(metric="loss", patience=5, tol=1e-4):
    """A stopping rule: the metric has moved by less than tol over the last `patience` rounds."""
    whole("patience", patience)

    def flat(records):
        if metric not in records[-1]:
            raise ValueError(
                f"the history has no {metric!r}. {meant(metric, records[-1])} Or give it to fit: metrics=…."
            )
        return len(records) > patience and abs(records[-1][metric] - records[-1 - patience][metric]) < tol

    return flat


def small_update(tol=1e-3):
    """A stopping rule: ‖aggregated update‖ < tol. (With drop-outs or mini-batches, prefer `plateau`.)"""
    return lambda records: records[-1]["hospitals"] > 0 and records[-1]["update_norm"] < tol


def fit(model, hospitals, plan, *, rounds=100, theta=None, state=None, history=None, until=None, test=None, metrics=()):
    """Train `rounds` rounds more, or until `until(records)` is true: -> State, history (a table, one row a round).

    Start from `theta`, from a saved `state` (with its `history`), or from model.init. The history holds the
    records of `one_round`, the average training loss, and each of `metrics` on the held-out hospitals `test`.
    Nothing is lost: after Ctrl-C (or the stop button), or when the model is no longer finite, you get the last
    good state and every completed round; `history.attrs["stopped"]` says why it ended: "rounds", "converged",
    "interrupted", "diverged" or "budget" (["why"] has the sentence). A budget that allows no round raises BudgetSpent.
    Notebooks 03, 05 and 13.
    """
    import pandas as pd

    whole("rounds", rounds)
    metrics = (metrics,) if callable(metrics) else metrics
    if metrics and test is None:
        raise ValueError("metrics are measured on held-out records: give test=… too.")
    if len({"loss", *map(title, metrics)}) <= len(metrics):
        raise ValueError("two columns of the history would have the same name: metrics need names, and not 'loss'.")
    for data in (hospitals,) if test is None else (hospitals, test):
        ready(data, model)
    if plan.budget is not None:
        warn_of_delta(plan.budget.delta, mechanism(plan).unit, hospitals.names, hospitals.sizes)
    state = state or initial(model, plan, theta)
    shaped("the theta of the state", state.theta, (model.P,))
    if set(state.memory) != set(plan.server.init(state.theta)):
        raise ValueError(
            "this state was made with another kind of server: go on with that one, or start from its theta."
        )
    for name in {"control", "own"} & set(state.kept):
        shaped(f"what the hospitals keep ({name})", state.kept[name], (len(hospitals.names), model.P))
    first = state
    records = [] if history is None else history.reset_index().to_dict("records")
    records = [record for record in records if record["round"] <= state.round]

    def scores(theta):
        found = pooled_scores(model, theta, test, metrics) if test is not None else {}
        return {"loss": average_loss(model, theta, hospitals), **found}

    stopped, why = "rounds", ""
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
    except BudgetSpent as refusal:
        if state is first:
            raise
        stopped, why = "budget", str(refusal)
    records = [record for record in records if record["round"] <= state.round]
    table = pd.DataFrame(records, columns=None if records else ["round", "loss"]).set_index("round")
    table.attrs |= {"stopped": stopped, "why": why}
    return state, table


def ready(hospitals, model):
    """Refuse what cannot be trained on: gaps, labels that are no chances, features that the model was not made for."""
    if not hasattr(hospitals, "names") or not hasattr(model, "predict"):
        raise ValueError(
            "first the model, then Hospitals, such as data.stack makes (or one of the two that data.prepare returns), "
            f"not {type(model).__name__} and {type(hospitals).__name__}."
        )
    if not np.isfinite(hospitals.y).all():
        raise ValueError("a label is missing or infinite. Drop that record.")
    if not np.isfinite(hospitals.X).all():
        k, _, j = np.argwhere(~np.isfinite(hospitals.X))[0]
        raise ValueError(
            f"hospital {hospitals.names[k]!r} has a missing value in feature {j}. Fill the gaps first, for example "
            "with data.standardise, which puts the average of all hospitals in their place."
        )
    try:
        said = model.predict(np.zeros(model.P), hospitals.X[:1, :1])
    except ValueError as error:
        d = hospitals.X.shape[-1]
        raise ValueError(f"the hospitals have d = {d} features, but the model was made for another number.") from error
    k, seat = np.nonzero((hospitals.y < 0) | (hospitals.y > 1))
    if k.size and (said == 0.5).all():  # who knows nothing and says ½ speaks of chances
        raise ValueError(
            f"hospital {hospitals.names[k[0]]!r} has the label {hospitals.y[k[0], seat[0]]:g}, but this model predicts "
            "chances: labels must be 0 and 1. Give their codes to data.clean."
        )
