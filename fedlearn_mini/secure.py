"""Sums nobody can see: fixed point, masks that cancel, and shares that mend the sum when somebody leaves. Notebook 14.

Every pair of hospitals agrees on a mask, which one adds and the other subtracts: the server reads rows of random words,
and their sum. A second mask of its own covers a hospital whose letter is only late. What must come off again, if
somebody leaves, the others can put together from shares, and of each hospital they open one secret, never both.
Bonawitz et al. 2017, doi:10.1145/3133956.3133982; a circle of neighbours for many hospitals: Bell et al. 2020,
doi:10.1145/3372297.3417885. Keys, streams and boxes are those of the library `cryptography`.

Held are a server and hospitals that follow the protocol and only look: keys are not signed here (notebook 15 does
that), and a server that hands out other keys than it was given would read everything. In the lesson a hospital's secret
comes from its dice, so that a run repeats; a real one comes from the system's randomness.
"""

from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from itertools import combinations, islice
from typing import NamedTuple

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .chance import Purpose
from .checks import number, whole
from .hospital import Hospital, Job
from .models import length
from .wire import COUNTS, Letters

PRIME = 2**256 + 297  # the first prime above every secret of 32 bytes
TWO = "a sum of two hides nothing: each subtracts its own part. Masks need at least three hospitals."
PAIR, BOX, OWN = range(3)  # a hospital's three keys of a round: for masks in pairs, for boxes, and for its own mask


class Masks(NamedTuple):
    """How a sum is hidden: Plan(masks=Masks()).

    step        of the fixed-point numbers: a number is sent as a multiple of it
    most        the largest absolute value that a hospital may send, weight included: nₖΔₖ
    threshold   how many of a circle must answer to mend the sum; None: more than half
    neighbours  with how many each shares masks, an even number; None: with all
    norm        the longest Δ that a hospital lets out; None: any
    """

    step: float = 2.0**-32
    most: float = 2.0**20
    threshold: int | None = None
    neighbours: int | None = None
    norm: float | None = None

    def checked(self):
        """Refuse settings that cannot work."""
        number("the step of the masks", self.step, above=0)
        number("the largest value `most` of the masks", self.most, above=0)
        if self.threshold is not None:
            whole("the threshold", self.threshold, least=2, hint="threshold=1 would let each open all alone.")
        if self.neighbours is not None and (whole("neighbours", self.neighbours, least=2) % 2):
            raise ValueError(f"neighbours must be even, half on either side, but it is {self.neighbours}.")
        if self.norm is not None:
            number("the norm", self.norm, above=0)
        return self

    def encode(self, values, hospitals):
        """Each value as ⌊x/step⌉ modulo 2⁶⁴, wrong by step/2 at most: (...) floats → (...) uint64.

        An OverflowError, before anything is masked, where a value is not finite or beyond ±most, or where the sum of
        so many hospitals could wrap: modulo 2⁶⁴ a sum that is too large looks like any other.

        >>> Masks().encode(np.array([1.0, -1.0]), hospitals=3)
        array([          4294967296, 18446744069414584320], dtype=uint64)
        """
        if not hospitals * (self.most / self.step + 1) < 2**63:
            raise OverflowError(
                f"the sum of {hospitals} hospitals with values up to ±{self.most:g} in steps of {self.step:g} may be "
                f"beyond 2⁶³ steps and would wrap. Take a larger step (above {hospitals * self.most / 2**63:.2g}), or "
                "a smaller `most`."
            )
        values = np.asarray(values, float)
        if not np.isfinite(values).all():
            raise OverflowError("an update is not finite: nothing was masked or sent. Try a smaller learning rate.")
        if np.abs(values).max(initial=0) > self.most:
            raise OverflowError(
                f"a value of {np.abs(values).max():g} is beyond the ±{self.most:g} that the masks were made for "
                "(update times records): nothing was masked or sent. Raise `most`, or lower the learning rate."
            )
        return np.rint(values / self.step).astype(np.int64).view(np.uint64)

    def decode(self, total):
        """A sum of encoded values as numbers: (...) uint64 → (...) floats.

        >>> masks = Masks()
        >>> masks.decode(masks.encode([1.5, -2.0], 2) + masks.encode([1.0, 1.0], 2))
        array([ 2.5, -1. ])
        """
        return total.view(np.int64) * self.step

    def enough(self, circle):
        """How many of a circle of so many must answer; more than half, so that no two groups can answer differently."""
        needed = circle // 2 + 1 if self.threshold is None else self.threshold
        if circle < 3:
            raise ValueError(TWO)
        if not circle / 2 < needed <= circle:
            raise ValueError(
                f"the threshold is {needed}, and {circle} hospitals hold the shares of each secret: take more than "
                f"half of them, {circle // 2 + 1} to {circle}. At half or less, two groups could open two secrets."
            )
        return needed


