import tracemalloc
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from conftest import as_type
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn_mini import aggregate, data, federation, models, privacy
from fedlearn_mini.evaluate import accuracy, auc, calibration_error
from fedlearn_mini.federation import Plan, alone, fit, initial, one_round, rounds
from fedlearn_mini.local import sgd
from fedlearn_mini.server import fedavg, fedyogi

PLANS = {
    "full batch": Plan(lr=0.1, steps=3),
    "mini-batches": Plan(lr=0.1, steps=3, batch=5),
    "epochs": Plan(lr=0.1, epochs=2, batch=8),
    "absences": Plan(lr=0.1, steps=2, batch=5, fraction=0.5, dropout=0.4),
    "pulled": Plan(lr=0.1, steps=3, mu=0.5),
    "scaffold": Plan(lr=0.1, steps=3, batch=5, scaffold=True, fraction=0.5),
    "nova": Plan(lr=0.1, epochs=1, batch=8, normalise=True, stragglers=0.5),
    "late": Plan(lr=0.1, steps=3, late=0.5, stragglers=0.3, dropout=0.2),
    "momentum": Plan(lr=0.1, steps=3, server=fedavg(momentum=0.9)),
    "yogi": Plan(lr=0.1, steps=3, server=fedyogi()),
    "own head": Plan(lr=0.1, steps=3, shared=np.arange(29) < 24, fraction=0.5),
    "noise": Plan(lr=0.1, steps=3, aggregate=partial(privacy.noisy_mean, C=0.5, sigma=1.0, expected=4)),
}


def quadratics():
    """Three hospitals with the losses ½aₖ(θ − bₖ)², a record being (a, b), and sizes in the ratio 1 : 3 : 6."""
    sizes = np.array([1, 3, 6])
    records = np.repeat([[1.0, 0.0], [2.0, 1.0], [4.0, 3.0]], sizes, axis=0)
    return models.bowl(), data.stack(records, np.zeros(10), np.repeat(["A", "B", "C"], sizes))


def test_quadratic_hospitals_give_the_worked_numbers():
    model, hospitals = quadratics()
    state, _ = one_round(initial(model, Plan()), model, hospitals, Plan(lr=0.1, steps=1))
    assert np.isclose(state.theta[0], 4.23, atol=1e-12)
    state, _ = one_round(initial(model, Plan()), model, hospitals, Plan(lr=0.1, steps=5))
    assert np.isclose(state.theta[0], 2.881773, atol=1e-6)
    state, _ = one_round(initial(model, Plan()), model, hospitals, Plan(lr=0.1, steps=5, mu=1.0))
    assert np.isclose(state.theta[0], 3.236376, atol=1e-6)
    state, _ = fit(model, hospitals, Plan(lr=0.1, steps=1), rounds=200)
    assert np.isclose(state.theta[0], 2.516129032258, atol=1e-10)  # Σpab / Σpa
    state, _ = fit(model, hospitals, Plan(lr=0.1, steps=500), rounds=5)
    assert np.isclose(state.theta[0], 2.1, atol=1e-10)  # Σpb: everybody walks home before the average


def test_a_round_equals_an_explicit_loop(model, hospitals):
    plan = Plan(lr=0.1, steps=4)
    start = initial(model, plan)
    state, _ = one_round(start, model, hospitals, plan)
    updates = []
    for k in range(4):
        X, y = hospitals.one(k)
        own = start.theta
        for _ in range(4):
            own = own - 0.1 * model.grad(own, X, y, np.full(len(y), 1 / len(y)))
        updates.append((own - start.theta) * len(y))
    assert np.allclose(state.theta, start.theta + sum(updates) / hospitals.sizes.sum(), atol=1e-12)


def test_one_step_with_everyone_is_centralised_descent(model, hospitals):
    plan = Plan(lr=0.1, steps=1)
    theta = model.init(np.random.default_rng(1))
    state, _ = fit(model, hospitals, plan, rounds=5, theta=theta)
    X, y, w = (part[0] for part in hospitals.pooled()[:3])
    assert np.allclose(state.theta, sgd(model, theta, X, y, w, lr=0.1, steps=5), atol=1e-12)


