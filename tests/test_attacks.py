import numpy as np
import pytest

from fedlearn_mini import attacks, data, hospital, models
from fedlearn_mini.federation import alone
from fedlearn_mini.plan import Plan


@pytest.fixture(scope="module")
def heart():
    return data.prepare(data.load("heart"), rng=np.random.default_rng(0))[0]


def first_layer(gradient, d, h):
    return gradient[: d * h].reshape(d, h), gradient[d * h : (d + 1) * h]


def test_one_patient_is_read_off_a_logistic_gradient_exactly(heart):
    X, y = heart.one("Hungary")
    d = X.shape[1]
    model = models.logistic(d)
    for i in range(10):
        g = model.grad(np.full(d + 1, 0.1), X[i : i + 1], y[i : i + 1], np.ones(1))
        assert np.allclose(attacks.invert_gradient(g[:d, None], g[d:])[0], X[i], atol=1e-10)


@pytest.mark.parametrize("steps", [1, 5])
def test_one_patient_is_read_off_a_federated_update_whatever_the_learning_rate(heart, steps):
    X, y = (part[:1] for part in heart.one("Cleveland"))
    d, h = X.shape[1], 64
    model = models.mlp(d, (h, h))
    start = model.init(np.random.default_rng(1))
    update = hospital.sgd(model, start, X, y, np.ones(1), lr=0.03, steps=steps) - start
    candidates = attacks.invert_gradient(*first_layer(update, d, h))
    assert attacks.revealed(candidates, X).all()
    assert np.isnan(candidates).any()  # a neuron that stayed silent says nothing, and says so


def test_of_a_batch_a_neuron_gives_the_weighted_mean_of_the_records_that_woke_it(rng):
    X, e = rng.normal(size=(3, 4)), np.array([[1.0, 0, 2], [3, 0, 0], [0, 0, 2]])  # errors of 3 records at 3 neurons
    candidates = attacks.invert_gradient(X.T @ e, e.sum(0))
    assert np.allclose(candidates[0], (X[0] + 3 * X[1]) / 4) and np.isnan(candidates[1]).all()
    assert np.allclose(candidates[2], (X[0] + X[2]) / 2)


def share_revealed(size, malicious, seeds=20, d=13, h=64):
    rng, found = np.random.default_rng(0), []
    for _ in range(seeds):
        X, y = rng.normal(size=(size, d)), rng.integers(0, 2, size).astype(float)
        model = models.mlp(d, (h,))
        theta = model.init(rng)
        if malicious:
            direction = rng.normal(size=d) / np.sqrt(d)
            theta = attacks.imprint(d, h, direction, np.linspace(-2.5, 2.5, h))
        layer = first_layer(model.grad(theta, X, y, np.full(size, 1 / size)), d, h)
        candidates = attacks.read_imprint(*layer) if malicious else attacks.invert_gradient(*layer)
        found.append(attacks.revealed(candidates, X).mean())
    return np.mean(found)


def test_bigger_batches_hide_more_and_a_malicious_server_sees_through_them():
    honest = [share_revealed(size, False) for size in (1, 4, 16)]
    assert honest[0] == 1 and honest[0] > honest[1] > honest[2]
    assert share_revealed(16, True) > 0.5 > honest[2]


def test_both_patients_of_a_hospital_of_two_are_found(heart, rng):
    d = heart.X.shape[-1]
    model = models.logistic(d)
    for k in range(4):
        X, y = heart.one(k)
        for _ in range(5):
            i = rng.choice(len(X), 2, replace=False)
            thetas = [rng.normal(size=d + 1) * 0.2]
            gradients = []
            for _ in range(2):
                gradients.append(model.grad(thetas[-1], X[i], y[i], np.full(2, 0.5)))
                thetas.append(thetas[-1] - 0.5 * gradients[-1])
            found = attacks.two_patients(np.array(thetas[:2]), np.array(gradients))
            assert same_patients(found, X[i], y[i]) or same_patients(found[::-1], X[i], y[i])


def same_patients(found, X, y):
    return all(np.allclose(found[i][0], X[i], atol=1e-4) and found[i][1] == y[i] for i in (0, 1))


def test_three_patients_are_not_taken_for_two(rng):
    model, X, y = models.logistic(6), rng.normal(size=(3, 6)), np.array([0.0, 1, 1])
    thetas = rng.normal(size=(2, 7))
    gradients = np.array([model.grad(theta, X, y, np.full(3, 1 / 3)) for theta in thetas])
    with pytest.raises(ValueError, match="no two patients explain"):
        attacks.two_patients(thetas, gradients)


def test_membership_scores_are_minus_the_loss_of_each_record(rng):
    model, X, y = models.logistic(3), rng.normal(size=(5, 3)), np.array([0.0, 1, 1, 0, 1])
    theta = rng.normal(size=4)
    p = model.predict(theta, X)
    assert np.allclose(attacks.membership_scores(model, theta, X, y), np.log(np.where(y == 1, p, 1 - p)))
    assert np.allclose(attacks.logit_scores(model, theta, X, y), np.where(y == 1, 1, -1) * np.log(p / (1 - p)))
    many = np.stack([theta, -theta])
    assert np.allclose(attacks.membership_scores(model, many, X, y)[1], attacks.membership_scores(model, -theta, X, y))


