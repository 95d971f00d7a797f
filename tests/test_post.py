"""Letters as bytes: who wrote them, for which round, unchanged and unread. Faults 31, 32, 36, 38, 39, 43 and 45."""

import json
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_node_equals_stack import LOGISTIC, METHODS, Node, equal_sizes

from fedlearn_mini import protocol
from fedlearn_mini.desk import Desk, received
from fedlearn_mini.federation import fit
from fedlearn_mini.plan import Plan, pieces
from fedlearn_mini.post import (
    LETTER,
    Card,
    Line,
    Refused,
    delivered,
    framed,
    order_hash,
    pack,
    registered,
    signed,
    unframed,
    unpack,
    verified,
)
from fedlearn_mini.protocol import Order, at_server_after, at_server_before, initial

MOST = 10_000


def keys(number):
    """A hospital's two private keys, from a number: a test must give the same bytes every day."""
    seed = bytes([number]) * 32
    return Ed25519PrivateKey.from_private_bytes(seed), X25519PrivateKey.from_private_bytes(seed)


SERVER = keys(99)[1]
LETTER_OF_4 = {
    "seat": np.array(2),
    "round": np.array(4),
    "weight": np.array(123),
    "steps": np.array(5),
    "update": np.array([0.5, -1.0, 0.25]),
}
ORDER = Order(4, np.array([0.1, 0.2, 0.3]), {"control": np.zeros(3), "also": np.ones(2)}, 4, np.array(3))
RUN = "heart, the second try"
HASH = order_hash(ORDER, RUN)


# ----------------------------------------------------------------------------------------------------- letters as bytes

numbers = st.sampled_from([np.float64, np.float32, np.int64, np.uint64, np.uint8, np.bool_])
arrays = numbers.flatmap(
    lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=5))
)
letters = st.dictionaries(st.text(max_size=5).filter(lambda name: name != "__metadata__"), arrays, max_size=5)


@given(letters)
def test_a_letter_comes_back_as_it_was_whatever_the_order_of_its_parts(letter):
    payload = pack(letter)
    back = unpack(payload, MOST)
    assert pack(dict(reversed(letter.items()))) == payload and set(back) == set(letter)
    for name, part in letter.items():
        assert back[name].dtype == part.dtype and back[name].shape == part.shape
        assert back[name].tobytes() == part.tobytes() and back[name].flags.writeable


@pytest.mark.parametrize("part", [np.arange(6.0)[::2], np.arange(6.0).reshape(2, 3).T, np.arange(3.0).astype(">f8")])
def test_numbers_travel_and_not_the_memory_that_they_lie_in(part):
    """safetensors alone writes 0, 1, 2 for arange(6)[::2]: it takes memory as it lies."""
    assert (unpack(pack({"update": part}), MOST)["update"] == part).all()


@pytest.mark.parametrize(
    "letter", [{"a": np.array([None])}, {"a": np.array(["x"])}, {1: np.zeros(2)}, {"a": np.array([1j])}, {"a": "text"}]
)
def test_what_is_no_array_of_numbers_is_not_packed(letter):
    with pytest.raises(ValueError, match="a letter holds arrays of numbers by name"):
        pack(letter)