def test_equal_sizes_make_weighted_and_unweighted_the_same(model, rng):
    equal = data.make_hospitals(4, 20, d=5, skew=0.0, difference=1.0, rng=rng)
    plan = Plan(lr=0.1, steps=3)
    weighted, _ = fit(model, equal, plan, rounds=3)
    unweighted, _ = fit(model, equal, replace(plan, aggregate=aggregate.mean), rounds=3)
    assert np.allclose(weighted.theta, unweighted.theta, atol=1e-12)


def test_unequal_sizes_make_them_differ(hospitals):
    model, plan = models.logistic(5), Plan(lr=0.1, steps=3)
    weighted, _ = fit(model, hospitals, plan, rounds=3)
    unweighted, _ = fit(model, hospitals, replace(plan, aggregate=aggregate.mean), rounds=3)
    assert np.abs(weighted.theta - unweighted.theta).max() > 1e-4


CERTAIN = {"full batch", "pulled", "momentum", "yogi"}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_says_whether_it_leaves_something_to_chance(name):
    assert PLANS[name].deterministic == (name in CERTAIN)


@pytest.mark.parametrize("name", CERTAIN)
def test_without_chance_a_round_is_the_one_that_draws_and_has_no_use_for_it(model, hospitals, name):
    plan = PLANS[name]
    drawing = replace(plan, uplink=lambda updates, rng: updates)
    assert not drawing.deterministic
    one, history = fit(model, hospitals, plan, rounds=3)
    other, same = fit(model, hospitals, drawing, rounds=3)
    assert (one.theta == other.theta).all() and history.equals(same)


@pytest.mark.parametrize(
    "chance",
    [
        {"batch": 5},
        {"poisson": True},
        {"fraction": 0.5},
        {"dropout": 0.1},
        {"dropout": lambda r: np.zeros(4)},
        {"stragglers": 0.1},
        {"late": 0.1},
        {"private": privacy.DPSGD(C=1, sigma=1)},
        {"aggregate": lambda updates, weights, rng: rng.permutation(updates)[0]},
        {"uplink": lambda updates, rng: updates + rng.normal(size=updates.shape)},
    ],
    ids=lambda chance: next(iter(chance)),
)
def test_every_setting_that_needs_chance_gets_a_generator(hospitals, chance):
    plan = Plan(lr=0.1, steps=2, **chance)
    assert not plan.deterministic
    state, _ = fit(models.logistic(5), hospitals, plan, rounds=2)
    again, _ = fit(models.logistic(5), hospitals, plan, rounds=2)
    assert np.isfinite(state.theta).all() and (state.theta == again.theta).all()


@pytest.mark.parametrize("plan", [PLANS["full batch"], PLANS["pulled"]], ids=["full batch", "pulled"])
def test_padding_changes_nothing(model, hospitals, plan):
    longer = hospitals._replace(
        X=np.pad(hospitals.X, ((0, 0), (0, 9), (0, 0)), constant_values=3.0),
        y=np.pad(hospitals.y, ((0, 0), (0, 9)), constant_values=1.0),
        w=np.pad(hospitals.w, ((0, 0), (0, 9))),
    )
    assert (longer.sizes == hospitals.sizes).all()
    short, _ = fit(model, hospitals, plan, rounds=3)
    long, _ = fit(model, longer, plan, rounds=3)
    assert np.allclose(short.theta, long.theta, atol=1e-12)


@pytest.mark.parametrize("name", PLANS)
def test_the_block_size_changes_nothing(hospitals, name):
    model = models.mlp(5, (4,))
    thetas = [fit(model, hospitals, replace(PLANS[name], block=block), rounds=4)[0].theta for block in (1, 3, 100)]
    assert np.allclose(thetas[0], thetas[1], atol=1e-12) and np.allclose(thetas[0], thetas[2], atol=1e-12)


