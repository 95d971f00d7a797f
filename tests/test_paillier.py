"""Toy Paillier: what is multiplied while encrypted is added."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlearn_mini.paillier import decrypt, encrypt, keys

N, PRIVATE = keys()
numbers, chances = st.integers(0, N // 3), st.integers(1, 10_006)


@given(numbers, numbers, chances, chances)
def test_the_product_of_two_encrypted_numbers_is_their_encrypted_sum(a, b, r, s):
    assert decrypt(PRIVATE, encrypt(N, a, r) * encrypt(N, b, s)) == a + b
    assert decrypt(PRIVATE, encrypt(N, a, r)) == a


@given(numbers, chances, st.integers(0, 2))
def test_a_power_is_a_multiple(a, r, k):
    assert decrypt(PRIVATE, encrypt(N, a, r) ** k) == k * a


def test_equal_numbers_look_different_each_time():
    assert len({encrypt(N, 6, r) for r in range(1, 100)}) == 99


def test_the_example_of_small_primes_by_hand():
    """p = 3, q = 5, n = 15, λ = 4, m = 7, r = 2: (1 + 7 · 15) · 2¹⁵ mod 225."""
    n, private = keys(3, 5)
    assert (n, private.lam) == (15, 4)
    assert encrypt(n, 7, 2) == 106 * 32768 % 225 and decrypt(private, encrypt(n, 7, 2)) == 7


@pytest.mark.parametrize(
    ("m", "r", "said"), [(N, 2, "must be below n"), (-1, 2, "at least 0"), (6, 10_007, "share no factor")]
)
def test_what_would_come_back_wrong_is_refused(m, r, said):
    with pytest.raises(ValueError, match=said):
        encrypt(N, m, r)


def test_primes_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="do not go together"):
        keys(3, 7)
