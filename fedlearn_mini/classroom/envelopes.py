"""Six envelopes for one letter, and what somebody on the wire can do to each: the playground of notebook 15.

Every envelope is written and checked by the functions that the page derives; nothing here pretends. The seventh
protection, a person at the telephone, is on the page.
"""

import zlib
from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple

import numpy as np
from cryptography.exceptions import InvalidSignature

from ..desk import Desk, received
from ..post import SIGNATURE, Line, Refused, order_hash, pack, signed, unpack, verified
from . import plots

WIDE = 32  # bytes in a row of the picture
MOST = 10_000
ENVELOPES = ("nothing", "CRC", "hash beside it", "signature", "+ round, order", "+ seal")
ATTACKS = (
    "a cable flips a bit",
    "nobody attacks",
    "rewrites a byte",
    "signs with her own key",
    "another's letter",
    "last week's letter",
    "another model goes down",
)


class Wire(NamedTuple):
    """What travels on one evening, and what else lies about.

    keys       name -> its two private keys, Ed25519 and X25519; of "Mallory" too
    server     the server's X25519 private key
    desk       who is registered, see `desk.Desk`
    name       the hospital whose letter is attacked; other: one that writes in the same round
    today      (order, {name: letter}, name of the run); last_week the same of another run
    misled     the same of hospitals whose order was changed on the way down
    """

    keys: Callable
    server: object
    desk: Desk
    name: str
    other: str
    today: tuple
    last_week: tuple
    misled: tuple

    def write(self, envelope, who, answered, payload):
        """The letter in its envelope, by somebody with these private keys, in answer to an order with this hash."""
        signing, agreeing = who
        r, public = self.today[0].round, self.server.public_key()
        if envelope == "signature":
            return payload + signing.sign(payload)
        if envelope == "+ round, order":
            return signed(signing, self.name, r, answered, payload)
        if envelope == "+ seal":
            own = signed(signing, self.name, r, answered, payload)
            return Line(agreeing, public, "up", self.name, "train", self.today[2]).seal(r, own)
        return payload + check_of(envelope, payload)

    def read(self, envelope, sent):
        """The letter in it, or Refused: what a server does that knows this protection."""
        signing, agreeing = self.keys(self.name)
        public, (order, _, run) = signing.public_key(), self.today
        if envelope == "signature":
            try:
                public.verify(sent[-SIGNATURE:], sent[:-SIGNATURE])
            except InvalidSignature:
                raise Refused(f"the signature is not {self.name}'s for this letter") from None
            return sent[:-SIGNATURE]
        if envelope == "+ seal":
            sent = Line(self.server, agreeing.public_key(), "up", self.name, "train", self.today[2]).open(
                order.round, sent
            )
        if envelope.startswith("+"):
            return verified(public, self.name, order.round, order_hash(order, run), sent)
        payload = sent[: len(sent) - len(check_of(envelope, b""))]
        if payload + check_of(envelope, payload) != sent:
            raise Refused(f"the {envelope.split()[0]} is another one")
        return payload

    def sent(self, attack, envelope, byte, bit):
        """What arrives at the server after an attack on this envelope."""
        own, hers = self.keys(self.name), self.keys("Mallory")
        order, letters, run = self.today
        payload, answered = pack(letters[self.name]), order_hash(order, run)
        genuine, turned = self.write(envelope, own, answered, payload), flipped(payload, byte, bit)
        keyless = envelope in ENVELOPES[:3]  # whoever it is can make this envelope anew
        if attack == "a cable flips a bit" or attack == "rewrites a byte" and not keyless:
            return flipped(genuine, max(genuine.find(payload), 0) + byte, bit)
        if attack == "another's letter":
            mended = {part: letters[self.name][part] for part in ("seat", "weight") if keyless}
            return self.write(envelope, self.keys(self.other), answered, pack(letters[self.other] | mended))
        if attack in ("last week's letter", "another model goes down"):
            order, letters, run = self.last_week if attack.startswith("last") else self.misled
            return self.write(envelope, own, order_hash(order, run), pack(letters[self.name]))
        who, content = {
            "nobody attacks": (own, payload),
            "rewrites a byte": (own, turned),
            "signs with her own key": (hers, turned),
        }[attack]
        return self.write(envelope, who, answered, content)

    def judged(self, attack, envelope, byte, bit):
        """Whether the letter is let in, and what the server says."""
        (order, *_), seat = self.today, self.desk.names.index(self.name)
        try:
            letter = unpack(self.read(envelope, self.sent(attack, envelope, byte, bit)), MOST)
        except Refused as why:
            return False, str(why)
        _, wrong = received({seat: letter}, np.array([seat]), self.desk.sizes, order.round, (), order.theta)
        return not wrong, wrong.get(seat, "averaged with the others")

    def table(self, byte, bit):
        """{attack: {envelope: "in" or "out"}} for one byte and bit."""
        return {
            attack: {name: "in" if self.judged(attack, name, byte, bit)[0] else "out" for name in ENVELOPES}
            for attack in ATTACKS
        }


