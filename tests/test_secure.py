"""Masks cancel, shares mend, the server reads a sum: against published vectors, Flower and the plain federation."""

from dataclasses import replace
from functools import partial
from itertools import combinations, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlearn_mini import data, hospital, ledger, models, protocol, store
from fedlearn_mini.aggregate import mean
from fedlearn_mini.desk import Desk
from fedlearn_mini.federation import fit, path, rounds
from fedlearn_mini.plan import Plan, pieces
from fedlearn_mini.privacy import DPSGD, noisy_mean
from fedlearn_mini.protocol import initial, one_round
from fedlearn_mini.secure import (
    BOX,
    OWN,
    PAIR,
    PRIME,
    Circle,
    Masks,
    Member,
    agreed,
    at_zero,
    derived,
    join,
    public,
    put_together,
    split,
    uncovered,
    words,
)

LOGISTIC = models.logistic(5)
NETWORK = models.mlp(5, (8, 4))


def circle_of(K, masks=None, seed=0):
    """K members who have told each other their keys."""
    rng = np.random.default_rng(seed)
    members = [Member(2 * k, rng.bytes(32)) for k in range(K)]  # seats need not be 0, 1, 2, …
    circle = Circle(np.arange(0, 2 * K, 2), np.array([one.hello() for one in members]), masks or Masks())
    return [one._replace(circle=circle) for one in members], circle


def talked(members, circle, rows, present, spoil=lambda boxes: boxes, answering=None):
    """Rows of those present, and what the server can put together: covered rows (k, n), {row: secret} or None."""
    there, stayed = np.ones(len(members), bool), np.isin(np.arange(len(members)), present)
    boxes = spoil(np.array([one.boxes() for one in members]))
    covered = np.array([rows[k] + members[k].cover(rows.shape[1], there) for k in present])
    heard = list(present if answering is None else answering)
    shares = np.array([members[k].answer(there, stayed, boxes) for k in heard])
    return covered, put_together(circle, there, stayed, {"seat": circle.seats[heard], "shares": shares})


def summed(members, circle, rows, present, **how):
    """The sum that the server reads, (n,) uint64; None if it cannot."""
    covered, secrets = talked(members, circle, rows, present, **how)
    if secrets is None:
        return None
    return uncovered(circle, {"seat": circle.seats[list(present)], "update": covered}, secrets).sum(axis=0)


def random_rows(K, n, seed=1):
    return np.random.default_rng(seed).integers(0, 2**64, (K, n), dtype=np.uint64)


# ---------------------------------------------------------------------------------------------------- published vectors


def test_public_keys_are_those_of_rfc_7748():
    """Section 6.1: Alice's private and public key."""
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    assert public(alice).hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"


def test_random_words_are_the_stream_of_rfc_8439():
    """Appendix A.1, test vector 1: key, nonce and counter are zero."""
    block = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    block += "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    assert words(bytes(32), 8).astype("<u8").tobytes().hex() == block
    assert (words(bytes(32), 5) == words(bytes(32), 8)[:5]).all()


def test_two_agree_on_one_key_for_each_use_and_a_third_does_not():
    a, b, c = b"a" * 32, b"b" * 32, b"c" * 32
    assert agreed(a, public(b)) == agreed(b, public(a)) != agreed(c, public(b))
    assert agreed(a, public(b), b"mask") != agreed(a, public(b), b"box")


@pytest.mark.parametrize("key", [bytes(32), (1).to_bytes(32, "little")])
def test_a_public_key_of_low_order_is_refused(key):
    with pytest.raises(ValueError, match="all zeros or of low order"):
        agreed(b"a" * 32, key)


# ---------------------------------------------------------------------------------------------------------- fixed point


@given(st.lists(st.floats(-(2.0**20), 2.0**20), min_size=1, max_size=6))
def test_a_sum_of_encoded_values_is_the_sum_to_half_a_step_each(values):
    masks = Masks()
    total = masks.decode(np.array([masks.encode(x, len(values)) for x in values]).sum(dtype=np.uint64))
    assert abs(total - sum(values)) <= len(values) * masks.step / 2 + 1e-9


