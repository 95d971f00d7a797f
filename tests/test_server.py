import numpy as np
import pytest

from fedlearn_mini import aggregate, server

SERVERS = {
    "fedavg": server.fedavg(lr=0.7),
    "momentum": server.fedavg(lr=0.7, momentum=0.9),
    "fedadagrad": server.fedadagrad(lr=0.05, tau=1e-2),
    "fedyogi": server.fedyogi(lr=0.05, tau=1e-2),
    "fedadam": server.fedadam(lr=0.05, tau=1e-2),
}


def play(server, updates):
    theta, thetas = np.zeros(updates.shape[1]), []
    memory = server.init(theta)
    for update in updates:
        theta, memory = server.step(theta, update, memory)
        thetas.append(theta)
    return np.array(thetas)


def test_one_step_by_hand():
    update = np.array([3.0])
    assert play(server.fedavg(), update[None])[0] == 3
    assert np.isclose(play(server.fedavg(lr=0.5, momentum=0.5), np.array([[3.0], [3.0]]))[-1, 0], 1.5 + 0.5 * 4.5)
    tau, lr = 0.1, 0.2
    v = {"fedadagrad": tau**2 + 9, "fedadam": 0.99 * tau**2 + 0.01 * 9, "fedyogi": tau**2 + 0.01 * 9}
    m = {"fedadagrad": 3.0, "fedadam": 0.3, "fedyogi": 0.3}
    for name in v:
        theta = play(getattr(server, name)(lr=lr, tau=tau), update[None])[0, 0]
        assert np.isclose(theta, lr * m[name] / (np.sqrt(v[name]) + tau), atol=1e-15)


@pytest.mark.parametrize(
    ("make", "options"), [(server.fedadagrad, {}), (server.fedadam, {"beta2": 1.0}), (server.fedyogi, {})]
)
def test_as_tau_grows_every_adaptive_server_becomes_plain_averaging(make, options, rng):
    updates = rng.normal(size=(6, 4))
    tau = 1e9
    near = play(make(lr=2 * tau * 0.7, beta1=0.0, tau=tau, **options), updates)  # √v stays at τ, so the divisor is 2τ
    assert np.allclose(near, play(server.fedavg(lr=0.7), updates), atol=1e-6)


def test_without_momentum_it_is_plain_averaging(rng):
    updates = rng.normal(size=(6, 4))
    assert np.allclose(play(server.fedavg(momentum=0.0), updates), updates.cumsum(0), atol=1e-15)


@pytest.mark.parametrize("name", SERVERS)
def test_float32_stays_float32(name, rng):
    theta = np.zeros(3, "f4")
    memory = SERVERS[name].init(theta)
    for update in rng.normal(size=(3, 3)).astype("f4"):
        theta, memory = SERVERS[name].step(theta, update, memory)
    assert theta.dtype == "f4" and all(value.dtype == "f4" for value in memory.values())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: server.fedavg(lr=-1),
        lambda: server.fedavg(momentum=1),
        lambda: server.fedyogi(lr=0),
        lambda: server.fedadam(beta1=1.5),
        lambda: server.fedadagrad(tau=0),
    ],
)
def test_a_server_that_would_walk_uphill_or_never_stop_is_refused(wrong):
    with pytest.raises(ValueError, match="must be a finite number"):
        wrong()


# ---------------------------------------------------------------- Flower, where it is installed (extra `flower`)


def flower_rounds(strategy, thetas, sizes, tau=None):
    """Flower's server for the models of K hospitals in each round, (rounds, K, P): its parameters after each."""
    from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays

    found = []
    for r, models in enumerate(thetas, start=1):
        results = [
            (None, FitRes(Status(Code.OK, ""), ndarrays_to_parameters([model]), int(n), {}))
            for model, n in zip(models, sizes, strict=True)
        ]
        if r == 1 and tau is not None:
            strategy.v_t = [np.full(models.shape[1], tau**2)]  # the paper starts v at τ², Flower at 0
        parameters, _ = strategy.aggregate_fit(r, results, [])
        found.append(parameters_to_ndarrays(parameters)[0])
        if hasattr(strategy, "initial_parameters"):
            strategy.initial_parameters = parameters
    return np.array(found)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("fedyogi", "FedYogi"), ("fedadagrad", "FedAdagrad"), ("momentum", "FedAvgM")]
)
def test_servers_equal_flowers(ours, theirs, rng):
    """(Flower's FedAdam has a bias correction of its own that Reddi et al.'s algorithm has not: no oracle for ours.)"""
    strategies = pytest.importorskip(
        "flwr.server.strategy", reason="Flower is not installed: pip install -e '.[flower]'"
    )
    from flwr.common import ndarrays_to_parameters

    sizes, own = np.array([3, 5, 9]), SERVERS[ours]
    start = ndarrays_to_parameters([np.zeros(4)])
    options = {"momentum": {"server_learning_rate": 0.7, "server_momentum": 0.9}}.get(ours, {"eta": 0.05, "tau": 1e-2})
    if ours == "fedyogi":
        options |= {"beta_1": 0.9, "beta_2": 0.99}
    strategy = getattr(strategies, theirs)(initial_parameters=start, **options)
    theta, memory, thetas, mine = np.zeros(4), own.init(np.zeros(4)), [], []
    for _ in range(6):
        updates = rng.normal(size=(3, 4))
        thetas.append(theta + updates)
        theta, memory = own.step(theta, aggregate.weighted_mean(updates, sizes), memory)
        mine.append(theta)
    tau = None if ours == "momentum" else 1e-2
    assert np.allclose(flower_rounds(strategy, np.array(thetas), sizes, tau), mine, atol=1e-10)


def test_the_weighted_mean_equals_flowers(rng):
    flower = pytest.importorskip("flwr.server.strategy.aggregate", reason="Flower is not installed")
    updates, sizes = rng.normal(size=(5, 7)), rng.integers(1, 90, 5)
    theirs = flower.aggregate([([u], int(n)) for u, n in zip(updates, sizes, strict=True)])[0]
    assert np.allclose(aggregate.weighted_mean(updates, sizes), theirs, atol=1e-12)
