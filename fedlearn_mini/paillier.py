"""Adding what stays encrypted: Paillier's scheme with primes that anybody can guess. A toy, never a product.

Whoever holds the public key encrypts, anybody adds, and who holds the private key reads: the sum, and each single
number as well, if it gets hold of one. Paillier 1999, doi:10.1007/3-540-48910-X_16. Notebook 14.
"""

import math
from typing import NamedTuple

from .checks import whole


class Private(NamedTuple):
    """The private key: n = p·q, which is public, and λ = lcm(p − 1, q − 1), which is not."""

    n: int
    lam: int


def keys(p=10_007, q=10_009):
    """The public key n and the private key, from two primes. These are small: n is factored in no time.

    A real n has 3,072 bits, and the primes are drawn at random.
    """
    n, lam = p * q, math.lcm(p - 1, q - 1)
    if math.gcd(n, (p - 1) * (q - 1)) != 1:
        raise ValueError(f"{p} and {q} do not go together: take two different primes of the same length.")
    return n, Private(n, lam)


def encrypt(n, m, r):
    """c = (1 + n)^m · r^n mod n², for a number 0 ≤ m < n and a random r that shares no factor with n.

    >>> n, private = keys()
    >>> decrypt(private, encrypt(n, 6, r=123) * encrypt(n, 11, r=456))
    17
    """
    if not whole("the number to encrypt", m, least=0) < n:
        raise ValueError(f"the number must be below n = {n}, or it comes back as another one: {m} is too large.")
    if math.gcd(r, n) != 1:
        raise ValueError("r must share no factor with n: draw another one.")
    return (1 + m * n) * pow(r, n, n * n) % (n * n)  # (1 + n)^m = 1 + mn modulo n²


def decrypt(private: Private, c):
    """m = (c^λ mod n² − 1)/n · λ⁻¹ mod n: of a product of encrypted numbers the sum."""
    n, lam = private
    return (pow(c, lam, n * n) - 1) // n * pow(lam, -1, n) % n
