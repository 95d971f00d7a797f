"""Small messages: an update in fewer bytes, and messages cut into chunks that survive a bad line. Notebook 16.

A compressor turns rows into bytes and back: `message` is what travels, `read` is what the server makes of it, and
calling it does both, so that the server gets what a wire would bring. Put it around a hospital
with `hospital.compressed`, or with `hospital.feedback`, which sends another day what was lost today. The model on its
way down is not compressed.
"""

import math
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .chance import Purpose
from .checks import number, whole

HEADER = 8  # bytes: which compressor, and how many numbers


class Compressor(NamedTuple):
    """Rows to bytes and back.

    code       a number for the header, so that a message says how it is to be read
    body       P -> bytes of a row without the header, L
    encode     rows (..., P), dice -> (..., L) uint8
    decode     (..., L) uint8, P -> rows (..., P), float32
    contracts  P -> whether ‖x − x̃‖² ≤ a‖x‖² with a < 1, so that what is lost dies out: `feedback` needs it
    """

    code: int
    body: Callable
    encode: Callable
    decode: Callable
    contracts: Callable = lambda P: True

    def length(self, P):
        """How many bytes a row of P numbers takes, header included."""
        return HEADER + self.body(P)

    def message(self, rows, dice=None):
        """The bytes that travel, header included: (..., P) -> (..., L) uint8."""
        rows = np.asarray(rows)
        body = self.encode(rows, dice)
        header = np.frombuffer(self.code.to_bytes(4, "little") + rows.shape[-1].to_bytes(4, "little"), np.uint8)
        return np.concatenate([np.broadcast_to(header, (*body.shape[:-1], HEADER)), body], axis=-1)

    def read(self, message, P):
        """Rows of a message, (..., L) uint8 -> (..., P) float32.

        P is what the reader knows of the model, not what the message claims. A ValueError where another compressor
        wrote it, or for another model, or with another length: nothing is laid out in memory before.
        """
        if message.shape[-1] != self.length(P):
            raise ValueError(
                f"a message of {P} numbers has {self.length(P)} bytes here, and this one {message.shape[-1]}."
            )
        code, claimed = np.ascontiguousarray(message[..., :HEADER]).view("<u4").reshape(-1, 2)[0].tolist()
        if (code, claimed) != (self.code, P):
            raise ValueError(
                f"this message was written by compressor {code} for {claimed} numbers, and compressor {self.code} "
                f"expects {P}."
            )
        return self.decode(message[..., HEADER:], P)

    def __call__(self, rows, dice=None):
        """What arrives, in the type of number that was sent: (..., P) -> (..., P)."""
        rows = np.asarray(rows)
        return self.read(self.message(rows, dice), rows.shape[-1]).astype(rows.dtype, copy=False)


@np.errstate(over="ignore")  # beyond the largest float it is ∞, and the server refuses such a letter
def as_bytes(array, kind):
    """(..., n) numbers -> (..., n · size) uint8, low byte first."""
    return np.ascontiguousarray(array, dtype=kind).view(np.uint8)


def as_numbers(some, kind):
    """(..., n · size) uint8 -> (..., n) numbers."""
    return np.ascontiguousarray(some).view(kind)


# ---------------------------------------------------------------------------------------------------------- fewer bits