@pytest.mark.parametrize("batch", [None, 8])
def test_memory_grows_with_the_block_and_not_with_the_hospitals(batch):
    K = 20_000
    X = np.random.default_rng(0).normal(size=(K, 5, 20)).mT
    many = data.Hospitals(X, (X[..., 0] > 0) + 0.0, np.full((K, 20), 1 / 20), tuple(map(str, range(K))))
    model, plan, peaks = models.logistic(5), Plan(lr=0.1, steps=2, batch=batch), []
    for block in (100, 5000):
        ready = initial(model, plan)
        one_round(ready, model, many, replace(plan, block=block))
        tracemalloc.start()
        one_round(ready, model, many, replace(plan, block=block))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] < 0.15 * X.nbytes and peaks[1] > 3 * peaks[0]


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(4)))
def test_the_order_of_hospitals_changes_nothing(order):
    hospitals = data.make_hospitals(4, 12, d=3, skew=1.0, difference=1.0, rng=np.random.default_rng(0))
    order = list(order)
    other = data.Hospitals(*(part[order] for part in hospitals[:3]), tuple(hospitals.names[k] for k in order))
    model, plan = models.logistic(3), Plan(lr=0.3, steps=3)
    assert np.allclose(
        fit(model, hospitals, plan, rounds=3)[0].theta, fit(model, other, plan, rounds=3)[0].theta, atol=1e-12
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 29))
def test_splitting_a_hospital_in_two_leaves_one_step_unchanged(at):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50, 3)), rng.integers(0, 2, 50).astype(float)
    two = data.stack(X, y, np.repeat(["A", "B"], [20, 30]))
    three = data.stack(X, y, np.repeat(["A", "B", "C"], [20, at, 30 - at]))
    model, plan = models.logistic(3), Plan(lr=0.3, steps=1)
    assert np.allclose(fit(model, two, plan, rounds=3)[0].theta, fit(model, three, plan, rounds=3)[0].theta, atol=1e-12)


def test_identical_hospitals_give_the_local_model(model, rng):
    X, y = rng.normal(size=(20, 5)), rng.integers(0, 2, 20).astype(float)
    twins = data.stack(np.tile(X, (3, 1)), np.tile(y, 3), np.repeat(["A", "B", "C"], 20))
    plan, theta = Plan(lr=0.1, steps=4), model.init(rng)
    together, _ = fit(model, twins, plan, rounds=3, theta=theta)
    assert np.allclose(together.theta, alone(model, twins, plan, 3, theta), atol=1e-12)


def test_a_hospital_alone_is_a_federation_of_one(model, hospitals, rng):
    plan, theta = Plan(lr=0.1, steps=4), model.init(rng)
    own = alone(model, hospitals, plan, 3, theta)
    for k, name in enumerate(hospitals.names):
        X, y = hospitals.one(name)
        single, _ = fit(model, data.stack(X, y, np.full(len(y), name)), plan, rounds=3, theta=theta)
        assert np.allclose(own[k], single.theta, atol=1e-12)


def test_weights_are_free_of_scale(rng):
    updates, weights = rng.normal(size=(5, 3)), rng.integers(1, 50, 5)
    assert np.allclose(
        aggregate.weighted_mean(updates, weights), aggregate.weighted_mean(updates, weights * 1e6), atol=1e-12
    )
    assert np.allclose(
        aggregate.weighted_mean(updates, weights), np.average(updates, axis=0, weights=weights), atol=1e-15
    )
    assert np.allclose(aggregate.mean(updates), aggregate.weighted_mean(updates, np.ones(5)), atol=1e-15)


@pytest.mark.parametrize("name", PLANS)
def test_float32_stays_float32(hospitals, name):
    small = as_type(hospitals, "f4")
    state, history = fit(models.mlp(5, (4,)), small, PLANS[name], rounds=3)
    assert state.theta.dtype == "f4"
    numbers = state.theta.size if PLANS[name].shared is None else PLANS[name].shared.sum()
    invited = max(1, round(PLANS[name].fraction * 4)) * (2 if PLANS[name].scaffold else 1)
    assert history["bytes_down"].iloc[0] == 4 * numbers * invited


def test_float32_agrees_with_float64_to_its_precision(model, hospitals):
    plan = Plan(lr=0.1, steps=3)
    wide, _ = fit(model, hospitals, plan, rounds=5)
    narrow, _ = fit(model, as_type(hospitals, "f4"), plan, rounds=5)
    assert np.allclose(wide.theta, narrow.theta, atol=1e-4)


