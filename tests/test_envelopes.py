"""The six envelopes of notebook 15's playground: each is let in or refused for the reason that the page gives."""

from hashlib import sha256

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedlearn_mini import data, models
from fedlearn_mini.classroom import envelopes
from fedlearn_mini.desk import Desk
from fedlearn_mini.plan import Plan, pieces
from fedlearn_mini.post import pack
from fedlearn_mini.protocol import at_server_before, collect, initial, opened


def keys(name):
    raw = sha256(name.encode()).digest()
    return Ed25519PrivateKey.from_private_bytes(raw), X25519PrivateKey.from_private_bytes(raw)


@pytest.fixture(scope="module")
def wire():
    model, plan = models.logistic(5), Plan(lr=0.3, steps=5)
    many = data.make_hospitals(4, 30, d=5, skew=1.0, difference=0.5, rng=7)
    parts, desk = pieces(plan, model), Desk.of(many)

    def one_evening(theta, run):
        state, _ = opened(initial(model, plan, theta), parts, desk)
        order, _, seats = at_server_before(state, parts, desk)
        rows, _ = collect(order, parts, many, desk, {}, seats, seats)
        return order, {name: {part: rows[part][k] for part in rows} for k, name in enumerate(desk.names)}, run

    evenings = [one_evening(np.full(6, start), run) for start, run in ((0.0, "now"), (0.1, "then"), (0.2, "now"))]
    return envelopes.Wire(keys, keys("server")[1], desk, desk.names[2], desk.names[1], *evenings)


LET_IN = {  # how many of the six envelopes, in their order, are let in
    "nobody attacks": 6,
    "a cable flips a bit": 1,
    "rewrites a byte": 3,
    "signs with her own key": 3,
    "another's letter": 3,
    "last week's letter": 4,
    "another model goes down": 4,
}


@pytest.mark.parametrize("attack", envelopes.ATTACKS)
def test_each_envelope_stops_what_the_page_says_that_it_stops(wire, attack):
    payload = pack(wire.today[1][wire.name])
    for byte in (len(payload) - 48, len(payload) - 1):  # the first and the last byte of Δ
        for bit in (0, 3):
            verdicts = [wire.judged(attack, name, byte, bit)[0] for name in envelopes.ENVELOPES]
            assert verdicts == [True] * LET_IN[attack] + [False] * (6 - LET_IN[attack])


@pytest.mark.parametrize("envelope", envelopes.ENVELOPES[1:])
def test_no_flipped_bit_of_a_cable_is_let_in_by_any_check(wire, envelope):
    payload = pack(wire.today[1][wire.name])
    for byte in range(0, len(payload), 7):
        assert not wire.judged("a cable flips a bit", envelope, byte, byte % 8)[0]


def test_reasons_are_those_of_the_attack(wire):
    said = {attack: wire.judged(attack, "+ round, order", 350, 1)[1] for attack in envelopes.ATTACKS}
    assert "averaged with the others" == said["nobody attacks"]
    for attack in ("last week's letter", "another model goes down"):
        assert "answers another order" in said[attack]
    for attack in ("a cable flips a bit", "rewrites a byte", "signs with her own key", "another's letter"):
        assert "the signature is not" in said[attack]


def test_the_sentence_says_what_changed_and_who_was_fooled(wire):
    payload = pack(wire.today[1][wire.name])
    _, spots, words = envelopes.stage(payload)

    def said(attack, byte):
        return envelopes.move(wire, spots, words, attack, byte, 1)

    first = len(payload) - 48
    was = float(wire.today[1][wire.name]["update"][0])
    assert f" for {was:.17g}). Let in by the server with: nothing." in said("a cable flips a bit", first)
    assert f"(in place 1 of Δ, {-was:.4g} for {was:.4g})" in envelopes.move(
        wire, spots, words, "rewrites a byte", first + 7, 7
    )
    said("a cable flips a bit", first)
    assert spots.get_offsets().tolist() == [[first % 32, first // 32]]
    assert "can no longer be read. Let in by the server with: none of the six." in said("a cable flips a bit", 20)
    assert "(weight). Let in by the server with: none of the six." in said("rewrites a byte", first - 8)
    assert "arrives as it was written" in said("nobody attacks", first) and words[5].get_text().startswith("IN")
