import math
import tracemalloc

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.rdp import rdp_privacy_accountant

from fedlearn_mini import accountant
from fedlearn_mini.accountant import composed, epsilon, gaussian_delta, gaussian_epsilon, gaussian_sigma, sigma_for

# sigma, q, steps, delta, and ε by RDP and by PLD (the last on a grid of 1e-4, so a little above the truth)
REFERENCE = [
    (1, 1, 1, 1e-5, 4.728507, 4.377178),
    (1, 0.01, 1000, 1e-5, 2.101365, 1.828244),
    (1, 0.01, 10_000, 1e-5, 6.712738, 6.187745),
    (1.5, 0.04, 2250, 1e-5, 7.329111, 6.768787),
    (2, 0.001, 100_000, 1e-6, 0.752786, 0.698840),
]
GRID = [(sigma, q, steps) for sigma in (0.6, 1, 3, 12) for q in (0.01, 0.2, 1) for steps in (1, 300)]


def reference_pld(sigma, q, steps, interval):
    one = privacy_loss_distribution.from_gaussian_mechanism(
        sigma, sampling_prob=q, use_connect_dots=True, value_discretization_interval=interval
    )
    return one.self_compose(steps)


@pytest.mark.parametrize(("sigma", "q", "steps", "delta", "by_rdp", "by_pld"), REFERENCE)
def test_epsilon_is_the_reference_value(sigma, q, steps, delta, by_rdp, by_pld):
    found = epsilon(sigma, q, steps, delta)
    assert found <= by_rdp + 1e-6 and np.isclose(found, by_rdp, rtol=2e-4)  # orders are searched, so never above it
    assert np.isclose(epsilon(sigma, q, steps, delta, "pld"), by_pld, rtol=4e-3)


@pytest.mark.parametrize(("sigma", "q", "steps"), GRID)
def test_rdp_equals_the_reference_library_at_integer_orders(sigma, q, steps):
    orders = [2, 3, 5, 8, 16, 33]
    theirs = rdp_privacy_accountant.RdpAccountant(orders)
    theirs.compose(dp_event.PoissonSampledDpEvent(q, dp_event.GaussianDpEvent(sigma)), steps)
    ours = [steps * accountant.rdp(sigma, q, order - 1, order - 1, 1)[1][0] for order in orders]
    assert np.allclose(ours, theirs._rdp, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("sigma", "q", "steps"), GRID)
def test_pld_equals_the_reference_library(sigma, q, steps):
    theirs = reference_pld(sigma, q, steps, 1e-3 if sigma < 1 else 2e-4)
    for delta in (1e-3, 1e-6):
        ours = epsilon(sigma, q, steps, delta, "pld")
        if ours < 400:  # beyond that it is RDP's bound
            assert np.isclose(ours, theirs.get_epsilon_for_delta(delta), rtol=5e-3, atol=1e-4)
        assert ours <= epsilon(sigma, q, steps, delta) * 1.0005 + 1e-4  # the tight one is not above the loose one


@pytest.mark.parametrize("sigma", [0.5, 1, 2, 10, 60])
@pytest.mark.parametrize("steps", [1, 50])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
def test_with_everybody_pld_is_the_exact_gaussian(sigma, steps, delta):
    found = epsilon(sigma, 1, steps, delta, "pld")
    exact = gaussian_delta(found, sigma / math.sqrt(steps))
    assert exact <= delta * (1 + 1e-9)  # never promises more than is true
    assert found == 0 or exact > delta * 0.98


def test_the_analytic_gaussian_has_its_published_numbers():
    classical = math.sqrt(2 * math.log(1.25e5))
    assert np.isclose(gaussian_sigma(1, 1e-5), 3.730631635, atol=1e-8)
    assert np.isclose(classical, 4.844805, atol=1e-6)
    assert np.isclose(gaussian_delta(10, classical / 10), 2.27e-5, atol=5e-8)  # the classical formula ends at ε = 1
    assert np.isclose(gaussian_epsilon(1, 1e-5), 4.377178, atol=1e-6)


@pytest.mark.parametrize("epsilon_", [0.1, 1, 8])
@pytest.mark.parametrize("delta", [1e-3, 1e-7])
def test_the_inverse_of_the_analytic_gaussian(epsilon_, delta):
    sigma = gaussian_sigma(epsilon_, delta)
    assert np.isclose(gaussian_delta(epsilon_, sigma), delta, rtol=1e-6)
    assert np.isclose(gaussian_epsilon(sigma, delta), epsilon_, rtol=1e-9)
    assert gaussian_epsilon(1e-3, delta) == np.inf and gaussian_epsilon(1e9, delta) < 1e-8


@pytest.mark.parametrize("by", ["rdp", "pld"])
@pytest.mark.parametrize(("target", "q", "steps"), [(1, 1, 50), (3, 0.1, 200), (0.3, 0.02, 1000)])
def test_sigma_for_is_the_inverse_of_epsilon_and_errs_on_the_safe_side(by, target, q, steps):
    sigma = sigma_for(target, 1e-5, q, steps, by)
    assert epsilon(sigma, q, steps, 1e-5, by) <= target < epsilon(sigma * 0.999, q, steps, 1e-5, by)


