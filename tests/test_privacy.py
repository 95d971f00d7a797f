from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from fedlearn_mini import aggregate, data, federation, local, models, privacy
from fedlearn_mini.federation import Plan, alone, fit, initial, one_round
from fedlearn_mini.privacy import DPSGD


@pytest.fixture
def few(rng):
    groups = np.repeat(["Aarau", "Basel", "Chur"], [5, 12, 30])
    return data.stack(rng.normal(size=(47, 4)), rng.integers(0, 2, 47), groups)


MODEL = models.logistic(4)


def test_clipping_bounds_every_row_and_leaves_short_ones(rng):
    updates = rng.normal(size=(50, 7)) * rng.lognormal(0, 2, (50, 1))
    clipped = privacy.clip(updates, 1.5)
    norms = np.linalg.norm(updates, axis=1)
    assert np.linalg.norm(clipped, axis=1).max() <= 1.5 + 1e-12
    assert (clipped[norms <= 1.5] == updates[norms <= 1.5]).all()
    assert np.allclose(np.linalg.norm(clipped[norms > 1.5], axis=1), 1.5)
    assert (privacy.clip(np.zeros((2, 3)), 1.0) == 0).all()


def test_a_nan_never_passes_the_clip_as_if_it_were_short():
    clipped = privacy.clip(np.array([[np.nan, 1.0], [3.0, 4.0]]), 1.0)
    assert np.isnan(clipped[0]).all() and np.allclose(clipped[1], [0.6, 0.8])


def test_without_noise_and_bound_it_is_the_plain_mean(rng):
    updates = rng.normal(size=(8, 3))
    plain = privacy.noisy_mean(updates, None, rng, C=1e9, sigma=0, expected=8)
    assert np.allclose(plain, aggregate.mean(updates), atol=1e-15)


def test_the_noise_on_the_mean_is_sigma_c_over_expected(rng):
    noise = privacy.noisy_mean(np.zeros((3, 200_000)), None, rng, C=2.0, sigma=1.5, expected=30)
    assert np.isclose(noise.std(), 1.5 * 2.0 / 30, rtol=0.01) and abs(noise.mean()) < 1e-3


@pytest.mark.parametrize("cap", [None, 100])
def test_one_hospital_moves_the_mean_by_at_most_c_over_expected(rng, cap):
    updates, sizes = rng.normal(size=(9, 4)) * 100, rng.integers(1, 10**6, 9)
    options = {"C": 0.7, "sigma": 1.0, "expected": 10, "cap": cap}
    with_all = privacy.noisy_mean(updates, sizes, np.random.default_rng(5), **options)
    for k in range(9):
        rest = np.delete(updates, k, 0), np.delete(sizes, k)
        without = privacy.noisy_mean(*rest, np.random.default_rng(5), **options)
        assert np.linalg.norm(with_all - without) <= 0.7 / 10 + 1e-12


def test_capped_weights_are_the_sizes_up_to_the_cap(rng):
    updates, sizes = rng.normal(size=(3, 4)) / 100, np.array([50, 100, 400])
    found = privacy.noisy_mean(updates, sizes, rng, C=1.0, sigma=0, expected=2.5, cap=100)
    assert np.allclose(found, np.array([0.5, 1, 1]) @ updates / 2.5)


def test_hospitals_that_add_the_noise_themselves(rng):
    rows = privacy.noisy_rows(np.zeros((4, 200_000)), rng, C=2.0, sigma=1.5)
    shared = privacy.noisy_rows(np.zeros((4, 200_000)), rng, C=2.0, sigma=1.5, share=1 / 4)
    assert np.allclose(rows.std(1), 3.0, rtol=0.02) and np.allclose(rows.sum(0).std(), 6.0, rtol=0.02)
    assert np.allclose(shared.sum(0).std(), 3.0, rtol=0.02)  # only the sum carries σC
    assert abs(np.corrcoef(rows)[0, 1]) < 0.01  # no two hospitals draw the same noise


def test_randomised_response_tells_the_truth_as_often_as_it_says(rng):
    bits = rng.integers(0, 2, 200_000)
    told = privacy.randomised_response(bits, np.log(3), rng)
    assert set(told) == {0, 1} and np.isclose((told == bits).mean(), 0.75, atol=0.005)


