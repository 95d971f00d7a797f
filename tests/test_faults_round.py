"""Faults that people met in the round, in plans and in saved states; the number is the fault's, a test is its kind."""

import tracemalloc
import zipfile
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from conftest import as_type

from fedlearn_mini import aggregate, data, hospital, models, privacy, store
from fedlearn_mini.chance import Dice
from fedlearn_mini.desk import Desk, received
from fedlearn_mini.federation import fit, path, plateau, rounds, small_update
from fedlearn_mini.plan import Plan, pieces
from fedlearn_mini.privacy import DPSGD, clip
from fedlearn_mini.protocol import State, at_hospital, at_server_before, initial, one_round, opened
from fedlearn_mini.server import Server, fedadagrad, fedadam, fedavg, fedyogi

MODEL = models.logistic(5)


@pytest.mark.parametrize("until", [plateau(patience=3, tol=1e-3), small_update(tol=1e-3)])
def test_63_rounds_in_which_nobody_answers_do_not_converge(hospitals, until):
    plan = Plan(lr=0.3, dropout=lambda r: np.full(4, 1.0 if 2 <= r < 12 else 0.0))
    _, history = fit(MODEL, hospitals, plan, rounds=15, until=until)
    assert (history.hospitals[3:12] == 0).all() and history.attrs["stopped"] == "rounds"


@pytest.mark.parametrize("seed", [0, 3, 7])
def test_64_initial_weights_are_in_no_stream_that_a_notebook_makes(seed):
    """default_rng(s) equals default_rng([s, 0]), so weights drawn from either could be patients' values."""
    model = models.mlp(5)
    weights = initial(model, Plan(seed=seed)).theta
    for other in (seed, [seed, 0], [seed, 0, 0], [0, seed]):
        assert not np.isin(weights[weights != 0], model.init(np.random.default_rng(other))).any()
        assert not np.isin(weights[weights != 0], np.random.default_rng(other).normal(size=10**4)).any()


@pytest.mark.parametrize("server", [fedadam(), fedyogi(), fedadagrad(), fedavg(momentum=0.9)])
def test_72_a_server_whose_memory_overflows_has_diverged(server):
    """v = ∞ divides every step to 0: the model stands still, and its loss is finite for ever."""
    many = data.stack(np.ones((4, 1)) * [[1e90], [1.0], [1.0], [1.0]], [1e80, 1, 1, 1], list("AABB"))
    with np.errstate(all="ignore"):
        state, history = fit(models.linear(1), many, Plan(lr=1.0, server=server), rounds=5)
    assert history.attrs["stopped"] == "diverged"
    assert all(np.isfinite(value).all() for value in (state.theta, *state.memory.values()))


def test_72_a_memory_of_plain_numbers_is_kept_and_anything_else_refused(hospitals, tmp_path):
    counting = Server(lambda theta: {"seen": 0}, lambda theta, update, memory: (theta, {"seen": memory["seen"] + 1}))
    plan = Plan(server=counting)
    state, _ = fit(MODEL, hospitals, plan, rounds=2)
    store.save(tmp_path / "s.npz", state)
    again, _ = fit(MODEL, hospitals, plan, rounds=1, state=store.load(tmp_path / "s.npz")[0])
    assert again.memory["seen"] == 3
    with pytest.raises(ValueError, match="memory must be a dict of arrays"):
        initial(MODEL, Plan(server=Server(lambda theta: None, counting.step)))
    with pytest.raises(ValueError, match="memory 'm' must be an array of numbers"):
        initial(MODEL, Plan(server=Server(lambda theta: {"m": "zero"}, counting.step)))
    bad = Plan(server=Server(lambda theta: {}, lambda theta, update, memory: (theta, [1])))
    with pytest.raises(ValueError, match="memory must be a dict of arrays"):
        one_round(initial(MODEL, bad), MODEL, hospitals, bad)
    other = replace(state, memory={"seen": np.zeros(6)})
    with pytest.raises(ValueError, match="what the server remembers"):
        fit(MODEL, hospitals, plan, rounds=1, state=other)


