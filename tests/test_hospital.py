import numpy as np
import pytest

from fedlearn_mini import hospital, models


@pytest.fixture
def luck(hospitals, rng):
    return rng.random(hospitals.w.shape)


def test_one_step_is_the_formula(model, hospitals, rng):
    theta = np.tile(model.init(rng), (4, 1))
    data = hospitals.X, hospitals.y, hospitals.w
    assert np.allclose(
        hospital.sgd(model, theta, *data, lr=0.2, steps=1), theta - 0.2 * model.grad(theta, *data), atol=1e-15
    )


def test_a_gradient_of_your_own_is_the_one_that_runs(model, hospitals, rng):
    theta, data = model.init(rng), (hospitals.X, hospitals.y, hospitals.w)
    same = model._replace(grad=lambda *batch: model.grad(*batch))
    twice = model._replace(grad=lambda *batch: 2 * model.grad(*batch))
    ours = hospital.sgd(model, theta, *data, lr=0.2, steps=3)
    assert np.allclose(hospital.sgd(same, theta, *data, lr=0.2, steps=3), ours, atol=1e-12)
    assert np.allclose(hospital.sgd(twice, theta, *data, lr=0.1, steps=3), ours, atol=1e-12)


@pytest.mark.parametrize("batch", [None, 6])
def test_one_start_for_all_and_one_number_of_steps_are_the_same_as_one_each(model, hospitals, rng, batch, luck):
    theta, data = model.init(rng), (hospitals.X, hospitals.y, hospitals.w)
    how = {
        "lr": 0.2,
        "batches": None if batch is None else hospital.draw_batches(hospitals.w, batch, 3, luck),
    }
    once = hospital.sgd(model, theta, *data, steps=3, **how)
    each = hospital.sgd(model, np.tile(theta, (4, 1)), *data, steps=np.full(4, 3), drift=np.zeros((4, 1)), **how)
    assert once.shape == (4, model.P) and np.allclose(once, each, atol=1e-12)


def test_the_arrays_that_arrive_stay_as_they_were(model, hospitals, rng):
    theta = model.init(rng)
    before = theta.copy()
    hospital.sgd(model, theta, hospitals.X[0], hospitals.y[0], hospitals.w[0], lr=1.0, steps=3)
    assert (theta == before).all()


def test_mu_pulls_to_the_start_as_the_formula_says():
    """f(θ) = ½(θ − 3)², μ = 2: the resting point is (3 + 2·θ₀)/(1 + 2)."""
    f = models.Model(None, None, None, lambda theta, X, y, w: theta - 3, 1)
    one = np.ones((1,))
    rest = hospital.sgd(f, np.array([6.0]), one, one, one, lr=0.1, steps=500, mu=2.0)
    assert np.isclose(rest[0], (3 + 2 * 6) / 3)
    shifted = hospital.sgd(f, np.array([6.0]), one, one, one, lr=0.1, steps=500, drift=-1.0)
    assert np.isclose(shifted[0], 4.0)  # ∇f + drift = 0


def test_every_record_is_seen_once_an_epoch(hospitals, luck):
    rows, shares = hospital.draw_batches(hospitals.w, 6, hospital.steps_in(1, hospitals.sizes, 6), luck)
    for k, n in enumerate(hospitals.sizes):
        assert (shares[k] > 0).any(-1).sum() == np.ceil(n / min(6, n))
        seen = rows[k][shares[k] > 0]
        assert set(seen) == set(range(n))


def test_batches_are_drawn_by_chance(hospitals):
    def chance(seed):
        return np.random.default_rng(seed).random(hospitals.w.shape)

    first, again, other = (hospital.draw_batches(hospitals.w, 6, 4, chance(s))[0] for s in (0, 0, 1))
    assert (first == again).all() and (first != other).any()
    assert (first[0, 0] != np.arange(6)).any()


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_a_batch_holds_its_size_and_its_shares_sum_to_one(hospitals, luck, size):
    rows, shares = hospital.draw_batches(hospitals.w, size, 7, luck)
    assert rows.shape == shares.shape == (4, 7, min(size, hospitals.X.shape[1]))
    assert np.allclose(shares.sum(-1), 1)
    assert ((shares > 0).sum(-1) == np.minimum(size, hospitals.sizes)[:, None]).all()
    assert (rows < hospitals.sizes[:, None, None]).all()


def test_a_batch_of_everybody_is_the_full_batch(model, hospitals, rng, luck):
    theta = np.tile(model.init(rng), (4, 1))
    data = hospitals.X, hospitals.y, hospitals.w
    batches = hospital.draw_batches(hospitals.w, 10**3, 5, luck)
    by_batch = hospital.sgd(model, theta, *data, lr=0.1, steps=5, batches=batches)
    assert np.allclose(by_batch, hospital.sgd(model, theta, *data, lr=0.1, steps=5), atol=1e-12)


def test_a_hospital_that_has_finished_its_epoch_stays_put(hospitals, luck):
    model, theta = models.logistic(5), np.zeros((4, 6))
    batches = hospital.draw_batches(hospitals.w, 6, hospital.steps_in(1, hospitals.sizes, 6), luck)
    few = int((batches[1][3] > 0).any(-1).sum())
    data = hospitals.X, hospitals.y, hospitals.w
    each = hospital.steps_in(1, hospitals.sizes, 6)
    whole = hospital.sgd(model, theta, *data, lr=0.1, steps=each, batches=batches, mu=0.5)
    short = hospital.sgd(model, theta, *data, lr=0.1, steps=few, batches=batches, mu=0.5)
    assert few < batches[0].shape[1]
    assert (whole[3] == short[3]).all() and (whole[0] != short[0]).any()


def test_float32_stays_float32(model, hospitals, rng):
    X, y, w = (part.astype("f4") for part in hospitals[:3])
    theta = np.tile(model.init(rng).astype("f4"), (4, 1))
    batches = hospital.draw_batches(w, 8, 3, rng.random(w.shape))
    assert hospital.sgd(model, theta, X, y, w, lr=0.1, steps=3, batches=batches, mu=0.1).dtype == "f4"