def floats(bits=32) -> Compressor:
    """Each number as a float of 32 or 16 bits.

    >>> floats(16)(np.array([0.1, 1.0])), floats(16).length(P=2)
    (array([0.09997559, 1.        ]), 12)
    """
    if bits not in (16, 32):
        raise ValueError(f"bits must be 16 or 32, but it is {bits!r}: NumPy has no float of that length.")
    kind = f"<f{bits // 8}"

    def encode(rows, dice):
        return as_bytes(rows, kind)

    return Compressor(bits, lambda P: P * bits // 8, encode, lambda some, P: as_numbers(some, kind).astype("f4"))


def quantised(bits=8, by_coin=False) -> Compressor:
    """x̃ = s · v/L with s = max|x|, L = 2^(bits − 1) − 1, v = x/s · L to the nearest whole number; one bit: s · sign(x).

    bits     8 or 16; 1 is signSGD with s = ‖x‖₁/P, which loses exactly 1 − ‖x‖₁²/(P‖x‖₂²) of ‖x‖²
    by_coin  up or down by a coin, so that x̃ is right on average (not with one bit)

    Bernstein et al. 2018, arXiv:1802.04434; its scale: Karimireddy et al. 2019, arXiv:1901.09847.

    >>> quantised(1)(np.array([3.0, -1.0, 2.0, -2.0])), quantised(1).length(P=4)
    (array([ 2., -2.,  2., -2.]), 13)
    """
    if bits not in (1, 8, 16) or (bits == 1 and by_coin):
        raise ValueError(f"bits must be 1, 8 or 16, and with one bit there is no coin; not {bits!r}.")
    if bits == 1:
        return Compressor(1, lambda P: 4 + -(-P // 8), encode_signs, decode_signs)
    kind, L = f"<i{bits // 8}", 2 ** (bits - 1) - 1

    def encode(rows, dice):
        s = np.abs(rows).max(axis=-1, keepdims=True).astype("f4")
        levels = rows / np.where(s > 0, s, 1) * L
        levels = by_chance(levels, dice) if by_coin else np.rint(levels)
        return np.concatenate([as_bytes(s, "<f4"), as_bytes(held(levels, L), kind)], axis=-1)

    def decode(some, P):
        return as_numbers(some[..., :4], "<f4") * (as_numbers(some[..., 4:], kind).astype("f4") / L)

    return Compressor(100 + 2 * bits + by_coin, lambda P: 4 + P * bits // 8, encode, decode)


def encode_signs(rows, dice):
    s = np.abs(rows).mean(axis=-1, keepdims=True)
    return np.concatenate([as_bytes(s, "<f4"), np.packbits(rows >= 0, axis=-1)], axis=-1)


def decode_signs(some, P):
    up = np.unpackbits(some[..., 4:], axis=-1, count=P)
    return as_numbers(some[..., :4], "<f4") * np.where(up, np.float32(1), np.float32(-1))


def qsgd(levels=4) -> Compressor:
    """x̃ = ‖x‖₂ · sign(x) · v/s with v = |x|/‖x‖₂ · s up or down by a coin: E x̃ = x.

    levels  s: the variance is at most min(P/s², √P/s) · ‖x‖², in ⌈log₂(2s + 1)⌉ bits a number

    Alistarh et al. 2017, arXiv:1610.02132 (numbers of fixed length, without its entropy code).
    """
    s = whole("levels", levels)
    bits = math.ceil(math.log2(2 * s + 1))

    def encode(rows, dice):
        size = np.linalg.norm(rows, axis=-1, keepdims=True).astype("f4")
        v = held(by_chance(rows / np.where(size > 0, size, 1) * s, dice), s).astype("i8") + s
        planes = v[..., None] >> np.arange(bits) & 1
        return np.concatenate([as_bytes(size, "<f4"), np.packbits(planes.reshape(*v.shape[:-1], -1), axis=-1)], axis=-1)

    def decode(some, P):
        planes = np.unpackbits(some[..., 4:], axis=-1, count=P * bits).reshape(*some.shape[:-1], P, bits)
        v = (planes.astype("i8") << np.arange(bits)).sum(axis=-1) - s
        return as_numbers(some[..., :4], "<f4") * (v / s).astype("f4")

    return Compressor(
        2**16 + s, lambda P: 4 + -(-P * bits // 8), encode, decode, lambda P: min(P / s**2, P**0.5 / s) < 1
    )


def by_chance(values, dice):
    """Up or down to a whole number by a coin, so that the average is right."""
    return np.floor(values + dice.uniform(values.shape[-1:], Purpose.COMPRESSION))


def held(levels, most):
    """Whole numbers within ±most; what is no number becomes 0 (its scale is none either, and says so)."""
    return np.clip(np.nan_to_num(levels, nan=0.0), -most, most)


# ------------------------------------------------------------------------------------------------------- fewer numbers


def top_k(k) -> Compressor:
    """The k largest numbers by size, as float32, with their places: ‖x − x̃‖² ≤ (1 − k/P)‖x‖².

    k  how many, or the share of them that is kept, below 1. Without `feedback` this is pruning by size

    The places travel as a bitmap (P/8 bytes) or as whole numbers of 2 or 4 bytes each, whichever is shorter. Stich et
    al. 2018, arXiv:1809.07599.

    >>> top_k(2)(np.array([0.1, -3.0, 0.2, 2.0])), top_k(2).length(P=4)
    (array([ 0., -3.,  0.,  2.]), 17)
    """

    def best(rows, dice, k):
        return np.argpartition(np.abs(rows), rows.shape[-1] - k, axis=-1)[..., -k:]  # what is no number counts as large

    return sparse(k, best, code=3)


def random_k(k, scaled=False) -> Compressor:
    """k numbers at random; scaled: times P/k, so that they are right on average, and longer.

    Scaled, it must not be put into `feedback`: what is lost would grow. Stich et al. 2018, arXiv:1809.07599.
    """

    def drawn(rows, dice, k):
        luck = dice.uniform(rows.shape[-1:], Purpose.COMPRESSION)
        return np.argpartition(luck, k - 1, axis=-1)[..., :k]

    return sparse(k, drawn, code=4 + bool(scaled), scaled=scaled)


def sparse(k, choose, code, scaled=False) -> Compressor:
    """k numbers and their places, as `choose` (rows, dice, k) -> places (..., k) says."""
    if isinstance(k, float):
        number("the share that is kept", k, above=0, below=1)
    else:
        whole("k", k)

    def count(P):
        kept = max(1, round(k * P)) if isinstance(k, float) else k
        if kept > P:
            raise ValueError(f"k = {kept} numbers cannot be kept: an update of this model has {P}.")
        return kept

    def encode(rows, dice):
        P = rows.shape[-1]
        kept = count(P)
        places = np.sort(choose(rows, dice, kept), axis=-1)
        values = np.take_along_axis(rows, places, axis=-1) * (P / kept if scaled else 1)
        if bitmap(P, kept):
            there = np.zeros(rows.shape, bool)
            np.put_along_axis(there, places, True, axis=-1)
            where = np.packbits(there, axis=-1)
        else:
            where = as_bytes(places, integer(P))
        return np.concatenate([where, as_bytes(values, "<f4")], axis=-1)

    def decode(some, P):
        kept = count(P)
        values = as_numbers(some[..., -4 * kept :], "<f4")
        if bitmap(P, kept):
            there = np.unpackbits(some[..., : -4 * kept], axis=-1, count=P).astype(bool)
            places = np.nonzero(there)[-1].reshape(*some.shape[:-1], kept)
        else:
            places = as_numbers(some[..., : -4 * kept], integer(P)).astype(int)
        rows = np.zeros((*some.shape[:-1], P), "f4")
        np.put_along_axis(rows, places, values, axis=-1)
        return rows

    def body(P):
        kept = count(P)
        return 4 * kept + (-(-P // 8) if bitmap(P, kept) else kept * int(integer(P)[-1]))

    return Compressor(code, body, encode, decode, lambda P: not scaled)


def integer(P):
    """The shortest whole number that can say a place among P."""
    return "<u2" if P <= 2**16 else "<u4"


def bitmap(P, k):
    """Whether one bit for each of P numbers is shorter than a whole number for each of k."""
    return -(-P // 8) < k * int(integer(P)[-1])


# ---------------------------------------------------------------------------------------------------------- a bad line

FRAME = 20  # bytes around a chunk: of which message, its place, of how many, its length, a checksum over all


def chunks(message: bytes, size) -> list[bytes]:
    """The message cut into pieces of at most so many bytes, each with its place and a checksum (CRC-32).

    A checksum finds what a bad line does; who changes a chunk on purpose makes a new one (notebook 15).

    >>> [len(one) for one in chunks(b"0123456789", size=4)]
    [24, 24, 22]
    """
    size = whole("the size of a chunk", size)
    pieces = [message[at : at + size] for at in range(0, len(message), size)] or [b""]
    whose, cut = zlib.crc32(message), []
    for place, piece in enumerate(pieces):
        said = b"".join(part.to_bytes(4, "little") for part in (whose, place, len(pieces), len(piece))) + piece
        cut.append(said + zlib.crc32(said).to_bytes(4, "little"))
    return cut


def rejoin(received):
    """The message, or None, and the places that are missing: chunks in any order, some twice, damaged or of others.

    Nothing readable at all: (None, None). What must be asked for again are the places.

    >>> first, second, third = chunks(b"0123456789", size=4)
    >>> rejoin([third, first, third])
    (None, [1])
    >>> rejoin([third, first, second])
    (b'0123456789', [])
    """
    sound, votes = {}, {}
    for one in received:
        said, check = one[:-4], one[-4:]
        if len(one) < FRAME or zlib.crc32(said).to_bytes(4, "little") != check:
            continue
        whose, place, many, length = (int.from_bytes(said[at : at + 4], "little") for at in (0, 4, 8, 12))
        if place < many and length == len(said) - 16:
            sound.setdefault((whose, many), {})[place] = said[16:]
            votes[whose, many] = votes.get((whose, many), 0) + 1
    if not sound:
        return None, None
    whose, many = max(votes, key=lambda key: (len(sound[key]) == key[1], votes[key]))
    pieces = sound[whose, many]
    missing = [place for place in range(many) if place not in pieces] if len(pieces) < many else []
    message = None if missing else b"".join(pieces[place] for place in range(many))
    return (message, missing) if message is None or zlib.crc32(message) == whose else (None, [*range(many)])


class Link(NamedTuple):
    """A simulated line: what it loses, and how fast it is.

    loss     chance that a chunk does not arrive, each by itself
    speed    bytes a second of one stream
    delay    seconds from a question to its answer
    streams  how many chunks are on their way side by side
    """

    loss: float = 0.0
    speed: float = 1e6
    delay: float = 0.05
    streams: int = 1


class Trip(NamedTuple):
    """What a message took: bytes on the line, seconds of the simulated clock, and how often chunks were asked again."""

    bytes: int
    seconds: float
    again: int


def sent(message: bytes, size, line: Link, rng):
    """The message at the other end of a line, and its Trip: what is missing is asked for until all is there.

    The seconds are the simulation's own; no clock of the computer is read, so none can run backwards.
    """
    number("the loss", line.loss, least=0, below=1, hint="A line that loses everything brings nothing, ever.")
    number("the speed", line.speed, above=0)
    number("the delay", line.delay, least=0)
    whole("streams", line.streams)
    cut, have, total, seconds, asked = chunks(message, size), [], 0, 0.0, 0
    wanted = [*range(len(cut))]
    while wanted:
        going = [cut[place] for place in wanted]
        asked += 1
        total += sum(map(len, going))
        seconds += line.delay + sum(map(len, going)) / (line.speed * min(line.streams, len(going)))
        arrived = rng.random(len(going)) >= line.loss
        have += [one for one, there in zip(going, arrived, strict=True) if there]
        found, missing = rejoin(have)
        wanted = [*range(len(cut))] if missing is None else missing
    return found, Trip(total, seconds, asked - 1)


def unzipped(data: bytes, most_bytes) -> bytes:
    """What zlib packed, if it is at most so many bytes long; more is refused before it is unpacked.

    Fifty million zeros pack into 49 kB: who unpacks first and measures then has no memory left to measure with.
    """
    try:
        unpack = zlib.decompressobj()
        found = unpack.decompress(data, whole("most_bytes", most_bytes) + 1)
    except zlib.error as error:
        raise ValueError(f"this is not what zlib packed, or it is damaged: {error}.") from None
    if len(found) > most_bytes:
        raise ValueError(f"it would unpack to more than {most_bytes} bytes: refused.")
    if not unpack.eof:
        raise ValueError("the end is missing.")
    return found
