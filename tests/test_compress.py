"""Fewer bytes: what is counted is what travels, what arrives is bounded as in the papers, chunks survive bad lines."""

import zlib
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn_mini import data, models
from fedlearn_mini.chance import Dice
from fedlearn_mini.compress import (
    FRAME,
    HEADER,
    Link,
    chunks,
    floats,
    qsgd,
    quantised,
    random_k,
    rejoin,
    sent,
    sparse,
    top_k,
    unzipped,
)
from fedlearn_mini.federation import fit, path, rounds
from fedlearn_mini.hospital import compressed, feedback
from fedlearn_mini.plan import Plan
from fedlearn_mini.protocol import initial

COMPRESSORS = {
    "float32": floats(32),
    "float16": floats(16),
    "8 bits": quantised(8),
    "8 bits by coin": quantised(8, by_coin=True),
    "16 bits": quantised(16),
    "1 bit": quantised(1),
    "QSGD, 1 level": qsgd(1),
    "QSGD, 100 levels": qsgd(100),
    "top 3": top_k(3),
    "top tenth": top_k(0.1),
    "random tenth": random_k(0.1),
    "random tenth, scaled": random_k(0.1, scaled=True),
}
every_one = pytest.mark.parametrize("name", COMPRESSORS)


def dice(seats, round=0):
    return Dice.of(0, round, np.asarray(seats))


@pytest.fixture
def heavy():
    """5,000 numbers, a few of them large."""
    return np.random.default_rng(0).standard_t(2, 5000)


def off(x, arrived):
    """‖x − x̃‖²/‖x‖²."""
    return ((x - arrived) ** 2).sum(-1) / (x**2).sum(-1)


# ------------------------------------------------------------------------------------------------------------- messages


@every_one
@pytest.mark.parametrize("P", [5, 14, 77, 5121])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_the_length_that_is_counted_is_that_of_the_message_and_what_arrives_is_read_from_it(name, P, dtype):
    how, rows = COMPRESSORS[name], np.random.default_rng(1).normal(size=(3, P)).astype(dtype)
    message = how.message(rows, dice([0, 1, 2]))
    assert message.dtype == np.uint8 and message.shape == (3, how.length(P))
    arrived = how(rows, dice([0, 1, 2]))
    assert (how.read(message, P).astype(dtype) == arrived).all()
    assert arrived.shape == rows.shape and arrived.dtype == rows.dtype and np.isfinite(arrived).all()


@every_one
def test_one_row_is_its_row_of_the_stack(name):
    how, rows = COMPRESSORS[name], np.random.default_rng(1).normal(size=(3, 40))
    together = how(rows, dice([0, 1, 2]))
    assert all((how(rows[k], dice(k)) == together[k]).all() for k in range(3))


@every_one
def test_nothing_becomes_nothing_and_what_is_no_number_stays_none(name):
    how = COMPRESSORS[name]
    zeros = how(np.zeros(40), dice(0))
    assert not zeros.any() and np.isfinite(zeros).all()
    if "random" not in name:  # a random tenth may leave the NaN at home
        with np.errstate(invalid="ignore"):
            assert not np.isfinite(how(np.r_[np.nan, np.ones(39)], dice(0))).all()


def test_known_sizes_of_five_thousand_numbers():
    """Bytes after the header; 20,000 as float32."""
    body = {name: how.length(5000) - HEADER for name, how in COMPRESSORS.items()}
    assert body["float32"] == 20_000 and body["float16"] == 10_000
    assert body["8 bits"] == 4 + 5000 and body["1 bit"] == 4 + 625
    assert body["QSGD, 1 level"] == 4 + 1250 and body["QSGD, 100 levels"] == 4 + 5000
    assert body["top tenth"] == 500 * 4 + 625  # 625 bytes of bitmap are shorter than 500 places of two bytes
    assert body["top 3"] == 3 * 4 + 3 * 2
    assert 20_000 / body["1 bit"] == pytest.approx(32, abs=0.3)