def test_laplace_and_gaussian_noise_have_their_scale(rng):
    assert np.isclose(abs(privacy.laplace(np.zeros(200_000), 3.0, 1.5, rng)).mean(), 2.0, rtol=0.02)
    assert np.isclose(privacy.gaussian(np.full(200_000, 7.0), 3.0, 1.5, rng).std(), 4.5, rtol=0.02)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda rng: privacy.laplace(1, 0, 1, rng), "sensitivity must be"),
        (lambda rng: privacy.laplace(1, 1, np.nan, rng), "epsilon must be"),
        (lambda rng: privacy.randomised_response([1], -1, rng), "epsilon must be"),
        (lambda rng: privacy.gaussian(1, 1, np.inf, rng), "sigma must be"),
        (lambda rng: Plan(private=DPSGD(0, 1)), "C must be a finite number greater than 0"),
        (lambda rng: Plan(private=DPSGD(1, -1)), "sigma must be"),
        (lambda rng: Plan(private=DPSGD(1, 1, q=1.2)), "q must be"),
        (lambda rng: Plan(private=DPSGD(1, 1, where="cloud")), "where must be"),
        (lambda rng: Plan(private=DPSGD(1, 1), batch=8), "DP-SGD draws its batches itself"),
        (lambda rng: Plan(private=DPSGD(1, 1, where="server"), steps=2), "right only for a plain sum"),
        (lambda rng: Plan(private=DPSGD(1, 1, where="distributed"), dropout=0.1), "right only for a plain sum"),
        (lambda rng: Plan(private=DPSGD(1, 1, where="distributed"), aggregate=aggregate.mean), "right only for"),
        (lambda rng: Plan(aggregate=NOISY, late=0.1), "one row per hospital"),
        (lambda rng: Plan(aggregate=NOISY, scaffold=True), "one row per hospital"),
        (lambda rng: Plan(aggregate=NOISY, normalise=True), "makes each depend on all"),
        (lambda rng: Plan(aggregate=NOISY, shared=np.ones(5, bool)), "not shared would stay without noise"),
        (lambda rng: Plan(aggregate=NOISY, private=DPSGD(1, 1)), "choose one of the two"),
        (lambda rng: Plan(aggregate=privacy.noisy_mean), "noisy_mean needs its settings"),
        (lambda rng: Plan(aggregate=partial(privacy.noisy_mean, C=1)), "noisy_mean needs its settings"),
        (lambda rng: Plan(aggregate=partial(privacy.noisy_mean, C=-1, sigma=1, expected=3)), "noisy_mean's C must"),
        (lambda rng: Plan(aggregate=partial(privacy.noisy_mean, C=1, sigma=1, expected=0)), "expected must be"),
        (lambda rng: Plan(aggregate=partial(NOISY, cap=0)), "cap must be"),
        (lambda rng: Plan(private=True), r"private must be a DPSGD, such as DPSGD\(C=1, sigma=2\), not True"),
        (lambda rng: Plan(private=DPSGD(1, 1), budget=3), "budget must be a Budget"),
        (lambda rng: privacy.randomised_response([0, 2], 1, rng), "for answers 0 and 1"),
    ],
)
def test_settings_whose_noise_would_not_be_worth_what_it_says_are_refused(rng, act, words):
    with pytest.raises(ValueError, match=words):
        act(rng)


NOISY = partial(privacy.noisy_mean, C=1.0, sigma=1.0, expected=4)


@pytest.mark.parametrize("where", ["hospital", "distributed", "server"])
def test_without_noise_and_with_a_large_c_dp_sgd_is_plain_descent(few, where):
    plain = fit(MODEL, few, Plan(lr=0.5), rounds=4)[0].theta
    private = fit(MODEL, few, Plan(lr=0.5, private=DPSGD(C=1e9, sigma=0, where=where)), rounds=4)[0].theta
    assert np.allclose(plain, private, atol=1e-14)