def by_hand(header, numbers=b"\0" * 8):
    """A file of the format, with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + numbers


def part(kind="F64", shape=(1,), ends=(0, 8)):
    return {"dtype": kind, "shape": list(shape), "data_offsets": list(ends)}


TWICE = json.dumps({"a": part()}).encode()
HOSTILE = {
    "empty": b"",
    "cut": pack(LETTER_OF_4)[:-1],
    "one byte more": pack(LETTER_OF_4) + b"\0",
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system",
    "a header of 2⁶⁴ bytes": b"\xff" * 8 + b"{}",
    "negative shape": by_hand({"a": part(shape=[-1])}),
    "huge shape": by_hand({"a": part(shape=[2**62])}),
    "a product that overflows": by_hand({"a": part(shape=[2**32, 2**32])}),
    "nothing, but of a huge shape": by_hand({"a": part(shape=[0, 2**62], ends=[0, 0])}, b""),
    "seventy axes": by_hand({"a": part(shape=[0] * 70, ends=[0, 0])}, b""),
    "fewer numbers than said": by_hand({"a": part(shape=[2], ends=[0, 16])}),
    "another type than said": by_hand({"a": part(kind="F32")}),
    "objects": by_hand({"a": part(kind="O")}),
    "a type that NumPy lacks": by_hand({"a": part(kind="BF16", shape=[4])}),
    "complex numbers": by_hand({"a": part(kind="C64")}),
    "numbers that nobody names": by_hand({"a": part()}, b"\0" * 16),
    "two parts in one place": by_hand({"a": part(), "b": part()}),
    "a name twice": by_hand(TWICE[:-1] + b", " + TWICE[1:]),
    "something beside the letter": by_hand({"__metadata__": {"note": "=cmd"}, "a": part()}),
    "another spelling": by_hand(b"  " + json.dumps({"a": part()}).encode()),
    "no JSON": by_hand(b"{{{{{{{{"),
    "deep JSON": by_hand(b"[" * 5000),
}


@pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE)
def test_bytes_that_pack_did_not_write_are_refused(payload):
    with pytest.raises(Refused, match="^it cannot be read as a letter$"):
        unpack(payload, MOST)


@given(st.data())
def test_a_damaged_letter_is_refused_or_read_as_what_its_bytes_now_say(drawn):
    payload = pack(LETTER_OF_4)
    at, gone = drawn.draw(st.integers(0, len(payload))), drawn.draw(st.integers(0, 9))
    damaged = payload[:at] + drawn.draw(st.binary(max_size=9)) + payload[at + gone :]
    try:
        letter = unpack(damaged, MOST)
    except Refused as why:
        assert str(why) == "it cannot be read as a letter"
    else:
        assert pack(letter) == damaged


def test_no_memory_is_taken_for_what_a_header_only_promises():
    import tracemalloc

    tracemalloc.start()
    for promise in ("huge shape", "a header of 2⁶⁴ bytes", "nothing, but of a huge shape"):
        with pytest.raises(Refused):
            unpack(HOSTILE[promise], MOST)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_a_letter_that_is_too_long_is_refused_unread():
    payload = pack({"update": np.zeros(100)})
    assert unpack(payload, len(payload))["update"].size == 100
    with pytest.raises(Refused, match="has at most"):
        unpack(payload, len(payload) - 1)


@given(st.lists(st.binary(max_size=12), max_size=5), st.lists(st.binary(max_size=12), max_size=5))
def test_other_parts_give_other_bytes_wherever_they_are_cut(one, other):
    assert unframed(framed(*one)) == one
    assert (framed(*one) == framed(*other)) == (one == other)


@pytest.mark.parametrize("data", [b"\0", framed(b"abc")[:-1], framed(b"abc") + b"\0" * 7, b"\xff" * 8])
def test_lengths_that_do_not_fit_are_refused(data):
    with pytest.raises(ValueError, match="shorter than its length says"):
        unframed(data)


def test_very_many_empty_parts_are_read_in_one_pass():
    assert len(unframed(bytes(8 * 10**5))) == 10**5


OTHER_ORDERS = {
    "round": ORDER._replace(round=5),
    "one bit of θ": ORDER._replace(theta=np.nextafter(ORDER.theta, [9, 0.2, 0.3])),
    "shape of θ": ORDER._replace(theta=ORDER.theta[None]),
    "type of θ": ORDER._replace(theta=ORDER.theta.astype("f4")),
    "the bytes of θ as whole numbers": ORDER._replace(theta=ORDER.theta.view("i8")),
    "−0 for 0": ORDER._replace(told=ORDER.told | {"control": -np.zeros(3)}),
    "told something else": ORDER._replace(told=ORDER.told | {"control": np.ones(3)}),
    "told by another name": ORDER._replace(told={"lost": np.zeros(3), "also": np.ones(2)}),
    "told nothing": ORDER._replace(told={}),
    "told more": ORDER._replace(told=ORDER.told | {"more": np.zeros(0)}),
    "told deeper": ORDER._replace(told=ORDER.told | {"control": {"control": np.zeros(3)}}),
    "hospitals": ORDER._replace(hospitals=3),
    "accepted": ORDER._replace(accepted=np.array(4)),
    "topic": ORDER._replace(topic="keys"),
}


def test_orders_that_differ_in_anything_have_different_hashes():
    found = {name: order_hash(order, RUN) for name, order in OTHER_ORDERS.items()} | {"the order itself": HASH}
    assert len(set(found.values())) == len(found) == len(OTHER_ORDERS) + 1
    copy = ORDER._replace(theta=ORDER.theta.copy(), accepted=3, told=dict(reversed(ORDER.told.items())))
    assert order_hash(copy, RUN) == HASH
    assert order_hash(ORDER, "heart, the third try") != HASH
    with pytest.raises(ValueError, match="an order holds numbers and texts, not object"):
        order_hash(ORDER._replace(told={"control": object()}), RUN)


# ----------------------------------------------------------------------------------------------------------- signatures


def test_the_signature_is_ed25519_of_rfc_8032():
    """Test 2 of its section 7.1: the library signs as the standard says, and `signed` adds that signature."""
    private = Ed25519PrivateKey.from_private_bytes(
        bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    )
    published = "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    published += "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    assert private.sign(b"\x72").hex() == published
    sent = signed(private, "Bern", 4, HASH, b"payload")
    assert sent[-64:] == private.sign(sent[:-64])
    assert unframed(sent[:-64]) == [LETTER, b"Bern", (4).to_bytes(8), HASH, b"payload"]


@given(st.binary(max_size=200), st.data())
def test_any_byte_that_changes_is_refused_in_a_signed_and_in_a_sealed_letter(payload, drawn):
    private, agrees = keys(1)
    there = Line(agrees, SERVER.public_key(), "up", "Bern", "train", RUN)
    back = Line(SERVER, agrees.public_key(), "up", "Bern", "train", RUN)
    sent = signed(private, "Bern", 4, HASH, payload)
    sealed = there.seal(4, sent)
    assert verified(private.public_key(), "Bern", 4, HASH, back.open(4, sealed)) == payload
    for whole, refuse in (
        (sent, lambda data: verified(private.public_key(), "Bern", 4, HASH, data)),
        (sealed, lambda data: back.open(4, data)),
    ):
        at = drawn.draw(st.integers(0, len(whole) - 1))
        flip = drawn.draw(st.integers(1, 255))
        with pytest.raises(Refused):
            refuse(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
        with pytest.raises(Refused):
            refuse(whole[:at])


FORGED = {
    "wrong signer": (lambda: signed(keys(2)[0], "Bern", 4, HASH, b"x"), "not Bern's: another hand"),
    "another's name": (lambda: signed(keys(1)[0], "Basel", 4, HASH, b"x"), "in the name of another hospital"),
    "yesterday's": (lambda: signed(keys(1)[0], "Bern", 3, HASH, b"x"), "Bern's letter of round 4, and this is round 5"),
    "tomorrow's": (lambda: signed(keys(1)[0], "Bern", 5, HASH, b"x"), "Bern's letter of round 6, and this is round 5"),
    "another order": (lambda: signed(keys(1)[0], "Bern", 4, bytes(32), b"x"), "answers another order than Bern"),
    "signed, no letter": (lambda: b"a text" + keys(1)[0].sign(b"a text"), "Bern signed it, but not as a letter"),
    "another use": (
        lambda: (body := framed(b"bill", b"Bern", (4).to_bytes(8), HASH, b"x")) + keys(1)[0].sign(body),
        "Bern signed it, but not as a letter",
    ),
    "too short": (lambda: b"x", "not Bern's"),
}


@pytest.mark.parametrize(("forge", "words"), FORGED.values(), ids=FORGED)
def test_38_39_a_letter_that_is_not_this_hospitals_for_this_round_and_order_is_refused(forge, words):
    with pytest.raises(Refused, match=words):
        verified(keys(1)[0].public_key(), "Bern", 4, HASH, forge())


# ---------------------------------------------------------------------------------------------------------------- seals


def test_the_seal_is_what_its_parts_are_by_hand():
    """X25519, HKDF-SHA256 over a framed label, ChaCha20-Poly1305 with the round as nonce, put together here anew."""
    mine, theirs = keys(1)[1], keys(2)[1].public_key()
    ends = sorted(key.public_bytes_raw() for key in (mine.public_key(), theirs))
    label = framed(b"fedlearn-mini seal 1", b"up", b"Bern", *ends)
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=label).derive(mine.exchange(theirs))
    by_parts = ChaCha20Poly1305(key).encrypt(bytes(11) + b"\x04", b"message", None)
    assert Line(mine, theirs, "up", "Bern").seal(4, b"message") == by_parts
    assert len(by_parts) == len(b"message") + 16


@pytest.mark.parametrize("label", [("down", "Bern"), ("up", "Basel"), ("upBern",), ("up", "Bern", ""), ("Bern", "up")])
def test_another_direction_hospital_or_use_has_another_key(label):
    sealed = Line(keys(1)[1], SERVER.public_key(), "up", "Bern").seal(4, b"message")
    with pytest.raises(Refused, match="the seal does not open for round 5"):
        Line(SERVER, keys(1)[1].public_key(), *label).open(4, sealed)


def test_45_a_round_is_sealed_once_with_a_key_also_after_a_crash():
    awake, woken = (Line(keys(1)[1], SERVER.public_key(), "up", last=last) for last in (-1, 3))
    awake.seal(3, b"first")
    for line in (awake, woken):
        for r in (3, 2):
            with pytest.raises(Refused, match="round 4 is sealed already"):
                line.seal(r, b"second")
        line.seal(4, b"next")
    for r in (-1, 1.0, True):
        with pytest.raises(ValueError, match="the round must be a whole number"):
            Line(keys(1)[1], SERVER.public_key(), "up").seal(r, b"x")


def test_45_why_two_messages_under_one_nonce_would_give_each_other_away():
    """Their XOR is the XOR of the messages: what `last` prevents."""
    first, second = (Line(keys(1)[1], SERVER.public_key(), "up").seal(3, text) for text in (b"ill", b"not"))
    assert bytes(a ^ b for a, b in zip(first, second, strict=True))[:3] == bytes(
        a ^ b for a, b in zip(b"ill", b"not", strict=True)
    )


LOW_ORDER = [  # of the list in https://cr.yp.to/ecdh.html
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ec" + "ff" * 30 + "7f",
    "ed" + "ff" * 30 + "7f",
    "ee" + "ff" * 30 + "7f",
]


@pytest.mark.parametrize("raw", LOW_ORDER)
def test_43_a_key_of_low_order_is_refused(raw):
    public = X25519PublicKey.from_public_bytes(bytes.fromhex(raw))
    with pytest.raises(Refused, match="of low order"):
        registered({"Bern": Card(keys(1)[0].public_key(), public)}, SERVER, RUN)


@pytest.mark.parametrize("which", [0, 1])
def test_43_two_hospitals_with_one_key_are_refused(which):
    pairs = [list(keys(1)), list(keys(2))]
    pairs[1][which] = pairs[0][which]
    with pytest.raises(Refused, match="Bern and Basel registered the same key"):
        registered({name: Card.of(*pair) for name, pair in zip(("Bern", "Basel"), pairs, strict=True)}, SERVER, RUN)


def test_a_fingerprint_changes_with_each_of_the_two_keys():
    one, other = Card.of(*keys(1)), Card.of(*keys(2))
    cards = [one, other, one._replace(agrees=other.agrees), one._replace(signs=other.signs)]
    prints = [card.fingerprint() for card in cards]
    assert len(set(prints)) == 4 and all(len(print) == 39 for print in prints)
    swapped = Card(Ed25519PublicKey.from_public_bytes(one.agrees.public_bytes_raw()), one.agrees)
    assert swapped.fingerprint() != one.fingerprint()


# ------------------------------------------------------------------------------------------- a federation over the post


class Sender(Node):
    """A hospital that has its records, its keys, and the server's public key."""

    run = RUN

    def __init__(self, hospitals, seat, parts, theta):
        super().__init__(hospitals, seat, parts, theta)
        self.name, (self.signs, self.agrees) = hospitals.names[seat], keys(seat + 1)
        self.line = Line(self.agrees, SERVER.public_key(), "up", self.name, "train", self.run)

    def answer(self, order):
        """(name on the outside, sealed bytes): all that leaves the house."""
        return self.posted(order, self(order))

    def posted(self, order, letter):
        sent = signed(self.signs, self.name, order.round, order_hash(order, self.run), pack(letter))
        return self.name, self.line.seal(order.round, sent)


