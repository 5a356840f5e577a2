"""The query loss after adaptation at every adaptation rate; docs/theory.md (5).

K steps of rate r from meta-parameters omega leave the query residual ``sum_j C(K, j) (-r)^j t_j`` with
``t_j = g_j - U_j omega`` (`residual_columns`). Its sum of squares is a quadratic form in ``C(K, j) (-r)^j``, whose
matrix holds the products of the t_j summed over rows. `held_out_curves` and `bundled_curves` keep that form task by
task, as a polynomial in r, so that the best rate can be found later. `adapted_losses` sums over all tasks at once, by
one matrix product, and evaluates the form at given rates, scaled so that large ones do not overflow. The two sums round
in different orders, so that neither can stand in for the other without changing last digits.
"""

from __future__ import annotations

from math import comb

import numpy as np

from innerloop._base.checks import FloatArray, IntArray
from innerloop.data.episodes import Episodes
from innerloop.exact.objective import residual_columns, split_columns, step_coefficients

# Of more tasks than this only means over so many bundles are kept, which give standard errors to some percent.
_MOST_BUNDLES = 500
_MOST_NUMBERS = 2**22


def bundle_size(sizes_of_folds: IntArray) -> int:
    """Return the number of tasks per bundle (see `bundled_curves`): 1 where folds are small."""
    size = -(-int(sizes_of_folds.sum()) // _MOST_BUNDLES)
    return size if sizes_of_folds.min() >= 4 * size else 1


def held_out_curves(episodes: Episodes, coef: FloatArray, n_steps: int, unit: float) -> tuple[IntArray, FloatArray]:
    """Return each task's mean squared query error as a polynomial in its adaptation rate.

    Parameters
    ----------
    episodes
        Of tasks that were not used to fit `coef`.
    coef : (n_candidates, n_features, n_targets)
        Meta-parameters to score.
    n_steps
        Adaptation steps K.
    unit
        The polynomial's variable is ``adapt_lr / unit``.

    Returns
    -------
    tasks : (n_tasks,)
        The values of `episodes.task` that occur.
    curves : (n_tasks, n_candidates, 2K + 1)
        Coefficients, the constant first; averaged over query rows and targets.
    """
    tasks, position = np.unique(episodes.task, return_inverse=True)
    n_rows = np.bincount(position, weights=episodes.n_query)
    curves = np.zeros((len(tasks), len(coef), 2 * n_steps + 1))
    for members, rows in residual_columns(episodes, n_steps):
        np.add.at(curves, position[members], _squares(rows, coef, n_steps, unit))
    return tasks, curves / (episodes.n_targets * n_rows[:, None, None])


def bundled_curves(
    episodes: Episodes, coef: FloatArray, n_steps: int, unit: float, bundle: IntArray, n_bundles: int
) -> FloatArray:
    """Return the means of `held_out_curves` over bundles of tasks: (n_bundles, n_candidates, 2K + 1).

    The residual rows of a bundle, each divided by the root of the number of rows of its task, are reduced by QR before
    any candidate is scored, so that the cost of scoring grows with the number of bundles, not of tasks.

    Parameters
    ----------
    episodes, coef, n_steps, unit
        As in `held_out_curves`.
    bundle : (n_tasks,)
        Bundle of each task that `Episodes.task` counts, the same number of tasks in each; negative: not used.
    n_bundles
        Number of bundles.
    """
    width = (n_steps + 1) * (episodes.n_features + episodes.n_targets)
    n_rows = np.bincount(episodes.task, episodes.n_query, len(bundle)).astype(float)
    rows_of_bundle = np.bincount(bundle[bundle >= 0], n_rows[bundle >= 0], n_bundles)
    step = max(1, int(_MOST_NUMBERS // (width * rows_of_bundle.max(initial=1))))
    curves = [
        _squares(
            _stacked(episodes.select((bundle >= i) & (bundle < i + step)), n_steps, bundle - i, n_rows),
            coef,
            n_steps,
            unit,
        )
        for i in range(0, n_bundles, step)
    ]
    return np.asarray(np.concatenate(curves) * (n_bundles / (episodes.n_targets * (bundle >= 0).sum())))


def _stacked(episodes: Episodes, n_steps: int, bundle: IntArray, n_rows: FloatArray) -> FloatArray:
    """Return the weighted residual rows of bundles, reduced by QR: (n_bundles, n, width)."""
    of_episode = bundle[episodes.task]
    order = np.argsort(of_episode, kind="stable")
    ends = np.cumsum(episodes.n_query[order])
    total = np.bincount(of_episode, episodes.n_query).astype(np.intp)
    place = np.empty_like(ends)
    place[order] = ends - episodes.n_query[order] - np.repeat(np.cumsum(total) - total, np.bincount(of_episode))
    width = (n_steps + 1) * (episodes.n_features + episodes.n_targets)
    stack = np.zeros((len(total), int(total.max()), width))
    for members, rows in residual_columns(episodes, n_steps):
        at = place[members, None] + np.arange(rows.shape[1])
        stack[of_episode[members, None], at] = rows / np.sqrt(n_rows[episodes.task[members], None, None])
        place[members] += rows.shape[1]
    return np.asarray(np.linalg.qr(stack, mode="r")) if stack.shape[1] > width else stack


def _squares(rows: FloatArray, coef: FloatArray, n_steps: int, unit: float) -> FloatArray:
    """Return sums of squared residuals as polynomials in ``adapt_lr / unit``: (n_stacks, n_candidates, 2K + 1).

    Parameters
    ----------
    rows : (n_stacks, n_rows, (K + 1)(p + k))
        See `residual_columns`.
    """
    U, g = split_columns(rows, *coef.shape[1:])
    squares = np.zeros((len(rows), len(coef), 2 * n_steps + 1))
    for k in range(coef.shape[2]):
        weights = coef[:, :, k].T
        terms = [
            comb(n_steps, j) * (-unit) ** j * (g[..., j, k, None] - U[..., j, :] @ weights) for j in range(n_steps + 1)
        ]
        for i in range(n_steps + 1):
            for j in range(i, n_steps + 1):
                squares[..., i + j] += (1 + (i < j)) * np.einsum("bqc,bqc->bc", terms[i], terms[j])
    return squares


def lowest(curves: FloatArray) -> FloatArray:
    """Return the minimisers of polynomials of even degree (the last axis, constant first) that are bounded below."""
    n_roots = curves.shape[-1] - 2
    slopes = curves[..., 1:] * np.arange(1, curves.shape[-1])
    lead = slopes[..., -1:]
    flat = lead <= np.finfo(float).eps * np.abs(slopes).max(axis=-1, keepdims=True)
    companion = np.zeros((*curves.shape[:-1], n_roots, n_roots))
    companion[..., np.arange(1, n_roots), np.arange(n_roots - 1)] = 1.0
    companion[..., -1] = np.where(flat, 0.0, -slopes[..., :-1] / np.where(flat, 1.0, lead))
    # The real parts of complex roots are harmless further candidates; 0 is the one where the curve is flat.
    roots = companion[..., 0] if n_roots == 1 else np.linalg.eigvals(companion).real
    candidates = np.concatenate((roots, np.zeros((*roots.shape[:-1], 1))), axis=-1)
    best = np.argmin(polynomial_values(curves[..., None, :], candidates), axis=-1)
    return np.take_along_axis(candidates, best[..., None], axis=-1)[..., 0]


def polynomial_values(curves: FloatArray, t: FloatArray) -> FloatArray:
    """Return the polynomials' values at t, by Horner's rule, broadcasting."""
    value = np.zeros(())
    for m in reversed(range(curves.shape[-1])):
        value = value * t + curves[..., m]
    return value


def adapted_losses(episodes: Episodes, coef: FloatArray, adapt_lrs: FloatArray, n_steps: int) -> FloatArray:
    """Return half the mean squared query error after adaptation from each of several meta-parameters.

    Parameters
    ----------
    episodes
        Support rows to adapt on, query rows to score.
    coef : (n_coef, n_features) or (n_coef, n_features, n_targets)
        Meta-parameters.
    adapt_lrs : (n_adapt,)
        Rates.
    n_steps
        Gradient steps.

    Returns
    -------
    (n_coef, n_adapt)
    """
    K, omega = n_steps, coef.reshape(len(coef), episodes.n_features, episodes.n_targets)
    products = np.zeros((len(coef), K + 1, K + 1))
    for _, block in residual_columns(episodes, K):
        U, g = split_columns(block.reshape(-1, block.shape[-1]), *omega.shape[1:])
        terms = g[:, :, None, :] - np.einsum("ijp,cpk->ijck", U, omega, optimize=True)
        by_coef = np.ascontiguousarray(terms.transpose(2, 1, 0, 3)).reshape(len(coef), K + 1, -1)
        products += by_coef @ by_coef.transpose(0, 2, 1)
    losses = np.empty((len(coef), len(adapt_lrs)))
    for i, rate in enumerate(adapt_lrs.tolist()):
        c, scale = step_coefficients(rate, K)
        losses[:, i] = scale**2 * (products @ c @ c)
    return losses / (2 * float(episodes.n_query.sum()) * episodes.n_targets)
