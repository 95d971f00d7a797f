import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier

from fedlearn_mini import data, hospital, models, privacy
from fedlearn_mini.federation import path
from fedlearn_mini.plan import Plan


def central_differences(model, theta, X, y, w, h=1e-6):
    steps = h * np.eye(theta.size)
    up = np.array([model.loss(theta + s, X, y, w) for s in steps])
    down = np.array([model.loss(theta - s, X, y, w) for s in steps])
    return (up - down) / (2 * h)


def test_gradients_equal_central_differences(model, hospitals, rng):
    theta = model.init(rng) + rng.normal(0, 0.3, model.P)
    X, y, w = hospitals.X[0], hospitals.y[0], hospitals.w[0]
    assert np.allclose(model.grad(theta, X, y, w), central_differences(model, theta, X, y, w), atol=1e-6)


def test_gradients_equal_central_differences_for_one_record(model, rng):
    theta, X, y, w = model.init(rng) + 0.1, rng.normal(size=(1, 5)), np.ones(1), np.ones(1)
    assert np.allclose(model.grad(theta, X, y, w), central_differences(model, theta, X, y, w), atol=1e-6)


@pytest.mark.parametrize("z", [700.0, -700.0])
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_extreme_logits_give_finite_losses_and_gradients(z, y):
    model, X, w = models.logistic(1), np.array([[z]]), np.ones(1)
    theta, label = np.array([1.0, 0.0]), np.array([y])
    assert np.isclose(model.loss(theta, X, label, w), 700.0 if (z > 0) != (y > 0) else 0.0)
    assert np.allclose(model.grad(theta, X, label, w), [((z > 0) - y) * z, (z > 0) - y])


@pytest.mark.parametrize("z", [1000.0, -1000.0])
def test_beyond_what_a_float_holds_the_answer_is_still_right_and_nothing_warns(z):
    model, X, w = models.logistic(1), np.array([[z]]), np.ones(1)
    theta, label = np.array([1.0, 0.0]), np.array([float(z < 0)])  # the wrong label, surely
    assert model.predict(theta, X) == float(z > 0)
    assert np.allclose(
        hospital.sgd(model, theta, X, label, w, lr=1e-4, steps=1), theta - 1e-4 * np.sign(z) * np.array([z, 1])
    )


def test_the_intercept_is_the_weight_of_a_feature_that_is_one_for_everybody(hospitals, rng):
    Z = models.design(hospitals.X)
    assert (Z[..., :-1] == hospitals.X).all() and (Z[..., -1] == 1).all() and Z.dtype == hospitals.X.dtype
    theta, y, w = rng.normal(size=6), hospitals.y, hospitals.w
    for model in (models.linear(5), models.logistic(5)):
        assert (model.grad(theta, hospitals.X, y, w) == model.grad.formula(theta, Z, y, w)).all()
        wrong = np.concatenate([hospitals.X, hospitals.X[..., :1]], axis=-1)  # a column too many is no intercept
        with pytest.raises(ValueError):
            model.grad(theta, wrong, y, w)
        with pytest.raises(ValueError):
            hospital.sgd(model, theta, wrong, y, w, lr=1, steps=1)


def test_stacked_hospitals_equal_a_loop(model, hospitals, rng):
    thetas = np.array([model.init(rng) + rng.normal(0, 0.2, model.P) for _ in range(4)])
    together = model.grad(thetas, hospitals.X, hospitals.y, hospitals.w)
    losses = model.loss(thetas, hospitals.X, hospitals.y, hospitals.w)
    for k in range(4):
        X, y = hospitals.one(k)
        w = np.full(len(y), 1 / len(y))
        assert np.allclose(together[k], model.grad(thetas[k], X, y, w), atol=1e-12)
        assert np.isclose(losses[k], model.loss(thetas[k], X, y, w), atol=1e-12)


def test_one_model_meets_every_hospital(model, hospitals, rng):
    theta = model.init(rng)
    assert model.predict(theta, hospitals.X).shape == hospitals.y.shape
    assert model.grad(theta, hospitals.X, hospitals.y, hospitals.w).shape == (4, model.P)
    assert model.init(rng).shape == (model.P,)


def test_per_record_gradients_average_to_the_gradient(model, hospitals, rng):
    theta = model.init(rng)
    X, y = hospitals.one(0)
    each = privacy.per_record_grad(model.grad, theta, X, y)
    assert each.shape == (len(y), model.P)
    assert np.allclose(each.mean(0), model.grad(theta, X, y, np.full(len(y), 1 / len(y))), atol=1e-12)


