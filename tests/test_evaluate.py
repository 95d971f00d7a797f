import warnings
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from fedlearn_mini import data, evaluate, models

labelled = st.integers(2, 60).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n),
        st.lists(st.integers(0, 8).map(lambda i: i / 8), min_size=n, max_size=n),  # few values, so many ties
    )
)


@given(labelled)
def test_metrics_equal_scikit_learns_also_with_ties(pair):
    y, p = map(np.array, pair)
    assert np.isclose(evaluate.accuracy(y, p), metrics.accuracy_score(y, p > 0.5))
    assert np.isclose(evaluate.brier(y, p), np.mean((y - p) ** 2))
    if 0 < y.sum() < len(y):
        assert np.isclose(evaluate.auc(y, p), metrics.roc_auc_score(y, p), atol=1e-12)
        assert np.isclose(evaluate.brier(y, p), metrics.brier_score_loss(y, p), atol=1e-12)


@given(labelled, st.integers(0, 8).map(lambda i: i / 8))
def test_sensitivity_and_specificity_are_scikit_learns_recall_of_each_class(pair, threshold):
    y, p = map(np.array, pair)
    for metric, label in ((evaluate.sensitivity, 1), (evaluate.specificity, 0)):
        theirs = metrics.recall_score(y, p > threshold, pos_label=label, zero_division=np.nan)
        assert np.isclose(metric(y, p, threshold), theirs, equal_nan=True)
    each = np.where(np.arange(len(y)) % 2, threshold, 0.5)  # one threshold for each record
    theirs = metrics.recall_score(y, p > each, zero_division=np.nan)
    assert np.isclose(evaluate.sensitivity(y, p, each), theirs, equal_nan=True)


def test_auc_by_hand():
    assert evaluate.auc(np.array([0, 0, 1, 1.0]), np.array([0.1, 0.4, 0.4, 0.9])) == (1 + 0.5 + 1 + 1) / 4


def test_row_weights_leave_padding_out():
    y, p = np.array([[1, 0, 1, 0.0]]), np.array([[0.9, 0.2, 0.1, 0.9]])
    w = np.array([[0.5, 0.5, 0, 0]])
    assert evaluate.accuracy(y, p, w)[0] == 1.0
    assert np.isclose(evaluate.brier(y, p, w)[0], (0.01 + 0.04) / 2)


def test_auc_of_one_class_is_nan_and_says_which_hospital_lacks_whom():
    X, y = np.ones((6, 1)), np.array([1, 1, 1, 0, 1, 0.0])
    two = data.stack(X, y, np.array(["Basel"] * 3 + ["Chur"] * 3))
    with pytest.warns(UserWarning, match="hospital 'Basel' has no patient without disease.*auc is undefined"):
        values = evaluate.per_hospital(evaluate.auc, models.logistic(1), np.zeros(2), two)
    assert np.isnan(values[0]) and values[1] == 0.5


def test_an_undefined_number_is_shown_as_a_dash():
    table = evaluate.scoreboard({"auc": np.array([np.nan, 0.5])}, ["Basel", "Chur"])
    assert table["auc"].tolist() == ["–", "0.500"]