# ------------------------------------------------------------------------------------------------------ masks in pairs


@lru_cache(maxsize=2**12)
def opened_key(private):
    """A private X25519 key, 32 bytes, as the library holds it. Reading one costs as much as using it."""
    return X25519PrivateKey.from_private_bytes(private)


def public(private):
    """The public key that belongs to a private X25519 key: 32 bytes → 32 bytes."""
    return opened_key(private).public_key().public_bytes_raw()


@lru_cache(maxsize=2**16)
def agreed(private, theirs, label=b"mask"):
    """What two agree on, each from the own private and the other's public key, for one use: 32 bytes.

    X25519 (RFC 7748), then HKDF with SHA-256 (RFC 5869), whose label keeps uses apart. A key that any private key
    turns into zeros is refused.

    >>> a, b = b"a" * 32, b"b" * 32
    >>> agreed(a, public(b)) == agreed(b, public(a))
    True
    """
    try:
        secret = opened_key(private).exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError as error:
        raise ValueError("a public key is all zeros or of low order: whoever sent it knows every mask.") from error
    return derived(secret, label)


@lru_cache(maxsize=2**16)
def derived(secret, label):
    """Another secret for another use, from which the first cannot be found: 32 bytes."""
    return HKDF(SHA256(), 32, None, b"fedlearn-mini " + label).derive(secret)


def words(key, n):
    """n random words of 64 bits from a key that is used once: the ChaCha20 stream (RFC 8439), (n,) uint64."""
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor()
    return np.frombuffer(stream.update(bytes(8 * n)), "<u8").astype(np.uint64)


# -------------------------------------------------------------------------------------------------------------- shares


def split(secret, places, threshold, chance):
    """Shares of a secret, so many of which give it back while one fewer says nothing: {place: number}.

    secret     32 bytes: where a polynomial modulo PRIME meets 0
    places     where else it is read, whole numbers from 1
    threshold  one more than its degree
    chance     its other coefficients, 32 bytes each

    Shamir 1979, doi:10.1145/359168.359176.
    """
    numbers = [chance[32 * i : 32 * (i + 1)] for i in range(threshold - 1)] + [secret]
    coefficients, shares = [int.from_bytes(number, "big") for number in numbers], dict.fromkeys(places, 0)
    for x in places:
        for coefficient in coefficients:  # from the highest power down to the secret: Horner
            shares[x] = (shares[x] * x + coefficient) % PRIME
    return shares


def join(shares):
    """The secret of shares {place: number}: 32 bytes, or None if they do not belong together.

    >>> shares = split(b"s" * 32, [1, 2, 3], 2, b"c" * 32)
    >>> join({1: shares[1], 3: shares[3]}) == b"s" * 32
    True
    """
    found = sum(y * at_zero(x, tuple(shares)) for x, y in shares.items()) % PRIME
    return found.to_bytes(32, "big") if found < 2**256 else None


@lru_cache(maxsize=2**12)
def at_zero(x, places):
    """The polynomial that is 1 at x and 0 at the other places, read at 0: Lagrange."""
    above = below = 1
    for other in places:
        if other != x:
            above, below = above * other % PRIME, below * (other - x) % PRIME
    return above * pow(below, -1, PRIME) % PRIME


# ---------------------------------------------------------------------------------------- what a hospital answers, once


