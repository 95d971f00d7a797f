"""Flower's messages in this process give the numbers of `fit`; wrong answers are refused by name, the others go on."""

import numpy as np
import pytest

pytest.importorskip("flwr.app", reason="pip install -e '.[test,flower]'")

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from test_node_equals_stack import LOGISTIC, METHODS

from fedlearn_mini import data, flower
from fedlearn_mini.federation import fit
from fedlearn_mini.flower import Here, Refused, apps, get, put
from fedlearn_mini.plan import Plan
from fedlearn_mini.privacy import DPSGD
from fedlearn_mini.secure import Masks
from fedlearn_mini.store import load

PLAIN = Plan(lr=0.3, steps=5)


@pytest.fixture
def many(rng):
    return data.make_hospitals(4, 30, d=5, skew=1.0, difference=0.5, rng=rng)


def contexts(many, folder, **more):
    """One Context a hospital, its records in a file of its own."""
    found = []
    for seat, name in enumerate(many.names):
        X, y = many.one(seat)
        np.savez(folder / f"{seat}.npz", X=X, y=y)
        node = {"name": name, "data": str(folder / f"{seat}.npz"), "lesson": True} | more
        found.append(Context(1, seat + 2, node, RecordDict(), {}))
    return found


def run(model, plan, many, folder, rounds=6, client=None, wrap=Here, **settings):
    """The state that a server has after so many rounds with these hospitals."""
    own, server = apps(model, plan, many.names)
    grid = wrap(client or own, contexts(many, folder))
    settings = {"state": str(folder / "state.npz"), "rounds": rounds, "patience": 0.0, "deadline": 1.0} | settings
    server(grid, Context(1, 1, {}, RecordDict(), settings))
    return load(folder / "state.npz", model)[0]


@pytest.mark.parametrize("name", METHODS)
def test_flower_in_this_process_gives_the_numbers_of_fit(name, many, tmp_path):
    model, plan = METHODS[name]
    state, _ = fit(model, many, plan, rounds=6)
    found = run(model, plan, many, tmp_path)
    assert found.round == 6 and np.abs(found.theta - state.theta).max() <= 1e-12 * max(1, np.abs(state.theta).max())
    assert all(np.abs(found.told[part] - state.told[part]).max() <= 1e-12 for part in state.told)
    assert (found.accepted == state.accepted).all()


@pytest.mark.parametrize("name", ["SCAFFOLD, absences, late", "masked, own head, feedback", "error feedback"])
def test_a_server_that_ended_goes_on_where_it_stopped(name, many, tmp_path):
    model, plan = METHODS[name]
    run(model, plan, many, tmp_path, rounds=3)
    found = run(model, plan, many, tmp_path, rounds=6)
    assert np.abs(found.theta - fit(model, many, plan, rounds=6)[0].theta).max() <= 1e-12


def test_a_server_that_went_back_a_round_gets_the_same_numbers(many, tmp_path):
    model, plan = METHODS["SCAFFOLD"]
    run(model, plan, many, tmp_path, rounds=3)
    (tmp_path / "old.npz").write_bytes((tmp_path / "state.npz").read_bytes())
    run(model, plan, many, tmp_path, rounds=4)
    (tmp_path / "old.npz").replace(tmp_path / "state.npz")
    found = run(model, plan, many, tmp_path, rounds=6)
    assert np.abs(found.theta - fit(model, many, plan, rounds=6)[0].theta).max() <= 1e-12


def liar(change, seat=1, plan=PLAIN, model=LOGISTIC, names=()):
    """A ClientApp whose hospital at this seat sends another answer: change (letter) -> content of the message."""
    honest, _ = apps(model, plan, names)

    class Lying(ClientApp):
        def __call__(self, message, context):
            reply = honest(message, context)
            if message.metadata.message_type == "train" and context.node_id == seat + 2:
                return Message(change(get(reply.content)), reply_to=message)
            return reply

    return Lying()


