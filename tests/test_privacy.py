import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.rdp import rdp_privacy_accountant

from fedlearn_mini import aggregate, privacy


def test_clipping_bounds_every_row_and_leaves_short_ones(rng):
    updates = rng.normal(size=(50, 7)) * rng.lognormal(0, 2, (50, 1))
    clipped = privacy.clip(updates, 1.5)
    norms = np.linalg.norm(updates, axis=1)
    assert np.linalg.norm(clipped, axis=1).max() <= 1.5 + 1e-12
    assert (clipped[norms <= 1.5] == updates[norms <= 1.5]).all()
    assert np.allclose(np.linalg.norm(clipped[norms > 1.5], axis=1), 1.5)
    assert (privacy.clip(np.zeros((2, 3)), 1.0) == 0).all()


def test_without_noise_and_bound_it_is_the_plain_mean(rng):
    updates = rng.normal(size=(8, 3))
    plain = privacy.noisy_mean(updates, None, rng, C=1e9, sigma=0, expected=8)
    assert np.allclose(plain, aggregate.mean(updates), atol=1e-15)


def test_the_noise_on_the_mean_is_sigma_c_over_expected(rng):
    noise = privacy.noisy_mean(np.zeros((3, 200_000)), None, rng, C=2.0, sigma=1.5, expected=30)
    assert np.isclose(noise.std(), 1.5 * 2.0 / 30, rtol=0.01) and abs(noise.mean()) < 1e-3


def test_one_hospital_moves_the_mean_by_at_most_c_over_expected(rng):
    updates = rng.normal(size=(9, 4)) * 100
    options = {"C": 0.7, "sigma": 1.0, "expected": 10}
    with_all = privacy.noisy_mean(updates, None, np.random.default_rng(5), **options)
    for k in range(9):
        without = privacy.noisy_mean(np.delete(updates, k, 0), None, np.random.default_rng(5), **options)
        assert np.linalg.norm(with_all - without) <= 0.7 / 10 + 1e-12


@pytest.mark.parametrize(("sigma", "steps", "delta", "reference"), [(1.0, 1, 1e-5, 4.728507)])
def test_epsilon_is_the_published_value(sigma, steps, delta, reference):
    assert np.isclose(privacy.epsilon(sigma, steps, delta), reference, atol=1e-4)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("steps", [1, 20, 1000])
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_epsilon_equals_the_reference_library_at_the_same_orders(sigma, steps, delta):
    accountant = rdp_privacy_accountant.RdpAccountant(list(privacy.ORDERS))
    accountant.compose(dp_event.GaussianDpEvent(sigma), steps)
    assert np.isclose(privacy.epsilon(sigma, steps, delta), accountant.get_epsilon(delta), rtol=1e-9)


def test_epsilon_grows_with_rounds_and_falls_with_noise():
    assert privacy.epsilon(1, 20, 1e-3) > privacy.epsilon(1, 1, 1e-3)
    assert privacy.epsilon(8, 20, 1e-3) < privacy.epsilon(4, 20, 1e-3)
    assert np.isclose(privacy.epsilon(4, 16, 1e-3), privacy.epsilon(1, 1, 1e-3), rtol=1e-12)  # σ/√T is all that counts


def test_without_noise_there_is_no_promise():
    assert privacy.epsilon(0, 1, 1e-3) == np.inf


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sigma": -1}, "sigma must be a finite number at least 0"),
        ({"sigma": np.nan}, "sigma must be"),
        ({"delta": 0}, "delta must be a finite number greater than 0 and less than 1"),
        ({"delta": 1}, "delta must be"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"steps": 1.5}, "steps must be a whole number"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        privacy.epsilon(**({"sigma": 1.0, "steps": 10, "delta": 1e-5} | change))
