"""Bad input at the door gets a sentence: what, where, what to do. The numbers are those of the list of faults."""

import os
import zipfile

import numpy as np
import pandas as pd
import pytest

from fedlearn_mini import data, federation, models
from fedlearn_mini.federation import Plan, fit, initial, one_round

# fault, bytes of the file, options of read, words that the sentence must have
FILES = [
    ("2 empty", b"", {}, "has nothing in it"),
    ("2 header only", b"age,target\n", {}, "only a header and no rows"),
    ("3 semicolons", b"age;target\n50;1\n", {}, r"looks separated by sep=';': split at ',', it has one column"),
    ("3 tabs", b"age\ttarget\n50\t1\n", {}, "looks separated by"),
    ("5 latin-1", "alter,männlich\n50,ja\n".encode("latin-1"), {}, "line 1, is not written in utf-8.*latin-1"),
    ("5 utf-16", "age,target\n50,1\n".encode("utf-16"), {}, "UTF-16.*encoding='utf-16'"),
    (
        "3 semicolons, comma in a name",
        b"chol, mmol;age\n5;50\n",
        {},
        "looks separated by sep=';'.*inside a column name",
    ),
    ("9 column without a name", b",age\n0,50\n", {}, "no name for column 1"),
    ("6 long row", b"age,target\n50,1,7\n", {}, "record 1, has 3 cells, but the header has 2"),
    ("6 short row", b"age,target\n50,1\n51\n", {}, "record 2, has 1 cells, but the header has 2"),
    ("7 unclosed quote", b'age,target\n"50,1\n51,0\n', {}, "is damaged"),
    ("7 NUL bytes", b"age,target\n50,1\n\0\0,0\n", {}, "holds binary data"),
    ("7 git-LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", {}, "git-LFS pointer"),
    ("7 web page", b"<!DOCTYPE html><html><body>404</body></html>", {}, "holds a web page"),
    ("8 no target", b"age,Target\n50,1\n", {"target": "target"}, "no column 'target'. Did you mean 'Target'"),
    (
        "22 too large",
        b"age,target\n" + 50 * b"50,1\n",
        {"most_bytes": 200},
        "has 261 bytes, more than most_bytes = 200",
    ),
    ("22 too wide", b"a,b,c\n1,2,3\n", {"most_columns": 2}, "3 columns, more than most_columns = 2.*on its side"),
    ("9 column twice", b"age,age,target\n50,51,1\n", {}, "the column 'age' twice"),
]


@pytest.mark.parametrize(("content", "options", "words"), [f[1:] for f in FILES], ids=[f[0] for f in FILES])
def test_a_bad_file_is_refused_in_words(tmp_path, content, options, words):
    path = tmp_path / "ward.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        data.read(path, **options)
    assert "ward.csv" in str(caught.value)


