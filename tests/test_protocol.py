"""The whole protocol against one that is slow and says everything: a loop over hospitals, steps and records.

Plans and hospitals are drawn at random, so that settings meet which no other test brings together. The loop draws its
chance in the order that the package promises; all else stands there as in the papers, for one hospital at a time.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fedlearn_mini import aggregate, data, federation, models, server
from fedlearn_mini.federation import Plan, fit

GRADIENTS = {
    "linear": lambda theta, X, y: np.append(X.T, [np.ones(len(y))], 0) @ (X @ theta[:-1] + theta[-1] - y) / len(y),
    "logistic": lambda theta, X, y: (
        np.append(X.T, [np.ones(len(y))], 0) @ (1 / (1 + np.exp(-X @ theta[:-1] - theta[-1])) - y) / len(y)
    ),
}
AVERAGES = {
    aggregate.weighted_mean: lambda rows, sizes: sum(n * row for n, row in zip(sizes, rows, strict=True)) / sum(sizes),
    aggregate.mean: lambda rows, sizes: sum(rows) / len(rows),
}


def drawn(seed):
    """Hospitals, the kind of model, a plan and a number of rounds, all from one seed."""
    rng = np.random.default_rng(seed)
    K, d, n = int(rng.choice([1, 2, 5, 8])), int(rng.integers(1, 4)), int(rng.integers(16, 90))
    hospitals = data.stack(rng.normal(size=(n, d)), rng.integers(0, 2, n), data.split_by_size(n, K, 1.0, rng))
    batch = [None, 1, 7][rng.integers(3)]
    servers = [server.fedavg(), server.fedavg(0.7, momentum=0.5), server.fedyogi(0.05)]
    absences = [0.0, 0.4, lambda r: np.linspace(0, 1, K) * (r % 2)]
    plan = Plan(
        lr=float(rng.choice([0.05, 0.3])),
        steps=int(rng.integers(1, 5)),
        batch=batch,
        epochs=None if batch is None else [None, 1][rng.integers(2)],
        mu=float(rng.choice([0.0, 0.5])),
        scaffold=bool(rng.integers(2)),
        normalise=bool(rng.integers(2)),
        shared=None if rng.random() < 0.5 else rng.random(d + 1) < 0.6,
        fraction=float(rng.choice([1.0, 0.5])),
        poisson=bool(rng.random() < 0.3),
        dropout=absences[rng.integers(3)],
        stragglers=float(rng.choice([0.0, 0.5])),
        late=float(rng.choice([0.0, 0.4])),
        aggregate=list(AVERAGES)[rng.integers(2)],
        server=servers[rng.integers(3)],
        block=[None, 1, 3][rng.integers(3)],
        seed=int(rng.integers(1000)),
    )
    return hospitals, str(rng.choice(list(GRADIENTS))), plan, int(rng.integers(2, 6))


def attend(plan, r, K, rng):
    if plan.deterministic:
        return list(range(K))
    if plan.poisson:
        invited = [k for k, u in enumerate(rng.random(K)) if u < plan.fraction]
    else:
        invited = sorted(rng.choice(K, max(1, round(plan.fraction * K)), replace=False))
    away = plan.dropout(r) if callable(plan.dropout) else [plan.dropout] * K
    return [k for k, u in zip(invited, rng.random(len(invited)), strict=True) if u >= away[k]]


def counts(plan, sizes, rng):
    steps = [plan.steps if plan.epochs is None else -(-plan.epochs * n // min(plan.batch, n)) for n in sizes]
    if plan.stragglers:
        slow = rng.random(len(sizes)) < plan.stragglers
        part = rng.integers(1, np.maximum(np.array(steps, int), 2))
        steps = [int(p) if s else t for s, p, t in zip(slow, part, steps, strict=True)]
    return steps


def slowly(hospitals, gradient, plan, rounds):
    """θ, the control variates and the own parameters after some rounds, hospital by hospital."""
    K, records = len(hospitals.names), [hospitals.one(k) for k in range(len(hospitals.names))]
    sizes, P = [len(y) for _, y in records], hospitals.X.shape[-1] + 1
    shared = np.ones(P, bool) if plan.shared is None else plan.shared
    theta, control, own, waiting = np.zeros(P), np.zeros((K, P)), np.zeros((K, P)), []
    memory = plan.server.init(theta)
    for r in range(rounds):
        rng = np.random.default_rng([plan.seed, r])
        present = attend(plan, r, K, rng)
        steps = counts(plan, [sizes[k] for k in present], rng)
        c, updates = AVERAGES[plan.aggregate](control, sizes), []
        for k, t in zip(present, steps, strict=True):
            X, y = records[k]
            start = np.where(shared, theta, own[k])
            here = start.copy()
            shuffled = np.argsort(rng.random(hospitals.w.shape[1])[: len(y)]) if plan.batch else np.arange(len(y))
            size = min(plan.batch or len(y), len(y))
            for s in range(t):
                rows = [shuffled[(s * size + seat) % len(y)] for seat in range(size)]
                pull = plan.mu * (here - start)
                drift = c - control[k] if plan.scaffold else 0
                here = here - plan.lr * (gradient(here, X[rows], y[rows]) + pull + drift)
            updates.append(here - start)
            own[k] = here
        for k, t, update in zip(present, steps, updates, strict=True):
            if plan.scaffold:
                control[k] = np.where(shared, control[k] - c - update / (t * plan.lr), 0)
        sent = [np.where(shared, update, 0) for update in updates]
        if plan.normalise and present:
            lengths = [sum((1 - plan.lr * plan.mu) ** i for i in range(t)) for t in steps]  # ‖a‖₁ of the paper
            n = [sizes[k] for k in present]
            usual = sum(a * b for a, b in zip(n, lengths, strict=True)) / sum(n)
            sent = [update * usual / length for update, length in zip(sent, lengths, strict=True)]
        post = [(update, sizes[k]) for k, update in zip(present, sent, strict=True)]
        if plan.late:
            late = rng.random(len(post)) < plan.late
            on_time = [letter for letter, slow in zip(post, late, strict=True) if not slow]
            post, waiting = waiting + on_time, [letter for letter, slow in zip(post, late, strict=True) if slow]
        if post:
            theta, memory = plan.server.step(theta, AVERAGES[plan.aggregate](*zip(*post, strict=True)), memory)
    return theta, control, own


@pytest.mark.parametrize("seed", range(150))
def test_any_plan_equals_the_slow_loop(seed):
    hospitals, kind, plan, rounds = drawn(seed)
    state, _ = fit(getattr(models, kind)(hospitals.X.shape[-1]), hospitals, plan, rounds=rounds)
    theta, control, own = slowly(hospitals, GRADIENTS[kind], plan, rounds)
    assert state.round == rounds and np.allclose(state.theta, theta, rtol=1e-9, atol=1e-11)
    if plan.scaffold:
        assert np.allclose(state.kept["control"], control, rtol=1e-9, atol=1e-10)
    if plan.shared is not None:
        personal = federation.personal(state, plan)
        assert np.allclose(personal, np.where(plan.shared, theta, own), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("seed", range(150, 230))
def test_any_plan_survives_a_night_in_a_file_and_any_block(seed, tmp_path):
    hospitals, kind, plan, rounds = drawn(seed)
    model = getattr(models, kind)(hospitals.X.shape[-1])
    through, history = fit(model, hospitals, plan, rounds=rounds)
    evening, so_far = fit(model, hospitals, plan, rounds=1)
    federation.save(tmp_path / "night.npz", evening, so_far)
    evening, so_far = federation.load(tmp_path / "night.npz", model)
    morning, whole = fit(model, hospitals, plan, rounds=rounds - 1, state=evening, history=so_far)
    for part in ("memory", "kept"):
        one, other = getattr(through, part), getattr(morning, part)
        assert set(one) == set(other) and all((one[name] == other[name]).all() for name in one)
    assert (through.theta == morning.theta).all()
    pd.testing.assert_frame_equal(history, whole, check_exact=True)
    other_block, _ = fit(model, hospitals, replace(plan, block=2), rounds=rounds)
    assert np.allclose(other_block.theta, through.theta, rtol=1e-12, atol=1e-14)