@pytest.mark.parametrize("name", PLANS)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(hospitals, tmp_path, name):
    model, plan = models.mlp(5, (4,)), PLANS[name]
    options = {"test": hospitals, "metrics": (accuracy, auc)}
    through, whole = fit(model, hospitals, plan, rounds=7, **options)
    first, part = fit(model, hospitals, plan, rounds=3, **options)
    federation.save(tmp_path / "state.npz", first, part)
    waking, part = federation.load(tmp_path / "state.npz", model)
    resumed, rest = fit(model, hospitals, plan, rounds=4, state=waking, history=part, **options)
    assert (resumed.theta == through.theta).all() and resumed.round == through.round == 7
    assert rest.reset_index().to_dict() == whole.reset_index().to_dict()


def test_the_servers_learning_rate_scales_the_step(hospitals):
    model = models.logistic(5)
    one, _ = fit(model, hospitals, Plan(), rounds=1)
    half, _ = fit(model, hospitals, Plan(server=fedavg(lr=0.5)), rounds=1)
    assert np.allclose(half.theta, 0.5 * one.theta, atol=1e-15)


def test_invitations_and_drop_outs_follow_the_plan(rng):
    hospitals = data.make_hospitals(50, 6, d=2, rng=rng)
    model, plan = models.logistic(2), Plan(fraction=0.3, dropout=0.4)
    seen = [record for (_, record), _ in zip(rounds(model, hospitals, plan), range(200), strict=False)]
    assert all(record["bytes_down"] == 15 * 3 * 8 for record in seen)
    assert abs(np.mean([record["hospitals"] for record in seen]) - 9) < 0.5
    assert all(record["bytes_up"] == record["hospitals"] * 3 * 8 for record in seen)


def test_a_round_in_which_nobody_answers_leaves_the_model_as_it_was(hospitals):
    model, plan = models.logistic(5), Plan(fraction=0.25, dropout=0.99)
    state, record = one_round(initial(model, plan), model, hospitals, plan)
    assert record["hospitals"] == 0 and record["update_norm"] == 0 and state.round == 1
    assert (state.theta == 0).all()


def test_it_stops_on_a_plateau_or_a_small_update(hospitals):
    model, plan = models.logistic(5), Plan(lr=0.5)
    _, flat = fit(model, hospitals, plan, rounds=5000, until=federation.plateau("loss", patience=4, tol=1e-3))
    assert flat.attrs["stopped"] == "converged" and abs(flat["loss"].iloc[-1] - flat["loss"].iloc[-5]) < 1e-3
    _, short = fit(model, hospitals, plan, rounds=5000, until=federation.small_update(1e-2))
    assert short.attrs["stopped"] == "converged"
    assert short["update_norm"].iloc[-1] < 1e-2 <= short["update_norm"].iloc[-2]
    _, full = fit(model, hospitals, plan, rounds=3)
    assert full.attrs["stopped"] == "rounds" and len(full) == 3


def test_the_history_holds_what_was_measured(hospitals):
    model, plan = models.logistic(5), Plan()
    state, history = fit(model, hospitals, plan, rounds=2, test=hospitals, metrics=(accuracy,))
    X, y, w = (part[0] for part in hospitals.pooled()[:3])
    assert np.isclose(history["loss"].iloc[-1], model.loss(state.theta, X, y, w), atol=1e-12)
    assert np.isclose(history["accuracy"].iloc[-1], accuracy(y, model.predict(state.theta, X)), atol=1e-12)
    assert list(history.index) == [1, 2]


# ---------------------------------------------------------------- hospitals that differ, and servers that remember


def test_scaffold_converges_to_the_optimum_where_fedavg_does_not():
    model, hospitals = quadratics()
    plain, _ = fit(model, hospitals, Plan(lr=0.1, steps=5), rounds=300)
    corrected, _ = fit(model, hospitals, Plan(lr=0.1, steps=5, scaffold=True), rounds=300)
    assert np.isclose(corrected.theta[0], 2.516129032258, atol=1e-10)
    assert abs(plain.theta[0] - 2.516129032258) > 0.05
    weighted = aggregate.weighted_mean(corrected.kept["control"], hospitals.sizes)
    assert np.isclose(weighted[0], 0, atol=1e-9)  # at the optimum the hospitals' gradients cancel