def test_1_a_missing_file_or_a_folder_is_named(tmp_path):
    (tmp_path / "hospital_A.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FileNotFoundError, match="not there. Did you mean 'hospital_A.csv'"):
        data.read(tmp_path / "hospital_a.csv")
    with pytest.raises(FileNotFoundError, match="a folder, not a file"):
        data.read(tmp_path)


def test_5_a_byte_order_mark_is_accepted(tmp_path):
    path = tmp_path / "bom.csv"
    path.write_bytes(b"\xef\xbb\xbfage,target\n50,1\n")
    assert list(data.read(path).columns) == ["age", "target"]


def test_19_reading_changes_nothing(tmp_path):
    path = tmp_path / "as_it_is.csv"
    path.write_text("id,country\n007,NA\n")
    assert data.read(path).iloc[0].tolist() == ["007", "NA"]


def frame(**columns):
    return pd.DataFrame(columns, dtype=str)


# fault, table, options of clean, words
TABLES = [
    ("4 decimal commas", frame(chol=["5,1", "6,2"]), {}, "Decimal commas.*decimal=','"),
    ("13 unknown code", frame(sex=["M", "X"]), {"codes": {"sex": {"M": 1, "F": 0}}}, "row 2: 1 cell.*'M', 'F'"),
    ("14 not a number", frame(age=["50", "secret"]), {}, "'age', row 2: 1 cell.*not a number"),
    ("14 infinite", frame(age=["50", "inf"]), {}, "'age', row 2: 1 cell.*infinite"),
    ("14 overflow", frame(age=["1e999"]), {}, "infinite"),
    (
        "18 one id, two records",
        frame(id=["1", "1"], age=["50", "51"]),
        {"id": "id"},
        "one patient has different records",
    ),
    ("20 not a date", frame(visit=["2023-02-30"]), {"dates": {"visit": "%Y-%m-%d"}}, "not a date written as"),
    ("13 unknown id", frame(age=["50"]), {"id": "patient"}, "id: there is no column 'patient'"),
    (
        "13 unknown name",
        frame(age=["50"]),
        {"rename": {"aeg": "x"}},
        "rename: there is no column 'aeg'. Did you mean 'age'",
    ),
    ("9 two of a name", frame(a=["1"], b=["2"]), {"rename": {"a": "b"}}, "rename gives the name 'b' to two columns"),
    ("18 no id", frame(id=["", ""], age=["50", "51"]), {"id": "id"}, "'id', row 1, 2: 2 cell.*is missing"),
    ("12 no unit", frame(age=["50"]), {"scale": {"age": 0}}, "scale of 'age' must be a finite number greater than 0"),
    ("12 scaled text", frame(age=["50"]), {"scale": {"age": 2}, "text": "age"}, "'age' is not read as a number here"),
    ("14 limits", frame(age=["50"]), {"limits": {"age": (90, 0)}}, "the lower limit must be below"),
    ("unknown column", frame(age=["50"]), {"limits": {"agee": (0, 120)}}, "no column 'agee'. Did you mean 'age'"),
]


@pytest.mark.parametrize(("table", "options", "words"), [t[1:] for t in TABLES], ids=[t[0] for t in TABLES])
def test_a_bad_table_is_refused_in_words(table, options, words):
    with pytest.raises(ValueError, match=words) as caught:
        data.clean(table, **options)
    assert "secret" not in str(caught.value)  # 58: never a patient's values


def test_14_words_for_missing_work_in_any_case_and_as_numbers():
    table, notes = data.clean(frame(a=["-9", "UNK", "5"]), missing=(-9, "Unk"))
    assert table["a"].isna().tolist() == [True, True, False] and notes == ["marked as missing: 2 in a"]


def test_5_signs_that_only_look_like_line_ends_stay_in_their_cell(tmp_path):
    path = tmp_path / "windows.csv"
    path.write_bytes("name,age\nA\x85B,50\n".encode("latin-1") + b"C\x0cD,51\n")
    assert data.read(path, encoding="latin-1")["age"].tolist() == ["50", "51"]
    path.write_bytes(b"\xef\xbb\xbfage,x\n50,1\n")
    assert list(data.read(path, encoding="latin-1").columns) == ["age", "x"]


def two(**other):
    return {"A": pd.DataFrame({"id": ["1"], "age": [50.0]}), "B": pd.DataFrame({"id": ["2"], "age": [60.0]} | other)}


def test_10_columns_are_matched_by_name():
    table = data.combine({"A": two()["A"], "B": two()["B"][["age", "id"]]})
    assert table["age"].tolist() == [50, 60] and table["hospital"].tolist() == ["A", "B"]


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"A": two()["A"], "B": two()["B"].rename(columns={"age": "Age"})}, "'B' has no column 'age'.*mean 'Age'"),
        (two(extra=[1]), "'B' has a column 'extra', which 'A' lacks"),
        ({}, "no table to combine"),
        ({"A": pd.DataFrame({"age": [1.0]})}, "hospital 'A', id: there is no column 'id'"),
        ({"A": two()["A"].assign(hospital="A")}, "already has a column 'hospital'"),
        (two(id=["1"]), "the same patient stands in more than one hospital \\(A, B\\)"),
    ],
    ids=[
        "11 column missing",
        "11 column too many",
        "no table",
        "no id",
        "hospital twice",
        "18 patient in two hospitals",
    ],
)
def test_tables_that_do_not_fit_together_are_refused(tables, words):
    with pytest.raises(ValueError, match=words):
        data.combine(tables, id="id")