def test_shadow_models_tell_members_of_a_small_hospital_from_others(rng):
    """Shadow models are hospitals: they are trained together, one row each."""
    S, n, d = 40, 60, 12
    X, y = rng.normal(size=(n, d)), rng.integers(0, 2, n).astype(float)  # labels by chance: all is memory
    member = np.array([rng.permutation(n) < n // 2 for _ in range(S + 1)])
    groups, rows = np.nonzero(member)
    worlds = data.stack(X[rows], y[rows], np.array([f"S{s:02d}" for s in range(S + 1)])[groups])
    model = models.mlp(d, (32,))
    thetas = alone(model, worlds, Plan(lr=0.3, steps=150), 1)
    scores = attacks.logit_scores(model, thetas, X, y)
    ratio = attacks.lira(scores[1:], member[1:], scores[0])
    assert ratio[member[0]].mean() > 0 > ratio[~member[0]].mean()
    ahead = (ratio[member[0], None] > ratio[~member[0]]).mean()
    assert ahead > 0.8


def test_worlds_are_hospitals_with_half_of_the_records_each_trained_by_itself(rng):
    X, y = rng.normal(size=(10, 3)), rng.integers(0, 2, 10).astype(float)
    model, plan = models.logistic(3), Plan(lr=0.5, steps=3)
    member, thetas = attacks.worlds(model, plan, X, y, shadows=12, rng=rng)
    assert member.shape == (13, 10) and thetas.shape == (13, 4)
    assert member[0].tolist() == [True] * 5 + [False] * 5 and (member[1:].sum(0) == 6).all()
    for who, theta in zip(member, thetas, strict=True):
        mine = hospital.sgd(model, np.zeros(4), X[who], y[who], np.full(who.sum(), 1 / who.sum()), lr=0.5, steps=3)
        assert np.allclose(mine, theta)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 10, 0, 0.30849711),
        (3, 10, 0.06673951, 0.65245285),
        (10, 10, 0.69150289, 1),
        (50, 1000, 0.0373354, 0.06539049),
    ],
)
def test_clopper_pearson_limits_are_the_published_ones(successes, trials, low, high):
    assert np.allclose(attacks.clopper_pearson(successes, trials), (low, high), atol=1e-7)


def test_the_audit_stays_below_the_truth_and_finds_noise_that_is_too_small(rng):
    from fedlearn_mini.accountant import epsilon

    claimed = epsilon(1, 1, 1, 1e-5, "pld")
    right = attacks.audit(1 + rng.normal(size=4000), rng.normal(size=4000), 1e-5)
    broken = attacks.audit(1 + rng.normal(0, 0.1, 4000), rng.normal(0, 0.1, 4000), 1e-5)
    assert 1 < right < claimed < broken
    assert attacks.audit(-1 - rng.normal(0, 0.1, 4000), rng.normal(0, 0.1, 4000), 1e-5) > claimed  # either direction


def test_the_audit_is_wrong_as_seldom_as_it_says():
    rng, truth = np.random.default_rng(3), np.log(3)
    bits = lambda chance: (rng.random(400) < chance) + rng.normal(0, 1e-9, 400)  # noqa: E731
    found = [attacks.audit(bits(0.75), bits(0.25)) for _ in range(200)]  # randomised response: ε = log 3 exactly
    assert np.mean(np.array(found) > truth) <= 0.05 and np.median(found) > 0.5


def test_without_a_difference_there_is_no_bound(rng):
    assert attacks.audit(rng.normal(size=500), rng.normal(size=500)) < 0.5
    assert attacks.audit(np.zeros(500), np.zeros(500)) == 0


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: attacks.clopper_pearson(5, 3), r"more successes \(5\) than trials \(3\)"),
        (lambda: attacks.clopper_pearson(1, 3, level=95), "level must be"),
        (lambda: attacks.audit([1, 2, 3], [1, 2, 3]), "at least 20 finite scores"),
        (lambda: attacks.audit(np.full(50, np.nan), np.zeros(50)), "at least 20 finite scores"),
        (lambda: attacks.two_patients(np.zeros((2, 5)), np.zeros((2, 6))), "thetas must have the shape"),
        (lambda: attacks.two_patients(np.zeros((3, 5)), np.zeros((3, 5))), "two gradients are needed"),
        (lambda: attacks.lira(np.zeros((4, 3)), np.ones((4, 2), bool), np.zeros(3)), "member must have the shape"),
        (lambda: attacks.lira(np.zeros((4, 3)), np.ones((4, 3), bool), np.zeros(3)), "in some of the shadow models"),
    ],
)
def test_what_cannot_be_attacked_is_said(act, words):
    with pytest.raises(ValueError, match=words):
        act()