def test_scaffold_with_unweighted_averages_finds_the_unweighted_optimum():
    model, hospitals = quadratics()
    plan = Plan(lr=0.1, steps=5, scaffold=True, aggregate=aggregate.mean)
    state, _ = fit(model, hospitals, plan, rounds=300)
    assert np.isclose(state.theta[0], (0 + 2 + 12) / 7, atol=1e-10)  # Σab / Σa


def test_scaffold_among_identical_hospitals_is_fedavg(model, rng):
    X, y = rng.normal(size=(20, 5)), rng.integers(0, 2, 20).astype(float)
    twins = data.stack(np.tile(X, (3, 1)), np.tile(y, 3), np.repeat(["A", "B", "C"], 20))
    theta = model.init(rng)
    plain, _ = fit(model, twins, Plan(lr=0.1, steps=4), rounds=4, theta=theta)
    corrected, _ = fit(model, twins, Plan(lr=0.1, steps=4, scaffold=True), rounds=4, theta=theta)
    assert np.allclose(plain.theta, corrected.theta, atol=1e-12)


def test_fednova_with_equal_steps_is_fedavg(hospitals):
    model, plan = models.logistic(5), Plan(lr=0.1, steps=4)
    plain, _ = fit(model, hospitals, plan, rounds=3)
    assert np.allclose(plain.theta, fit(model, hospitals, replace(plan, normalise=True), rounds=3)[0].theta, atol=1e-12)


def test_fednova_undoes_the_bias_of_unequal_steps():
    """Small steps, epochs of batches of one: hospital C takes six steps for A's one. FedAvg leans towards C."""
    model, hospitals = quadratics()
    plan = Plan(lr=0.002, epochs=1, batch=1)
    p, a, b = np.array([0.1, 0.3, 0.6]), np.array([1, 2, 4.0]), np.array([0, 1, 3.0])
    right, leaning = (p * a * b).sum() / (p * a).sum(), (p * p * a * b).sum() / (p * p * a).sum()
    plain, _ = fit(model, hospitals, plan, rounds=2500)
    nova, _ = fit(model, hospitals, replace(plan, normalise=True), rounds=2500)
    assert abs(plain.theta[0] - leaning) < 0.01 and abs(nova.theta[0] - right) < 0.01
    assert abs(leaning - right) > 0.1


def test_stragglers_take_fewer_steps_and_nobody_none(rng):
    sizes = np.full(5000, 10)
    steps = federation.local_steps(Plan(steps=6, stragglers=0.4), sizes, rng)
    assert steps.min() == 1 and steps.max() == 6
    assert abs((steps < 6).mean() - 0.4) < 0.03
    assert (federation.local_steps(Plan(steps=1, stragglers=1.0), sizes, rng) == 1).all()


def test_a_late_update_arrives_in_the_next_round(hospitals):
    model, plan = models.logistic(5), Plan(lr=0.1, late=1.0)
    first, record = one_round(initial(model, plan), model, hospitals, plan)
    assert record["hospitals"] == 0 and (first.theta == 0).all()
    second, record = one_round(first, model, hospitals, replace(plan, late=0.0))
    assert record["hospitals"] == 8  # nobody is late any more: the old ones and the new ones
    _, record = one_round(second, model, hospitals, replace(plan, late=0.0))
    assert record["hospitals"] == 4  # and none of them twice
    second, record = one_round(first, model, hospitals, plan)
    on_time, _ = one_round(initial(model, plan), model, hospitals, Plan(lr=0.1))
    assert record["hospitals"] == 4 and np.allclose(second.theta, on_time.theta, atol=1e-15)


def test_absence_may_follow_the_clock(hospitals):
    model = models.logistic(5)
    plan = Plan(dropout=lambda r: np.array([0, 0, 0, r % 2]))  # the last hospital answers every other round
    seen = [record["hospitals"] for (_, record), _ in zip(rounds(model, hospitals, plan), range(6), strict=False)]
    assert seen == [4, 3, 4, 3, 4, 3]


