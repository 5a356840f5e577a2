"""Wishart moments against symbols, brute force and each other."""

import numpy as np
import pytest

from innerloop.theory import wishart_trace_moment, wishart_word_moment
from innerloop.theory.spectrum import wishart_spectrum
from innerloop.theory.wishart import wishart_diagonal

SYMBOLS = {
    (): lambda n, p: 1,  # noqa: ARG005
    (0,): lambda n, p: p,  # noqa: ARG005
    (1,): lambda n, p: n * p,
    (2,): lambda n, p: n * p * (n + p + 1),
    (3,): lambda n, p: n * p * (n**2 + p**2 + 3 * n * p + 3 * n + 3 * p + 4),
    (1, 1): lambda n, p: n**2 * p**2 + 2 * n * p,
    (1, 2): lambda n, p: n * p * (n * p + 4) * (n + p + 1),
    (4,): lambda n, p: (
        n**4 * p
        + 6 * n**3 * p**2
        + 6 * n**3 * p
        + 6 * n**2 * p**3
        + 17 * n**2 * p**2
        + 21 * n**2 * p
        + n * p**4
        + 6 * n * p**3
        + 21 * n * p**2
        + 20 * n * p
    ),
}


@pytest.mark.parametrize("powers", SYMBOLS, ids=str)
@pytest.mark.parametrize(("n", "p"), [(7, 5), (1, 1), (30, 60), (60, 3)])
def test_known_polynomials(powers, n, p):
    assert wishart_trace_moment(powers, n, p) == SYMBOLS[powers](n, p)


@pytest.mark.parametrize("powers", [(5,), (2, 3), (1, 1, 2), (4, 2), (1, 1, 1, 1)], ids=str)
def test_transposing_the_data_changes_nothing(powers):
    assert wishart_trace_moment(powers, 9, 4) == wishart_trace_moment(powers, 4, 9)


@pytest.mark.parametrize("k", range(1, 9))
def test_one_row_and_one_feature_is_a_power_of_chi_square(k):
    assert wishart_trace_moment([k], 1, 1) == np.prod(np.arange(1, 2 * k, 2))
    chi_square = np.prod([11 + 2 * j for j in range(k)])
    assert wishart_trace_moment([k], 11, 1) == chi_square


def test_integers_of_any_length():
    assert wishart_trace_moment([14], 60, 60) > 10**30


def test_words_with_the_identity_are_traces():
    for powers in ([1], [2], [4], [1, 2], [2, 2], [1, 1, 3]):
        words = [[0] * k for k in powers]
        assert wishart_word_moment(words, 7, np.ones(5)) == wishart_trace_moment(powers, 7, 5)


def test_words_against_brute_force():
    rng, n, s = np.random.default_rng(0), 4, np.array([0.3, 1.0, 2.0])
    X = rng.standard_normal((200_000, n, 3)) * np.sqrt(s)
    S = np.einsum("rni,rnj->rij", X, X)
    C = np.diag(s)
    cases = {
        ((1, 0),): np.einsum("rij,rji->r", S @ C, S),
        ((0, 0, 1),): np.einsum("rij,rji->r", S @ S, S @ C),
        ((0, 0), (1,)): np.einsum("rij,rji->r", S, S) * np.einsum("rij,ji->r", S, C),
    }
    for words, draws in cases.items():
        assert abs(draws.mean() - wishart_word_moment(words, n, s)) < 4 * draws.std() / np.sqrt(len(draws))
    for left, gap, right in ((1, 1, 1), (2, 1, 1), (0, 1, 2)):
        matrix = np.linalg.matrix_power(S, left) @ np.linalg.matrix_power(C, gap) @ np.linalg.matrix_power(S, right)
        draws = np.einsum("rii->ri", matrix)
        error = np.abs(draws.mean(axis=0) - wishart_diagonal(left, gap, right, n, s))
        assert (error < 4 * draws.std(axis=0) / np.sqrt(len(draws))).all()


@pytest.mark.parametrize(("n", "p"), [(30, 60), (60, 60), (300, 60), (6, 60)])
def test_the_spectrum_has_the_exact_moments_to_second_order(n, p):
    spectrum = wishart_spectrum(n, p)
    for k in (0, 1, 2):
        exact = wishart_trace_moment([k], n, p) / n**k
        assert spectrum.weights @ spectrum.nodes**k == pytest.approx(exact, rel=1e-9)
    for k in (3, 4, 6):
        exact = wishart_trace_moment([k], n, p) / n**k
        assert spectrum.weights @ spectrum.nodes**k == pytest.approx(exact, rel=3 * k**2 / min(n, p) ** 2 / 2)


def test_bad_exponents():
    with pytest.raises(ValueError, match="`exponents` must be at least 0"):
        wishart_trace_moment([-1], 3, 3)
    with pytest.raises(ValueError, match="`n_rows` must be at least 1"):
        wishart_trace_moment([1], 0, 3)
