"""Exact moments of real Wishart matrices, in integers.

S = X'X, with n independent Gaussian rows of covariance Sigma. Both recursions are Stein's identity on the first X
of a trace (docs/theory.md, 8 and 16).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from innerloop._base.checks import FloatArray, as_count

# A chain (g_1, ..., g_L) stands for Sigma^g_1 S Sigma^g_2 S ... S Sigma^g_L, with L - 1 factors S.
Chain = tuple[int, ...]
# A closed word (g_1, ..., g_L) stands for tr(S Sigma^g_1 ... S Sigma^g_L).
Words = tuple[Chain, ...]
# The powers k of the factors tr Sigma^k, and the coefficient of their product.
Terms = Counter[tuple[int, ...]]
# A gap of _MARK or more holds, beside a power of Sigma, the diagonal matrix by which the moment is tested.
_MARK = 1 << 20


def wishart_trace_moment(exponents: Sequence[int], n_rows: int, n_features: int) -> int:
    r"""Return :math:`E \prod_j \mathrm{tr}\, S^{k_j}` for Sigma = I, exactly (equation 8.1).

    Parameters
    ----------
    exponents
        k_j, whole numbers from 0.
    n_rows, n_features
        n and p.

    Returns
    -------
    int
        A whole number of any length.

    Raises
    ------
    ValueError
        If an exponent is negative or a size not positive.

    Examples
    --------
    >>> from innerloop.theory import wishart_trace_moment
    >>> wishart_trace_moment((2,), n_rows=3, n_features=2)  # E tr S^2 = n p (n + p + 1)
    36
    """
    powers = tuple(sorted((as_count(k, "exponents", 0) for k in exponents), reverse=True))
    return _moment(powers, as_count(n_rows, "n_rows"), as_count(n_features, "n_features"))


@lru_cache(maxsize=100_000)
def _moment(powers: tuple[int, ...], n: int, p: int) -> int:
    zeros = powers.count(0)
    if zeros == len(powers):
        return int(p**zeros)
    k, *rest = powers[: len(powers) - zeros]
    total = (n + k - 1) * _sorted_moment((k - 1, *rest), n, p)
    total += sum(_sorted_moment((i, k - 1 - i, *rest), n, p) for i in range(1, k))
    for j, other in enumerate(rest):
        total += 2 * other * _sorted_moment((k + other - 1, *rest[:j], *rest[j + 1 :]), n, p)
    return int(total * p**zeros)


def _sorted_moment(powers: tuple[int, ...], n: int, p: int) -> int:
    return _moment(tuple(sorted(powers, reverse=True)), n, p)


def wishart_word_moment(words: Sequence[Sequence[int]], n_rows: int, covariance: FloatArray) -> float:
    r"""Return :math:`E \prod_w \mathrm{tr}(S \Sigma^{g_1} S \Sigma^{g_2} \cdots)` for any Sigma (equation 16.2).

    Parameters
    ----------
    words
        One sequence of powers g_1, g_2, ... of Sigma per trace; [0, 0] is tr S^2.
    n_rows
        n.
    covariance : (n_features,)
        Eigenvalues of Sigma.

    Returns
    -------
    float
        The sum of exact whole-number coefficients times products of traces of powers of Sigma.

    Examples
    --------
    >>> import numpy as np
    >>> from innerloop.theory import wishart_trace_moment, wishart_word_moment
    >>> wishart_word_moment([[0, 0]], n_rows=3, covariance=np.ones(2)) == wishart_trace_moment((2,), 3, 2)
    True
    """
    closed = tuple(tuple(as_count(gap, "words", 0) for gap in word) for word in words)
    return float(_evaluate(_word_terms(_canonical(closed), as_count(n_rows, "n_rows")), covariance)[0])


def wishart_diagonal(left: int, gap: int, right: int, n_rows: int, covariance: FloatArray) -> FloatArray:
    r"""Return the diagonal of :math:`E S^{left} \Sigma^{gap} S^{right}` in the basis of Sigma.

    Parameters
    ----------
    left, gap, right
        Powers, from 0.
    n_rows
        n.
    covariance : (n_features,)
        Eigenvalues of Sigma.

    Returns
    -------
    (n_features,)
    """
    chain = _join(_power(left), (gap,), _power(right), (_MARK,))
    return _evaluate(_chain_terms([chain], (), as_count(n_rows, "n_rows")), covariance)


def _power(k: int) -> Chain:
    """S^k."""
    return (0,) * (k + 1)


def _join(*chains: Chain) -> Chain:
    """Return the product of chains."""
    product = chains[0]
    for chain in chains[1:]:
        product = (*product[:-1], product[-1] + chain[0], *chain[1:])
    return product


def _canonical(words: Words) -> Words:
    """Return words each in the smallest of its rotations and reflections, sorted."""
    turned = []
    for word in words:
        ways = [word[i:] + word[:i] for i in range(len(word))]
        turned.append(min(ways + [way[::-1] for way in ways]))
    return tuple(sorted(turned))


def _chain_terms(chains: Sequence[Chain], words: Words, n: int) -> Terms:
    """Return the moment of the traces of chains times words."""
    powers = [chain[0] for chain in chains if len(chain) == 1]
    longer = tuple((chain[0] + chain[-1], *chain[1:-1]) for chain in chains if len(chain) > 1)
    terms = _word_terms(_canonical(longer + words), n)
    if not powers:
        return terms
    return Counter({tuple(sorted((*key, *powers))): factor for key, factor in terms.items()})


@lru_cache(maxsize=100_000)
def _word_terms(words: Words, n: int) -> Terms:
    """Return E of a product of closed words as a polynomial in the traces of powers of Sigma."""
    if not words:
        return Counter({(): 1})
    word, others = words[0], words[1:]
    # tr(S W), where W is the chain of all gaps: the last gap ends it.
    total: Terms = Counter()
    _add(total, _chain_terms([_join(word, (1,))], others, n), n)
    for cut in range(1, len(word)):
        before, after = word[:cut], _join(word[cut:], (1,))
        _add(total, _chain_terms([_join(before[::-1], (0, 0), after)], others, n))
        _add(total, _chain_terms([_join((0, 0), before), after], others, n))
    for j, other in enumerate(others):
        remaining = others[:j] + others[j + 1 :]
        for turn in range(len(other)):
            chain = other[turn:] + other[:turn]
            for way in (chain, chain[::-1]):
                _add(total, _chain_terms([_join((0, 0), word, (1,), way)], remaining, n))
    return total


def _add(total: Terms, terms: Terms, factor: int = 1) -> None:
    for key, coefficient in terms.items():
        total[key] += factor * coefficient


def _evaluate(terms: Terms, covariance: FloatArray) -> FloatArray:
    """Return the value: one number, or with a marked power one per direction."""
    traces: dict[int, float] = {}
    value = np.zeros(len(covariance))
    for key, coefficient in terms.items():
        product = float(coefficient)
        direction: FloatArray | float = 1.0
        for k in key:
            if k >= _MARK:
                direction = covariance ** (k - _MARK)
            else:
                product *= traces.setdefault(k, float((covariance**k).sum()))
        value += product * direction
    return value
