"""Your own hospitals: files in, sentences and a comparison out; what cannot be averaged is refused with the mend."""

import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from fedlearn_mini import __main__, data, own, store, tables

MESSY = sorted((tables.FOLDER / "messy").glob("hospital_*.csv"))


def file(folder, name, n=40, seed=0, **columns):
    """A hospital of n patients with an age, a pressure, a sex in words and a target."""
    rng = np.random.default_rng(seed)
    age, pressure = rng.normal(60, 9, n).round(1), rng.normal(130, 15, n).round(0)
    ill = (rng.random(n) < 1 / (1 + np.exp(-(age - 60) / 5))).astype(int)
    table = pd.DataFrame({"age": age, "pressure": pressure, "sex": rng.choice(["F", "M"], n), "target": ill} | columns)
    table.to_csv(folder / f"{name}.csv", index=False)
    return folder / f"{name}.csv"


@pytest.fixture
def three(tmp_path):
    return [
        file(tmp_path, name, n, seed) for seed, (name, n) in enumerate({"Basel": 60, "Bern": 50, "Chur": 30}.items())
    ]


def run(capsys, *arguments):
    code = __main__.main(["train", *map(str, arguments)])
    return code, capsys.readouterr().out


def test_the_three_messy_files_as_shipped_become_the_known_table():
    gathered = own.gather(MESSY)
    truth = pd.read_csv(tables.FOLDER / "messy" / "clean.csv")
    for name, part in gathered.table.groupby("hospital"):
        known = truth[truth["hospital"] == name]
        for column in ("age", "male", "pressure", "cholesterol", "target"):
            assert np.allclose(np.sort(part[column].round(1)), np.sort(known[column]), equal_nan=True), (name, column)
    assert "patient_id" not in gathered.table and "visit" not in gathered.table
    told = "\n".join(gathered.notes)
    for words in ("rules: rules.toml", "nein is 0, ja is 1", "decimal=','", "repeated records dropped: 3", "sep=';'"):
        assert words in told


def test_the_command_says_what_it_did_and_what_it_is_worth_and_goes_on(capsys, tmp_path, three):
    code, said = run(capsys, *three, "--rounds", 4, "--splits", 2, "--save", tmp_path / "run.npz")
    assert code == 0
    for words in (
        "sex: F is 0, M is 1",
        "AUC on held-out patients",
        "Basel",
        "alone",
        "federated",
        "pooled",
        "round 4",
    ):
        assert words in said.replace("M is 1, F is 0", "F is 0, M is 1"), words
    assert "nothing of it is protected" in said and "bytes up" in said
    code, said = run(capsys, *three, "--rounds", 3, "--splits", 2, "--save", tmp_path / "run.npz")
    assert code == 0 and "Went on to round 7" in said
    state, history = store.load(tmp_path / "run.npz")
    assert state.round == 7 and history.index.tolist() == [1, 2, 3, 4, 5, 6, 7]
    whole, _ = own.train(own.gather(three), rounds=7)
    assert np.array_equal(whole.theta, state.theta)


def test_a_run_of_other_hospitals_or_of_another_model_is_not_gone_on_with(capsys, tmp_path, three):
    run(capsys, *three, "--rounds", 1, "--splits", 1, "--save", tmp_path / "run.npz")
    code, said = run(capsys, *three[:2], "--rounds", 1, "--splits", 1, "--save", tmp_path / "run.npz")
    assert code == 1 and "is a run of Basel, Bern, Chur" in said
    code, said = run(capsys, *three, "--model", "logistic", "--save", tmp_path / "run.npz", "--splits", 1)
    assert code == 1 and "saved with another model" in said


def test_the_bytes_are_those_that_the_rounds_count(three):
    gathered = own.gather(three)
    state, _ = own.train(gathered, "logistic", 3)
    compared = own.compare(gathered, "logistic", 3, 1)
    assert compared.up == 3 * 3 * state.theta.size * 8


def test_the_scores_are_scikit_learns_and_no_test_patient_chose_the_round(three):
    gathered = own.gather(three)
    compared = own.compare(gathered, "logistic", 5, 2)
    rest, test = data.prepare(gathered.table, rng=1, share=0.25)
    train, judges = data.train_test(rest, 1 / 3, rng=1)
    model, plan = own.a_model("logistic", 3)
    theta = own.best(model, own.path(model, train, plan, 5), judges)
    for k, name in enumerate(test.names):
        X, y = test.one(name)
        assert compared.scores["federated"][1, k] == pytest.approx(roc_auc_score(y, model.predict(theta, X)))