@pytest.mark.parametrize(("size", "dtype"), [(1e25, "f4"), (1e37, "f4"), (1e200, "f8"), (1.0, "f8"), (1.0, "i8")])
def test_73_a_row_whose_squares_overflow_keeps_its_direction(size, dtype):
    row = (np.array([[3, 4]]) * np.array(size).astype(dtype)).astype(dtype)
    assert np.allclose(clip(row, 1.0), [[0.6, 0.8]], rtol=1e-6)


@pytest.mark.parametrize("C", [0, -1, np.nan])
def test_73_a_clipping_norm_that_is_not_positive_is_refused(C):
    with pytest.raises(ValueError, match="clipping norm C must be above 0"):
        clip(np.ones((2, 3)), C)


@pytest.mark.parametrize(("lr", "mu"), [(0.1, 20), (1.0, 2.0), (0.5, 100)])
def test_74_a_pull_that_overshoots_is_refused(lr, mu):
    """θ − θ₀ is multiplied by 1 − ημ in every step: at ημ = 2 it only changes its sign, and FedNova's τ is 0."""
    with pytest.raises(ValueError, match="lr · mu = .* must be below 2"):
        Plan(lr=lr, mu=mu)
    with pytest.raises(ValueError, match="lr · mu"):
        replace(Plan(lr=lr), mu=mu)


def test_74_a_pull_just_below_converges_to_the_server_s_model():
    bowl = data.stack(np.ones((2, 2)) * [1e-6, 0], [0, 0], list("AB"))
    model = models.bowl(1)
    state, _ = one_round(initial(model, Plan()), model, bowl, Plan(lr=0.1, mu=19.9, steps=500))
    assert abs(state.theta[0] - 5) < 1e-5