def test_a_shared_body_travels_and_the_head_stays(hospitals):
    model = models.mlp(5, (4,))
    shared = np.arange(model.P) < model.P - 5
    state, history = fit(model, hospitals, Plan(lr=0.3, steps=3, shared=shared), rounds=4)
    begin = initial(model, Plan()).theta
    assert (state.theta[~shared] == begin[~shared]).all() and (state.theta[shared] != begin[shared]).all()
    heads = state.kept["own"][:, ~shared]
    assert len(np.unique(heads, axis=0)) == 4
    assert history["bytes_up"].iloc[0] == 4 * 8 * shared.sum()


def test_sharing_everything_or_nothing_is_fedavg_or_training_alone(model, hospitals):
    plan, theta = Plan(lr=0.1, steps=3), model.init(np.random.default_rng(0))
    everything = replace(plan, shared=np.ones(model.P, bool))
    plain, _ = fit(model, hospitals, plan, rounds=3, theta=theta)
    assert np.allclose(fit(model, hospitals, everything, rounds=3, theta=theta)[0].theta, plain.theta, atol=1e-12)
    nothing, _ = fit(model, hospitals, replace(plan, shared=np.zeros(model.P, bool)), rounds=3, theta=theta)
    assert (federation.personal(nothing, replace(plan, shared=np.zeros(model.P, bool))) == nothing.kept["own"]).all()
    assert np.allclose(nothing.kept["own"], alone(model, hospitals, plan, 3, theta), atol=1e-12)
    assert (nothing.theta == theta).all()


# ---------------------------------------------------------------- what would go unnoticed otherwise


def test_scaffold_corrects_only_what_travels(rng):
    """Two hospitals with opposite slopes share nothing: each learns its own, with control variates and without."""
    X, k = rng.normal(size=(200, 3)), np.repeat([0, 1], 100)
    opposite, model = data.stack(X, (X.sum(1) + 3) * (1 - 2 * k), k), models.linear(3)
    for shared in (np.zeros(4, bool), np.arange(4) < 3):
        plan = Plan(lr=0.1, steps=5, scaffold=True, shared=shared)
        state, history = fit(model, opposite, plan, rounds=300)
        assert (state.kept["control"][:, ~shared] == 0).all()
        assert history["bytes_up"].iloc[0] == 2 * 2 * 8 * shared.sum()  # two hospitals, model and control variate
    plan = Plan(lr=0.1, steps=5, scaffold=True, shared=np.zeros(4, bool))
    state, _ = fit(model, opposite, plan, rounds=300)
    assert np.allclose(federation.personal(state, plan), alone(model, opposite, plan, 300), atol=1e-12)


def test_fednova_with_a_pull_counts_steps_as_the_pull_leaves_them():
    """Two bowls of one steepness that want 0 and 1 rest half-way if both count alike, whatever their steps and μ."""
    bowl = models.bowl()
    two = data.stack(np.repeat([[0.01, 0.0], [0.01, 1.0]], [2, 40], 0), np.zeros(42), np.repeat(["A", "B"], [2, 40]))

    def rests(mu, normalise=True):
        plan = Plan(lr=0.1, epochs=1, batch=1, mu=mu, normalise=normalise, aggregate=aggregate.mean)
        at = [one_round(initial(bowl, plan, [t]), bowl, two, plan)[0].theta[0] for t in (0.0, 1.0)]
        return at[0] / (1 - (at[1] - at[0]))  # a round is a straight line in θ: where does it meet θ′ = θ?

    assert abs(rests(0.0) - 0.5) < 0.01 and abs(rests(1.0) - 0.5) < 0.01
    assert rests(1.0, normalise=False) > 0.8


def test_what_still_waits_survives_a_file(hospitals, tmp_path):
    model, plan = models.logistic(5), Plan(lr=0.1, late=0.6)
    waiting, _ = fit(model, hospitals, plan, rounds=3)
    federation.save(tmp_path / "f.npz", waiting)
    loaded, _ = federation.load(tmp_path / "f.npz", model)
    on_time = replace(plan, late=0.0)
    (here, history), (there, _) = (fit(model, hospitals, on_time, state=state, rounds=2) for state in (waiting, loaded))
    assert (here.theta == there.theta).all()
    assert history["hospitals"].tolist() == [4 + waiting.kept["load"].size, 4] and waiting.kept["load"].size


