"""A 64-bit word for every task id, by which tasks are put in order, divided and drawn, whatever table holds them.

Equal ids (`innerloop.data.ids`) have equal words: 12 and "12" have that of the number. Words are part of what results
depend on, as are the numbers of random streams: they do not change between versions, machines or Python processes.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from innerloop._base.checks import IntArray, as_count
from innerloop.data.ids import comparable

Words = NDArray[np.uint64]

# Digits of the largest whole number of 64 bits; a sign may come before them.
_MOST_DIGITS = 19
# Text ids that are hashed at once: bounds the memory of their characters.
_AT_ONCE = 2**16


def mix(words: Words) -> Words:
    """Return the splitmix64 finaliser (Steele, Lea and Flood, 2014) of each word."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def words_of_ids(ids: NDArray[Any]) -> Words:
    """Return the word of each id, given as `innerloop.data.ids.distinct_ids` has them: int64 or text."""
    if ids.dtype.kind != "U":
        return mix(ids.astype(np.int64).view(np.uint64))
    return np.concatenate([_words_of_texts(ids[i : i + _AT_ONCE]) for i in range(0, max(len(ids), 1), _AT_ONCE)])


def draws(words: Words, seed: int) -> Words:
    """Return a number for each word that looks random and depends on the seed."""
    digest = hashlib.blake2b(str(as_count(seed, "seed", 0)).encode(), digest_size=8).digest()
    return mix(words ^ np.uint64(int.from_bytes(digest, "little")))


def places_by_word(ids: NDArray[Any], known_words: Words, known: NDArray[Any]) -> IntArray:
    """Return the position of each id among known ones in the order of their words, -1 for none.

    The arrays of known words and ids may be memory-mapped: few of their pages are read.
    """
    words = words_of_ids(ids)
    open_ = np.argsort(words)  # known words are then read in their order, not all over memory
    place, found = np.empty(len(ids), dtype=np.intp), np.full(len(ids), -1)
    place[open_] = np.searchsorted(known_words, words[open_])
    while len(open_):  # more than once for ids whose words collide
        at = place[open_]
        inside = at < len(known_words)
        open_, at = open_[inside], at[inside]
        same = known_words[at] == words[open_]
        open_, at = open_[same], at[same]
        one, other = comparable(ids[open_], known[at])
        equal = one == other
        found[open_[equal]] = at[equal]
        open_ = open_[~equal]
        place[open_] += 1
    return found


def _words_of_texts(texts: NDArray[Any]) -> Words:
    width = texts.dtype.itemsize // 4
    characters = np.ascontiguousarray(texts).view(np.uint32).reshape(len(texts), width)
    length = (characters != 0).sum(axis=1)  # no id holds a NUL character, which numpy pads with
    words = mix(length.astype(np.uint64))
    for j in range(width):
        reaches = np.flatnonzero(length > j)
        words[reaches] = mix(words[reaches] ^ characters[reaches, j].astype(np.uint64))
    number, is_whole = _whole_numbers(characters[:, : _MOST_DIGITS + 2], length)
    words[is_whole] = mix(number[is_whole])
    return words


def _whole_numbers(characters: NDArray[np.uint32], length: NDArray[Any]) -> tuple[Words, NDArray[np.bool_]]:
    """Return the number that each text is, as the bits of an int64, and which texts are whole numbers that fit.

    Whole numbers are digits without a zero before others, with a minus where they are negative.
    """
    zero, nine, minus = (np.uint32(ord(character)) for character in "09-")
    width = characters.shape[1]
    if width == 0:
        return np.zeros(len(length), dtype=np.uint64), np.zeros(len(length), dtype=bool)
    negative = characters[:, 0] == minus
    is_digit = (characters >= zero) & (characters <= nine)
    n_digits = length - negative
    first = characters[np.arange(len(length)), np.minimum(negative, width - 1).astype(np.intp)]
    usual = (first != zero) | ((n_digits == 1) & ~negative)
    fits = (n_digits > 0) & (n_digits <= _MOST_DIGITS) & (is_digit.sum(axis=1) == n_digits) & usual
    size = np.zeros(len(length), dtype=np.uint64)
    for j in range(width):
        digit = is_digit[:, j] & fits
        size[digit] = size[digit] * np.uint64(10) + (characters[digit, j] - zero)
    fits &= size <= np.uint64(2**63 - 1) + negative.astype(np.uint64)
    return np.where(negative, ~size + np.uint64(1), size), fits