def by_post(model, hospitals, plan, rounds, way=lambda r, post: post, senders=Sender):
    """State and all refusals after rounds whose letters travelled as bytes; way(r, post) happens between the sides."""
    parts, desk = pieces(plan, model), Desk.of(hospitals)
    state, _ = protocol.opened(initial(model, plan), parts, desk)
    nodes = [senders(hospitals, seat, parts, state.theta) for seat in range(len(desk.names))]
    doors = registered({node.name: Card.of(node.signs, node.agrees) for node in nodes}, SERVER, RUN)
    told = []
    for r in range(rounds):
        order, invited, present = at_server_before(state, parts, desk)
        orders = {seat: order._replace(accepted=order.accepted[seat]) for seat in present}
        post = []
        for seat, own in orders.items():
            try:
                post.append(nodes[seat].answer(own))
            except RuntimeError:
                told.append((r + 1, desk.names[seat], "did not answer"))
        answered = {desk.names[seat]: order_hash(own, RUN) for seat, own in orders.items()}
        said, refused = delivered(way(r, post), doors, r, answered, MOST)
        said = {desk.names.index(name): letter for name, letter in said.items()}
        letters, wrong = received(said, present, desk.sizes, r, parts.hospital.told, order.theta)
        told += [(r + 1, name, why) for name, why in refused]
        told += [(r + 1, desk.names[seat], why) for seat, why in wrong.items()]
        state, _, _ = at_server_after(state, order, invited, letters, parts, desk)
    return state, told


