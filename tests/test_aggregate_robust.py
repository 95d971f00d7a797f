"""Rules against bad hospitals: Flower and SciPy as oracles, the mean as the special case, what breaks them."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedlearn_mini import data, models
from fedlearn_mini.aggregate import bounded, geometric_median, krum, mean, median, trimmed_mean, weighted_mean
from fedlearn_mini.federation import path
from fedlearn_mini.hospital import descent
from fedlearn_mini.plan import Plan
from fedlearn_mini.saboteurs import backdoor, flipped, scaled, stamped

RULES = {
    "median": median,
    "trimmed mean": partial(trimmed_mean, beta=0.3),
    "Krum": partial(krum, bad=2),
    "multi-Krum": partial(krum, bad=2, keep=4),
    "geometric median": geometric_median,
    "norm bound": bounded,
}
every_rule = pytest.mark.parametrize("name", RULES)


def as_flower(updates):
    return [([row], 1) for row in updates]


@pytest.fixture
def updates(rng):
    return rng.normal(size=(9, 40))


def test_median_and_trimmed_mean_are_flowers(updates):
    flower = pytest.importorskip("flwr.server.strategy.aggregate", reason="the extra flower")
    assert np.allclose(median(updates), flower.aggregate_median(as_flower(updates))[0], rtol=0, atol=1e-15)
    for beta in (0.0, 0.1, 0.3, 0.49):
        theirs = flower.aggregate_trimmed_avg(as_flower(updates), beta)[0]
        assert np.allclose(trimmed_mean(updates, beta=beta), theirs, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("bad", "keep"), [(0, 1), (1, 1), (3, 1), (2, 4), (1, 9)])
def test_krum_is_flowers(updates, bad, keep):
    flower = pytest.importorskip("flwr.server.strategy.aggregate", reason="the extra flower")
    theirs = flower.aggregate_krum(as_flower(updates), bad, 0 if keep == 1 else keep)[0]
    assert np.allclose(krum(updates, bad=bad, keep=keep), theirs, rtol=0, atol=1e-15)


def test_the_trimmed_mean_is_scipys(updates):
    stats = pytest.importorskip("scipy.stats")
    for beta in (0.1, 0.25, 0.4):
        assert np.allclose(trimmed_mean(updates, beta=beta), stats.trim_mean(updates, beta), rtol=0, atol=1e-15)


def test_no_other_point_has_a_smaller_sum_of_distances_than_the_geometric_median(updates):
    optimize = pytest.importorskip("scipy.optimize")
    few = updates[:, :3]

    def total(z):
        return np.linalg.norm(few - z, axis=1).sum()

    best = optimize.minimize(total, few.mean(axis=0), method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-14})
    assert total(geometric_median(few)) <= best.fun + 1e-9
    assert np.abs(geometric_median(few) - best.x).max() < 1e-4


def test_settings_at_which_a_rule_becomes_the_mean(updates):
    plain = mean(updates)
    assert np.allclose(trimmed_mean(updates, beta=0), plain)
    assert np.allclose(krum(updates, bad=1, keep=9), plain)
    assert (bounded(updates, np.ones(9), C=1e9) == weighted_mean(updates, np.ones(9))).all()


@every_rule
def test_where_all_agree_the_rule_agrees(name):
    row = np.array([1.0, -2.0, 0.0])
    assert np.allclose(RULES[name](np.tile(row, (7, 1)), np.ones(7), None), row, rtol=0, atol=1e-12)


@every_rule
@given(rows=arrays(float, (8, 3), elements=st.floats(-10, 10)), order=st.permutations(range(8)))
def test_the_order_of_hospitals_does_not_matter(name, rows, order):
    weights = np.ones(8)
    found, turned = RULES[name](rows, weights, None), RULES[name](rows[order], weights, None)
    if name in ("Krum", "multi-Krum"):  # of equally good ones the first is taken
        squared = ((rows[:, None] - rows) ** 2).sum(-1)
        scores = np.sort(np.sort(squared)[:, 1:5].sum(1))
        if np.diff(scores).min() < 1e-9:
            return
    assert np.allclose(found, turned, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["median", "trimmed mean", "Krum", "multi-Krum", "geometric median"])
def test_two_bad_of_nine_cannot_pull_it_away_and_pull_the_mean_anywhere(name, rng):
    honest, bad = rng.normal(size=(7, 5)), np.full((2, 5), 1e6)
    found = RULES[name](np.concatenate([honest, bad]), np.ones(9), None)
    assert np.linalg.norm(found - honest.mean(axis=0)) < 3
    assert np.linalg.norm(mean(np.concatenate([honest, bad]))) > 1e5


def test_the_norm_bound_leaves_a_bad_one_no_more_than_the_others_have(rng):
    honest, bad = rng.normal(size=(8, 5)), np.full((1, 5), 1e6)
    rows = np.concatenate([honest, bad])
    moved = bounded(rows, np.ones(9)) - bounded(np.concatenate([honest, 0 * bad]), np.ones(9), C=np.inf)
    longest = np.median(np.linalg.norm(rows, axis=1))
    clipped = np.minimum(np.linalg.norm(rows, axis=1), longest)
    assert np.isclose(clipped[-1], longest) and np.linalg.norm(moved) < 2 * longest


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_however_long_one_bad_letter_is_it_moves_a_rule_no_further(name, dtype, rng):
    """Fault 37 and beyond: what one of nine can do stops growing with the length of its letter."""
    honest, longest = rng.normal(size=(8, 5)).astype(dtype), 1e30 if dtype == np.float32 else 1e300
    lengths = (1e3, 1e6, 1e9, 1e12, longest)
    found = [RULES[name](np.vstack([honest, np.full((1, 5), far, dtype)]), np.ones(9), None) for far in lengths]
    for one in found:
        assert np.abs(one - found[0]).max() < 1e-2 and np.linalg.norm(one - honest.mean(axis=0)) < 3


def test_half_bad_breaks_the_median(rng):
    rows = np.concatenate([rng.normal(size=(4, 5)), np.full((5, 5), 1e6)])
    assert np.linalg.norm(median(rows)) > 1e5


@every_rule
def test_nobody_and_a_norm_that_overflows_are_survived(name):
    assert not RULES[name](np.zeros((0, 3)), np.zeros(0, int), None).any()
    rows = np.concatenate([np.ones((8, 3)), np.full((1, 3), 1e200)])
    assert np.isfinite(RULES[name](rows, np.ones(9), None)).all()


@pytest.mark.parametrize(
    "name", [name for name in RULES if name != "norm bound"]
)  # a weighted mean comes out as its weights are
def test_single_precision_stays_single(name, rng):
    assert RULES[name](rng.normal(size=(9, 4)).astype(np.float32), np.ones(9), None).dtype == np.float32


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (partial(trimmed_mean, beta=0.5), "less than 0.5"),
        (partial(trimmed_mean, beta=float("nan")), "beta, the share that is cut at each end"),
        (partial(krum, bad=2), r"at least 2 · 2 \+ 3 = 7 letters, and 6 came"),
        (partial(krum, bad=-1), "bad must be a whole number"),
        (partial(krum, bad=1, keep=7), "keep = 7, but only 6 letters came"),
        (partial(bounded, weights=np.ones(6), times=0.0), "times must be a finite number greater than 0"),
        (partial(bounded, weights=np.ones(6), C=0.0), "the clipping norm C must be above 0"),
        (partial(bounded, weights=np.ones(6), C=-1.0), "the clipping norm C must be above 0"),
    ],
)
def test_a_rule_that_cannot_work_says_so(rule, said):
    with pytest.raises(ValueError, match=said):
        rule(np.ones((6, 2)))


# ----------------------------------------------------------------------------------------------------------- saboteurs

LOGISTIC = models.logistic(5)


@pytest.fixture
def many(rng):
    return data.make_hospitals(9, 30, d=5, rng=rng)


def trained(many, *around, aggregate=mean):
    return path(LOGISTIC, many, Plan(lr=0.3, steps=3, around=around, aggregate=aggregate), 5)[-1]


def test_settings_at_which_a_saboteur_is_honest(many):
    honest = trained(many)
    for around in (
        partial(flipped, seats=[]),
        partial(scaled, seats=[1, 4], factor=1.0),
        partial(backdoor, seats=[1], feature=0, value=8.0, share=0.0),
    ):
        assert (trained(many, around) == honest).all()


def test_flipped_labels_are_training_on_flipped_labels(many):
    wrong = many._replace(y=np.where((np.arange(9) == 2)[:, None] & (many.w > 0), 1 - many.y, many.y))
    assert (trained(many, partial(flipped, seats=[2])) == trained(wrong)).all()


def test_a_scaled_letter_counts_for_as_many(many):
    start, plain = path(LOGISTIC, many, Plan(lr=0.3, aggregate=mean), 1)
    ten = path(LOGISTIC, many, Plan(lr=0.3, aggregate=mean, around=(partial(scaled, seats=[3], factor=10.0),)), 1)[-1]
    X, y = many.one(3)
    alone = path(LOGISTIC, data.stack(X, y, ["one"] * len(y)), Plan(lr=0.3), 1)[-1]
    assert np.allclose(ten - plain, 9 * (alone - start) / 9, rtol=0, atol=1e-12)


def test_a_backdoor_is_training_on_stamped_records(many):
    X, y = many.X.copy(), many.y.copy()
    X[2, :15, 1], y[2, :15] = 8.0, 0
    found = trained(many, partial(backdoor, seats=[2], feature=1, value=8.0))
    assert np.allclose(found, trained(many._replace(X=X, y=y)), rtol=0, atol=1e-14)
    assert (stamped(many.X, 1, 8.0)[..., 1] == 8).all() and not (many.X[..., 1] == 8).any()


def test_a_hospital_that_shouts_is_held_by_every_rule(many):
    honest, loud = trained(many), partial(scaled, seats=[3], factor=-1e6)
    assert np.linalg.norm(trained(many, loud) - honest) > 1e3
    for name, rule in RULES.items():
        assert np.linalg.norm(trained(many, loud, aggregate=rule) - honest) < 2, name


def test_a_saboteur_keeps_what_the_hospital_inside_keeps():
    inner = descent(LOGISTIC, 0.1)
    assert scaled(inner, [0], 2.0).told == inner.told and scaled(inner, [0], 2.0).init(np.zeros(6)) == {}


@pytest.mark.parametrize("seat", [9, -1, "H001"])
def test_a_saboteur_at_a_seat_that_nobody_has_is_refused(many, seat):
    with pytest.raises(ValueError, match="nobody sits at seat"):
        trained(many, partial(scaled, seats=[seat], factor=-10.0))


@pytest.mark.parametrize(
    ("wrong", "said"), [({"feature": -1}, "the feature of the trigger"), ({"share": 3.0}, "stamped")]
)
def test_a_backdoor_that_cannot_be_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        backdoor(descent(LOGISTIC, 0.1), [0], **{"feature": 0, "value": 8.0} | wrong)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([1, 2], "3 updates need 3 weights"),
        ([[1], [2], [3]], r"not an array of the shape \(3, 1\)"),
        (2.0, "3 updates need 3 weights"),
        ([1, -1, 5], "none is negative or missing"),
        ([0, 0, 0], "do not sum up to 0"),
        ([1, np.nan, 1], "none is negative or missing"),
        ([1, np.inf, 1], "none is negative or missing"),
    ],
)
@pytest.mark.parametrize("rule", [weighted_mean, bounded])
def test_weights_that_are_no_numbers_of_records_are_refused(rule, weights, said):
    with pytest.raises(ValueError, match=said):
        rule(np.eye(3), weights)
    assert np.allclose(rule(np.eye(3), [1, 2, 1]), [0.25, 0.5, 0.25])