# fault, arguments of stack, words
STACKS = [
    ("no rows", (np.zeros((0, 2)), [], []), "at least one record"),
    ("wrong length", (np.ones((3, 2)), [0, 1], ["A"] * 3), "as long as each other, but have 3, 2, 3"),
    ("text", (np.array([["a"]]), [0], ["A"]), "must be numbers"),
    ("y as a column", (np.ones((2, 1)), [[0], [1]], ["A", "A"]), "one entry per record"),
    ("20 text column", (pd.DataFrame({"a": [1.0], "sex": ["M"]}), [0], ["A"]), "column 'sex' is not a number"),
    ("20 date column", (pd.DataFrame({"d": pd.to_datetime(["2023-01-01"])}), [0], ["A"]), "column 'd' is not a number"),
    ("no hospital", (np.ones((2, 1)), [0, 1], np.array(["A", None], dtype=object)), "a record has no hospital"),
    ("14 infinite", (np.array([[np.inf]]), [0], ["A"]), "column 0 has an infinite value"),
    (
        "14 all missing",
        (pd.DataFrame({"a": [1.0], "b": [np.nan]}), [0], ["A"]),
        "column 'b' is missing in every record",
    ),
    ("14 no label", (np.ones((2, 1)), [0, np.nan], ["A", "A"]), "label is missing in 1 record"),
]


@pytest.mark.parametrize(("arguments", "words"), [s[1:] for s in STACKS], ids=[s[0] for s in STACKS])
def test_records_that_cannot_be_stacked_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        data.stack(*arguments)


@pytest.fixture
def ten():
    rng = np.random.default_rng(0)
    return data.stack(rng.normal(size=(20, 3)), np.tile([0.0, 1.0], 10), np.repeat(["Basel", "Chur"], [15, 5]))


def test_8_a_target_that_is_missing_misspelt_or_constant():
    table = pd.DataFrame({"age": [1.0, 2], "target": [1, 1], "hospital": ["A", "A"]})
    with pytest.raises(ValueError, match="the same in every record"):
        data.prepare(table, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="no column 'targett'. Did you mean 'target'"):
        data.prepare(table, target="targett", rng=np.random.default_rng(0))


def test_13_labels_that_are_not_0_and_1_are_refused():
    table = pd.DataFrame({"age": [1.0, 2], "target": [1, 2], "hospital": ["A", "A"]})
    with pytest.raises(ValueError, match="two values, but they are not 0 and 1"):
        data.prepare(table, rng=np.random.default_rng(0))


def test_15_a_feature_that_is_constant_up_to_rounding_is_left_at_zero():
    for value in (0.1, 1e6 + 0.1, -3.3):
        same = data.stack(np.full((100, 1), value), np.tile([0.0, 1], 50), ["A"] * 100)
        mean, std = data.pooled_moments(same)
        assert std[0] == 1 and np.abs(data.standardise(same, mean, std).X).max() < 1e-9


def test_20_true_and_false_are_numbers():
    mixed = pd.DataFrame({"age": [50.0, 60], "smoker": [True, False]})
    assert data.stack(mixed, [0, 1], ["A", "A"]).X[0].tolist() == [[50, 1], [60, 0]]


def test_17_a_hospital_too_small_to_split_is_named():
    one = data.stack(np.ones((5, 1)), np.array([0, 1, 0, 1, 1]), ["Basel"] * 4 + ["Chur"])
    with pytest.raises(ValueError, match="hospital 'Chur' is too small to split with share = 0.3"):
        data.train_test(one, 0.3, rng=np.random.default_rng(0))


def test_an_unknown_hospital_is_named(ten):
    with pytest.raises(KeyError, match="no hospital 'Bassel'. Did you mean 'Basel'"):
        ten.one("Bassel")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": value}, "learning rate lr must be a finite number greater than 0")
        for value in (0, -1, np.nan, np.inf, "0.1", True)
    ]
    + [
        ({name: value}, f"{name} must be a whole number")
        for name in ("steps", "batch", "epochs", "block")
        for value in (0, -1, 1.5, True)
    ]
    + [
        ({"fraction": 0}, "fraction must be"),
        ({"fraction": 1.1}, "fraction must be"),
        ({"dropout": 1}, "dropout must be"),
        ({"mu": -1}, "mu must be"),
        ({"stragglers": 2}, "stragglers must be"),
        ({"late": -0.1}, "late must be"),
        ({"aggregate": None}, "aggregate must be a function"),
        ({"server": 0.1}, "server must be a Server"),
        ({"seed": -1}, "seed must be a whole number, at least 0"),
        ({"epochs": 2}, "give batch too"),
    ],
)
def test_23_24_settings_that_cannot_work_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        Plan(**change)