ONE_LETTER = [name for name, (_, plan) in METHODS.items() if plan.masks is None]  # masked rounds are conversations


@pytest.mark.parametrize("name", ONE_LETTER)
def test_a_federation_by_post_equals_the_federation_bit_for_bit(name, rng):
    (model, plan), many = METHODS[name], equal_sizes(rng)
    state, _ = fit(model, many, plan, rounds=6)
    posted, told = by_post(model, many, plan, 6)
    assert not told and (posted.theta == state.theta).all() and np.abs(state.theta).max() > 0
    assert all((posted.told[part] == state.told[part]).all() for part in state.told)


def test_letters_of_single_precision_stay_single_on_the_way(rng):
    many = equal_sizes(rng)
    small = many._replace(X=many.X.astype("f4"), y=many.y.astype("f4"), w=many.w.astype("f4"))
    posted, told = by_post(LOGISTIC, small, PLAN, 3)
    assert not told and posted.theta.dtype == np.float32
    assert (posted.theta == fit(LOGISTIC, small, PLAN, rounds=3)[0].theta).all()


PLAN = Plan(lr=0.3, steps=5)


def without(second, plan=PLAN):
    """The plan in which the second hospital stays silent in round 3: what a refusal must come to."""
    return replace(plan, dropout=lambda r: np.array([0, float(r == 2 and second), 0, 0]))