WRONG = {
    "a scalar": lambda letter: put(letter | {"update": np.array(2.5)}),
    "a short vector": lambda letter: put(letter | {"update": letter["update"][:3]}),
    "a column": lambda letter: put(letter | {"update": letter["update"][:, None]}),
    "text": lambda letter: put(letter | {"update": np.array(["a"] * 6)}),
    "n = 10⁹": lambda letter: put(letter | {"weight": np.array(10**9)}),
    "n = −400": lambda letter: put(letter | {"weight": np.array(-400)}),
    "steps = 10⁹": lambda letter: put(letter | {"steps": np.array(10**9)}),
    "another round": lambda letter: put(letter | {"round": np.array(7)}),
    "another hospital": lambda letter: put(letter | {"seat": np.array(2)}),
    "an array more": lambda letter: put(letter | {"more": np.zeros(3)}),
    "an array fewer": lambda letter: put({name: part for name, part in letter.items() if name != "steps"}),
    "NaN": lambda letter: put(letter | {"update": letter["update"] * np.nan}),
    "nothing": lambda letter: RecordDict(),
    "names without arrays": lambda letter: RecordDict(
        {"what": ArrayRecord(), "what names": ConfigRecord({"are": ["a"]})}
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_one_bad_answer_is_refused_by_name_and_the_others_go_on(name, many, tmp_path, capsys):
    found = run(LOGISTIC, PLAIN, many, tmp_path, 2, client=liar(WRONG[name], names=many.names))
    without = Plan(lr=0.3, steps=5, dropout=lambda r: np.array([0, 1.0, 0, 0]))
    assert np.abs(found.theta - fit(LOGISTIC, many, without, rounds=2)[0].theta).max() <= 1e-12
    said = capsys.readouterr().out
    assert many.names[1] in said or name == "NaN"  # NaN is a letter, and refused by the protocol itself
    assert found.accepted.tolist() == [2, 0, 2, 2]


def test_the_text_of_an_error_at_a_hospital_stays_there(many, tmp_path, capsys):
    client, _ = apps(LOGISTIC, PLAIN, many.names)
    X, y = many.one(0)
    for seat, node in enumerate(contexts(many, tmp_path)):
        if seat == 0:
            np.savez(tmp_path / "0.npz", X=np.where(X > 0, X, np.nan)[:, :2], y=y)
        order = {"round": 0, "theta": np.zeros(6), "hospitals": 4, "accepted": 0}
        content = put(order)
        content["about"] = ConfigRecord({"topic": "train"})
        Here(client, [])
        message = Message(content, seat + 2, "train")
        reply = client(message, node)
        assert ("no" in reply.content) == (seat == 0)
        if seat == 0:
            assert dict(reply.content["no"]) == {"because": "this hospital could not answer"}
    assert "no answer:" in capsys.readouterr().out


class Deaf(Here):
    """A grid on which one hospital never answers orders."""

    def pull_messages(self, message_ids):
        return [
            one for one in super().pull_messages(message_ids) if one.metadata.src_node_id != 4 or "who" in one.content
        ]


def test_who_never_answers_stops_the_run_by_name_and_with_a_quorum_it_goes_on(many, tmp_path):
    with pytest.raises(Refused, match=f"{many.names[2]} did not answer in round 1"):
        run(LOGISTIC, PLAIN, many, tmp_path, 2, wrap=Deaf, deadline=0.05)
    found = run(LOGISTIC, PLAIN, many, tmp_path, 2, wrap=Deaf, deadline=0.05, quorum=0.7)
    without = Plan(lr=0.3, steps=5, dropout=lambda r: np.array([0, 0, 1.0, 0]))
    assert np.abs(found.theta - fit(LOGISTIC, many, without, rounds=2)[0].theta).max() <= 1e-12


def test_a_hospital_that_is_not_there_is_named_before_the_first_round(many, tmp_path):
    class Three(Here):
        def get_node_ids(self):
            return super().get_node_ids()[:3]

    with pytest.raises(Refused, match=f"not here after 0 s: {many.names[3]}"):
        run(LOGISTIC, PLAIN, many, tmp_path, wrap=Three)
    assert not (tmp_path / "state.npz").exists()


def test_another_version_of_the_kit_and_another_name_are_refused_in_words(many, tmp_path, monkeypatch):
    client, server = apps(LOGISTIC, PLAIN, many.names)

    class Strange(Here):
        def push_messages(self, messages):
            numbers = super().push_messages(messages)
            for number in numbers:
                reply = self.replies[number]
                if "who" in reply.content and reply.metadata.src_node_id == 2:
                    reply.content["who"]["version"] = "0.0.1"
                elif "who" in reply.content and reply.metadata.src_node_id == 3:
                    reply.content["who"]["name"] = "nobody"
            return numbers

    with pytest.raises(Refused, match="node 2 runs version 0.0.1 of the kit.*calls itself 'nobody'"):
        run(LOGISTIC, PLAIN, many, tmp_path, wrap=Strange)


def test_a_second_server_on_one_state_file_is_refused(many, tmp_path):
    with flower.locked(tmp_path / "state.npz"), pytest.raises(Refused, match="another server works on"):
        run(LOGISTIC, PLAIN, many, tmp_path)
    assert run(LOGISTIC, PLAIN, many, tmp_path, 1).round == 1


@pytest.mark.parametrize("plan", [Plan(private=DPSGD(1, 2.0)), Plan(masks=Masks())], ids=["noise", "masks"])
def test_noise_and_masks_need_a_secret_of_the_hospital(many, tmp_path, plan):
    _, server = apps(LOGISTIC, plan, many.names)
    nodes = contexts(many, tmp_path, lesson=False)
    settings = {"state": str(tmp_path / "s.npz"), "rounds": 1, "patience": 0.0, "deadline": 0.05}
    with pytest.raises(Refused, match="did not answer"):
        server(Here(apps(LOGISTIC, plan, many.names)[0], nodes), Context(1, 1, {}, RecordDict(), settings))


def test_with_a_secret_who_knows_the_seed_cannot_subtract_the_noise(many, tmp_path):
    plan = Plan(lr=0.3, private=DPSGD(1, 2.0))
    predicted, _ = fit(LOGISTIC, many, plan, rounds=1)
    (tmp_path / "secret").write_bytes(bytes(range(16)))
    nodes = contexts(many, tmp_path, secret=str(tmp_path / "secret"), lesson=False)
    client, server = apps(LOGISTIC, plan, many.names)
    settings = {"state": str(tmp_path / "s.npz"), "rounds": 1, "patience": 0.0, "deadline": 1.0}
    server(Here(client, nodes), Context(1, 1, {}, RecordDict(), settings))
    found, _ = load(tmp_path / "s.npz", LOGISTIC)
    assert np.abs(found.theta - predicted.theta).max() > 0.01


def test_a_hospital_that_lost_what_it_kept_says_so_and_is_not_averaged(many, tmp_path):
    model, plan = METHODS["SCAFFOLD"]
    run(model, plan, many, tmp_path, rounds=2)
    (tmp_path / "1.npz.kept.2.npz").unlink()
    with pytest.raises(Refused, match=f"{many.names[1]} did not answer in round 3"):
        run(model, plan, many, tmp_path, rounds=3, deadline=0.05)
    assert sorted(file.name for file in tmp_path.glob("0.npz.kept.*")) == [
        "0.npz.kept.1.npz",
        "0.npz.kept.2.npz",
        "0.npz.kept.3.npz",
    ]
