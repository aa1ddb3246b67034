"""Exact whole numbers beyond 64 bits, a whole array of them at a time, in numpy.

A number is a column of limbs: limb `i` counts 2**(30 i). All limbs but the highest lie below
2**30, so some 2**17 numbers can be added up limb by limb before any of them leaves 64 bits.
"""

from __future__ import annotations

import numpy as np

from harvester.schema import Int64s

BITS = 30
MOST = 1 << 17
"""So many numbers may be added up at once."""

_MASK = (1 << BITS) - 1
_LIMBS = 5
_DECIMAL_END = 10**38


def of_words(low: Int64s, high: Int64s) -> Int64s:
    """What a decimal's two words of 64 bits hold, below 2**90; shape (3, numbers)."""
    limbs = np.empty((3, len(low)), dtype=np.int64)
    np.bitwise_and(low, _MASK, out=limbs[0])
    np.bitwise_and(low >> BITS, _MASK, out=limbs[1])
    np.bitwise_and(low >> 2 * BITS, 15, out=limbs[2])
    limbs[2] |= high << 4
    return limbs


def product(ones: Int64s, limbs: Int64s) -> Int64s:
    """Numbers below 2**60 times numbers of three limbs, below 2**75; shape (4, numbers)."""
    low, high = ones & _MASK, ones >> BITS
    made = np.empty((4, len(ones)), dtype=np.int64)
    # Each limb is at most two products of 60 bits.
    np.multiply(low, limbs[0], out=made[0])
    np.multiply(low, limbs[1], out=made[1])
    np.multiply(low, limbs[2], out=made[2])
    np.multiply(high, limbs[2], out=made[3])
    made[1] += high * limbs[0]
    made[2] += high * limbs[1]
    return carried(made)


def carried(limbs: Int64s) -> Int64s:
    """The same numbers with all limbs but the highest below 2**30, in place."""
    for i in range(len(limbs) - 1):
        limbs[i + 1] += limbs[i] >> BITS
        limbs[i] &= _MASK
    return limbs


def totals(limbs: Int64s, starts: Int64s) -> Int64s:
    """The sums of groups of neighbours, each from its start to the next; shape (5, groups)."""
    made = np.zeros((_LIMBS, len(starts)), dtype=np.int64)
    np.add.reduceat(limbs, starts, axis=1, out=made[: len(limbs)])
    return carried(made)


def number(limbs: Int64s) -> int:
    """One number; shape (limbs,)."""
    return sum(limb << (BITS * i) for i, limb in enumerate(limbs.tolist()))


def words(limbs: Int64s) -> Int64s:
    """Numbers below 10**38 as a decimal's low and high words; shape (numbers, 2)."""
    made = np.empty((limbs.shape[1], 2), dtype=np.int64)
    made[:, 0] = limbs[0] | limbs[1] << BITS | limbs[2] << 2 * BITS
    made[:, 1] = limbs[2] >> 4 | limbs[3] << BITS - 4 | limbs[4] << 2 * BITS - 4
    return made


def too_large(limbs: Int64s) -> Int64s:
    """The places of those that reach 10**38, and so are no decimal of 38 digits."""
    # The two highest limbs leave out less than one 2**90th, so only those in doubt are worked out.
    high = limbs[4] << BITS | limbs[3]
    doubtful = np.flatnonzero(high >= _DECIMAL_END >> 3 * BITS)
    return doubtful[[number(limbs[:, i]) >= _DECIMAL_END for i in doubtful]]