@pytest.mark.parametrize("by", ["rdp", "pld"])
def test_two_runs_of_one_mechanism_are_one_long_run(by):
    parts = composed([(1.0, 0.1, 30), (1.0, 0.1, 70)], 1e-5, by)
    assert np.isclose(parts, epsilon(1.0, 0.1, 100, 1e-5, by), rtol=1e-9)


def test_different_mechanisms_add_up_as_the_reference_library_says():
    theirs = reference_pld(1.0, 0.1, 40, 2e-4).compose(reference_pld(3.0, 0.5, 20, 2e-4)).get_epsilon_for_delta(1e-5)
    assert np.isclose(composed([(1.0, 0.1, 40), (3.0, 0.5, 20)], 1e-5, "pld"), theirs, rtol=2e-3)


@pytest.mark.parametrize("by", ["rdp", "pld"])
def test_epsilon_grows_with_steps_and_q_and_falls_with_noise_and_delta(by):
    base = epsilon(1, 0.1, 20, 1e-5, by)
    assert epsilon(1, 0.1, 40, 1e-5, by) > base < epsilon(1, 0.2, 20, 1e-5, by)
    assert epsilon(2, 0.1, 20, 1e-5, by) < base > epsilon(1, 0.1, 20, 1e-3, by)
    assert np.isclose(epsilon(4, 1, 16, 1e-3, by), epsilon(1, 1, 1, 1e-3, by), rtol=1e-3)  # σ/√T is all that counts


@pytest.mark.parametrize("by", ["rdp", "pld"])
def test_without_noise_there_is_no_promise_and_without_steps_no_loss(by):
    assert epsilon(0, 0.5, 1, 1e-3, by) == math.inf
    assert composed([(1.0, 0.1, 0)], 1e-5, by) == 0
    assert epsilon(0.05, 1, 1000, 1e-5, by) > 1e5  # far outside any grid, and still a number
    assert 1e5 < epsilon(0.05, 0.1, 1000, 1e-5, by) < np.inf
    assert epsilon(1, 0.1, 10, 1e-15, by) > epsilon(1, 0.1, 10, 1e-9, by)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sigma": -1}, "sigma must be a finite number at least 0"),
        ({"sigma": np.nan}, "sigma must be"),
        ({"q": 0}, "q must be a finite number greater than 0 and at most 1"),
        ({"q": 1.5}, "q must be"),
        ({"delta": 0}, "delta must be a finite number greater than 0 and less than 1"),
        ({"delta": 1}, "delta must be"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"steps": 1.5}, "steps must be a whole number"),
        ({"accountant": "clt"}, "must be 'rdp' or 'pld'"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        epsilon(**({"sigma": 1.0, "q": 0.5, "steps": 10, "delta": 1e-5} | change))


def test_targets_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="epsilon must be"):
        sigma_for(0, 1e-5)
    with pytest.raises(ValueError, match="epsilon must be a finite number at least 0 and at most 700"):
        gaussian_delta(1e4, 1)


@pytest.mark.parametrize("by", ["rdp", "pld"])
@pytest.mark.parametrize("one", [(np.nan, 0.5, 3), (1, 2, 3), (1, 0, 3), (1, 0.5, -5), (1, 0.5, 0.9)])
def test_a_list_of_mechanisms_is_checked_too(by, one):
    with pytest.raises(ValueError, match="must be a"):
        composed([one], 1e-5, by)


@pytest.mark.parametrize(
    ("sigma", "q", "steps", "delta"),
    [(1e3, 1, 1, 1e-12), (1e4, 0.01, 1, 1e-10), (1e3, 1, 10**6, 1e-12), (300, 1, 10**4, 1e-12), (1e3, 1, 1, 1e-9)],
)
def test_pld_stays_an_upper_bound_where_rounding_would_decide(sigma, q, steps, delta):
    found = epsilon(sigma, q, steps, delta, "pld")
    if q == 1:
        assert found >= gaussian_epsilon(sigma / math.sqrt(steps), delta) * (1 - 1e-9)
    assert 0 <= found <= epsilon(sigma, q, steps, delta)


def test_pld_is_never_above_rdp():
    for sigma, q, steps, delta in [(5, 0.1, 10**6, 1e-8), (3000, 1, 10**7, 1e-6), (1, 0.01, 100, 1e-5)]:
        assert epsilon(sigma, q, steps, delta, "pld") <= epsilon(sigma, q, steps, delta, "rdp")


def test_noise_of_very_different_sizes_needs_no_great_memory():
    tracemalloc.start()
    assert composed([(0.5, 0.5, 1), (1000.0, 0.5, 1)], 1e-5) < composed([(0.5, 0.5, 2)], 1e-5)
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


def test_a_target_beyond_the_largest_noise_is_said():
    with pytest.raises(ValueError, match="no noise multiplier up to"):
        sigma_for(1e-10, 1e-9, steps=10**6)


@pytest.mark.parametrize("by", ["rdp", "pld"])
def test_extreme_noise_is_a_number_or_a_sentence(by):
    assert epsilon(1e-200, 1, 1, 1e-5, by) == math.inf and epsilon(1e11, 1, 1, 1e-5, by) == 0
    with pytest.raises(ValueError, match="sigma must be a finite number at least 0 and at most 1e"):
        epsilon(1e200, 0.5, 1, 1e-5, by)
