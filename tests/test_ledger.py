from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
import pytest

from fedlearn_mini import accountant, data, models, privacy
from fedlearn_mini.federation import Plan, fit, initial, load, one_round, rounds, save
from fedlearn_mini.ledger import NOT_COVERED, Budget, BudgetSpent, Ledger
from fedlearn_mini.privacy import DPSGD

MODEL = models.logistic(3)
PRIVATE = DPSGD(C=1.0, sigma=4.0, q=0.5)


@pytest.fixture
def three(rng):
    groups = np.repeat(["Aarau", "Basel", "Chur"], [40, 60, 90])
    return data.stack(rng.normal(size=(190, 3)), rng.integers(0, 2, 190), groups)


def spent(plan, hospitals, count, **options):
    state = initial(MODEL, plan)
    for state, _ in rounds(MODEL, hospitals, plan):
        if state.round == count:
            break
    return Ledger.of(plan, state, hospitals.names, **options)


@pytest.mark.parametrize("by", ["rdp", "pld"])
def test_all_local_steps_of_all_rounds_are_counted(three, by):
    ledger = spent(Plan(steps=5, private=PRIVATE), three, 7, delta=1e-3, accountant=by)
    assert list(ledger.steps) == [35, 35, 35]
    assert ledger.guarantee.epsilon == accountant.epsilon(4.0, 0.5, 35, 1e-3, by)


def test_who_was_away_has_spent_less_and_the_federation_is_its_worst_hospital(three):
    away = Plan(steps=2, private=PRIVATE, dropout=lambda r: np.array([0, 0, float(r % 2)]))
    ledger = spent(away, three, 6, delta=1e-3)
    assert list(ledger.steps) == [12, 12, 6]
    values = [one.epsilon for one in ledger.guarantees()]
    assert values[0] == values[1] > values[2] and ledger.guarantee.epsilon == values[0]


def test_noise_that_changes_on_the_way_is_counted_at_what_it_was(three):
    plan = Plan(private=PRIVATE)
    state, _ = fit(MODEL, three, plan, rounds=10)
    state, _ = fit(MODEL, three, replace(plan, private=DPSGD(1.0, 2.0, 0.1)), rounds=20, state=state)
    ledger = Ledger.of(plan, state, three.names, delta=1e-3)
    assert ledger.guarantee.epsilon == accountant.composed([(4.0, 0.5, 10), (2.0, 0.1, 20)], 1e-3)


def test_the_account_survives_a_saved_file(three, tmp_path):
    plan = Plan(private=PRIVATE, budget=Budget(2.0, 1e-3))
    whole, _ = fit(MODEL, three, plan, rounds=8)
    half, history = fit(MODEL, three, plan, rounds=4)
    save(tmp_path / "half.npz", half, history)
    again, _ = fit(MODEL, three, plan, rounds=4, state=load(tmp_path / "half.npz", MODEL)[0])
    assert (again.theta == whole.theta).all()
    assert list(Ledger.of(plan, again, three.names).steps) == [8, 8, 8]


@pytest.mark.parametrize("by", ["rdp", "pld"])
def test_the_budget_stops_the_run_before_it_is_exceeded(three, by):
    plan = Plan(private=PRIVATE, budget=Budget(2.0, 1e-3, by))
    state, history = fit(MODEL, three, plan, rounds=1000)
    allowed = next(t for t in range(1, 1000) if accountant.epsilon(4.0, 0.5, t + 1, 1e-3, by) > 2.0)
    assert history.attrs["stopped"] == "budget" and state.round == len(history) == allowed
    assert Ledger.of(plan, state, three.names).guarantee.epsilon <= 2.0
    with pytest.raises(BudgetSpent, match="the next round would bring hospital 'Aarau' to ε = .* over the budget"):
        one_round(state, MODEL, three, plan)
    assert len(list(rounds(MODEL, three, plan, state))) == 0  # a loop over rounds simply ends


def test_a_budget_that_allows_nothing_computes_nothing(three):
    state, history = fit(MODEL, three, Plan(private=DPSGD(1.0, 0.0), budget=Budget(50, 1e-3)), rounds=5)
    assert history.attrs["stopped"] == "budget" and state.round == 0 and len(history) == 0


NOISY = partial(privacy.noisy_mean, C=1.0, sigma=6.0, expected=3)


def test_a_hospital_is_the_unit_where_its_update_is_clipped(three):
    ledger = spent(Plan(steps=5, aggregate=NOISY), three, 7, delta=1e-3)
    assert ledger.what.unit == "hospital" and list(ledger.steps) == [7, 7, 7]  # a round is one release
    assert ledger.guarantee.epsilon == accountant.epsilon(6.0, 1, 7, 1e-3)
    assert "one hospital added or removed" in str(ledger) and "except the server" in str(ledger)


def test_invitations_by_coin_count_as_sampling_and_a_fixed_number_costs_double(three):
    by_coin = spent(Plan(aggregate=NOISY, fraction=0.3, poisson=True), three, 5, delta=1e-3)
    fixed = spent(Plan(aggregate=NOISY, fraction=0.3), three, 5, delta=1e-3)
    assert by_coin.guarantee.epsilon == accountant.epsilon(6.0, 0.3, 5, 1e-3)
    assert fixed.guarantee.epsilon == accountant.epsilon(3.0, 1, 5, 1e-3)


def test_invitations_by_coin_vary_in_number(three):
    plan = Plan(fraction=0.5, poisson=True)
    counts = [record["bytes_down"] for _, record in islice(rounds(MODEL, three, plan), 60)]
    assert set(np.array(counts) // (4 * 8)) == {0, 1, 2, 3} and 1.2 < np.mean(counts) / 32 < 1.8


def test_epsilon_is_never_shown_alone(three):
    ledger = spent(Plan(private=PRIVATE), three, 5, delta=1e-3)
    for text in (str(ledger), repr(ledger), str(ledger.guarantee), repr(ledger.guarantees())):
        assert "δ = 0.001" in text and "one patient added or removed" in text and "simulation noise" in text
        assert "everybody outside the hospital" in text
    assert all(line in str(ledger) for line in NOT_COVERED)
    table = ledger.table()
    assert {"epsilon", "delta", "unit", "relation", "accountant", "C", "q", "sigma", "steps"} == set(table.columns)
    assert "no guarantee, ε = ∞" in str(spent(Plan(private=DPSGD(1, 0)), three, 1, delta=1e-3))


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda three: Ledger.of(Plan(), initial(MODEL, Plan()), three.names, 1e-3), "adds no noise that a ledger"),
        (lambda three: spent(Plan(private=PRIVATE), three, 1), "a guarantee needs a delta"),
        (lambda three: spent(Plan(private=PRIVATE), three, 1, delta=2), "delta must be"),
        (lambda three: Budget(0, 1e-3), "the budget's epsilon must be"),
        (lambda three: Budget(1, 0), "the budget's delta must be"),
        (lambda three: Budget(1, 1e-3, "clt"), "must be 'rdp' or 'pld'"),
        (lambda three: Plan(budget=Budget(1, 1e-3)), "a budget needs noise that it can count"),
    ],
)
def test_what_cannot_be_accounted_for_is_refused(three, act, words):
    with pytest.raises(ValueError, match=words):
        act(three)


def test_a_delta_as_large_as_one_patient_is_warned_of(three):
    with pytest.warns(UserWarning, match="'Chur' has 90 records.*could publish one of them"):
        fit(MODEL, three, Plan(private=PRIVATE, budget=Budget(5, 0.02)), rounds=1)