def test_a_sum_that_could_wrap_is_refused_before_it_is_encoded():
    """At a scale made for fewer hospitals, 200 times 8 would be read as another number, and nobody could tell."""
    tight = Masks(step=2.0**-54, most=8.0)  # good for 63 hospitals
    wrapped = tight.decode(np.full(200, round(8 / tight.step), np.uint64).sum(dtype=np.uint64))
    assert wrapped != 1600
    assert tight.encode(8.0, 63) == 8 * 2**54
    with pytest.raises(OverflowError, match="would wrap. Take a larger step"):
        tight.encode(8.0, 200)


@pytest.mark.parametrize(
    ("value", "said"), [(np.nan, "not finite"), (np.inf, "not finite"), (-2e6, "beyond the ±1.04")]
)
def test_what_is_no_number_or_too_large_is_refused_before_masking(value, said):
    with pytest.raises(OverflowError, match=said):
        Masks().encode([0.0, value], 4)


# --------------------------------------------------------------------------------------------------------------- shares


@given(st.binary(min_size=32, max_size=32), st.integers(2, 7), st.integers(0, 3), st.randoms())
def test_any_threshold_of_shares_gives_the_secret_back(secret, threshold, more, random):
    places = random.sample(range(1, 1000), threshold + more)
    shares = split(secret, places, threshold, random.randbytes(32 * threshold))
    chosen = random.sample(places, threshold)
    assert join({place: shares[place] for place in chosen}) == secret
    assert join(shares) == secret


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_one_share_fewer_fits_every_secret(secret, other):
    """Two shares of three: some third share makes any secret of them, so that they say nothing."""
    shares = split(secret, [1, 2, 3], 3, bytes(range(64)))
    known = sum(shares[x] * at_zero(x, (1, 2, 3)) for x in (1, 2))
    third = (int.from_bytes(other, "big") - known) * pow(at_zero(3, (1, 2, 3)), -1, PRIME) % PRIME
    assert join({1: shares[1], 2: shares[2], 3: third}) == other


# ------------------------------------------------------------------------------------------------------- masks and sums