@pytest.mark.parametrize("name", ["logistic", "mlp"])
def test_a_clipped_gradient_is_a_loop_over_patients(rng, name):
    model = models.logistic(4) if name == "logistic" else models.mlp(4, (5,))
    X, y, theta = rng.normal(size=(6, 4)) * 3, rng.integers(0, 2, 6).astype(float), model.init(rng)
    w = rng.random(6)
    one_by_one = [model.grad(theta, X[i : i + 1], y[i : i + 1], np.ones(1)) for i in range(6)]
    clipped = [g * min(1, 0.3 / np.linalg.norm(g)) for g in one_by_one]  # the intercept is clipped with the rest
    assert np.allclose(local.clipped_grad(model, theta, X, y, w, 0.3), w @ clipped)


def test_one_patient_moves_the_sum_of_clipped_gradients_by_at_most_c(few):
    X, y = few.one("Chur")
    w = np.ones(30)
    full = local.clipped_grad(MODEL, np.ones(5), X * 100, y, w, 0.7)
    for i in range(30):
        w[i] = 0
        assert np.linalg.norm(full - local.clipped_grad(MODEL, np.ones(5), X * 100, y, w, 0.7)) <= 0.7 + 1e-12
        w[i] = 1


def test_shares_divide_by_the_expected_batch_and_padding_never_takes_part(few, rng):
    shares, noise = DPSGD(1, 0, q=0.25).draw(few.w, np.zeros(5), 4000, rng)
    sizes = few.sizes
    for k in range(3):
        seen = shares[k, :, : sizes[k]]
        assert set(np.round(np.unique(seen), 12)) == {0, np.round(1 / (0.25 * sizes[k]), 12)}
        assert np.isclose((seen > 0).mean(), 0.25, atol=0.01) and (shares[k, :, sizes[k] :] == 0).all()
        assert np.isclose(seen.sum(-1).mean(), 1, atol=0.02)  # unbiased, and not 1 in every step
    assert (noise == 0).all()


def test_an_empty_batch_is_a_step_of_noise_alone(few):
    private = DPSGD(C=1.0, sigma=2.0, q=1e-12)
    update = one_round(initial(MODEL, Plan()), MODEL, few, Plan(lr=1.0, private=private))[0].theta
    assert np.abs(update).min() > 1e6  # σC/(q·nₖ): nobody took part, and the noise came all the same


@pytest.mark.parametrize(("where", "expected"), [("hospital", 3**0.5), ("distributed", 1.0), ("server", 1.0)])
def test_the_three_places_put_their_noise_on_the_sum(few, where, expected):
    """N times the step is the sum of gradients plus √K·σC, σC, σC."""
    found, N = [], few.sizes.sum()
    clean = one_round(initial(MODEL, Plan()), MODEL, few, Plan(lr=1.0, private=DPSGD(1.0, 0.0, where=where)))[0].theta
    for seed in range(400):
        plan = Plan(lr=1.0, private=DPSGD(1.0, 3.0, where=where), seed=seed)
        found.append(N * (one_round(initial(MODEL, Plan()), MODEL, few, plan)[0].theta - clean))
    assert np.isclose(np.std(found), 3.0 * expected, rtol=0.05)


def test_no_two_hospitals_and_no_two_steps_draw_the_same_noise(few, rng):
    _, noise = DPSGD(1, 1).draw(few.w, np.zeros(5), 3, rng)
    assert len(np.unique(noise)) == noise.size
    first, second = (fit(MODEL, few, Plan(private=DPSGD(1, 1), seed=s), rounds=2)[0].theta for s in (0, 1))
    assert not np.allclose(first, second)


@pytest.mark.parametrize("block", [1, 2, 50])
def test_the_block_size_changes_nothing_in_private_training(few, block):
    plan = Plan(lr=0.5, steps=3, private=DPSGD(1, 1, q=0.4))
    thetas = [fit(MODEL, few, replace(plan, block=b), rounds=3)[0].theta for b in (block, None)]
    assert np.allclose(*thetas, atol=1e-12)