def test_a_message_of_another_compressor_or_model_is_refused_before_it_takes_memory():
    message = quantised(8).message(np.ones(10))
    with pytest.raises(ValueError, match="has 28 bytes here, and this one 22"):
        floats(16).read(message, 10)
    with pytest.raises(ValueError, match="written by compressor 117 for 10 numbers, and compressor 116 expects 10"):
        quantised(8).read(quantised(8, by_coin=True).message(np.ones(10), dice(0)), 10)
    vast = top_k(2).message(np.ones(100)).copy()
    vast[4:8] = 255  # it claims four billion numbers, at the same length
    with pytest.raises(ValueError, match="for 4294967295 numbers"):
        top_k(2).read(vast, 100)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: quantised(4), "bits must be 1, 8 or 16"),
        (lambda: quantised(1, by_coin=True), "with one bit there is no coin"),
        (lambda: floats(8), "bits must be 16 or 32"),
        (lambda: qsgd(0), "levels must be a whole number"),
        (lambda: top_k(0), "k must be a whole number"),
        (lambda: top_k(1.5), "the share that is kept"),
        (lambda: random_k(float("nan")), "the share that is kept"),
        (lambda: top_k(20)(np.ones(14)), "k = 20 numbers cannot be kept: an update of this model has 14"),
        (lambda: top_k(20).length(14), "k = 20 numbers cannot be kept"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_words(make, said):
    with pytest.raises(ValueError, match=said):
        make()


# ----------------------------------------------------------------------------------------------- what is lost, by paper


def test_one_bit_loses_exactly_what_the_formula_says(heavy):
    x = heavy.astype("f4").astype(float)
    exact = 1 - np.abs(x).sum() ** 2 / (x.size * (x**2).sum())
    assert off(x, quantised(1)(x)) == pytest.approx(exact, abs=1e-6)


def test_top_k_loses_at_most_its_share_and_less_where_few_numbers_are_large(heavy):
    assert off(heavy, top_k(0.1)(heavy)) <= 0.9
    assert off(heavy, top_k(0.1)(heavy)) < off(heavy, random_k(0.1)(heavy, dice(0)))
    flat = np.ones(5000)
    assert off(flat, top_k(0.1)(flat)) == pytest.approx(0.9)


@pytest.mark.parametrize("levels", [1, 4, 16, 100])
def test_qsgd_is_right_on_average_and_varies_within_its_bound(levels):
    x = np.random.default_rng(0).normal(size=200)
    draws = qsgd(levels)(np.tile(x, (4000, 1)), dice(np.arange(4000)))
    variance, bound = off(x, draws).mean(), min(200 / levels**2, 200**0.5 / levels)
    assert variance <= bound
    error = draws.mean(axis=0) - x
    assert np.linalg.norm(error) <= 4 * np.sqrt(variance / 4000) * np.linalg.norm(x)


@pytest.mark.parametrize("how", [quantised(8, by_coin=True), random_k(0.25, scaled=True)], ids=["8 bits", "random"])
def test_others_that_are_right_on_average(how):
    x = np.random.default_rng(0).normal(size=40)
    draws = how(np.tile(x, (20_000, 1)), dice(np.arange(20_000)))
    assert np.abs(draws.mean(axis=0) - x).max() < 6 * draws.std(axis=0).max() / 20_000**0.5


def test_eight_bits_are_wrong_by_half_a_step_at_most(heavy):
    step = np.abs(heavy).max() / 127
    assert np.abs(quantised(8)(heavy) - heavy).max() <= step / 2 * 1.001


def test_keeping_everything_is_sending_float32(heavy):
    assert (top_k(5000)(heavy) == floats(32)(heavy)).all()
    assert (random_k(5000, scaled=True)(heavy, dice(0)) == floats(32)(heavy)).all()


def test_zlib_saves_little_on_dense_floats():
    dense = np.random.default_rng(0).normal(size=5000).astype("f4").tobytes()
    assert 0.03 < 1 - len(zlib.compress(dense, 9)) / len(dense) < 0.10


# ---------------------------------------------------------------------------------------------------- in the federation

LOGISTIC = models.logistic(5)


@pytest.fixture
def many(rng):
    return data.make_hospitals(5, 40, d=5, difference=0.5, rng=rng)


def final(many, *around, count=200, **changes):
    return path(LOGISTIC, many, Plan(lr=0.3, steps=2, around=around, **changes), count)[-1]


def test_a_round_counts_the_bytes_of_the_messages(many):
    plan = Plan(lr=0.3, around=(partial(feedback, compress=quantised(8)),))
    _, record = next(rounds(LOGISTIC, many, plan))
    assert record["bytes_up"] == 5 * quantised(8).length(6) and record["bytes_down"] == 5 * 6 * 8


def test_feedback_gets_where_compression_alone_does_not(many):
    exact, top = final(many), top_k(2)
    alone, owed = (np.linalg.norm(final(many, partial(how, compress=top)) - exact) for how in (compressed, feedback))
    assert owed < alone / 5


def test_what_arrived_and_what_is_owed_add_up_to_what_was_meant(rng):
    """Over any number of rounds: Σ Δ̃ + e = Σ Δ, exactly what feedback promises."""
    meant, owed, arrived = rng.normal(size=(30, 4, 50)), np.zeros((4, 50)), np.zeros((4, 50))
    how = quantised(1)
    for update in meant:
        sent_now = how(update + owed)
        owed, arrived = update + owed - sent_now, arrived + sent_now
    assert np.abs(arrived + owed - meant.sum(axis=0)).max() < 1e-12


def test_ten_hospitals_that_differ_are_stuck_without_feedback_and_arrive_with_it():
    """Each pulls to its own centre, heavy-tailed, and only a tenth of the pull travels: at the rest its own pull does
    not vanish, so that what is never largest is never sent. With feedback the gap shrinks with the square of η."""
    centres, how = np.random.default_rng(0).standard_t(2, (10, 5000)), top_k(0.1)
    best, gaps = centres.mean(axis=0), {}
    for lr in (0.1, 0.03):
        alone, remembering, owed = np.zeros(5000), np.zeros(5000), np.zeros((10, 5000))
        for _ in range(300):
            alone = alone + how(lr * (centres - alone)).mean(axis=0)
            due = lr * (centres - remembering) + owed
            arrives = how(due)
            owed, remembering = due - arrives, remembering + arrives.mean(axis=0)
        gaps[lr] = off(best, alone), off(best, remembering)
    assert gaps[0.1][0] > 0.5 and gaps[0.1][1] < 0.02 and gaps[0.03][1] < gaps[0.1][1] / 5


def test_with_scaffold_the_control_variate_is_compressed_too_and_owed_too(many):
    plan = Plan(lr=0.1, steps=3, scaffold=True, around=(partial(feedback, compress=top_k(2)),))
    state, history = fit(LOGISTIC, many, plan, rounds=20)
    assert set(state.kept) == {"control", "lost", "lost control"}
    assert history["bytes_up"].iloc[0] == 5 * 2 * top_k(2).length(6)
    arrived = (many.sizes @ (state.kept["control"] - state.kept["lost control"])) / many.sizes.sum()
    assert np.abs(arrived - state.told["control"]).max() < 1e-12


@pytest.mark.parametrize("how", [random_k(1, scaled=True), qsgd(1)], ids=["scaled random-k", "QSGD of one level"])
def test_feedback_around_what_makes_updates_longer_is_refused_because_it_diverges(many, how):
    plan = Plan(lr=0.3, around=(partial(feedback, compress=how),))
    with pytest.raises(ValueError, match="what feedback owes would grow without end"):
        next(rounds(LOGISTIC, many, plan))
    careless = how._replace(contracts=lambda P: True)
    big = replace(plan, around=(partial(feedback, compress=careless),))
    for _, (state, _) in zip(range(300), rounds(LOGISTIC, many, big), strict=False):
        owed = np.linalg.norm(state.kept["lost"])
    assert owed > 1e9


def test_masks_around_compression_send_whole_words(many):
    from fedlearn_mini.secure import Masks

    plan = Plan(lr=0.3, around=(partial(feedback, compress=quantised(8)),))
    plain, hidden = (path(LOGISTIC, many, replace(plan, masks=masks), 4)[-1] for masks in (None, Masks()))
    assert np.abs(plain - hidden).max() < 1e-9
    _, record = next(rounds(LOGISTIC, many, replace(plan, masks=Masks())))
    assert record["bytes_up"] > 5 * 8 * 7


def test_a_compressor_that_cannot_fit_the_model_says_so_before_the_first_round(many):
    with pytest.raises(ValueError, match="k = 20 numbers cannot be kept"):
        next(rounds(LOGISTIC, many, Plan(around=(partial(compressed, compress=top_k(20)),))))
    assert initial(LOGISTIC, Plan()).round == 0


# --------------------------------------------------------------------------------------------------------------- chunks


@given(st.binary(max_size=300), st.integers(1, 80), st.randoms())
def test_chunks_rejoin_in_any_order_with_any_of_them_twice(message, size, random):
    cut = chunks(message, size)
    mixed = cut + random.sample(cut, random.randint(0, len(cut)))
    random.shuffle(mixed)
    assert rejoin(mixed) == (message, [])


@given(st.binary(min_size=1, max_size=300), st.integers(1, 40), st.randoms())
def test_what_is_missing_is_named_and_asked_for_again(message, size, random):
    cut = chunks(message, size)
    lost = set(random.sample(range(len(cut)), random.randint(1, len(cut))))
    found, missing = rejoin([one for place, one in enumerate(cut) if place not in lost])
    assert found is None and missing == (sorted(lost) if len(lost) < len(cut) else None)


@given(st.binary(min_size=1, max_size=100), st.integers(1, 40), st.randoms())
def test_a_chunk_with_a_flipped_bit_counts_as_missing(message, size, random):
    cut = chunks(message, size)
    place = random.randrange(len(cut))
    wrong = bytearray(cut[place])
    wrong[random.randrange(len(wrong))] ^= 1 << random.randrange(8)
    found, missing = rejoin([*cut[:place], bytes(wrong), *cut[place + 1 :]])
    assert found is None and missing == ([place] if len(cut) > 1 else None)


def test_a_chunk_of_another_message_is_left_out():
    ours, theirs = chunks(b"ours, in pieces", 4), chunks(b"theirs", 4)
    assert rejoin([theirs[0], *ours]) == (b"ours, in pieces", [])
    assert len(ours[0]) == 4 + FRAME


@given(st.floats(0, 0.6), st.integers(1, 4), st.integers(0, 100))
@settings(max_examples=30)
def test_a_bad_line_costs_bytes_and_time_and_never_the_message(loss, streams, seed):
    message = bytes(range(256)) * 4
    line = Link(loss=loss, speed=1000.0, delay=0.5, streams=streams)
    found, trip = sent(message, 100, line, np.random.default_rng(seed))
    least = len(message) + 11 * FRAME
    assert found == message and trip.bytes >= least and trip.seconds >= 0.5 and (trip.again > 0) == (trip.bytes > least)


def test_a_good_line_takes_what_arithmetic_says():
    found, trip = sent(b"x" * 1000, 100, Link(speed=1000.0, delay=0.5, streams=1), np.random.default_rng(0))
    assert trip == (1000 + 10 * FRAME, 0.5 + 1.2, 0)
    assert sent(b"x" * 1000, 100, Link(speed=1000.0, delay=0.5, streams=4), np.random.default_rng(0))[1].seconds == 0.8


@pytest.mark.parametrize(
    ("line", "said"),
    [(Link(loss=1.0), "loses everything"), (Link(speed=0.0), "the speed"), (Link(streams=0), "streams")],
)
def test_a_line_that_brings_nothing_is_refused(line, said):
    with pytest.raises(ValueError, match=said):
        sent(b"message", 100, line, np.random.default_rng(0))


def test_a_decompression_bomb_is_refused_before_it_is_unpacked():
    bomb = zlib.compress(bytes(50_000_000), 9)
    assert len(bomb) < 50_000
    with pytest.raises(ValueError, match="more than 100000 bytes"):
        unzipped(bomb, 100_000)
    assert unzipped(zlib.compress(b"a letter"), 8) == b"a letter"
    for damaged in (zlib.compress(b"a letter")[:-3], b"no zlib"):
        with pytest.raises(ValueError, match="the end is missing|not what zlib packed"):
            unzipped(damaged, 100)


def test_places_beyond_two_bytes_are_found():
    rows = np.zeros(70_000)
    rows[[3, 69_999]] = 1.5, -2.5
    assert (top_k(2)(rows) == rows).all()
    assert sparse(2, lambda x, dice, k: np.array([0, 69_999]), 9)(rows)[-1] == -2.5
