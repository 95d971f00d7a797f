import warnings

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