@given(st.integers(3, 7), st.integers(0, 2**32), st.data())
@settings(max_examples=40)
def test_the_sum_is_exact_whoever_drops_out_above_the_threshold(K, seed, draw):
    members, circle = circle_of(K, seed=seed)
    left = max(3, K // 2 + 1)
    present = sorted(draw.draw(st.sets(st.integers(0, K - 1), min_size=left, max_size=K)))
    rows = random_rows(K, 5, seed)
    assert (summed(members, circle, rows, present) == rows[present].sum(axis=0)).all()


def test_with_everybody_there_masks_in_pairs_cancel_exactly():
    members, _ = circle_of(5)
    own = [words_of_own_mask(one, 4) for one in members]
    assert (sum(one.cover(4, np.ones(5, bool)) for one in members) == sum(own)).all()


def words_of_own_mask(member, n):
    return words(derived(member.private(OWN), b"own mask"), n)


def test_on_a_ring_each_meets_its_neighbours_and_they_meet_it():
    members, circle = circle_of(30, Masks(neighbours=6))
    near = {row: circle.near(seat) for row, seat in enumerate(circle.seats)}
    assert all(len(rows) == 7 and row in rows for row, rows in near.items())
    assert all(row in near[other] for row, rows in near.items() for other in rows)
    rows = random_rows(30, 3)
    present = [row for row in range(30) if row not in (4, 17)]
    assert (summed(members, circle, rows, present) == rows[present].sum(axis=0)).all()


def test_a_row_that_arrives_looks_random_also_after_everything_that_can_come_off():
    """Every hospital sends zeros: the bytes that the server holds are spread evenly, and no part adds up to 0."""
    members, circle = circle_of(5)
    rows, present = np.zeros((5, 4000), np.uint64), [0, 1, 2, 4]
    covered, secrets = talked(members, circle, rows, present)
    clear = uncovered(circle, {"seat": circle.seats[present], "update": covered}, secrets)
    for seen in (covered, clear):
        counts = np.bincount(seen.view(np.uint8).ravel(), minlength=256)
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 350  # χ² of 255 degrees of freedom: 1 in 10,000
    for some in (subset for k in (1, 2, 3) for subset in combinations(range(4), k)):
        assert (clear[list(some)].sum(axis=0) != 0).mean() > 0.99
    assert not clear.sum(axis=0).any()


def test_of_each_hospital_one_secret_is_opened_and_never_both():
    members, circle = circle_of(4)
    _, secrets = talked(members, circle, random_rows(4, 2), [0, 1, 3])
    assert sorted(secrets) == [0, 1, 2, 3]
    for row, secret in secrets.items():
        assert secret == members[row].private(PAIR if row == 2 else OWN)


def test_below_the_threshold_a_hospital_opens_nothing():
    members, circle = circle_of(5)
    there, stayed = np.ones(5, bool), np.array([True, True, False, False, False])
    boxes = np.array([one.boxes() for one in members])
    with pytest.raises(ValueError, match="fewer hospitals are left than the threshold"):
        members[0].answer(there, stayed, boxes)


def test_somebody_falling_silent_while_the_shares_are_opened_is_survived_down_to_the_threshold():
    members, circle = circle_of(5)
    rows, present = random_rows(5, 3), [0, 1, 2, 4]
    total = rows[present].sum(axis=0)
    assert (summed(members, circle, rows, present, answering=[0, 2, 4]) == total).all()
    assert summed(members, circle, rows, present, answering=[0, 4]) is None


def test_as_many_colluders_as_the_threshold_open_both_secrets_of_everybody_and_one_fewer_none():
    members, circle = circle_of(5)  # the threshold is 3
    there, boxes = np.ones(5, bool), np.array([one.boxes() for one in members])
    gone = np.array([True, True, True, True, False])  # what each would answer if the last had left, and if not
    told = [
        {"seat": circle.seats[:k], "shares": [members[row].answer(there, seen, boxes) for row in range(k)]}
        for k in (3, 2)
        for seen in (there, gone)
    ]
    own, pair = put_together(circle, there, there, told[0]), put_together(circle, there, gone, told[1])
    assert own[4] == members[4].private(OWN) and pair[4] == members[4].private(PAIR)
    assert put_together(circle, there, there, told[2]) is None and put_together(circle, there, gone, told[3]) is None


def test_a_box_that_somebody_touched_is_left_out_and_the_others_do():
    members, circle = circle_of(5)
    rows, present = random_rows(5, 3), [0, 1, 2, 3]

    def forged(boxes):
        boxes[4, 0, 7] ^= 1  # from the one who leaves, to the first
        return boxes

    assert (summed(members, circle, rows, present, spoil=forged) == rows[present].sum(axis=0)).all()
    assert summed(members, circle, rows, present, spoil=forged, answering=[0, 1, 2]) is None


def test_a_wrong_share_shows_by_the_public_key_and_others_are_taken():
    members, circle = circle_of(5)
    there, stayed = np.ones(5, bool), np.array([True, True, True, True, False])
    boxes = np.array([one.boxes() for one in members])
    shares = np.array([members[row].answer(there, stayed, boxes) for row in range(4)])
    shares[1, 4, 32] ^= 1  # the second hospital lies about the one who left
    answers = {"seat": circle.seats[:4], "shares": shares}
    assert put_together(circle, there, stayed, answers)[4] == members[4].private(PAIR)
    answers = {name: part[:3] for name, part in answers.items()}
    assert put_together(circle, there, stayed, answers) is None


def test_a_list_of_keys_that_was_tampered_with_is_refused():
    members, circle = circle_of(4)
    copied, changed = circle.keys.copy(), circle.keys.copy()
    copied[2, BOX], changed[0, PAIR] = copied[1, BOX], members[3].hello()[OWN]
    with pytest.raises(ValueError, match="two of the keys in the list are the same"):
        members[3]._replace(circle=Circle(circle.seats, copied, Masks())).boxes()
    with pytest.raises(ValueError, match="does not hold this hospital's own"):
        members[0]._replace(circle=Circle(circle.seats, changed, Masks())).boxes()


@pytest.mark.parametrize(
    ("masks", "K", "said"),
    [
        (Masks(), 2, "a sum of two hides nothing"),
        (Masks(threshold=2), 4, "take more than half of them, 3 to 4"),
        (Masks(threshold=5), 4, "take more than half of them, 3 to 4"),
    ],
)
def test_thresholds_that_protect_nobody_are_refused(masks, K, said):
    members, _ = circle_of(K, masks)
    with pytest.raises(ValueError, match=said):
        members[0].boxes()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"threshold": 1}, "threshold=1 would let each open all alone"),
        ({"neighbours": 3}, "neighbours must be even"),
        ({"step": 0.0}, "the step of the masks must be a finite number greater than 0"),
        ({"most": float("nan")}, "the largest value `most`"),
        ({"norm": -1.0}, "the norm must be"),
    ],
)
def test_settings_of_masks_that_cannot_be_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Plan(masks=Masks(**settings))