def check_of(envelope, payload):
    """What stands behind the letter for all to compute: nothing, four bytes of CRC-32, or 32 of SHA-256."""
    made = {"nothing": b"", "CRC": zlib.crc32(payload).to_bytes(4), "hash beside it": sha256(payload).digest()}
    return made[envelope]


def flipped(data, byte, bit):
    """The same bytes with one bit of one byte turned over."""
    return data[:byte] + bytes([data[byte] ^ 1 << bit]) + data[byte + 1 :]


def stage(payload):
    """A letter as a grid of its bytes, and a line for each envelope: figure, marks of changed bytes, lines of words."""
    header, below = 8 + int.from_bytes(payload[:8], "little"), -(-len(payload) // WIDE)
    fig, ax = plots.sheet(width=9.5, height=5.8)
    ax.set(xlim=(-0.5, WIDE - 0.5), ylim=(below + 8.6, -0.5), xticks=[])
    ax.set_yticks(range(below), [str(WIDE * row) for row in range(below)], fontsize=8)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    for i, byte in enumerate(payload):
        text = chr(byte) if 8 <= i < header else f"{byte:02x}"
        color = "black" if i >= header else "0.4"
        ax.text(i % WIDE, i // WIDE, text, ha="center", va="center", fontsize=8, color=color, parse_math=False)
    spots = ax.scatter([], [], s=190, marker="s", facecolor="none", edgecolor=plots.PALETTE[1], linewidth=2)
    rows = [below + 1 + 1.4 * row for row in range(len(ENVELOPES))]
    for name, y in zip(ENVELOPES, rows, strict=True):
        ax.text(-0.4, y, name, va="center", fontsize=10)
    return fig, spots, [ax.text(5.2, y, "", va="center", fontsize=10) for y in rows]


def move(wire, spots, words, attack, byte, bit):
    """Draw what an attack changes in the bare letter and what each envelope comes to; the sentence that says so."""
    verdicts = {name: wire.judged(attack, name, byte, bit) for name in ENVELOPES}
    for (welcome, why), text in zip(verdicts.values(), words, strict=True):
        text.set_text(f"{'IN' if welcome else 'OUT'}:  {why.partition(':')[0]}")  # every glyph costs time
        text.set_fontweight("bold" if welcome else "normal")
    before, now = (wire.sent(one, "nothing", byte, bit) for one in ("nobody attacks", attack))
    places = [i for i, (x, y) in enumerate(zip(before, now, strict=True)) if x != y]
    spots.set_offsets(np.array([[i % WIDE, i // WIDE] for i in places]).reshape(-1, 2))
    let_in = ", ".join(name for name, (welcome, _) in verdicts.items() if welcome)
    return f"{attack}: {difference(before, now)}. Let in by the server with: {let_in or 'none of the six'}."


def difference(before, now):
    """Which parts of a letter are not as they were, in words."""
    try:
        one, other = unpack(before, MOST), unpack(now, MOST)
    except Refused:
        return "the letter can no longer be read"
    parts = [name for name in one if name != "update" and (other[name] != one[name]).any()]
    moved = np.flatnonzero(other["update"] != one["update"])
    if moved.size == 1:
        was, now = (float(letter["update"][moved[0]]) for letter in (one, other))
        digits = 4 if f"{now:.4g}" != f"{was:.4g}" else 17
        parts.append(f"in place {moved[0] + 1} of Δ, {now:.{digits}g} for {was:.{digits}g}")
    elif moved.size:
        parts.append(f"{moved.size} of Δ")
    return f"other numbers arrive ({', '.join(parts)})" if parts else "the letter arrives as it was written"
