"""Faults 59 to 89 at the doors: what a person says beats a default, and a sentence says place, finding and mend."""

import gzip
import io
import unicodedata
import zipfile

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from fedlearn_mini import data, evaluate, models, privacy, store, tables
from fedlearn_mini.federation import fit
from fedlearn_mini.plan import Plan

MANY, MODEL = data.make_hospitals(4, 30, d=3, rng=1), models.logistic(3)


def column(*cells):
    return pd.DataFrame({"x": cells}, dtype=str)


def cleaned(table, **options):
    return tables.clean(table, **options)[0]["x"].tolist()


# ------------------------------------------------------------------------- what is said explicitly, and what it costs


def test_59_a_code_for_a_word_that_also_means_missing_wins():
    assert cleaned(column("-", "a", "none"), codes={"x": {"-": 0, "a": 1, "none": 2}}) == [0, 1, 2]
    assert cleaned(column("-9", "1"), missing=(-9,), codes={"x": {"-9": 5, "1": 6}}) == [5, 6]
    assert np.isnan(cleaned(column("-", "a"), codes={"x": {"a": 1}})[0])  # no code, so it is the default's


def test_59_a_separator_that_is_said_beats_the_files_own_line(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("sep=;\nage,y\n5,1\n")
    assert tables.read(file, sep=",").columns.tolist() == ["age", "y"]
    with pytest.raises(ValueError, match="has one column|one column"):
        tables.read(file)


def test_59_theta_and_state_together_are_refused():
    state, _ = fit(MODEL, MANY, Plan(lr=0.1), rounds=1)
    with pytest.raises(ValueError, match="theta and state both say where to begin"):
        fit(MODEL, MANY, Plan(lr=0.1), rounds=1, theta=np.ones(4), state=state)


def test_60_german_thousands_are_not_divided_by_a_thousand():
    with pytest.raises(ValueError, match="row 1, 2: .* has a point, although decimal=','.*Say thousands='.'"):
        cleaned(column("250.000", "180.000"), decimal=",")
    assert cleaned(column("250.000", "1.180,5", "7"), decimal=",", thousands=".") == [250_000, 1180.5, 7]
    assert cleaned(column("1,500", "12"), thousands=",") == [1500, 12]
    with pytest.raises(ValueError, match="row 1: .* thousands are parted by ','"):
        cleaned(column("1,5", "12"), thousands=",")
    with pytest.raises(ValueError, match=r"Commas that part thousands .* thousands=','"):
        cleaned(column("1,500"))


@pytest.mark.parametrize("signs", [{"decimal": ";"}, {"thousands": "x"}, {"decimal": ",", "thousands": ","}])
def test_60_signs_that_cannot_be_meant_are_refused(signs):
    with pytest.raises(ValueError, match="must be"):
        cleaned(column("1"), **signs)


# ------------------------------------------------------------------------------------------------------------ metrics


def test_66_metrics_go_by_position_and_take_lists_and_columns():
    y, p = pd.Series([0, 1, 0, 1], index=[3, 2, 1, 0]), pd.Series([0.1, 0.9, 0.2, 0.8])
    for metric in (evaluate.auc, evaluate.accuracy):
        assert metric(y, p) == metric(list(y), list(p)) == 1.0
    assert evaluate.brier(y, p) == pytest.approx(((y.to_numpy() - p.to_numpy()) ** 2).mean())
    assert evaluate.auc(y, p) == roc_auc_score(y.to_numpy(), p.to_numpy())


@pytest.mark.parametrize("metric", [evaluate.auc, evaluate.accuracy, evaluate.brier, evaluate.calibration])
def test_66_what_would_broadcast_and_labels_that_are_missing_are_refused(metric):
    y, p = np.array([0.0, 1, 0, 1]), np.array([0.1, 0.9, 0.2, 0.8])
    for labels, predictions in ((y, p[:, None]), (y[:, None], p), (y, p[:3]), (y, 0.5)):
        with pytest.raises(ValueError, match="do not belong together"):
            metric(labels, predictions)
    with pytest.raises(ValueError, match="missing in 1 record"):
        metric(np.array([0, 1, np.nan, 1]), p)


# ------------------------------------------------------------------------------------------------ patients and gaps


@pytest.mark.parametrize("other", [1, "1", " 1", "1 ", 1.0])
def test_69_the_same_patient_in_other_clothes_is_found(other):
    found = {
        "A": pd.DataFrame({"id": ["1", "2"], "age": [5, 6]}),
        "B": pd.DataFrame({"id": [other, "7"], "age": [5, 6]}),
    }
    with pytest.raises(ValueError, match=r"same patient .* \(A, B\)"):
        tables.combine(found, id="id")


def test_69_a_patient_without_an_id_cannot_be_compared():
    found = {
        "A": pd.DataFrame({"id": [None, "2"], "age": [5, 6]}),
        "B": pd.DataFrame({"id": ["3", "7"], "age": [5, 6]}),
    }
    with pytest.raises(ValueError, match="row 1: .* is missing, so that a patient of two hospitals cannot be found"):
        tables.combine(found, id="id")


def test_70_a_number_that_means_missing_is_found_however_it_is_written():
    for cells in (
        column("-9.0", "3"),
        column("-9", "3"),
        pd.DataFrame({"x": [-9.0, 3.0]}),
        pd.DataFrame({"x": [-9, 3]}),
    ):
        for words in ((-9,), -9, "-9", ("-9.0",), [-9.0]):
            first, second = cleaned(cells, missing=words)
            assert np.isnan(first) and second == 3


def test_70_masked_cells_are_not_used():
    X = np.ma.array([[1.0], [2], [3], [4]], mask=[[0], [1], [0], [0]])
    with pytest.raises(ValueError, match="cells are masked"):
        data.stack(X, [0, 1, 0, 1], ["a", "a", "b", "b"])
    many = data.stack(np.ma.filled(X, np.nan), [0, 1, 0, 1], ["a", "a", "b", "b"])
    assert np.isnan(many.X).sum() == 1


def test_78_what_pandas_calls_na_is_missing_in_a_text_column_too():
    table = pd.DataFrame({"x": pd.array(["a", pd.NA], dtype="string"), "n": pd.array([1, pd.NA], dtype="Int64")})
    found, _ = tables.clean(table, text=("x",))
    assert found["x"][0] == "a" and found.isna().to_numpy().tolist() == [[False, False], [True, True]]


# ------------------------------------------------------------------------------------- sentences that say what it is


def workbook():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("xl/workbook.xml", "<x/>")
    return buffer.getvalue()


def test_82_the_line_in_which_excel_says_its_separator_is_read(tmp_path):
    for end in ("\n", "\r\n"):
        (tmp_path / "a.csv").write_bytes(f"sep=;{end}age;sex{end}5;1{end}".encode())
        assert tables.read(tmp_path / "a.csv").to_dict("list") == {"age": ["5"], "sex": ["1"]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (workbook(), "an Excel workbook or a zip archive. Save the sheet as CSV"),
        (b"\xd0\xcf\x11\xe0" + bytes(99), "an old Excel workbook"),
        (gzip.compress(b"age,sex\n5,1\n", mtime=0), "packed by gzip. Unpack it first"),
        (b"%PDF-1.7 ...", "a PDF"),
        (b"PAR1" + bytes(9), "a Parquet file"),
        (b"<!DOCTYPE html><p>", "a web page"),
        (b"  <html lang=de>", "a web page"),
        (b"age,sex\n5,\x001\n", "binary data"),
    ],
)
def test_83_a_file_of_another_kind_is_called_what_it_is(tmp_path, content, words):
    (tmp_path / "b.csv").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        tables.read(tmp_path / "b.csv")