class Unwell(Sender):
    """One that raises in round 3."""

    def answer(self, order):
        if self.seat == 1 and order.round == 2:
            raise RuntimeError("out of memory")
        return super().answer(order)


def changed(how):
    """A way on which something happens to the second hospital's letter of round 3; the letters before are known."""
    known = []

    def way(r, post):
        known.extend(post)
        if r != 2:
            return post
        return [*post[:1], *how(post[1], known), *post[2:]]

    return way


def flipped(name, sealed):
    return name, bytes([sealed[0] ^ 1]) + sealed[1:]


def counting_for(n):
    """A hospital that says it holds so many records; round 3 only. The signature is its own, and in order."""

    class Liar(Sender):
        def __call__(self, order):
            letter = super().__call__(order)
            return letter | {"weight": np.array(n)} if self.seat == 1 and order.round == 2 else letter

    return Liar


def misled():
    """A hospital whose order is changed on the way down in round 3: it trains from another model."""

    class Misled(Sender):
        def answer(self, order):
            wrong = self.seat == 1 and order.round == 2
            return super().answer(order._replace(theta=order.theta + 1) if wrong else order)

    return Misled


def mallory(post, known):
    """A letter signed and sealed with keys that are not the hospital's."""
    signs, agrees = keys(66)
    line = Line(agrees, SERVER.public_key(), "up", post[0], "train", RUN)
    return [(post[0], line.seal(2, signed(signs, post[0], 2, HASH, pack(LETTER_OF_4))))]