@pytest.mark.parametrize(
    "noise",
    [
        {"aggregate": partial(privacy.noisy_mean, C=1.0, sigma=1.0, expected=4)},
        {"private": privacy.DPSGD(C=1, sigma=1, where="server")},
        {"private": privacy.DPSGD(C=1, sigma=1, where="distributed")},
    ],
    ids=["hospitals", "server", "distributed"],
)
def test_what_still_waits_does_not_slip_into_a_noisy_sum_beside_the_next_update(hospitals, noise):
    """Two rows of one hospital in a sum whose noise hides one would break the promise."""
    model, plan = models.logistic(5), Plan(lr=0.1, late=1.0)
    waiting, _ = fit(model, hospitals, plan, rounds=1)
    with pytest.raises(ValueError, match="updates of an earlier plan are still on their way"):
        fit(model, hospitals, Plan(lr=0.1, **noise), state=waiting, rounds=1)
    arrived, _ = fit(model, hospitals, replace(plan, late=0.0), state=waiting, rounds=1)
    assert fit(model, hospitals, Plan(lr=0.1, **noise), state=arrived, rounds=1)[0].round == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scaffold": "no"}, "scaffold is a switch"),
        ({"normalise": 1}, "normalise is a switch"),
        ({"poisson": 0.5}, "poisson is a switch"),
        ({"shared": "head"}, "shared must be an array"),
        ({"shared": np.arange(4)}, "shared must be an array"),
        ({"scaffold": True, "uplink": lambda updates, rng: updates / 2}, "do not pass through uplink"),
    ],
)
def test_settings_that_mean_something_else_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Plan(**settings)


def test_a_mask_of_another_model_is_refused(hospitals):
    with pytest.raises(ValueError, match=r"the mask `shared` of the plan must have the shape \(6,\), but has \(5,\)"):
        fit(models.logistic(5), hospitals, Plan(shared=np.ones(5, bool)))


@pytest.mark.parametrize("chances", [[0, 0, 0, np.nan], [0, 50, 0, 0], [-0.1, 0, 0, 0]])
def test_chances_are_chances(hospitals, chances):
    with pytest.raises(ValueError, match="dropout must return chances between 0 and 1, but for round 0"):
        fit(models.logistic(5), hospitals, Plan(dropout=lambda r: chances))


def test_personal_models_need_a_part_that_stayed(hospitals):
    model = models.logistic(5)
    keep = Plan(shared=np.arange(6) < 5)
    for state, plan in ((initial(model, keep), keep), (fit(model, hospitals, keep, rounds=1)[0], Plan())):
        with pytest.raises(ValueError, match="no part of this model has stayed at home"):
            federation.personal(state, plan)


def test_metrics_have_names_of_their_own(hospitals):
    model, run = models.logistic(5), {"rounds": 1, "test": hospitals}
    _, history = fit(model, hospitals, Plan(), metrics=[auc, partial(calibration_error, bins=5)], **run)
    assert {"auc", "calibration_error"} <= set(history)

    def loss(y, p):
        return 0.0

    for metrics in ([auc, auc], [loss], [lambda y, p: 0.0, lambda y, p: 1.0]):
        with pytest.raises(ValueError, match="the same name"):
            fit(model, hospitals, Plan(), metrics=metrics, **run)
    with pytest.raises(ValueError, match="a metric must be a function .* not 'auc'"):
        fit(model, hospitals, Plan(), metrics=["auc"], **run)


def test_a_plateau_of_nothing_says_what_there_is(hospitals):
    with pytest.raises(ValueError, match="the history has no 'auc'"):
        fit(models.logistic(5), hospitals, Plan(), until=federation.plateau("auc"), rounds=3)


def test_model_and_hospitals_in_the_wrong_places_are_told_apart(hospitals):
    model = models.logistic(5)
    for first, second in ((model, (hospitals, hospitals)), (hospitals, model), (model, hospitals.X)):
        with pytest.raises(ValueError, match="first the model, then Hospitals"):
            fit(first, second, Plan())