def test_24_rounds_must_be_a_whole_number(ten):
    with pytest.raises(ValueError, match="rounds must be a whole number"):
        fit(models.logistic(3), ten, Plan(), rounds=0)


def test_24_numpy_numbers_are_numbers():
    assert Plan(lr=np.float64(0.1), steps=np.int64(3)).steps == 3


@pytest.mark.parametrize("theta", [np.zeros(3), np.zeros((4, 1)), np.zeros((1, 4)), 0.0])
def test_theta_of_the_wrong_length_is_refused(ten, theta):
    with pytest.raises(ValueError, match=r"this model has P = 4 parameters"):
        fit(models.logistic(3), ten, Plan(), theta=theta)


def test_theta_must_be_finite(ten):
    with pytest.raises(ValueError, match="not finite"):
        fit(models.logistic(3), ten, Plan(), theta=[0, np.nan, 0, 0])


def test_a_model_for_another_number_of_features_is_refused(ten):
    with pytest.raises(ValueError, match="the hospitals have d = 3 features"):
        fit(models.logistic(7), ten, Plan())


def test_missing_values_are_refused_before_training(ten):
    X = ten.X.copy()
    X[1, 0, 2] = np.nan
    with pytest.raises(ValueError, match="hospital 'Chur' has a missing value in feature 2.*standardise"):
        fit(models.logistic(3), ten._replace(X=X), Plan())


def poisoned(model, k, value):
    """The model, but the gradient of hospital k is `value`."""

    def grad(theta, X, y, w):
        g = model.grad(theta, X, y, w)
        g[k] = value
        return g

    return model._replace(grad=grad)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_34_an_update_that_is_not_finite_is_refused_and_named(ten, value):
    model, plan = models.logistic(3), Plan(lr=0.1)
    state, record = one_round(initial(model, plan), poisoned(model, 1, value), ten, plan)
    X, y = ten.one("Basel")
    alone = data.stack(X, y, ["Basel"] * len(y))
    expected, _ = one_round(initial(model, plan), model, alone, plan)
    assert record["refused"] == "Chur" and record["hospitals"] == 1
    assert np.allclose(state.theta, expected.theta, atol=1e-15)


def test_33_40_divergence_stops_with_the_last_finite_model(ten):
    model = models.linear(3)
    with np.errstate(all="ignore"):
        state, history = fit(model, ten, Plan(lr=1e6), rounds=500)
    assert history.attrs["stopped"] == "diverged"
    assert np.isfinite(state.theta).all() and np.isfinite(history["loss"]).all()
    assert state.round == history.index[-1] == len(history) < 500


def test_33_40_a_model_that_breaks_in_the_first_round_gives_back_the_start(ten):
    model = models.linear(3)
    with np.errstate(all="ignore"):
        state, history = fit(model, ten._replace(X=ten.X * 1e200), Plan(), rounds=3)
    assert state.round == 0 and len(history) == 0 and history.attrs["stopped"] == "diverged"


def test_35_an_aggregate_or_uplink_that_spreads_out_silently_is_refused(ten):
    model = models.logistic(3)
    with pytest.raises(ValueError, match=r"what aggregate returns must have the shape \(4,\), but has \(\)"):
        fit(model, ten, Plan(aggregate=lambda u, w, rng: u.mean()))
    with pytest.raises(ValueError, match=r"what uplink returns must have the shape \(2, 4\), but has \(2, 1\)"):
        fit(model, ten, Plan(uplink=lambda u, rng: u[:, :1]))
    with pytest.raises(ValueError, match=r"what dropout returns must have the shape \(2,\)"):
        fit(model, ten, Plan(dropout=lambda r: np.zeros(3)))