SEAL, NOBODY = "the seal does not open for round 3", "nobody of this name was sent an order"
HARM = {
    "31 it raises": ({"senders": Unwell}, "did not answer"),
    "32 it never answers": ({"way": changed(lambda post, known: [])}, None),
    "32 after the deadline: the letter of round 2": ({"way": changed(lambda post, known: [known[5]])}, SEAL),
    "36 no record": ({"senders": counting_for(0)}, "it counts for 0 records, and 24 are registered"),
    "36 fewer than none": ({"senders": counting_for(-24)}, "it counts for -24 records"),
    "36 10¹² records": ({"senders": counting_for(10**12)}, "it counts for 1000000000000 records"),
    "36 half a record": ({"senders": counting_for(0.5)}, "its weight has the shape"),
    "38 a bit flips": ({"way": changed(lambda post, known: [flipped(*post)])}, SEAL),
    "38 another signer": ({"way": changed(mallory)}, SEAL),
    "38 another's letter": ({"way": changed(lambda post, known: [(post[0], known[-2][1])])}, SEAL),
    "38 a stranger": ({"way": changed(lambda post, known: [("Zug", post[1])])}, NOBODY),
    "39 another model came down": ({"senders": misled()}, "it answers another order"),
}


@pytest.mark.parametrize(("how", "words"), HARM.values(), ids=HARM)
def test_a_letter_that_does_not_count_is_named_and_the_round_goes_on_without_it(how, words, rng):
    many = equal_sizes(rng)
    state, told = by_post(LOGISTIC, many, PLAN, 4, **how)
    expected, _ = fit(LOGISTIC, many, without(True), rounds=4)
    assert (state.theta == expected.theta).all()
    assert (state.theta != fit(LOGISTIC, many, PLAN, rounds=4)[0].theta).any()  # it is missed
    assert [r for r, _, _ in told] == [3] * (words is not None)
    for _, name, why in told:
        assert name == (many.names[1] if words != NOBODY else "Zug") and words in why


@pytest.mark.parametrize("first", [False, True])
def test_38_a_forged_letter_beside_the_genuine_one_harms_nobody_whichever_comes_first(first, rng):
    many = equal_sizes(rng)

    def both(post, known):
        forged = mallory(post, known)
        return [*forged, post] if first else [post, *forged]

    state, told = by_post(LOGISTIC, many, PLAN, 4, way=changed(both))
    assert (state.theta == fit(LOGISTIC, many, PLAN, rounds=4)[0].theta).all()
    assert [(r, name) for r, name, _ in told] == [(3, many.names[1])]


def test_38_a_letter_that_comes_twice_counts_once(rng):
    many = equal_sizes(rng)
    state, told = by_post(LOGISTIC, many, PLAN, 4, way=changed(lambda post, known: [post, post]))
    assert (state.theta == fit(LOGISTIC, many, PLAN, rounds=4)[0].theta).all()
    assert told == [(3, many.names[1], "it has answered in this round")]


