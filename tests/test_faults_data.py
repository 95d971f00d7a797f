"""Faults of records on their way in: who vanishes, who is mixed up, what overflows. Numbers of the list."""

import warnings

import numpy as np
import pandas as pd
import pytest

from fedlearn_mini import data, tables

THREE = np.array([[1.0], [2.0], [3.0]]), [0, 1, 0]

# ---------------------------------------------------------------- 65 a hospital without a record


def beds(**sizes):
    return {name: pd.DataFrame({"age": np.arange(50.0, 50 + n)}) for name, n in sizes.items()}


@pytest.mark.parametrize("sizes", [{"A": 2, "Basel": 0}, {"Basel": 0, "A": 2}, {"Basel": 0}])
def test_65_a_table_without_a_record_is_named_before_it_vanishes(sizes):
    with pytest.raises(ValueError, match="hospital 'Basel' has no record, and would vanish"):
        tables.combine(beds(**sizes))


def test_65_a_category_that_lost_its_records_is_named():
    column = pd.Series(["A", "Basel", "A", "C"], dtype="category")
    kept = column[column != "Basel"]  # pandas remembers the category
    for door in (data.split_by_column, lambda groups: data.stack(*THREE, groups)):
        with pytest.raises(
            ValueError, match="hospital 'Basel' is a category .* has no record.*remove_unused_categories"
        ):
            door(kept)
    assert data.stack(*THREE, kept.cat.remove_unused_categories()).names == ("A", "C")


def test_65_an_emptied_table_is_not_called_a_target_without_variety():
    with pytest.raises(ValueError, match="the table has no record"):
        data.prepare(data.load("heart").iloc[:0], rng=0)


def test_65_a_stacked_hospital_of_nothing_but_padding_cannot_be_split_away(rng):
    many = data.make_hospitals(3, 20, rng=rng)
    w = many.w.copy()
    w[1] = 0
    with pytest.raises(ValueError, match="hospital 'H002' is too small to split"):
        data.train_test(many._replace(w=w), rng=0)


# ---------------------------------------------------------------- 67 numbers as names

# what stands in the column of hospitals, the names that follow
NUMBERS = {
    "whole": ([10, 1, 2], ("1", "2", "10")),
    "floats": ([10.0, 1.0, 2.0], ("1", "2", "10")),
    "float16": (np.array([10, 1, 2], np.float16), ("1", "2", "10")),
    "text": (["10", "1", "2"], ("1", "2", "10")),
    "text with leading zeros": (["010", "01", "1"], ("01", "1", "010")),
    "negative": ([10, -1, 2], ("-1", "2", "10")),
    "not whole": ([10.25, 1.5, 2.5], ("1.5", "2.5", "10.25")),
    "float32, not whole": (np.array([10.5, 0.1, 2.5], np.float32), ("0.1", "2.5", "10.5")),
    "beside text": ([10.0, 1, "b"], ("1", "10", "b")),
    "pandas whole": (pd.Series([10, 1, 2], dtype="Int64"), ("1", "2", "10")),
    "pandas float": (pd.Series([10, 1, 2], dtype="Float64"), ("1", "2", "10")),
    "categories": (pd.Categorical([10.0, 1.0, 2.0]), ("1", "2", "10")),
    "bytes": (np.array([b"10", b"1", b"2"]), ("1", "2", "10")),
    "true beside 1": ([2, 1, True], ("1", "2", "True")),
}


@pytest.mark.parametrize(("groups", "names"), NUMBERS.values(), ids=NUMBERS)
def test_67_numbers_are_named_and_ordered_as_numbers(groups, names):
    many = data.stack(*THREE, groups)
    assert many.names == names
    told = [tables.written(value) for value in groups]
    for name in names:
        assert many.one(name)[0].ravel().tolist() == [1.0 + told.index(name)]
    assert data.split_by_column(groups).tolist() == told


@pytest.mark.parametrize(
    ("groups", "names"),
    [
        ([True, False, True], ("False", "True")),
        (["b", "B1", "a"], ("B1", "a", "b")),
        (["H10", "H9", "10"], ("10", "H10", "H9")),
        ([b"Z\xfcrich", "Basel", "Basel"], ("Basel", r"Z\xfcrich")),
    ],
    ids=["truths", "words", "words beside a number", "bytes in another encoding"],
)
def test_67_what_is_no_number_is_in_the_order_of_its_letters(groups, names):
    assert data.stack(*THREE, groups).names == names


@pytest.mark.parametrize("groups", [["A", " ", "B"], ["A", "", "B"], [1, np.nan, 2], np.ma.masked_values([1, 9, 2], 9)])
def test_67_a_blank_or_a_masked_cell_is_no_hospital(groups):
    with pytest.raises(ValueError, match="a record has no hospital"):
        data.stack(*THREE, groups)


@pytest.mark.parametrize("groups", ["abc", [["a"], ["b"], ["c"]], [("a", 1), ("b", 1), ("c", 1)]])
def test_67_groups_of_another_shape_are_refused_in_words(groups):
    for door in (data.split_by_column, lambda groups: data.stack(*THREE, groups)):
        with pytest.raises(ValueError, match=r"\(N,\)"):
            door(groups)