def test_a_label_that_is_missing_is_not_trained_on(hospitals):
    y = hospitals.y.copy()
    y[1, 0] = np.nan
    with pytest.raises(ValueError, match="a label is missing"):
        fit(models.logistic(5), hospitals._replace(y=y), Plan())


@pytest.mark.parametrize("model", [models.logistic(5), models.mlp(5, (4,))], ids=["logistic", "network"])
def test_labels_one_and_two_are_not_chances(model, hospitals):
    other = hospitals._replace(y=np.where(hospitals.w > 0, hospitals.y + 1, 0))
    with pytest.raises(ValueError, match="hospital 'H001' has the label 2, but this model predicts chances"):
        fit(model, other, Plan())
    assert fit(models.linear(5), other, Plan(), rounds=1)[0].round == 1  # a linear model predicts any number


def test_everything_on_the_wire_passes_through_uplink(hospitals):
    model = models.logistic(5)
    plain, _ = fit(model, hospitals, Plan(), rounds=1)
    halved, _ = fit(model, hospitals, Plan(uplink=lambda updates, rng: updates / 2), rounds=1)
    assert np.allclose(halved.theta, plain.theta / 2, atol=1e-15)


def test_the_seed_decides_batches_invitations_and_starting_values(hospitals):
    model = models.mlp(5, (4,))
    for plan in (Plan(batch=5), Plan(fraction=0.5), Plan()):
        thetas = [fit(model, hospitals, replace(plan, seed=seed), rounds=2)[0].theta for seed in (0, 0, 1)]
        assert (thetas[0] == thetas[1]).all() and (thetas[0] != thetas[2]).any()


def test_other_hospitals_are_invited_in_other_rounds(rng):
    hospitals = data.make_hospitals(30, 6, d=2, rng=rng)
    plan = Plan(fraction=0.1, scaffold=True)  # only who was invited gets a control variate
    state, _ = fit(models.logistic(2), hospitals, plan, rounds=1)
    once = np.flatnonzero(state.kept["control"].any(-1))
    state, _ = fit(models.logistic(2), hospitals, plan, rounds=40)
    assert len(once) == 3 and np.count_nonzero(state.kept["control"].any(-1)) > 25


def test_a_hospital_alone_draws_new_batches_every_round(hospitals):
    model, plan = models.logistic(5), Plan(lr=0.1, batch=3)
    twice = alone(model, hospitals, plan, 2)
    again = alone(model, hospitals, plan, 1, alone(model, hospitals, plan, 1)[0])
    assert np.abs(twice[0] - again[0]).max() > 1e-6


def test_noise_is_added_in_a_round_without_answers_too(hospitals):
    """Otherwise a model that has not moved would tell that nobody was there."""
    plan = Plan(dropout=0.99, aggregate=partial(privacy.noisy_mean, C=1.0, sigma=1.0, expected=4))
    state, record = one_round(initial(models.logistic(5), plan), models.logistic(5), hospitals, plan)
    assert record["hospitals"] == 0 and (state.theta != 0).all()
    empty = np.zeros((0, 3)), np.zeros(0)
    assert (aggregate.weighted_mean(*empty) == 0).all() and (aggregate.mean(*empty) == 0).all()


def test_whole_numbers_are_averaged_as_numbers():
    updates, weights = np.array([[1], [2], [6]]), np.array([10, 10, 30])
    assert aggregate.weighted_mean(updates, weights)[0] == pytest.approx(4.2) and aggregate.mean(updates)[0] == 3
    assert np.allclose(privacy.clip(np.array([[3, 4]]), 1), [[0.6, 0.8]])


def test_a_saved_file_is_readable_as_any_other(hospitals, tmp_path):
    (tmp_path / "plain").write_text("")
    state, _ = fit(models.logistic(5), hospitals, Plan(), rounds=1)
    federation.save(tmp_path / "state.npz", state)
    assert (tmp_path / "state.npz").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plain", "state.npz"]


def test_training_alone_may_start_from_a_model_each(model, hospitals, rng):
    plan, theta = Plan(lr=0.1, steps=3), model.init(rng)
    first = alone(model, hospitals, plan, 2, theta)
    assert np.allclose(alone(model, hospitals, plan, 3, first), alone(model, hospitals, plan, 5, theta), atol=1e-12)