def test_float32_stays_float32(model, hospitals, rng):
    theta = model.init(rng).astype("f4")
    X, y, w = (part.astype("f4") for part in hospitals[:3])
    assert model.grad(theta, X, y, w).dtype == model.predict(theta, X).dtype == model.loss(theta, X, y, w).dtype == "f4"


def test_a_network_without_hidden_layers_is_logistic_regression(hospitals, rng):
    network, regression, theta = models.mlp(5, hidden=()), models.logistic(5), rng.normal(size=6)
    data = hospitals.X, hospitals.y, hospitals.w
    assert np.allclose(network.grad(theta, *data), regression.grad(theta, *data), atol=1e-14)


def test_linear_regression_finds_scikit_learns_coefficients(hospitals, rng):
    X, _ = hospitals.one(0)
    y = X @ np.arange(5) + 2 + rng.normal(size=len(X))
    model = models.linear(5)
    theta = hospital.sgd(model, np.zeros(6), X, y, np.full(len(y), 1 / len(y)), lr=0.3, steps=3000)
    theirs = LinearRegression().fit(X, y)
    assert np.allclose(theta, [*theirs.coef_, theirs.intercept_], atol=1e-6)


def test_logistic_regression_finds_scikit_learns_coefficients(rng):
    X = rng.normal(size=(400, 5))
    y = (rng.random(400) < models.sigmoid(X @ np.array([1, -1, 0.5, 0, 0]) + 0.3)).astype(float)
    theta = hospital.sgd(models.logistic(5), np.zeros(6), X, y, np.full(400, 1 / 400), lr=1.0, steps=3000)
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(X, y)
    assert np.allclose(theta, [*theirs.coef_[0], theirs.intercept_[0]], atol=1e-4)
    assert np.allclose(models.logistic(5).predict(theta, X), theirs.predict_proba(X)[:, 1], atol=1e-4)


def test_the_network_predicts_what_scikit_learns_does_with_the_same_weights(hospitals, rng):
    X, y = hospitals.one(0)
    theirs = MLPClassifier((6, 4), max_iter=500, tol=1e-2, random_state=0).fit(X, y)
    theta = np.concatenate(
        [part.ravel() for W, b in zip(theirs.coefs_, theirs.intercepts_, strict=True) for part in (W, b)]
    )
    assert np.allclose(models.mlp(5, (6, 4)).predict(theta, X), theirs.predict_proba(X)[:, 1], atol=1e-12)


def test_starting_values_are_he_and_colleagues(rng):
    theta = models.mlp(50, (80,)).init(rng)
    W1, b1, W2 = theta[: 50 * 80], theta[50 * 80 : 51 * 80], theta[51 * 80 : -1]
    assert np.isclose(W1.std(), np.sqrt(2 / 50), rtol=0.05) and np.isclose(W2.std(), np.sqrt(2 / 80), rtol=0.2)
    assert (b1 == 0).all() and theta[-1] == 0


def test_a_bowls_gradient_equals_central_differences(rng):
    model, theta = models.bowl(3), rng.normal(size=3)
    X, y, w = rng.random((5, 6)), np.zeros(5), np.full(5, 0.2)
    assert np.allclose(model.grad(theta, X, y, w), central_differences(model, theta, X, y, w), atol=1e-6)
    assert np.isclose(model.loss(theta, X[:1], y[:1], np.ones(1)), (X[0, :3] * (theta - X[0, 3:]) ** 2).sum() / 2)


@pytest.mark.parametrize("steps", [1, 2, 7, 500])
def test_averaging_of_bowls_rests_where_the_formula_says(rng, steps):
    a, b, sizes = rng.uniform(0.5, 4, (3, 2)), rng.normal(size=(3, 2)), np.array([1, 3, 6])
    records = np.repeat(np.hstack([a, b]), sizes, axis=0)
    bowls = data.stack(records, np.zeros(10), np.repeat(["A", "B", "C"], sizes))
    thetas = path(models.bowl(2), bowls, Plan(lr=0.2, steps=steps), rounds=300)
    at = models.resting_point(a, b, sizes, 0.2, steps)
    assert np.allclose(thetas[-1], at, rtol=0, atol=1e-10)
    column = models.resting_point(a[:, 0], b[:, 0], sizes, 0.2, steps)  # each parameter by itself
    assert np.isclose(column, at[0], rtol=0, atol=1e-12)
    if steps == 1:
        assert np.allclose(sizes @ (a * (at - b)), 0)  # no gradient left: the optimum
