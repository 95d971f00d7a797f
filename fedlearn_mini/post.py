"""The post: a letter as bytes that nobody can change, forge, send twice or read on the way. Notebook 15.

Between the two sides of `protocol` stands `letter → pack → signed → seal`, then `open → verified → unpack → letter`.
Nothing here is cryptography of our own: `cryptography` signs (Ed25519, RFC 8032), agrees on keys (X25519, RFC 7748),
derives them (HKDF, RFC 5869) and seals (ChaCha20-Poly1305, RFC 8439), `safetensors` writes arrays. What is ours is
*what* is signed and sealed. Round r is counted as in an Order: r rounds were complete before it.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from safetensors import SafetensorError
from safetensors.numpy import load, save

from .checks import whole

LETTER, SEAL = (
    b"fedlearn-mini signed letter 1",
    b"fedlearn-mini seal 1",
)  # a signature or key for one use is for no other
SIGNATURE = 64  # bytes of an Ed25519 signature


class Refused(ValueError):
    """A letter or key that is not let in, and why, in words that quote nothing of it."""


# -------------------------------------------------------------------------------------------- letters and orders, bytes


def pack(letter: dict) -> bytes:
    """A letter {name: array of numbers} as bytes; the same letter gives the same bytes. The format is safetensors.

    A safetensors file is a header in JSON (name, type, shape, place) and the numbers after it: nothing in it can run,
    as it could in a pickle. ValueError for a name that is no text and for a part that is no array of numbers.

    >>> letter = {"round": np.array(4), "update": np.array([0.5, -1.0])}
    >>> unpack(pack(letter), most_bytes=1000)["update"]
    array([ 0.5, -1. ])
    """
    parts = {name: np.array(part, order="C") for name, part in letter.items()}  # safetensors takes memory as it lies
    for name, part in parts.items():
        if not isinstance(name, str) or part.dtype.kind not in "fiub":
            raise ValueError(f"a letter holds arrays of numbers by name, but {name!r} has the type {part.dtype}.")
    return save(parts)


def unpack(payload: bytes, most_bytes) -> dict:
    """The letter behind the bytes, which must be at most so many and exactly what `pack` writes; else Refused.

    >>> unpack(pack({"update": np.zeros(9)})[:-1], most_bytes=1000)
    Traceback (most recent call last):
    fedlearn_mini.post.Refused: it cannot be read as a letter
    """
    if len(payload) > most_bytes:
        raise Refused(f"it has {len(payload)} bytes, and a letter has at most {most_bytes}")
    try:
        letter = load(payload)
        if pack(letter) == payload:  # or it says something twice, or beside the letter, or in another spelling
            return letter
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
        pass  # the format's own words may quote what a stranger wrote
    raise Refused("it cannot be read as a letter")


def framed(*parts: bytes) -> bytes:
    """Each part after its length (8 bytes): other parts give other bytes, wherever they are cut.

    >>> framed(b"Bern", b"e") == framed(b"Berne", b"")
    False
    """
    return b"".join(len(part).to_bytes(8) + part for part in parts)


def unframed(data: bytes) -> list[bytes]:
    """The parts of `framed`; ValueError where lengths and bytes do not agree."""
    parts, at = [], 0
    while at < len(data):
        end = at + 8 + int.from_bytes(data[at : at + 8])
        if end > len(data):
            raise ValueError("a part is shorter than its length says")
        parts.append(data[at + 8 : end])
        at = end
    return parts


def order_hash(order, run) -> bytes:
    """SHA-256 of all that a hospital was told: an Order with anything else in it has another hash (32 bytes).

    run  the name of this run of the federation, a text that is never used again: two runs from one seed begin with
         the same order, and the first letter of the one must not pass in the other
    """
    return hashlib.sha256(framed(run.encode(), spelled(order._asdict()))).digest()


def spelled(value) -> bytes:
    """A text, a number, an array, or a dict of them by name, as bytes that nothing else gives."""
    if isinstance(value, dict):
        return framed(b"dict", *(spelled(one) for name in sorted(value) for one in (name, value[name])))
    if isinstance(value, str):
        return framed(b"text", value.encode())
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"an order holds numbers and texts, not {type(value).__name__}.")
    array = array.astype(array.dtype.newbyteorder("<"))
    return framed(b"array", array.dtype.str.encode(), str(array.shape).encode(), array.tobytes())


# ------------------------------------------------------------------------------------------------------ who wrote this?


def signed(private: Ed25519PrivateKey, name, r, answered: bytes, payload: bytes) -> bytes:
    """(name, round, hash of the order answered, payload), each with its length, then Ed25519's signature over all.

    Bernstein et al. 2012, doi:10.1007/s13389-012-0027-1; RFC 8032.
    """
    body = framed(LETTER, name.encode(), whole("the round", r, least=0).to_bytes(8), answered, payload)
    return body + private.sign(body)


def verified(public: Ed25519PublicKey, name, r, answered: bytes, sent: bytes) -> bytes:
    """The payload, if this hospital signed it for this round in answer to this order; else Refused.

    The signature comes first: before it holds, nothing that the letter says is looked at.
    """
    body, signature = sent[:-SIGNATURE], sent[-SIGNATURE:]
    try:
        public.verify(signature, body)
        label, who, when, order, payload = unframed(body)
    except InvalidSignature:
        raise Refused(f"the signature is not {name}'s: another hand wrote it, or a byte changed on the way") from None
    except ValueError:
        label = b""
    if label != LETTER:
        raise Refused(f"{name} signed it, but not as a letter")
    if who != name.encode():
        raise Refused(f"{name} signed it in the name of another hospital")
    if when != int(r).to_bytes(8):
        raise Refused(f"it is {name}'s letter of round {int.from_bytes(when) + 1}, and this is round {r + 1}")
    if order != answered:
        raise Refused(f"it answers another order than {name} was sent: of another run, or changed on the way down")
    return payload


# -------------------------------------------------------------------------------------------------- who can read along?


class Line:
    """One direction between two who know each other's public keys. It remembers the last round that it sealed.

    private, public  X25519, one's own and the other's: Refused if the other's is of low order, all zero for example
    label            texts that say what this line is for: "up", the hospital's name, the topic, the run. Rounds begin
                     anew in every run, so its name must be there, and is never used again
    last             the last round sealed before; whoever wakes up after a crash must know it

    Both sides compute one secret, HKDF makes a key of it that is used for this line alone, and the round is the
    nonce. Two messages under one key and nonce would give each other away, so a round is sealed once. The secret
    depends on who holds the keys and on nothing else: who gets a private key can read all older letters too.
    """

    def __init__(self, private: X25519PrivateKey, public: X25519PublicKey, *label, last=-1):
        try:
            secret = private.exchange(public)
        except ValueError:
            raise Refused("this X25519 key is of low order: everybody knows the secret that it leads to") from None
        ends = sorted(key.public_bytes_raw() for key in (private.public_key(), public))
        info = framed(SEAL, *(text.encode() for text in label), *ends)
        self.box, self.last = ChaCha20Poly1305(HKDF(SHA256(), 32, salt=None, info=info).derive(secret)), last

    def seal(self, r, message: bytes) -> bytes:
        """The message, unreadable, and 16 bytes by which any change shows. A round is sealed once, in order."""
        if whole("the round", r, least=0) <= self.last:
            raise Refused(f"round {self.last + 1} is sealed already: a nonce is never used twice with a key")
        self.last = int(r)
        return self.box.encrypt(self.last.to_bytes(12), message, None)

    def open(self, r, sealed: bytes) -> bytes:
        """The message, if it was sealed on this line for this round and not changed since; else Refused."""
        try:
            return self.box.decrypt(int(r).to_bytes(12), sealed, None)
        except InvalidTag:
            raise Refused(
                f"the seal does not open for round {r + 1}: another key or round, or a byte changed on the way"
            ) from None


# ---------------------------------------------------------------------------------------------------- the server's door


class Card(NamedTuple):
    """What a hospital registers: its public keys, one to verify signatures with and one to agree on secrets with."""

    signs: Ed25519PublicKey
    agrees: X25519PublicKey

    @classmethod
    def of(cls, signs: Ed25519PrivateKey, agrees: X25519PrivateKey):
        """The public half of two private keys."""
        return cls(signs.public_key(), agrees.public_key())

    def fingerprint(self):
        """SHA-256 over both keys, 32 of its digits in fours: short enough to be read over the telephone."""
        digits = hashlib.sha256(framed(*(key.public_bytes_raw() for key in self))).hexdigest()[:32]
        return " ".join(digits[at : at + 4] for at in range(0, 32, 4))


def registered(cards: dict, private: X25519PrivateKey, run, topic="train") -> dict:
    """{name: (Card, Line up)} from {name: Card} and the server's key; Refused where two hospitals share a key."""
    owners = {}
    for name, card in cards.items():
        for raw in (key.public_bytes_raw() for key in card):
            if owners.setdefault(raw, name) != name:
                raise Refused(f"{owners[raw]} and {name} registered the same key: which of them signs?")
    return {name: (card, Line(private, card.agrees, "up", name, topic, run)) for name, card in cards.items()}


def delivered(post, doors: dict, r, answered: dict, most_bytes):
    """Letters that came in, opened, verified and read: {name: letter}, and [(name, why)] of those refused.

    post        (name on the outside, sealed bytes), in the order in which they came
    doors       {name: (Card, Line)}, see `registered`
    r           rounds complete when the orders went out
    answered    {name: order_hash of what it was sent}
    most_bytes  what is longer is refused unopened

    One refusal stops nobody else. What the numbers say is for `desk.received` to check.
    """
    letters, refused = {}, []
    for name, sealed in post:
        try:
            if name not in doors or name not in answered:
                raise Refused("nobody of this name was sent an order")
            if name in letters:
                raise Refused("it has answered in this round")
            if len(sealed) > most_bytes:
                raise Refused(f"it has {len(sealed)} bytes, and at most {most_bytes} are opened")
            card, line = doors[name]
            payload = verified(card.signs, name, r, answered[name], line.open(r, sealed))
            letters[name] = unpack(payload, most_bytes)
        except Refused as why:
            refused.append((name, str(why)))
    return letters, refused