def test_84_a_column_called_less_than_sixty_is_a_column(tmp_path):
    (tmp_path / "c.csv").write_text("<60,sex\n5,1\n")
    assert tables.read(tmp_path / "c.csv").columns.tolist() == ["<60", "sex"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_85_umlauts_are_found_however_they_are_composed(tmp_path, form):
    word = unicodedata.normalize(form, "männlich")
    (tmp_path / "d.csv").write_text(f"{word},y\n1,0\n", encoding="utf-8")
    for asked in ("NFC", "NFD"):
        name = unicodedata.normalize(asked, "männlich")
        assert tables.clean(tables.read(tmp_path / "d.csv", target=name))[0].columns.tolist() == ["männlich", "y"]
        assert cleaned(column(word), codes={"x": {name: 1}}) == [1]
        assert cleaned(pd.DataFrame({word: ["7"]}), rename={name: "x"}, limits={"x": (0, 9)}) == [7]


def test_86_numbers_can_be_given_codes():
    for cells in (column("1", "0", "1.0"), pd.DataFrame({"x": [1, 0, 1]}), pd.DataFrame({"x": [1.0, 0.0, 1.0]})):
        assert cleaned(cells, codes={"x": {1: 7, 0: 8}}) == [7, 8, 7]
    with pytest.raises(ValueError, match="row 2: .* is none of '1', '0', which have codes"):
        cleaned(column("1", "2"), codes={"x": {1: 1, 0: 0}})


def test_87_open_limits_one_number_for_many_and_one_layer():
    assert cleaned(column("-1", "500"), limits={"x": (0, None)})[1] == 500
    assert np.isnan(cleaned(column("-1", "500"), limits={"x": (None, 400)})[1])
    assert models.mlp(3, hidden=(64)).P == models.mlp(3, hidden=(64,)).P
    assert privacy.randomised_response([0, 1, 1], 1.0, rng=0).shape == (3,)


@pytest.mark.parametrize("ends", [5, (1,), (0, "9"), (np.nan, 1), (9, 0)])
def test_87_limits_that_are_none_are_refused_in_words(ends):
    with pytest.raises(ValueError, match="limits of 'x'"):
        cleaned(column("1"), limits={"x": ends})


@pytest.mark.parametrize("sep", ["||", "", 7])
def test_87_a_separator_of_two_signs_is_refused_in_words(tmp_path, sep):
    with pytest.raises(ValueError, match="sep must be one sign"):
        tables.read(tmp_path / "a.csv", sep=sep)


def test_88_a_target_with_gaps_is_told_so():
    table = pd.DataFrame({"hospital": ["a", "a", "b", "b"], "age": [1.0, 2, 3, 4], "target": [1, np.nan, 1, 0]})
    with pytest.raises(ValueError, match=r"'target' is missing in 1 record\(s\). Drop them: table.dropna"):
        data.prepare(table, rng=0)


def test_89_a_folder_that_is_not_there_is_named_and_a_tilde_is_home(tmp_path, monkeypatch):
    state, _ = fit(MODEL, MANY, Plan(lr=0.1), rounds=1)
    with pytest.raises(
        FileNotFoundError, match="cannot be written: there is no folder .*nowhere.*Make it first"
    ) as told:
        store.save(tmp_path / "nowhere" / "run.npz", state)
    assert "draft" not in str(told.value)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    store.save("~/run.npz", state)
    assert (tmp_path / "run.npz").is_file() and store.load("~/run.npz")[0].round == 1
