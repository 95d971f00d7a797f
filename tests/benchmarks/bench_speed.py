"""How far is the readable engine from the bare arithmetic? `python -m pytest tests/benchmarks/bench_speed.py -s`.

Each job is timed in turn with its limit: the NumPy calls that its arithmetic cannot do without (products, exponentials
or ReLUs, the residual), on arrays of the same shapes. Machines are noisy, so the ratio of the medians is the result.
"""

import statistics
import time
from itertools import islice

import numpy as np
import pytest

from fedlearn_mini import accountant, data, models
from fedlearn_mini.federation import rounds
from fedlearn_mini.hospital import steps_in
from fedlearn_mini.plan import Plan

pytest.importorskip("pytest_benchmark", reason="pip install -e '.[test,bench]'")
HEART = (303, 294, 123, 200)
np.ones(2**20)  # a session that has drawn a figure has freed megabytes: only then does glibc keep small pages at hand


def hospitals(sizes, d=13, dtype=float):
    rng = np.random.default_rng(0)
    N = sum(sizes)
    groups = np.repeat([f"H{k:05d}" for k in range(len(sizes))], sizes)
    return data.stack(rng.normal(size=(N, d)).astype(dtype), rng.integers(0, 2, N), groups)


def federate(model, many, plan, count):
    return next(islice(rounds(model, many, plan), count - 1, None))


def logistic_limit(K, n, d, rounds_, steps, block=250):
    """Xβ, the sigmoid, the weighted residual, rX and the step, block by block; then the average of the rows."""
    rng = np.random.default_rng(0)
    X, theta = rng.normal(size=(K, d + 1, n)), np.empty((K, 1, d + 1))
    w, y, server, share = np.full((K, 1, n), 1 / n), np.ones((K, 1, n)), np.zeros(d + 1), np.full(K, 1 / K)

    def run():
        for _ in range(rounds_):
            for b in (slice(at, at + block) for at in range(0, K, block)):
                mine, Xb, wb, yb = np.tile(server, (len(X[b]), 1, 1)), X[b], w[b], y[b]
                for _ in range(steps):
                    p = 1 / (1 + np.exp(-(mine @ Xb)))
                    mine = mine - 0.1 * (wb * (p - yb) @ Xb.mT)
                theta[b] = mine
            server + share @ (theta[:, 0] - server)

    return run


def network_limit(sizes, batch, epochs, rounds_, d=13, h=64, dtype=float):
    """The network written out for its three layers, with no flat θ, no model and no protocol: K hospitals at once."""
    rng, K = np.random.default_rng(0), len(sizes)
    X, y = rng.normal(size=(K, max(sizes), d)).astype(dtype), rng.random((K, max(sizes), 1)).astype(dtype)
    rows, k = rng.integers(0, min(sizes), (K, batch)), np.arange(K)[:, None]
    start = [
        rng.normal(0, 0.1, (K, *shape)).astype(dtype) for shape in ((d, h), (1, h), (h, h), (1, h), (h, 1), (1, 1))
    ]

    def run():
        W1, b1, W2, b2, W3, b3 = start
        for _ in range(rounds_ * int(steps_in(epochs, np.array(sizes), batch).max())):
            x = X[k, rows]
            a1 = np.maximum(x @ W1 + b1, 0)
            a2 = np.maximum(a1 @ W2 + b2, 0)
            e3 = (1 / (1 + np.exp(-(a2 @ W3 + b3))) - y[k, rows]) / batch
            e2 = e3 * W3.mT * (a2 > 0)
            e1 = e2 @ W2.mT * (a1 > 0)
            W3, b3 = W3 - 0.1 * (a2.mT @ e3), b3 - 0.1 * e3.sum(-2, keepdims=True)
            W2, b2 = W2 - 0.1 * (a1.mT @ e2), b2 - 0.1 * e2.sum(-2, keepdims=True)
            W1, b1 = W1 - 0.1 * (x.mT @ e1), b1 - 0.1 * e1.sum(-2, keepdims=True)

    return run


def compare(benchmark, job, limit, repeats=7):
    """Job and limit in turn, the ratio of their medians; the job's own times go to pytest-benchmark's table."""
    job(), limit()
    times = {job: [], limit: []}
    for _ in range(repeats):
        for run in (job, limit):
            start = time.perf_counter()
            run()
            times[run].append(1e3 * (time.perf_counter() - start))
    mine, bare = statistics.median(times[job]), statistics.median(times[limit])
    benchmark.extra_info.update(ms=round(mine, 1), limit_ms=round(bare, 1), ratio=round(mine / bare, 2))
    print(f"\n{mine:8.1f} ms, limit {bare:8.1f} ms, ratio {mine / bare:.2f}")
    benchmark.pedantic(job, rounds=1)


def test_J1_four_hospitals_logistic_100_rounds_of_5_steps(benchmark):
    many, model, plan = hospitals(HEART), models.logistic(13), Plan(lr=0.3, steps=5)
    compare(benchmark, lambda: federate(model, many, plan, 100), logistic_limit(4, 303, 13, 100, 5))


@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_J2_network_50_rounds_of_an_epoch_in_batches_of_32(benchmark, dtype):
    many, model, plan = hospitals(HEART, dtype=dtype), models.mlp(13), Plan(lr=0.1, epochs=1, batch=32)
    compare(benchmark, lambda: federate(model, many, plan, 50), network_limit(HEART, 32, 1, 50, dtype=dtype))


def test_J3_a_thousand_hospitals_20_rounds_of_5_steps(benchmark):
    many, model, plan = hospitals([100] * 1000), models.logistic(13), Plan(lr=0.3, steps=5)
    compare(benchmark, lambda: federate(model, many, plan, 20), logistic_limit(1000, 100, 13, 20, 5))


def test_J3b_ten_thousand_hospitals_a_tenth_invited(benchmark):
    many, model, plan = hospitals([100] * 10_000), models.logistic(13), Plan(lr=0.3, steps=5, fraction=0.1)
    compare(benchmark, lambda: federate(model, many, plan, 20), logistic_limit(1000, 100, 13, 20, 5))


@pytest.mark.parametrize("K", [1000, 10_000, 100_000])
def test_cost_is_linear_in_hospitals(benchmark, K):
    many, model, plan = hospitals([20] * K, d=5), models.logistic(5), Plan(lr=0.3, steps=2)
    compare(benchmark, lambda: federate(model, many, plan, 1), logistic_limit(K, 20, 5, 1, 2), repeats=3)


@pytest.mark.parametrize("by", ["rdp", "pld"])
@pytest.mark.parametrize(("q", "steps"), [(1, 50), (0.01, 1000), (0.04, 2250), (0.01, 10_000), (0.001, 100_000)])
def test_epsilon_under_a_slider(benchmark, by, q, steps):
    """Another σ at every move, so that no cache helps: milliseconds a call."""
    sigmas = iter(np.linspace(1, 2, 100_000))
    benchmark.pedantic(lambda: accountant.epsilon(next(sigmas), q, steps, 1e-5, by), rounds=30, warmup_rounds=2)
    print(f"\n{by} q={q} T={steps}: median {1e3 * benchmark.stats['median']:.1f} ms a call")