def test_per_hospital_takes_one_model_or_one_each(hospitals):
    model, theta = models.logistic(5), np.arange(6.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = evaluate.per_hospital(evaluate.accuracy, model, theta, hospitals)
        each = evaluate.per_hospital(evaluate.accuracy, model, np.tile(theta, (4, 1)), hospitals)
    assert (one == each).all()
    X, y = hospitals.one(2)
    assert np.isclose(one[2], metrics.accuracy_score(y, model.predict(theta, X) > 0.5))


@given(labelled)
def test_calibration_equals_scikit_learns(pair):
    from sklearn.calibration import calibration_curve

    y, p = map(np.array, pair)
    p = np.clip(p - 0.01, 0, 1)  # off the edges of the slices, which the two libraries give to different sides
    predicted, observed, count = evaluate.calibration(y, p, bins=5)
    theirs = calibration_curve(y, p, n_bins=5)
    assert np.allclose(observed[count > 0], theirs[0]) and np.allclose(predicted[count > 0], theirs[1])
    assert count.sum() == len(y)


def test_calibration_error_by_hand():
    y, p = np.array([1, 0, 1, 1.0]), np.array([0.1, 0.15, 0.9, 0.95])
    slices = 2 * abs(0.125 - 0.5) + 2 * abs(0.925 - 1)  # two records in [0.1, 0.2), two in [0.9, 1]
    assert np.isclose(evaluate.calibration_error(y, p), slices / 4)
    assert evaluate.calibration_error(np.array([1.0, 0]), np.array([1.0, 0])) == 0


def test_jain_index_ends():
    assert evaluate.jain(np.full(7, 0.3)) == pytest.approx(1)
    assert evaluate.jain(np.array([0, 0, 5.0, 0])) == pytest.approx(1 / 4)


def test_shapley_values_of_known_games():
    """The glove game: hospital 0 has a left glove, 1 and 2 a right one each; a pair is worth 1 (2/3, 1/6, 1/6)."""
    glove = evaluate.shapley(lambda S: float(0 in S and len(S) > 1), 3)
    assert np.allclose(glove, [2 / 3, 1 / 6, 1 / 6])
    sizes = np.array([3.0, 1, 4, 1])
    additive = evaluate.shapley(lambda S: sizes[list(S)].sum(), 4)
    assert np.allclose(additive, sizes) and np.allclose(
        evaluate.leave_one_out(lambda S: sizes[list(S)].sum(), 4), sizes
    )
    assert np.allclose(evaluate.leave_one_out(lambda S: float(0 in S and len(S) > 1), 3), [1, 0, 0])


def test_shapley_values_share_out_the_whole(rng):
    worth = {}
    shares = evaluate.shapley(lambda S: worth.setdefault(S, rng.random()), 5)
    assert np.isclose(shares.sum(), worth[(0, 1, 2, 3, 4)] - worth[()])
    with pytest.raises(ValueError, match="2048 coalitions"):
        evaluate.shapley(len, 11)


def test_shuffling_a_feature_that_the_model_ignores_changes_nothing(hospitals, rng):
    theta = np.array([2.0, 0, -1, 0, 0, 0.1])
    fall = evaluate.permutation_importance(evaluate.auc, models.logistic(5), theta, hospitals, rng=rng)
    assert fall.shape == (4, 5) and (fall[:, [1, 3, 4]] == 0).all() and np.abs(fall[:, 0]).max() > 0.01


def test_permutation_importance_is_scikit_learns_on_average(rng):
    from sklearn.inspection import permutation_importance
    from sklearn.linear_model import LogisticRegression

    X = rng.normal(size=(300, 3))
    y = (X @ [2, 1, 0] + rng.normal(size=300) > 0).astype(float)
    theirs = LogisticRegression(C=np.inf).fit(X, y)
    theta = np.append(theirs.coef_, theirs.intercept_)
    one = data.stack(X, y, ["A"] * 300)
    ours = evaluate.permutation_importance(evaluate.accuracy, models.logistic(3), theta, one, repeats=40, rng=rng)
    expected = permutation_importance(theirs, X, y, n_repeats=40, random_state=0).importances_mean
    assert np.allclose(ours[0], expected, atol=0.015)


def test_predictions_that_are_no_numbers_have_no_accuracy():
    y, lost = np.array([0, 1, 0.0]), np.array([0.2, np.nan, 0.1])
    assert all(np.isnan(metric(y, lost)) for metric in (evaluate.accuracy, evaluate.brier, evaluate.auc))
    assert np.isnan(evaluate.sensitivity(y, lost)) and np.isnan(evaluate.specificity(1 - y, lost))


def test_jain_of_small_whole_numbers_does_not_overflow():
    assert evaluate.jain(np.array([200, 200], np.uint8)) == 1


def test_a_metric_with_an_argument_filled_in_is_named_in_the_warning():
    hospitals = data.stack(np.ones((4, 1)), np.array([0, 1, 1, 1]), np.array(list("AABB")))
    with pytest.warns(UserWarning, match="hospital 'B' has no patient without disease.*auc is undefined"):
        evaluate.per_hospital(partial(evaluate.auc), models.logistic(1), np.zeros(2), hospitals)
