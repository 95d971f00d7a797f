from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
import pytest

from fedlearn_mini import accountant, data, models, privacy
from fedlearn_mini.federation import Plan, alone, fit, initial, load, one_round, rounds, save
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
    with pytest.raises(BudgetSpent):
        fit(MODEL, three, plan, rounds=5, state=state)
    with pytest.warns(UserWarning, match="the rounds end here: the next round would bring"):
        assert len(list(rounds(MODEL, three, plan))) == allowed  # a loop over rounds ends, and says why
    assert "the next round would bring hospital 'Aarau'" in history.attrs["why"]


def test_a_budget_that_allows_no_round_says_so():
    plan = Plan(private=DPSGD(1.0, 0.0), budget=Budget(50, 1e-3))
    one = data.stack(np.zeros((4, 3)), np.array([0, 1, 0, 1]), ["Aarau"] * 4)
    for act in (lambda: fit(MODEL, one, plan, rounds=5), lambda: next(rounds(MODEL, one, plan))):
        with pytest.raises(BudgetSpent, match="no guarantee"):
            act()


NOISY = partial(privacy.noisy_mean, C=1.0, sigma=6.0, expected=3)


def test_a_hospital_is_the_unit_where_its_update_is_clipped(three):
    ledger = spent(Plan(steps=5, aggregate=NOISY), three, 7, delta=1e-3)
    assert ledger.guarantee.unit == "hospital" and list(ledger.steps) == [7, 7, 7]  # a round is one release
    assert ledger.guarantee.epsilon == accountant.epsilon(6.0, 1, 7, 1e-3)
    assert "one hospital added or removed" in str(ledger) and "except the server" in " ".join(str(ledger).split())


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
        text = " ".join(text.split())
        assert "δ = 0.001" in text and "one patient added or removed" in text and "simulation noise" in text
        assert "everybody outside the hospital" in text
    assert all(line in str(ledger) for line in NOT_COVERED)
    table = ledger.table()
    assert {"ε at δ = 0.001", "unit", "relation", "accountant", "C", "q", "sigma", "steps"} == set(table.columns)
    assert "no guarantee (ε = ∞" in str(spent(Plan(private=DPSGD(1, 0)), three, 1, delta=1e-3))


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
        state, _ = fit(MODEL, three, Plan(private=PRIVATE, budget=Budget(5, 0.02)), rounds=1)
    with pytest.warns(UserWarning, match="'Chur' has 90 records"):
        Ledger.of(Plan(private=PRIVATE), state, three, delta=0.5)
    with pytest.warns(UserWarning, match="there are 3 hospitals"):
        spent(Plan(aggregate=NOISY), three, 1, delta=0.5)


# --- ways to be told too small an ε ----------------------------------------------------------------------------------


OPEN = Plan()


@pytest.mark.parametrize("order", [(OPEN, Plan(private=PRIVATE)), (Plan(private=PRIVATE), OPEN), (OPEN, OPEN)])
def test_rounds_without_noise_are_never_forgotten(three, order):
    state = None
    for plan in order:
        state, _ = fit(MODEL, three, plan, rounds=3, state=state)
    assert Ledger.of(Plan(private=PRIVATE), state, three.names, delta=1e-3).guarantee.epsilon == np.inf


def test_a_budget_refuses_a_state_that_was_trained_in_the_open(three):
    state, _ = fit(MODEL, three, OPEN, rounds=3)
    with pytest.raises(BudgetSpent, match="some release had no noise"):
        fit(MODEL, three, Plan(private=PRIVATE, budget=Budget(9, 1e-3)), rounds=1, state=state)


def test_the_statement_is_about_what_ran_and_not_about_the_plan_at_hand(three):
    ran = Plan(private=DPSGD(1.0, 4.0, where="server"))
    state, _ = fit(MODEL, three, ran, rounds=3)
    for claimed in (Plan(private=DPSGD(50.0, 999.0)), Plan(aggregate=NOISY), OPEN):
        ledger = Ledger.of(claimed, state, three.names, delta=1e-3)
        assert ledger.guarantee == Ledger.of(ran, state, three.names, delta=1e-3).guarantee
        assert "except the server" in " ".join(str(ledger).split()) and set(ledger.table()["C"]) == {"1"}
    state, _ = fit(MODEL, three, Plan(private=DPSGD(1.0, 4.0)), rounds=3, state=state)
    assert Ledger.of(ran, state, three.names, delta=1e-3).guarantee.against.endswith("except the server")  # the weakest
    shared = Plan(private=DPSGD(1.0, 4.0, where="distributed"))
    state, _ = fit(MODEL, three, shared, rounds=1, state=state)
    weakest = "everybody who sees the model and added no noise, except the server"
    assert Ledger.of(ran, state, three.names, delta=1e-3).guarantee.against == weakest


def test_the_two_units_are_not_added_up(three):
    state, _ = fit(MODEL, three, Plan(private=PRIVATE), rounds=2)
    with pytest.raises(ValueError, match="an account per patient, and the plan protects a hospital"):
        fit(MODEL, three, Plan(aggregate=NOISY), rounds=1, state=state)


def test_an_account_belongs_to_its_hospitals_in_their_order(three):
    plan = Plan(private=PRIVATE)
    state, _ = fit(MODEL, three, plan, rounds=2)
    for names in (three.names[::-1], three.names[:2], ("X", "Y", "Z")):
        with pytest.raises(ValueError, match="the account in this state is of"):
            Ledger.of(plan, state, names, delta=1e-3)
        with pytest.raises(ValueError, match="the account in this state is of"):
            one_round(state, MODEL, three._replace(names=names), plan)
    assert Ledger.of(plan, state, three, delta=1e-3).names == three.names  # the hospitals themselves will do


def test_training_alone_cannot_watch_a_budget(three):
    with pytest.raises(ValueError, match="keeps no account"):
        alone(MODEL, three, Plan(private=PRIVATE, budget=Budget(1, 1e-3)), 5)