def test_67_a_name_is_text_and_a_row_is_a_whole_number():
    many = data.stack(*THREE, ["Basel", "Chur", "Sion"])
    for k in (1, -2, np.int64(1), "Chur", np.str_("Chur")):
        assert many.one(k)[0].tolist() == [[2.0]]
    for k in (True, 1.0, None, b"Chur", [1], np.array([1])):
        with pytest.raises(TypeError, match="a hospital's name, in quotes, or the whole number of its row"):
            many.one(k)
    for k in (3, -4):
        with pytest.raises(IndexError, match=f"no row {k}: the rows of 3 hospitals are 0 to 2"):
            many.one(k)


# names of the rows, k, what is said
UNCLEAR = [
    (["1", "2", "3"], 1, r"row 1 is hospital '2', and hospital '1' is row 0.*one\('1'\) or one\('2'\)"),
    (["1", "2", "3"], 2, r"row 2 is hospital '3', and hospital '2' is row 1.*one\('2'\) or one\('3'\)"),
    (["1", "2", "3"], 3, r"no row 3, but hospital '3' is row 2.*one\('3'\)"),
    (["1", "2", "10"], 10, r"no row 10, but hospital '10' is row 2.*one\('10'\)"),
    (["-1", "0", "1"], -1, r"row -1 is hospital '1', and hospital '-1' is row 0"),
    (["1", "Basel", "Chur"], 1, r"row 1 is hospital 'Basel', and hospital '1' is row 0"),
]


@pytest.mark.parametrize(("names", "k", "words"), UNCLEAR)
def test_67_a_number_that_is_the_name_of_another_row_is_refused(names, k, words):
    many = data.stack(*THREE, names)
    with pytest.raises(ValueError, match=words):
        many.one(k)
    assert [many.one(name)[0].item() for name in names] == [1, 2, 3]