# ---------------------------------------------------------------------------------------------------- in the federation

PLANS = {
    "one step": (LOGISTIC, Plan(lr=0.3)),
    "every hospital the same": (LOGISTIC, Plan(lr=0.3, steps=5, aggregate=mean)),
    "network, batches": (NETWORK, Plan(lr=0.1, epochs=1, batch=8)),
    "FedProx": (LOGISTIC, Plan(lr=0.3, steps=5, mu=1.0)),
    "FedNova": (LOGISTIC, Plan(lr=0.1, steps=6, stragglers=0.6, normalise=True)),
    "FedNova with FedProx": (LOGISTIC, Plan(lr=0.1, steps=6, stragglers=0.6, normalise=True, mu=0.5)),
    "half invited": (LOGISTIC, Plan(lr=0.3, fraction=0.5)),
    "own head": (NETWORK, Plan(lr=0.1, steps=3, shared=np.arange(NETWORK.P) < NETWORK.P - 5)),
    "DP-SGD": (LOGISTIC, Plan(lr=0.3, private=DPSGD(1, 2.0, q=0.5))),
    "shared noise": (LOGISTIC, Plan(lr=0.3, private=DPSGD(1, 2.0, where="distributed"))),
    "noise in the house": (
        LOGISTIC,
        Plan(lr=0.3, aggregate=mean, around=(partial(hospital.noisy_rows, C=1.0, sigma=0.5, share=1 / 8),)),
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_masked_federation_is_the_plain_one_to_the_fixed_point_step(name, rng):
    model, plan = PLANS[name]
    many = data.make_hospitals(8, 30, d=5, skew=1.0, difference=0.5, rng=rng)
    plain, hidden = (path(model, many, replace(plan, masks=masks), 8) for masks in (None, Masks()))
    assert np.abs(plain[-1]).max() > 0
    assert np.abs(plain - hidden).max() <= 1e-9


def test_absent_hospitals_are_left_out_of_sum_and_count(rng):
    many = data.make_hospitals(8, 30, d=5, skew=1.0, rng=rng)
    plan = Plan(lr=0.3, steps=5, dropout=0.2, seed=1)
    plain, hidden = ([*islice(rounds(LOGISTIC, many, replace(plan, masks=m)), 6)] for m in (None, Masks()))
    heard = [record["hospitals"] for _, record in hidden]
    assert heard == [record["hospitals"] for _, record in plain] and 5 <= min(heard) < 8
    assert np.abs(plain[-1][0].theta - hidden[-1][0].theta).max() <= 1e-9


def test_a_round_below_the_threshold_changes_nothing_and_names_who_was_not_opened(rng):
    many = data.make_hospitals(6, 30, d=5, rng=rng)
    gone = np.array([1.0, 1.0, 1.0, 0, 0, 0])
    plan = Plan(lr=0.3, dropout=lambda r: gone, masks=Masks())
    start = initial(LOGISTIC, plan)
    state, record = one_round(start, LOGISTIC, many, plan)
    assert (state.theta == start.theta).all() and record["hospitals"] == 0
    assert record["refused"] == ", ".join(many.names[3:]) and record["who"].present.tolist() == [3, 4, 5]


def test_too_few_invited_by_chance_are_not_asked(rng):
    many = data.make_hospitals(4, 30, d=5, rng=rng)
    plan = Plan(lr=0.3, fraction=0.5, masks=Masks())
    state, record = one_round(initial(LOGISTIC, plan), LOGISTIC, many, plan)
    assert record["hospitals"] == 0 and record["bytes_up"] == 0 and state.round == 1


def test_two_hospitals_are_refused_before_anything_is_sent(rng):
    many, plan = data.make_hospitals(2, 30, d=5, rng=rng), Plan(masks=Masks())
    with pytest.raises(ValueError, match="a sum of two hides nothing"):
        one_round(initial(LOGISTIC, plan), LOGISTIC, many, plan)


def test_the_server_is_given_random_words_only(rng, monkeypatch):
    many, seen = data.make_hospitals(4, 30, d=5, rng=rng), []
    real = protocol.at_server_after

    def looked(state, order, invited, letters, parts, desk):
        seen.append(letters)
        return real(state, order, invited, letters, parts, desk)

    monkeypatch.setattr(protocol, "at_server_after", looked)
    plan = Plan(lr=0.3, masks=Masks())
    one_round(initial(LOGISTIC, plan), LOGISTIC, many, plan)
    assert set(seen[0]) == {"seat", "round", "weight", "steps", "update", "bytes", "heard"}
    assert seen[0]["update"].dtype == np.uint64 and (seen[0]["update"] > 2**40).mean() > 0.9  # six zeros would be small


def test_a_server_that_says_different_things_about_who_is_there_gets_nothing(rng):
    """Of five it tells the first that 0, 1, 2 are there, and later that 0, 3, 4 stayed: without a memory of what was
    said when the row was sent, the masks with 1 and 2 and the own mask would come off, and the row would be open."""
    members, _ = circle_of(5)
    boxes, there = np.array([one.boxes() for one in members]), np.array([True, True, True, False, False])
    stayed = np.array([True, False, False, True, True])
    with pytest.raises(ValueError, match="who dealt no shares"):
        members[0].answer(there, stayed, boxes)
    with pytest.raises(ValueError, match="this hospital sends nothing"):
        members[0].cover(4, np.array([True, True, False, False, False]))
    many, plan = data.make_hospitals(5, 30, d=5, rng=rng), Plan(lr=0.3, masks=Masks())
    parts = pieces(plan, LOGISTIC)

    def bent(ask, order, invited):
        def twisted(order, seats):
            if order.topic == "train":
                order = order._replace(told=order.told | {"there": there})
            return ask(order, seats)

        return parts.talk(twisted, order, invited)

    with pytest.raises(ValueError, match="not the one that this hospital's masks were made for"):
        one_round(initial(LOGISTIC, plan), LOGISTIC, many, plan, (parts._replace(talk=bent), Desk.of(many)))


def test_a_second_request_for_shares_in_a_round_is_refused(rng):
    many, plan = data.make_hospitals(4, 30, d=5, rng=rng), Plan(lr=0.3, masks=Masks())
    parts = pieces(plan, LOGISTIC)
    orders = []

    def twice(ask, order, invited):
        def noted(order, seats):
            orders.append((order, seats))
            return ask(order, seats)

        letters = talk(noted, order, invited)
        ask(*orders[-1])
        return letters

    talk, parts = parts.talk, parts._replace(talk=lambda ask, order, invited: twice(ask, order, invited))
    with pytest.raises(ValueError, match="has opened shares in this round already"):
        one_round(initial(LOGISTIC, plan), LOGISTIC, many, plan, (parts, Desk.of(many)))


def test_every_byte_of_the_conversation_is_counted(rng):
    """Keys 96, four boxes of 82, a row of P + 1 words, four shares of 33; down: all that everybody is told."""
    many, plan = data.make_hospitals(4, 30, d=5, rng=rng), Plan(lr=0.3, masks=Masks())
    _, record = one_round(initial(LOGISTIC, plan), LOGISTIC, many, plan)
    assert record["bytes_up"] == 4 * (96 + 4 * 82 + 8 * 7 + 4 * 33)
    assert record["bytes_down"] == 4 * (8 * 6 + 4 * 8 + 4 * 96 + 4 + 4 + 4 * 82)


def test_a_saved_masked_run_goes_on_bit_for_bit(rng, tmp_path):
    many, plan = data.make_hospitals(5, 30, d=5, rng=rng), Plan(lr=0.3, steps=2, dropout=0.2, masks=Masks())
    whole, _ = fit(LOGISTIC, many, plan, rounds=6)
    half, history = fit(LOGISTIC, many, plan, rounds=3)
    store.save(tmp_path / "run.npz", half, history)
    half, history = store.load(tmp_path / "run.npz", LOGISTIC)
    assert (half.kept["answered"] > 0).any()
    rest, _ = fit(LOGISTIC, many, plan, rounds=3, state=half, history=history)
    assert (rest.theta == whole.theta).all()


def test_a_run_that_outgrows_the_masks_keeps_its_last_good_state(rng):
    """η is far too large for a linear model: the hospitals refuse to send what no mask can hide."""
    many = data.make_hospitals(4, 30, d=5, rng=rng)
    state, history = fit(models.linear(5), many, Plan(lr=30.0, steps=3, masks=Masks()), rounds=60)
    assert history.attrs["stopped"] == "diverged" and "nothing was masked or sent" in history.attrs["why"]
    assert np.isfinite(state.theta).all() and 1 <= state.round < 60


def test_an_update_longer_than_the_bound_stays_at_home(rng):
    many = data.make_hospitals(4, 30, d=5, rng=rng)
    plan = Plan(lr=0.3, masks=Masks(norm=1e-6))
    with pytest.raises(OverflowError, match="an update is .* long, and the masks let out 1e-06: nothing"):
        one_round(initial(LOGISTIC, plan), LOGISTIC, many, plan)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"aggregate": lambda updates, weights, rng: np.median(updates, axis=0)}, "must see single updates"),
        ({"aggregate": partial(noisy_mean, C=1.0, sigma=1.0, expected=4)}, "must see single updates"),
        ({"late": 0.5}, "no longer fits the masks of its round"),
        ({"uplink": lambda rows, rng: rows}, "spoils the sum"),
        ({"scaffold": True}, "Δcₖ would travel beside the mask"),
        ({"private": DPSGD(1, 1.0, where="server")}, "take where='distributed' or 'hospital'"),
        ({"masks": True}, "masks must be secure.Masks"),
    ],
)
def test_what_must_see_single_letters_is_refused_with_masks(settings, said):
    with pytest.raises(ValueError, match=said):
        Plan(**{"masks": Masks()} | settings)