def without(path, member):
    """The archive without one of its members."""
    with zipfile.ZipFile(path) as archive:
        kept = {name: archive.read(name) for name in archive.namelist() if name != f"{member}.npy"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in kept.items():
            archive.writestr(name, content)


def test_75_a_file_that_lost_a_member_is_refused_whichever_it_was(hospitals, tmp_path):
    file = tmp_path / "state.npz"
    plan = Plan(lr=0.1, private=DPSGD(1.0, 2.0), scaffold=True, server=fedyogi())
    state, history = fit(MODEL, hospitals, plan, rounds=2)
    store.save(file, state, history)
    with zipfile.ZipFile(file) as archive:
        members = [name.removesuffix(".npy") for name in archive.namelist()]
    assert {"kept/control", "told/control", "memory/v", "spent/steps", "accepted", "names", "history/loss"} <= set(
        members
    )
    for member in set(members) - {"members"}:
        store.save(file, state, history)
        without(file, member)
        with pytest.raises(ValueError, match="is not a state that save.* wrote, or it is damaged"):
            store.load(file)


def test_75_an_account_comes_back_as_it_was(hospitals, tmp_path):
    plan = Plan(lr=0.1, dropout=0.4, private=DPSGD(1.0, 2.0, q=0.5))
    state, _ = fit(MODEL, hospitals, Plan(lr=0.1), rounds=2)
    state, _ = fit(MODEL, hospitals, plan, rounds=2, state=state)
    store.save(tmp_path / "s.npz", state)
    found = store.load(tmp_path / "s.npz")[0].spent
    assert [entry.what for entry in found] == [entry.what for entry in state.spent] and len(found) == 2
    assert all((one.steps == other.steps).all() for one, other in zip(found, state.spent, strict=True))


@pytest.mark.parametrize("wrong", ["s.npz", 7, {"round": 3}])
def test_87_a_state_that_is_none_is_said_so(hospitals, wrong):
    with pytest.raises(ValueError, match="state must be a State"):
        fit(MODEL, hospitals, Plan(), rounds=1, state=wrong)


@pytest.mark.parametrize("private", [DPSGD(1.0, 1.0, q=0.5), DPSGD(1.0, 1.0)], ids=["coins", "everybody"])
def test_77_what_dp_sgd_draws_grows_with_the_block_and_not_with_the_hospitals(private):
    peaks = {}
    for K, block in ((100, 20), (800, 20), (800, 800)):
        X, y = np.ones((K * 20, 5)), np.zeros(K * 20)
        many, plan = data.stack(X, y, np.repeat(np.arange(K), 20)), Plan(steps=20, private=private, block=block)
        ready = initial(MODEL, plan)
        one_round(ready, MODEL, many, plan)
        tracemalloc.start()
        one_round(ready, MODEL, many, plan)
        peaks[K, block] = tracemalloc.get_traced_memory()[1] - 40 * 8 * K  # letters and counts
        tracemalloc.stop()
    assert peaks[800, 20] < 1.5 * peaks[100, 20] and peaks[800, 800] > 8 * peaks[800, 20]


# ------------------------------------------------------------------------------------- letters that come from elsewhere


def letter(hospitals, plan=None):
    """Everything that `received` wants, and the letters of two hospitals."""
    plan = plan or Plan(lr=0.1, scaffold=True)
    parts, desk = pieces(plan, MODEL), Desk.of(hospitals)
    state, kept = opened(initial(MODEL, plan), parts, desk)
    order, _, present = at_server_before(state, parts, desk)
    said = {}
    for seat in (0, 2):
        X, y = hospitals.one(seat)
        own = {name: rows[seat] for name, rows in kept.items()}
        w, size = np.full(len(y), 1 / len(y)), np.array(len(y))
        said[seat], _ = at_hospital(order, parts, own, X, y, w, size, Dice.of(0, 0, np.array(seat)))
    return said, (present, desk.sizes, order.round, parts.hospital.told, order.theta, plan.steps)


WRONG = {
    "a scalar that would spread": ({"update": np.array(3.0)}, "its update has the shape \\(\\)"),
    "a short vector": ({"update": np.ones(1)}, "its update has the shape \\(1,\\)"),
    "a row too many": ({"update": np.ones((2, 6))}, "its update has the shape"),
    "text": ({"update": np.full(6, "x")}, "its update has the shape .* and the type <U1"),
    "whole numbers": ({"update": np.ones(6, int)}, "the type int64"),
    "another part missing": ({"control": None}, "it holds"),
    "a part too many": ({"extra": np.ones(6)}, "it holds"),
    "another round": ({"round": 3}, "in round 3"),
    "another seat": ({"seat": 1}, "it is of hospital number 1"),
    "too heavy": ({"weight": 10**9}, "it counts for 1000000000 records"),
    "a negative weight": ({"weight": -400}, "it counts for -400 records"),
    "half a record": ({"weight": 1.5}, "its weight has the shape"),
    "no step": ({"steps": 0}, "it says that 0 steps were taken"),
    "steps without end": ({"steps": 10**12}, "it says that 1000000000000 steps"),
    "a step more than planned": ({"steps": 2}, "it says that 2 steps"),
}


@pytest.mark.parametrize("name", WRONG)
def test_91_a_letter_that_cannot_be_is_refused_by_name_and_the_others_go_on(hospitals, name):
    said, rest = letter(hospitals)
    change, why = WRONG[name]
    said[2] = {key: value for key, value in (said[2] | change).items() if value is not None}
    letters, refused = received(said, *rest)
    assert list(letters["seat"]) == [0] and letters["update"].shape == (1, 6)
    assert list(refused) == [2]
    with pytest.raises(ValueError, match=why):
        raise ValueError(refused[2])


def test_91_letters_that_nobody_asked_for_are_refused_and_nobody_is_nobody(hospitals):
    said, (_, *rest) = letter(hospitals)
    letters, refused = received(said, np.array([0, 1]), *rest)
    assert list(letters["seat"]) == [0] and refused == {2: "nobody asked this hospital"}
    letters, refused = received(said | {"0": said[0], None: {}, 7: {}}, np.array([0, 2]), *rest)
    assert list(letters["seat"]) == [0, 2] and set(refused) == {"0", None, 7}
    none, refused = received({}, np.array([0, 1]), *rest)
    assert none["update"].shape == (0, 6) and none["seat"].dtype == int and not refused
    sound, refused = received(said, np.array([0, 2]), *rest)
    assert not refused and {name: len(part) for name, part in sound.items()} == dict.fromkeys(sound, 2)


# ---------------------------------------------------------------------------------------------------- pieces and topics


def test_a_topic_travels_with_the_order_and_needs_no_branch_in_the_round(hospitals):
    """A wrapper that answers another topic itself, as a secure round will."""

    def greeting(inner):
        def step(job):
            return inner.step(job) if job.topic == "train" else ({"greeting": np.ones(3)}, job.kept)

        return hospital.Hospital(inner.init, step, inner.told)

    plan = Plan(lr=0.1, around=(greeting,))
    parts, desk = pieces(plan, MODEL), Desk.of(hospitals)
    state, kept = opened(initial(MODEL, plan), parts, desk)
    order, _, _ = at_server_before(state, parts, desk)
    X, y = hospitals.one(0)
    records = X, y, np.full(len(y), 1 / len(y)), np.array(len(y)), Dice.of(0, 0, np.array(0))
    assert set(at_hospital(order._replace(topic="hello"), parts, {}, *records)[0]) >= {"greeting"}
    assert "update" in at_hospital(order, parts, {}, *records)[0]
    assert (
        fit(MODEL, hospitals, plan, rounds=2)[0].theta
        == fit(MODEL, hospitals, replace(plan, around=()), rounds=2)[0].theta
    ).all()


@pytest.mark.parametrize("around", [(3,), [partial], "feedback"])
def test_around_that_is_not_a_tuple_of_functions_is_refused(around):
    with pytest.raises(ValueError, match="around must be a tuple of functions"):
        Plan(around=around)


def test_two_compressions_that_would_share_one_memory_are_refused(hospitals):
    coarse = partial(hospital.feedback, compress=lambda rows, dice: rows.round(1))
    with pytest.raises(ValueError, match="two `feedback` around each other"):
        fit(MODEL, hospitals, Plan(around=(coarse, coarse)), rounds=1)


def test_a_part_that_diverges_at_home_is_not_unseen(hospitals):
    """It never travels, so no letter shows it: the run ends with the last good state."""
    own = np.arange(6) != 0

    def wild(inner):
        def step(job):
            letter, kept = inner.step(job)
            grown = np.where(own, kept["own"], np.inf)
            return letter, kept | {"own": grown if job.kept["own"][..., 1].any() else kept["own"]}

        return inner._replace(step=step)

    state, history = fit(MODEL, hospitals, Plan(shared=own, around=(wild,)), rounds=5)
    assert history.attrs["stopped"] == "diverged" and state.round == len(history) == 1
    assert np.isfinite(state.kept["own"]).all()


@pytest.mark.parametrize("where", ["distributed", "server"])
def test_noise_that_is_right_for_a_plain_sum_is_refused_with_methods_around(where):
    coarse = (partial(hospital.feedback, compress=lambda rows, dice: rows.round(1)),)
    with pytest.raises(ValueError, match="right only for a plain sum"):
        Plan(private=DPSGD(1.0, 1.0, where=where), around=coarse)


def test_a_gradient_of_your_own_does_not_keep_the_norms_of_another():
    """The norms hang on the gradient: with another one DP-SGD writes the records' gradients out, and clips them."""
    X, y, theta = np.random.default_rng(0).normal(size=(8, 5)), np.zeros(8), np.zeros(6)
    tenfold = MODEL._replace(grad=lambda *batch: 10 * MODEL.grad(*batch))
    one = np.eye(8)
    for w in one:
        assert np.linalg.norm(privacy.clipped(tenfold.grad, 1.0)(theta, X, y, w)) <= 1 + 1e-12


# ---------------------------------------------------------------------------------------------------------- whole runs


def test_a_path_is_theta_before_and_after_every_round(hospitals):
    plan = Plan(lr=0.3, steps=2, dropout=0.3)
    found = path(MODEL, hospitals, plan, 4)
    each = [state.theta for _, (state, _) in zip(range(4), rounds(MODEL, hospitals, plan), strict=False)]
    assert found.shape == (5, 6) and (found[0] == 0).all() and (found[1:] == each).all()
    assert (path(MODEL, hospitals, plan, 2, state=fit(MODEL, hospitals, plan, rounds=2)[0]) == found[2:]).all()
    assert path(MODEL, hospitals, plan, 0).shape == (1, 6)
    assert path(MODEL, as_type(hospitals, "f4"), plan, 3)[1:].dtype.kind == "f"


def test_noise_of_the_hospital_itself_is_in_the_letter_and_not_on_the_wire(hospitals):
    plan = Plan(lr=0.3, aggregate=aggregate.mean, around=(partial(hospital.noisy_rows, C=0.02, sigma=0.0),))
    state, _ = fit(MODEL, hospitals, plan, rounds=1)
    clipped = fit(MODEL, hospitals, replace(plan, around=()), rounds=1)[0]
    assert np.linalg.norm(state.theta) <= 0.02 < np.linalg.norm(clipped.theta)
    loud = replace(plan, around=(partial(hospital.noisy_rows, C=0.02, sigma=50.0),))
    assert not np.allclose(fit(MODEL, hospitals, loud, rounds=1)[0].theta, state.theta, atol=0.05)
    for wrong in ({"C": 0}, {"C": 1, "sigma": -1}, {"C": 1, "share": 2}):
        with pytest.raises(ValueError, match="noisy_rows"):
            hospital.noisy_rows(None, **{"sigma": 1} | wrong)
    assert isinstance(state, State)


def test_a_plan_in_between_that_keeps_less_loses_nothing_of_what_was_kept(hospitals):
    """SCAFFOLD, then plain rounds, in which its late letters arrive, then SCAFFOLD: c stays Σ nₖcₖ / Σ n."""
    careful, sizes = Plan(lr=0.1, steps=3, scaffold=True, late=0.5), hospitals.sizes
    first, _ = fit(MODEL, hospitals, careful, rounds=3)
    assert first.waiting
    second, _ = fit(MODEL, hospitals, replace(careful, scaffold=False, late=0.0), rounds=2, state=first)
    assert not second.waiting and (second.kept["control"] == first.kept["control"]).all()
    assert np.allclose(second.told["control"], sizes @ second.kept["control"] / sizes.sum(), atol=1e-14)
    third, _ = fit(MODEL, hospitals, replace(careful, late=0.0), rounds=1, state=second)
    assert np.allclose(third.told["control"], sizes @ third.kept["control"] / sizes.sum(), atol=1e-14)
    assert np.abs(third.told["control"] - second.told["control"]).max() > 1e-3


def test_a_plan_that_keeps_more_takes_over_what_is_kept_told_and_accepted(hospitals):
    """Nobody answers, so nothing may change but what the new piece begins with."""
    careful = Plan(lr=0.1, steps=3, scaffold=True, dropout=lambda r: np.array([0.0, 0.0, 0.0, 1.0 if r else 0.0]))
    first, _ = fit(MODEL, hospitals, careful, rounds=2)
    coarse = (partial(hospital.feedback, compress=lambda rows, dice: rows.round(1)),)
    for scaffold in (True, False):
        more = replace(careful, scaffold=scaffold, around=coarse, dropout=lambda r: np.ones(4))
        second, _ = one_round(first, MODEL, hospitals, more)
        assert (second.kept["control"] == first.kept["control"]).all() and not second.kept["lost"].any()
        assert (second.told["control"] == first.told["control"]).all() and second.told["control"].any()
        assert list(second.accepted) == list(first.accepted) == [2, 2, 2, 1]


def test_late_letters_of_a_plan_without_scaffold_do_not_move_c(hospitals):
    plain, sizes = Plan(lr=0.1, steps=3, late=0.5), hospitals.sizes
    first, _ = fit(MODEL, hospitals, plain, rounds=3)
    assert first.waiting and "control" not in first.waiting
    second, record = one_round(first, MODEL, hospitals, replace(plain, scaffold=True, late=0.0))
    assert record["hospitals"] > 4
    assert np.allclose(second.told["control"], sizes @ second.kept["control"] / sizes.sum(), atol=1e-14)
    with pytest.raises(ValueError, match="what the hospitals keep in this state belongs to"):
        one_round(first, MODEL, hospitals._replace(names=("A", "B", "C", "D")), plain)  # nor do they go to others


def test_releases_are_charged_when_they_leave_the_house_also_if_the_letter_is_late_or_refused(hospitals):
    plan = Plan(lr=0.1, steps=3, private=DPSGD(1.0, 2.0))
    for way in ({"late": 1.0}, {"uplink": first_broken}):
        state, record = one_round(initial(MODEL, plan), MODEL, hospitals, replace(plan, **way))
        assert record["hospitals"] < 4 and list(state.spent[0].steps) == [3, 3, 3, 3]


def first_broken(updates, rng):
    """An uplink that breaks the first letter."""
    return np.where((np.arange(len(updates)) == 0)[:, None], np.nan, updates)


UNREADABLE = {
    "nothing": None,
    "a list": ["control", "round", "seat", "steps", "update", "weight"],
    "rows of unequal length": {"update": [[1.0], [1.0, 2.0]]},
    "a key that is no text": {3: np.ones(6)},
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_91_what_is_no_letter_is_refused_and_does_not_stop_the_others(hospitals, name):
    said, rest = letter(hospitals)
    said[2] = said[2] | UNREADABLE[name] if isinstance(UNREADABLE[name], dict) else UNREADABLE[name]
    letters, refused = received(said, *rest)
    assert list(letters["seat"]) == [0] and refused == {2: "it cannot be read as a letter"}


BROKEN = {
    "no list of members": ({"members": None, "spent/steps": None}, "lost the list of its members"),
    "no rounds of letters": ({"accepted": None}, "say of each of its hospitals"),
    "too few rounds of letters": ({"accepted": np.zeros(2, int)}, "say of each of its hospitals"),
    "one account for all": ({"spent/steps": np.array([[3]])}, "say of each of its hospitals"),
    "an account below zero": ({"spent/steps": np.full((1, 4), -3)}, "cannot be"),
    "rounds with a fraction": ({"accepted": np.zeros(4)}, "cannot be"),
    "one number told for all": ({"told/control": np.ones(1)}, "rows of as many numbers"),
    "kept text": ({"kept/control": np.full((4, 6), "x")}, "rows of as many numbers"),
    "half a letter": ({"waiting/weight": None}, "not whole"),
    "a letter of nobody": ({"waiting/seat": np.array([99])}, "cannot be"),
    "a letter of −5 records": ({"waiting/weight": np.array([-5])}, "cannot be"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_75_a_file_that_says_what_cannot_be_is_refused(hospitals, tmp_path, name):
    plan = Plan(lr=0.1, private=DPSGD(1.0, 2.0), scaffold=True, late=0.5)
    state, _ = fit(MODEL, hospitals, plan, rounds=3)
    assert len(state.waiting["seat"]) == 1
    store.save(tmp_path / "whole.npz", state)
    change, why = BROKEN[name]
    with np.load(tmp_path / "whole.npz") as file:
        held = {part: value for part, value in (dict(file) | change).items() if value is not None}
    if "members" in held:
        held["members"] = np.array(sorted(set(held) - {"members"}))
    np.savez(tmp_path / "broken.npz", **held)
    with pytest.raises(ValueError, match=why):
        store.load(tmp_path / "broken.npz")


def test_a_full_disk_leaves_the_older_file_and_no_draft(hospitals, tmp_path, monkeypatch):
    state, _ = fit(MODEL, hospitals, Plan(), rounds=1)
    store.save(tmp_path / "state.npz", state)

    def full(file, **held):
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space left"):
        store.save(tmp_path / "state.npz", replace(state, round=2))
    assert [file.name for file in tmp_path.iterdir()] == ["state.npz"]
    assert store.load(tmp_path / "state.npz")[0].round == 1