class Circle(NamedTuple):
    """Who adds up together in a round, as the server tells everybody.

    seats  (R,) in order
    keys   (R, 3, 32) uint8, three public keys of each: PAIR, BOX, OWN
    masks  the settings
    """

    seats: np.ndarray
    keys: np.ndarray
    masks: Masks

    def near(self, seat):
        """With whom this hospital shares masks, itself included: row numbers, in order.

        All, or the next ones on a ring in the order of their keys, which nobody can choose for others.
        """
        R, me, m = len(self.seats), int(np.searchsorted(self.seats, seat)), self.masks.neighbours
        if m is None or m >= R - 1:
            return [*range(R)]
        ring = sorted(range(R), key=lambda row: self.keys[row, PAIR].tobytes())
        at = ring.index(me)
        return sorted(ring[(at + step) % R] for step in range(-m // 2, m // 2 + 1))

    def key(self, row, which):
        """A public key: 32 bytes."""
        return self.keys[row, which].tobytes()


class Member(NamedTuple):
    """One hospital in one round's sum: its seat, a secret of this round (32 bytes), and what the server told."""

    seat: int
    secret: bytes
    circle: Circle | None = None

    def private(self, which):
        """Its private key for masks in pairs, boxes, or its own mask."""
        return derived(self.secret, b"key %d" % which)

    def hello(self):
        """Topic "keys": its three public keys, (3, 32) uint8."""
        keys = b"".join(public(self.private(which)) for which in (PAIR, BOX, OWN))
        return np.frombuffer(keys, np.uint8).reshape(3, 32)

    def boxes(self):
        """Topic "shares": a box for everybody near, with a share of two of its secrets, (g, 82) uint8.

        They are locked for their reader (ChaCha20-Poly1305, RFC 8439), because the server carries them.
        """
        near = self.met()
        places, needed = [int(self.circle.seats[row]) + 1 for row in near], self.circle.masks.enough(len(near))
        shares, packed = [], []
        for which in (PAIR, OWN):
            chance = words(derived(self.secret, b"shares %d" % which), 4 * needed).tobytes()
            shares.append(split(self.private(which), places, needed, chance))
        for row, place in zip(near, places, strict=True):
            content = b"".join(share[place].to_bytes(33, "big") for share in shares)
            packed.append(self.lock(row).encrypt(addressed(self.seat, place - 1), content, None))
        return np.frombuffer(b"".join(packed), np.uint8).reshape(len(near), -1)

    def cover(self, n, there):
        """Topic "train": its own mask, and ± one with everybody near who is there (R,): (n,) uint64.

        Of two, who comes first adds and the other subtracts: in the sum they cancel. Told that fewer are there than
        the threshold, a hospital sends nothing: few masks are few to take off.
        """
        near = self.met()
        if np.count_nonzero(there) < 3 or np.count_nonzero(there[near]) < self.circle.masks.enough(len(near)):
            raise ValueError("fewer hospitals have dealt shares than the threshold: this hospital sends nothing.")
        total = words(derived(self.private(OWN), b"own mask"), n)
        for row in near:
            other = int(self.circle.seats[row])
            if there[row] and other != self.seat:
                pair = words(agreed(self.private(PAIR), self.circle.key(row, PAIR)), n)
                total = total + pair if self.seat < other else total - pair
        return total

    def answer(self, there, stayed, boxes):
        """Topic "unmask": of everybody near, the share of one secret, (g, 33) uint8; zeros where there is none.

        there   (R,) who sent boxes
        stayed  (R,) whose row has come: of these the own mask is opened, of the others the key of the pairs
        boxes   (R, g, 82) by all of them
        """
        near, shares = self.met(), []
        if (stayed & ~there).any():
            raise ValueError("somebody's row is said to have come who dealt no shares: this hospital opens nothing.")
        if np.count_nonzero(stayed) < 3 or np.count_nonzero(stayed[near]) < self.circle.masks.enough(len(near)):
            raise ValueError("fewer hospitals are left than the threshold: this hospital opens nothing.")
        for row in near:
            sender, share = int(self.circle.seats[row]), bytes(33)
            if there[row]:
                mine = self.circle.near(sender).index(int(np.searchsorted(self.circle.seats, self.seat)))
                try:
                    content = self.lock(row).decrypt(addressed(sender, self.seat), boxes[row, mine].tobytes(), None)
                    share = content[33:] if stayed[row] else content[:33]
                except InvalidTag:  # somebody has touched this box: its share is missing, and the others may do
                    pass
            shares.append(share)
        return np.frombuffer(b"".join(shares), np.uint8).reshape(len(near), 33)

    def lock(self, row):
        """The lock of the boxes between two, which each makes from the own private and the other's public key."""
        return ChaCha20Poly1305(agreed(self.private(BOX), self.circle.key(row, BOX), b"box"))

    def met(self):
        """Who is near, after a look at what the server says: it could hand out one key twice, or leave us out."""
        keys = self.circle.keys
        me = np.flatnonzero(self.circle.seats == self.seat)
        if me.size != 1 or not np.array_equal(keys[me[0]], self.hello()):
            raise ValueError("the list of keys does not hold this hospital's own: somebody has changed it.")
        if len({key.tobytes() for key in keys.reshape(-1, 32)}) < 3 * len(keys):
            raise ValueError("two of the keys in the list are the same: somebody copies another's, or stands between.")
        return self.circle.near(self.seat)


def addressed(sender, reader):
    """The nonce of a box, 12 bytes: a key locks one box each way in a round, and then never again."""
    return sender.to_bytes(6, "big") + reader.to_bytes(6, "big")


def masked(inner: Hospital, masks: Masks, columns: Callable) -> Hospital:
    """The inner letter as a row of random words, (..., P + c) uint64, and what its round's conversation needs.

    columns(update, size, steps) -> (..., P + c) floats: what is added up, see `sums`. It goes around all else, and
    keeps of which round it has opened shares (a second time in a round it refuses), and a number that stands for who
    was there when it sent its row: a server that tells another list later could take other masks off. Notebook 14.
    """

    def init(theta):
        return inner.init(theta) | {"answered": np.array(0), "listed": np.array(0)}

    def listed(job: Job):
        """A number that stands for the list of keys and of those who are there, one for each hospital (...)."""
        said = b"".join(job.told[name].tobytes() for name in ("seats", "keys", "there"))
        return np.full_like(job.kept["answered"], int.from_bytes(sha256(said).digest()[:7], "big"))

    def each(job: Job, say):
        """What each member says, (..., …)."""
        secrets = job.dice.uniform((32,), Purpose.KEYS) * 256
        told = job.told
        circle = Circle(told["seats"], told["keys"], masks) if "keys" in told else None
        seats, secrets = np.ravel(job.dice.seats), secrets.astype(np.uint8).reshape(-1, 32)
        members = [Member(int(seat), secret.tobytes(), circle) for seat, secret in zip(seats, secrets, strict=True)]
        said = np.array([say(member) for member in members])
        return said.reshape(*np.shape(job.dice.seats), *said.shape[1:])

    def train(job: Job):
        letter, kept = inner.step(job)
        longest = np.max(length(letter["update"]))
        if masks.norm is not None and not longest <= masks.norm:
            raise OverflowError(
                f"an update is {longest:g} long, and the masks let out {masks.norm:g}: nothing was sent."
            )
        rows = masks.encode(columns(letter["update"], job.size, job.steps), job.hospitals)
        rows = rows + each(job, lambda one: one.cover(rows.shape[-1], job.told["there"]))
        return letter | {"update": rows}, kept | {"listed": listed(job)}

    def unmask(job: Job):
        if (job.kept["answered"] > job.dice.round).any():
            raise ValueError("this hospital has opened shares in this round already, and does so once only.")
        if (job.kept["listed"] != listed(job)).any():
            raise ValueError("the list of those who are there is not the one that this hospital's masks were made for.")
        shares = each(job, lambda one: one.answer(job.told["there"], job.told["stayed"], job.told["boxes"]))
        return {"shares": shares}, job.kept | {"answered": np.full_like(job.kept["answered"], job.dice.round + 1)}

    def step(job: Job):
        if job.topic == "train":
            return train(job)
        if job.topic == "unmask":
            return unmask(job)
        what = {"keys": Member.hello, "shares": Member.boxes}[job.topic]
        return {job.topic: each(job, what)}, job.kept

    return Hospital(init, step, inner.told)


# ------------------------------------------------------------------------------------------------- what the server does


def conversation(masks: Masks) -> Callable:
    """A round in four topics: keys, shares, train, unmask. (ask, order, invited) -> letters.

    ask(order, seats) -> letters of those who answer: in one process a call, elsewhere a network. A letter weighs what
    its hospital has sent in all four topics.
    """

    def talk(ask, order, invited):
        if order.hospitals < 3:
            raise ValueError(TWO)

        def say(topic, who, /, **told):
            return ask(order._replace(topic=topic, told=order.told | told), who) if len(who) > 2 else None

        keys = say("keys", invited)
        told = {} if keys is None else {"seats": keys["seat"], "keys": keys["keys"]}
        boxes = keys and say("shares", keys["seat"], **told)
        if boxes is None:
            return ask(order, invited[:0])  # too few for a sum: nobody is asked for an update
        told["there"] = np.isin(told["seats"], boxes["seat"])
        letters = say("train", boxes["seat"], **told)
        told["boxes"] = np.zeros((len(told["seats"]), *boxes["shares"].shape[1:]), np.uint8)
        told["boxes"][told["there"]] = boxes["shares"]
        told["stayed"] = np.isin(told["seats"], letters["seat"])
        circle = Circle(told["seats"], told["keys"], masks)
        answers = say("unmask", letters["seat"], **told) if reachable(circle, told["there"], told["stayed"]) else None
        secrets = answers and put_together(circle, told["there"], told["stayed"], answers)
        rows = np.full(letters["update"].shape, np.nan) if secrets is None else uncovered(circle, letters, secrets)
        sent = sum(part[:1].nbytes for said in (keys, boxes, letters, answers or {}) for part in wide(said))
        heard = sum(told[name].nbytes for name in ("seats", "keys", "there", "stayed")) + boxes["shares"][0].nbytes
        return letters | {"update": rows, "bytes": np.full(len(rows), sent), "heard": np.full(len(rows), heard)}

    return talk


def blanks(order, masks: Masks, more) -> Letters:
    """What a letter on this order's topic must look like, with `more` numbers beside the P of a row: no rows."""
    told = order.told
    near = len(Circle(told["seats"], told["keys"], masks).near(told["seats"][0])) if "keys" in told else 0
    shape = {"keys": (3, 32), "shares": (near, 82), "train": (order.theta.size + more,), "unmask": (near, 33)}[
        order.topic
    ]
    name = {"train": "update", "unmask": "shares"}.get(order.topic, order.topic)
    part = np.zeros((0, *shape), np.uint64 if order.topic == "train" else np.uint8)
    return {name: np.zeros(0, int) for name in COUNTS} | {name: part}


def wide(letters: Letters):
    """What letters carry beside their counts."""
    return [part for part in letters.values() if part.ndim > 1]


def reachable(circle, there, stayed):
    """Whether enough are left, of every circle."""
    near = [circle.near(seat) for seat in circle.seats[there]]
    return all(np.count_nonzero(stayed[rows]) >= circle.masks.enough(len(rows)) for rows in near)


def put_together(circle, there, stayed, answers: Letters):
    """{row: secret} of everybody who was there, put together from shares; None if some cannot be.

    A wrong share shows: the public key of what comes out is not the one in the list.
    """
    shares = {row: {} for row in np.flatnonzero(there)}
    for seat, given in zip(answers["seat"], answers["shares"], strict=True):
        for row, share in zip(circle.near(seat), given, strict=True):
            if share.any():
                shares[row][int(seat) + 1] = int.from_bytes(share.tobytes(), "big")
    secrets = {}
    for row, found in shares.items():
        needed, which = circle.masks.enough(len(circle.near(circle.seats[row]))), OWN if stayed[row] else PAIR
        for some in islice(combinations(sorted(found), needed), 100):
            secret = join({place: found[place] for place in some})
            if secret is not None and public(secret) == circle.key(row, which):
                secrets[row] = secret
                break
        else:
            return None
    return secrets


def uncovered(circle, letters: Letters, secrets):
    """The rows without the own masks of who stayed, and without the masks in pairs with who left: (k, n) uint64.

    What remains on them are masks between those who stayed: they cancel in the sum, and only there.
    """
    rows, n = np.searchsorted(circle.seats, letters["seat"]).tolist(), letters["update"].shape[1]
    clear = dict(zip(rows, letters["update"], strict=True))
    for row in rows:
        clear[row] = clear[row] - words(derived(secrets[row], b"own mask"), n)
    for gone in secrets.keys() - clear.keys():
        for row in clear.keys() & circle.near(circle.seats[gone]):
            pair = words(agreed(secrets[gone], circle.key(row, PAIR)), n)
            clear[row] = clear[row] - pair if row < gone else clear[row] + pair
    return np.array([clear[row] for row in rows])


def sums(masks: Masks, P, weighted=True, tau=None):
    """What is added up, and the average that it makes: columns for `masked`, an aggregator of what arrives.

    weighted  [nΔ, n] and Σ nΔ / Σ n; False: [Δ, 1] and Σ Δ / K
    tau       steps -> τ for FedNova: [nΔ/τ, nτ, n], and (Σ nτ / Σ n) · (Σ nΔ/τ / Σ n); None: none

    The number of records is in the sum as well, so that the mean is over those whose rows came.
    """

    def columns(update, size, steps):
        n, update = (size if weighted else np.ones_like(size))[..., None], update.astype(float)
        if tau is None:
            return np.concatenate([n * update, n], axis=-1)
        effort = np.broadcast_to(tau(np.asarray(steps, float)), size.shape)[..., None]
        return np.concatenate([n * update / effort, n * effort, n], axis=-1)

    def aggregate(rows, weights, chance=None):
        if not len(rows):
            return np.zeros(P)
        total = masks.decode(rows.sum(axis=0))
        mean = total[:-1] / total[-1]
        return mean if tau is None else mean[-1] * mean[:-1]

    return columns, aggregate