def test_who_is_missing_takes_a_part_of_the_shared_noise_away_and_the_ledger_says_so(rng):
    """K = 5, two of them missing in each of 100 rounds: σ = 10 counts as 10·√(3/5), ε = 4.38 becomes 5.90 (PLD)."""
    many = data.make_hospitals(5, 30, d=3, rng=rng)
    model, private = models.logistic(3), DPSGD(1, 10.0, where="distributed")
    found = {}
    for missing in (0, 2):
        gone = (np.arange(5) >= 5 - missing).astype(float)
        plan = Plan(lr=0.1, dropout=lambda r, gone=gone: gone, private=private, masks=Masks())
        state, _ = fit(model, many, plan, rounds=100)
        account = ledger.Ledger.of(plan, state, many, delta=1e-5, accountant="pld")
        found[missing] = account.guarantee
    assert found[0].epsilon == pytest.approx(4.38, abs=0.005) and found[2].epsilon == pytest.approx(5.90, abs=0.005)
    assert "a server that sees sums only" in str(found[2])


def test_flowers_secure_sum_of_the_same_updates_is_ours():
    """Flower's own quantisation, masks in pairs and sum, beside ours: both give the sum, ours to 3e-7."""
    flower = pytest.importorskip("flwr.common.secure_aggregation.secaggplus_utils", reason="the extra flower")
    from flwr.common.secure_aggregation import ndarrays_arithmetic as arithmetic
    from flwr.common.secure_aggregation import quantization

    K, n, clip, levels = 4, 5000, 8.0, 2**22
    rng = np.random.default_rng(0)
    updates = rng.normal(size=(K, n))
    np.random.seed(0)  # noqa: NPY002 (Flower rounds by this generator)
    theirs = []
    for k in range(K):
        row = quantization.quantize([updates[k]], clip, levels)
        for other in (j for j in range(K) if j != k):
            pair = flower.pseudo_rand_gen(bytes([min(k, other), max(k, other), 0, 9]), 2**32, [(n,)])
            change = arithmetic.parameters_addition if k > other else arithmetic.parameters_subtraction
            row = change(row, pair)
        theirs.append(arithmetic.parameters_mod(row, 2**32))
    total = theirs[0]
    for row in theirs[1:]:
        total = arithmetic.parameters_addition(total, row)
    total = arithmetic.parameters_mod(total, 2**32)
    total = quantization.dequantize(total, clip, levels)[0] - (K - 1) * clip
    members, circle = circle_of(K)
    masks = Masks()
    ours = masks.decode(summed(members, circle, masks.encode(updates, K), [0, 1, 2, 3]))
    assert np.abs(ours - updates.sum(axis=0)).max() <= 3e-7
    assert np.abs(ours - total).max() <= K * 2 * clip / levels