def test_each_hospital_stops_where_its_own_patients_say():
    thetas = np.arange(6.0).reshape(3, 2, 1)
    model = type("M", (), {"loss": staticmethod(lambda theta, X, y, w: (theta[..., 0] - np.array([0.1, 5.2])) ** 2)})
    judges = type("J", (), {"X": 0, "y": 0, "w": 0})
    assert own.best_each(model, thetas, judges).tolist() == [[0.0], [5.0]]


REFUSED = {  # what the third hospital's file looks like, and words of the sentence
    "no target": ({"target": None}, "hospital 'Chur' has no column 'target'.*rename"),
    "target in words without a meaning": ({"target": ["red", "blue"] * 15}, "target 'target' is neither 0 nor 1"),
    "target of three values": ({"target": [0, 1, 2] * 10}, "must be 0 or 1, but it takes 3 values"),
    "a cell that is no number": ({"age": ["50"] * 29 + ["old"]}, r"Chur.csv: column 'age', row 30.*rules.toml"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_averaged_is_refused_with_the_file_and_the_mend(tmp_path, three, name):
    change, words = REFUSED[name]
    table = pd.read_csv(three[2]).assign(**{k: v for k, v in change.items() if v is not None})
    table.drop(columns=[k for k, v in change.items() if v is None]).to_csv(three[2], index=False)
    with pytest.raises(ValueError, match=words):
        own.gather(three)


def test_columns_that_not_all_have_and_other_units_are_named(tmp_path, three):
    table = pd.read_csv(three[2])
    table.assign(pressure=table["pressure"] * 7.5, gene=1).to_csv(three[2], index=False)
    told = "\n".join(own.gather(three).notes)
    assert "only Chur has it: gene" in told and "look at this: column 'pressure'" in told and "same unit" in told


def test_hospitals_with_nothing_in_common_are_told_so(tmp_path):
    one = file(tmp_path, "one")
    pd.read_csv(one).rename(columns={"age": "Alter", "pressure": "Druck", "sex": "Geschlecht"}).to_csv(
        tmp_path / "two.csv", index=False
    )
    with pytest.raises(ValueError, match="no column in common but 'target'.*Alter.*rename in rules.toml"):
        own.gather([one, tmp_path / "two.csv"])


def test_a_hospital_of_one_class_or_of_few_takes_part_and_is_named(tmp_path, three):
    ill, few = file(tmp_path, "Ill", 30, 5, target=1), file(tmp_path, "Few", 6, 6, target=[0, 1, 0, 1, 0, 1])
    gathered = own.gather([*three, ill, few])
    told = "\n".join(gathered.notes)
    assert "'Few' has 6 patients: it trains, but its numbers mean nothing" in told
    assert "'Ill' has patients of one class only" in told
    assert own.report(own.compare(gathered, "logistic", 2, 2)).loc["Ill", "alone"] == "–"


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_hospital_too_small_to_split_is_refused_by_name(capsys, tmp_path, three, n):
    tiny = file(tmp_path, "Tiny", n, 5, target=[0, 1, 0][:n])
    code, said = run(capsys, *three, tiny)
    assert code == 1 and "'Tiny'" in said


def test_rules_that_speak_of_nobody_or_of_no_option_are_refused(tmp_path, three):
    (tmp_path / "rules.toml").write_text('[Basle]\nname = "B"\n')
    with pytest.raises(ValueError, match="speak of 'Basle'.*Did you mean 'Basel'"):
        own.gather(three)
    (tmp_path / "rules.toml").write_text('[Basel]\nrenames = { a = "b" }\n')
    with pytest.raises(ValueError, match="no option 'renames'. Did you mean 'rename'"):
        own.gather(three)
    (tmp_path / "rules.toml").write_text("[Basel\n")
    with pytest.raises(ValueError, match="rules.toml is not TOML"):
        own.gather(three)


def test_one_file_is_no_federation_and_a_missing_file_is_named(capsys, tmp_path, three):
    assert "two hospitals at least" in run(capsys, three[0])[1]
    code, said = run(capsys, three[0], tmp_path / "Bernn.csv")
    assert code == 1 and "is not there. Did you mean 'Bern.csv'" in said


def test_the_command_runs_on_the_messy_three_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "fedlearn_mini", "train", *MESSY, "--rounds", "2", "--splits", "1"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "splits: 100%" in done.stderr
    bare = [shutil.copy(one, tmp_path) for one in MESSY]
    done = subprocess.run([*command[:4], *bare], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and done.stdout.startswith("no  hospital_B.csv: column") and not done.stderr