def test_38_the_first_letter_of_another_run_from_the_same_seed_is_refused(rng):
    """The order of round 1 is the same to the last bit: the name of the run is all that tells them apart."""
    many = equal_sizes(rng)
    model, parts = LOGISTIC, pieces(PLAN, LOGISTIC)
    before = type("Before", (Sender,), {"run": "heart, the first try"})(many, 1, parts, np.zeros(6))
    theta = initial(model, PLAN).theta
    old = before.answer(Order(0, theta, {}, 4, np.array(0)))
    state, told = by_post(model, many, PLAN, 2, way=lambda r, post: [old, *post] if r == 0 else post)
    assert (state.theta == fit(model, many, PLAN, rounds=2)[0].theta).all()
    assert told == [(1, many.names[1], told[0][2])] and "the seal does not open" in told[0][2]
    own = signed(before.signs, before.name, 0, order_hash(Order(0, theta, {}, 4, np.array(0)), before.run), b"x")
    now = order_hash(Order(0, theta, {}, 4, np.array(0)), RUN)
    with pytest.raises(Refused, match="of another run"):
        verified(before.signs.public_key(), before.name, 0, now, own)


def test_38_what_is_too_long_is_not_opened():
    doors = registered({"Bern": Card.of(*keys(1))}, SERVER, RUN)
    line = Line(keys(1)[1], SERVER.public_key(), "up", "Bern", "train", RUN)
    sealed = line.seal(4, signed(keys(1)[0], "Bern", 4, HASH, pack(LETTER_OF_4)))
    assert delivered([("Bern", sealed)], doors, 4, {"Bern": HASH}, len(sealed))[0].keys() == {"Bern"}
    _, refused = delivered([("Bern", sealed)], doors, 4, {"Bern": HASH}, len(sealed) - 1)
    assert refused == [("Bern", f"it has {len(sealed)} bytes, and at most {len(sealed) - 1} are opened")]


def test_38_who_was_not_asked_is_not_heard():
    """Bern is registered and signs as it should, but it was not invited to this round."""
    doors = registered({"Bern": Card.of(*keys(1)), "Basel": Card.of(*keys(2))}, SERVER, RUN)
    line = Line(keys(1)[1], SERVER.public_key(), "up", "Bern", "train", RUN)
    post = [("Bern", line.seal(4, signed(keys(1)[0], "Bern", 4, HASH, pack(LETTER_OF_4))))]
    assert delivered(post, doors, 4, {"Bern": HASH}, MOST)[0].keys() == {"Bern"}
    assert delivered(post, doors, 4, {"Basel": HASH}, MOST) == ({}, [("Bern", NOBODY)])


def test_45_who_answers_an_order_twice_is_stopped_at_home():
    many = equal_sizes(np.random.default_rng(7))
    sender = Sender(many, 0, pieces(PLAN, LOGISTIC), np.zeros(6))
    order = Order(0, np.zeros(6), {}, 4, np.array(0))
    sender.answer(order)
    with pytest.raises(Refused, match="round 1 is sealed already"):
        sender.answer(order)


def test_what_travels_tells_how_long_a_letter_is_and_no_more(rng):
    """Two letters of one length: as long when sealed, and unlike each other in every other way."""
    one, other = (LETTER_OF_4 | {"update": rng.normal(size=3)} for _ in range(2))
    line = Line(keys(1)[1], SERVER.public_key(), "up")
    sealed = [line.seal(r, signed(keys(1)[0], "Bern", r, HASH, pack(letter))) for r, letter in enumerate((one, other))]
    assert len(sealed[0]) == len(sealed[1])
    same = np.mean(np.frombuffer(sealed[0], np.uint8) == np.frombuffer(sealed[1], np.uint8))
    assert same < 0.02  # 1/256 by chance
    assert b"Bern" not in sealed[0] and b"update" not in sealed[0]