def test_fit_refuses_what_would_be_ignored_or_wrong(ten):
    model = models.logistic(3)
    with pytest.raises(ValueError, match="give test"):
        fit(model, ten, Plan(), metrics=(len,))
    with pytest.raises(ValueError, match="missing value"):
        fit(model, ten, Plan(), test=ten._replace(X=ten.X * np.nan))
    with pytest.raises(ValueError, match=r"theta of the state must have the shape \(4,\), but has \(7,\)"):
        fit(model, ten, Plan(), state=federation.State(3, np.zeros(7), {}))


@pytest.mark.parametrize("inside", ["train", "evaluate", "until"])
def test_46_an_interrupt_keeps_the_history_and_can_be_resumed(ten, inside):
    model, plan, calls = models.logistic(3), Plan(lr=0.1), []

    def after(n, result):
        calls.append(1)
        if len(calls) == n:
            raise KeyboardInterrupt
        return result

    options = {}
    if inside == "evaluate":
        options = {"test": ten, "metrics": (lambda y, p: after(4, 0.5),)}
    if inside == "until":
        options = {"until": lambda records: after(4, False)}
    if inside == "train":
        plan = Plan(lr=0.1, aggregate=lambda u, w, rng: after(4, u.mean(0)))
    state, history = fit(model, ten, plan, rounds=10, **options)
    assert history.attrs["stopped"] == "interrupted"
    assert state.round == len(history) == (4 if inside == "until" else 3)
    calls[:] = [1] * 3  # and in the very first round too
    first, nothing = fit(model, ten, plan, rounds=10, **options)
    assert first.round == len(nothing) == (1 if inside == "until" else 0) and nothing.attrs["stopped"] == "interrupted"
    again, rest = fit(model, ten, Plan(lr=0.1), rounds=10 - state.round, state=state, history=history[["loss"]])
    assert again.round == 10 and list(rest.index) == list(range(1, 11))


def test_47_a_full_disk_leaves_the_old_file_intact(ten, tmp_path, monkeypatch):
    model, path = models.logistic(3), tmp_path / "state.npz"
    state, history = fit(model, ten, Plan(), rounds=2)
    federation.save(path, state, history)
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        federation.save(path, state, history)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_48_50_a_damaged_or_foreign_file_is_refused(ten, tmp_path):
    model, path = models.logistic(3), tmp_path / "state.npz"
    state, history = fit(model, ten, Plan(), rounds=2)
    federation.save(path, state, history)
    whole = path.read_bytes()
    for damaged in (whole[:-40], whole[:100], b"", b"\x80\x04K\x01.", whole[:150] + b"XXXX" + whole[154:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is not a state that save"):
            federation.load(path, model)
    for theta in (np.full(4, np.nan), np.array(list("abcd")), np.zeros((2, 2))):
        np.savez(path, round=1, theta=theta)
        with pytest.raises(ValueError, match="is not a state that save"):
            federation.load(path)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="holds 4 parameters, but this model has 8"):
        federation.load(path, models.logistic(7))


def test_49_a_hostile_archive_is_refused_before_it_unpacks(tmp_path):
    bomb = tmp_path / "bomb.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("theta.npy", b"\0" * 10**7)
    with pytest.raises(ValueError, match="unpack to 1e\\+07 bytes"):
        federation.load(bomb, most_bytes=10**6)
    objects = tmp_path / "objects.npz"
    np.savez(objects, round=1, theta=np.array([{"run": "me"}], dtype=object))
    with pytest.raises(ValueError, match="is not a state that save"):
        federation.load(objects)


def test_48_a_file_that_is_not_there_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        federation.load(tmp_path / "none.npz")


def test_48_a_state_of_another_server_or_of_other_hospitals_is_refused(ten):
    from dataclasses import replace

    from fedlearn_mini.server import fedyogi

    model, plan = models.logistic(ten.X.shape[-1]), Plan(scaffold=True)
    state, _ = fit(model, ten, plan, rounds=2)
    with pytest.raises(ValueError, match="made with another kind of server"):
        fit(model, ten, replace(plan, server=fedyogi()), rounds=1, state=state)
    fewer = data.Hospitals(ten.X[:1], ten.y[:1], ten.w[:1], ten.names[:1])
    with pytest.raises(ValueError, match=r"what the hospitals keep \(control\) must have the shape \(1, "):
        fit(model, fewer, plan, rounds=1, state=state)