def test_67_a_row_that_is_nobodys_name_or_its_own_is_clear():
    assert data.stack(*THREE, [1, 2, 3]).one(0)[0].item() == 1
    dealt = data.stack(*THREE, [0, 1, 2])
    assert [dealt.one(k)[0].item() for k in range(3)] == [dealt.one(str(k))[0].item() for k in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("names", [(1, "1"), (1.0, "1"), (b"1", 1)])
def test_67_two_tables_that_are_written_alike_are_refused(names):
    with pytest.raises(ValueError, match="two hospitals are written '1'"):
        tables.combine({name: pd.DataFrame({"age": [50.0]}) for name in names})


def test_67_a_patient_in_two_numbered_hospitals_is_said_in_words():
    ward = pd.DataFrame({"id": ["7"], "age": [50.0]})
    with pytest.raises(ValueError, match=r"stands in more than one hospital \(1, 2\)"):
        tables.combine({1: ward, 2.0: ward}, id="id")


def test_67_codes_read_as_floats_make_the_same_hospitals_as_codes_read_as_text():
    table = data.load("heart")
    table["hospital"] = table["hospital"].map({"Cleveland": 10, "Hungary": 1, "Switzerland": 3, "VA Long Beach": 2})
    halves = [data.prepare(table.astype({"hospital": kind}), rng=0) for kind in (float, str, int, "category")]
    for parts in zip(*halves, strict=True):
        for part in parts:
            assert part.names == ("1", "2", "3", "10") and (part.X == parts[0].X).all()


# ---------------------------------------------------------------- 68 narrow numbers


def one_hospital(values, dtype):
    return data.stack(np.asarray(values, dtype)[:, None], np.zeros(len(values)), np.zeros(len(values), int))


def narrow(values, dtype):
    """Hospitals in exactly this type, made by hand, as no stack would."""
    return data.Hospitals(*(part.astype(dtype) for part in one_hospital(values, float)[:3]), ("A",))


# how often, the two values, mean, standard deviation
MOMENTS = {
    "pressures, whose sum is beyond float16": (1000, (110, 150), 130, 20),
    "years, that seem not to vary in float32": (20_000, (2016, 2024), 2020, 4),
    "large and small": (100, (0, 60_000), 30_000, 30_000),
}


@pytest.mark.parametrize("made", [one_hospital, narrow])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize(("times", "pair", "mean", "sd"), MOMENTS.values(), ids=MOMENTS)
def test_68_moments_are_right_in_every_type(made, dtype, times, pair, mean, sd):
    hospitals = made(np.tile(pair, times), dtype)
    found = data.pooled_moments(hospitals)
    assert [each.item() for each in found] == [mean, sd]
    assert all(each.dtype == hospitals.X.dtype for each in found)
    z = data.standardise(hospitals, *found)
    assert z.X.dtype == hospitals.X.dtype and set(z.X.ravel().tolist()) == {-1.0, 1.0}


def test_68_a_float16_table_is_stacked_as_float32_and_others_as_they_are():
    wider = {np.float16: np.float32, np.float32: np.float32, np.float64: np.float64, int: np.float64}
    for dtype, kept in wider.items():
        hospitals = one_hospital([60_000, 1, 2], dtype)
        assert {part.dtype for part in hospitals[:3]} == {np.dtype(kept)} and hospitals.X.max() > 59_000


def test_68_a_spread_that_the_tables_type_cannot_show_counts_as_none():
    step = float(np.finfo(np.float16).smallest_subnormal)
    hospitals = narrow(np.array([step] + 99 * [0.0]), np.float16)  # sd: a tenth of a step
    mean, std = data.pooled_moments(hospitals)
    assert std.item() == 1 and np.isfinite(data.standardise(hospitals, mean, std).X).all()


def test_68_a_narrow_feature_that_never_varies_is_left_at_zero():
    for dtype in (np.float16, np.float32):
        hospitals = narrow(np.full(3000, 0.1), dtype)
        mean, std = data.pooled_moments(hospitals)
        assert std.item() == 1 and not data.standardise(hospitals, mean, std).X.any()


def test_68_units_are_compared_without_overflow():
    wards = {name: pd.DataFrame({"iron": np.full(3, value, np.float16)}) for name, value in [("A", 1.0), ("B", 6e4)]}
    wards["C"] = pd.DataFrame({"iron": np.full(3, 2e4, np.float16)})  # five times this is beyond float16
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        tables.combine({name: wards[name] for name in "BC"})
        assert not heard
    with pytest.warns(UserWarning, match="'iron': the median is 1 in 'A' and 6.*in 'B'"):
        tables.combine(wards)


# ---------------------------------------------------------------- 77 padding


def records(*sizes, d=1):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    return np.zeros((groups.size, d)), np.arange(groups.size) % 2, groups


def test_77_a_stack_of_39_gib_of_padding_is_refused_before_anything_is_allocated(monkeypatch):
    X, y, groups = records(*[1] * 1000, 200_000, *[1] * 1000, d=11)

    def allocated(*args):
        raise AssertionError("it was allocated")

    monkeypatch.setattr(data.np, "zeros", allocated)
    with pytest.raises(ValueError) as caught:
        data.stack(X, y, groups)
    said = str(caught.value)
    assert f"{2001 * 200_000 * 13 * 8:,} bytes" in said  # 41.6 billion, 39 GiB
    assert f"{2000 * 199_999 * 13 * 8:,} of them are padding" in said and "most_padding = 4,000,000,000" in said
    assert "hospital '1000' with its 200,000 records" in said and "half of them have 1 or fewer" in said
    assert "Merge the small hospitals" in said and "most_padding=…" in said


def test_77_the_limit_is_exact_and_can_be_moved_or_lifted():
    table = records(2, 5, 5)  # 3 rows of padding, each with a feature, a label and a weight of 8 bytes
    with pytest.raises(ValueError, match="take 360 bytes, and 72 of them are padding, more than most_padding = 71"):
        data.stack(*table, most_padding=71)
    for most in (72, 10**12, None):
        assert data.stack(*table, most_padding=most).sizes.tolist() == [2, 5, 5]
    half = data.stack(table[0].astype(np.float32), *table[1:], most_padding=36)
    assert half.X.dtype == np.float32
    for wrong in (-1, np.nan, "1 GB"):
        with pytest.raises(ValueError, match="most_padding must be a finite number at least 0"):
            data.stack(*table, most_padding=wrong)


@pytest.mark.parametrize("sizes", [[20] * 100_000, [200_000], [200_000] + 20 * [1]], ids=["many", "one", "few"])
def test_77_what_ran_before_is_not_refused(sizes):
    assert (data.stack(*records(*sizes)).sizes == sizes).all()


def test_77_hospitals_of_one_size_have_no_padding_to_refuse():
    even = data.stack(*records(4, 4, 4), most_padding=0)
    assert even.w.all() and even.pooled().sizes == [12]


def test_77_prepare_passes_the_limit_on_and_what_was_stacked_can_be_split():
    X, y, groups = records(200, 4, 4)
    table = pd.DataFrame({"age": X[:, 0] + np.arange(208), "target": y, "hospital": groups})
    least = (3 * 200 - 208) * 3 * 8
    with pytest.raises(ValueError, match=f"{least:,} of them are padding"):
        data.prepare(table, rng=0, most_padding=least - 1)
    with pytest.raises(ValueError, match="of them are padding"):
        data.splits(table, 2, most_padding=least - 1)
    train, test = data.prepare(table, rng=0, share=0.5, most_padding=least)
    assert train.sizes.tolist() == test.sizes.tolist() == [100, 2, 2]


def test_77_a_federation_above_the_default_limit_can_be_split_all_the_same(monkeypatch):
    many = data.stack(*records(48, 4, 4), most_padding=None)
    monkeypatch.setitem(data.stack.__kwdefaults__, "most_padding", 0)
    with pytest.raises(ValueError, match="are padding"):
        data.stack(*records(48, 4, 4))
    train, test = data.train_test(many, 0.5, rng=0)
    assert train.sizes.tolist() == test.sizes.tolist() == [24, 2, 2] and many.pooled().sizes == [56]