def test_single_precision_stays_single(few):
    small = few._replace(**{name: getattr(few, name).astype("f4") for name in ("X", "y", "w")})
    for where in ("hospital", "server"):
        assert fit(MODEL, small, Plan(private=DPSGD(1, 1, where=where)), rounds=2)[0].theta.dtype == np.float32


# --- noise that must not be found anywhere else -----------------------------------------------------------------------


def noise_of(act, many, model, plan):
    """What the noise did to the result: with it, less without it."""
    quiet = replace(plan, private=plan.private._replace(sigma=0.0))
    return act(many, model, plan) - act(many, model, quiet)


def after_one_round(many, model, plan):
    return fit(model, many, plan, rounds=1)[0].theta


def test_the_noise_of_round_one_is_not_in_the_first_weights_nor_in_training_alone(few):
    """Equal noise would cancel in a difference. default_rng(7) and default_rng([7, 0]) are one stream."""
    model, plan = models.mlp(4, (30,)), Plan(lr=1.0, seed=7, private=DPSGD(1.0, 5.0))
    one = few._replace(X=few.X[:1], y=few.y[:1], w=few.w[:1], names=few.names[:1])
    weights = np.random.default_rng(7).normal(size=model.P)  # the stream that the first weights are made of
    federated = noise_of(after_one_round, one, model, plan)
    by_itself = noise_of(lambda many, model, plan: alone(model, many, plan, 1)[0], one, model, plan)
    for other in (weights, by_itself):
        for lag in range(20):
            pairs = (federated[lag:150], other[: 150 - lag]), (other[lag:150], federated[: 150 - lag])
            assert max(abs(np.corrcoef(*pair)[0, 1]) for pair in pairs) < 0.5


def test_training_alone_in_pieces_draws_new_noise_in_each(few):
    plan = Plan(lr=1.0, private=DPSGD(1.0, 5.0))
    whole = alone(MODEL, few, plan, 2)
    assert (whole == alone(MODEL, few, plan, 1, alone(MODEL, few, plan, 1), first=1)).all()
    assert not np.allclose(whole, alone(MODEL, few, plan, 1, alone(MODEL, few, plan, 1)))


def test_a_fixed_number_of_invitations_has_noise_of_its_own(few):
    """It is counted at σ/2, but is not the noise of a plan with half the σ."""
    fixed = Plan(fraction=0.99, aggregate=partial(NOISY, sigma=8.0))
    everybody = Plan(aggregate=partial(NOISY, sigma=4.0))
    a, b = (one_round(initial(MODEL, plan), MODEL, few, plan)[0].theta for plan in (fixed, everybody))
    assert not np.allclose(2 * b - a, one_round(initial(MODEL, Plan()), MODEL, few, Plan())[0].theta, atol=0.3)


def test_another_sigma_draws_other_noise(few):
    """Equal noise would cancel in 2a − b, where b has twice the σ of a."""
    plans = [Plan(private=DPSGD(1.0, sigma)) for sigma in (5.0, 10.0)]
    noise = [noise_of(after_one_round, few, MODEL, plan) for plan in plans]
    assert not np.allclose(2 * noise[0], noise[1], rtol=0.1)


def test_a_record_whose_gradient_is_not_finite_does_not_take_its_hospital_out(few):
    wild = few._replace(X=few.X.copy())
    wild.X[0, 0] = [1.5e308, 1.5e308, -1.5e308, 0]
    model = models.mlp(4, (8,))
    with np.errstate(all="ignore"):
        for q in (1.0, 0.3):
            record = one_round(initial(model, Plan()), model, wild, Plan(private=DPSGD(1.0, 1.0, q=q)))[1]
            assert record["refused"] == "" and record["hospitals"] == 3


def test_a_sum_that_misses_one_share_of_the_noise_is_not_used(few, monkeypatch):
    plan, train, start = Plan(private=DPSGD(1.0, 1.0, where="distributed")), federation.train, initial(MODEL, Plan())
    monkeypatch.setattr(federation, "train", lambda *a: np.where(np.arange(3)[:, None] == 1, np.nan, train(*a)))
    state, record = one_round(start, MODEL, few, plan)
    assert record["refused"] == "Aarau, Basel, Chur" and (state.theta == start.theta).all()
