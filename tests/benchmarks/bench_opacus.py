"""DP-SGD beside Opacus: `python -m pytest tests/benchmarks/bench_opacus.py -s`, with the extra "opacus" (PyTorch, CPU).

Twenty full-batch steps on the four hospitals, every record's gradient clipped, noise on the sum; Opacus takes one
hospital after the other, as it must. Both run on one thread, in turn, each in its usual precision (ours double, theirs
single); the result is the ratio of the medians. That the two compute the same is checked first, in double precision.
"""

import statistics
import time

import numpy as np
import pytest

from fedlearn_mini import data, models
from fedlearn_mini.federation import fit
from fedlearn_mini.plan import Plan
from fedlearn_mini.privacy import DPSGD
from fedlearn_mini.protocol import initial, one_round

torch = pytest.importorskip("torch", reason="pip install -e '.[test,opacus]'")
opacus = pytest.importorskip("opacus", reason="pip install -e '.[test,opacus]'")
torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore")  # Opacus warns of its own hooks
STEPS, LR, C = 20, 0.3, 1.0
MODELS = {"logistic": models.logistic(13), "network": models.mlp(13)}


def hospitals():
    train, _ = data.prepare(data.load("heart"), rng=np.random.default_rng(0))
    return train


def twin(name, theta, dtype):
    """The same model in PyTorch, with the parameters theta (P,)."""
    sizes = {"logistic": [13, 1], "network": [13, 64, 64, 1]}[name]
    layers = [torch.nn.Linear(a, b, dtype=dtype) for a, b in zip(sizes, sizes[1:], strict=False)]
    at = 0
    for layer in layers:
        W = theta[at : at + layer.weight.numel()].reshape(layer.in_features, layer.out_features)
        at += W.size
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(W.T))
            layer.bias.copy_(torch.tensor(theta[at : at + layer.out_features]))
        at += layer.out_features
    apart = [part for layer in layers for part in (layer, torch.nn.ReLU())][:-1]
    return torch.nn.Sequential(*apart), layers


def flat(layers):
    """Its parameters as one vector, in the order of θ."""
    parts = [
        part for layer in layers for part in (layer.weight.detach().numpy().T.ravel(), layer.bias.detach().numpy())
    ]
    return np.concatenate(parts)


def theirs(name, many, theta, sigma, dtype):
    """Opacus at every hospital, one after the other: the trained parameters (K, P)."""
    found = []
    for k in many.names:
        X, y = (torch.tensor(np.ascontiguousarray(part), dtype=dtype) for part in many.one(k))
        net, layers = twin(name, theta, dtype)
        net = opacus.GradSampleModule(net, loss_reduction="mean")
        plain = torch.optim.SGD(net.parameters(), lr=LR)
        optimizer = opacus.optimizers.DPOptimizer(
            plain, noise_multiplier=sigma, max_grad_norm=C, expected_batch_size=len(y)
        )
        for _ in range(STEPS):
            optimizer.zero_grad()
            torch.nn.functional.binary_cross_entropy_with_logits(net(X)[:, 0], y).backward()
            optimizer.step()
        found.append(flat(layers))
    return np.array(found)


@pytest.mark.parametrize("name", MODELS)
def test_the_two_compute_the_same(name):
    many, model = hospitals(), MODELS[name]
    plan = Plan(lr=LR, steps=STEPS, private=DPSGD(C, 0.0))
    theta = initial(model, plan).theta
    state, _ = fit(model, many, plan, rounds=1, theta=theta)
    average = many.sizes @ theirs(name, many, theta, 0.0, torch.float64) / many.sizes.sum()
    assert np.allclose(state.theta, average, rtol=1e-6, atol=1e-5)  # Opacus divides by ‖g‖ + 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_dp_sgd_against_opacus(name):
    many, model = hospitals(), MODELS[name]
    plan = Plan(lr=LR, steps=STEPS, private=DPSGD(C, 2.0))
    start = initial(model, plan)
    runs = {
        "ours": lambda: one_round(start, model, many, plan),
        "Opacus": lambda: theirs(name, many, start.theta, 2.0, torch.float32),
    }
    times = {who: [] for who in runs}
    for run in runs.values():
        run()
    for _ in range(7):
        for who, run in runs.items():
            begin = time.perf_counter()
            run()
            times[who].append(1e3 * (time.perf_counter() - begin))
    ours, opacus_ms = (statistics.median(times[who]) for who in runs)
    print(f"\n{name}: ours {ours:.1f} ms, Opacus {opacus_ms:.1f} ms, {opacus_ms / ours:.1f} times faster")
