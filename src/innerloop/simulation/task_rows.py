"""Query rows of tasks in meta-training, for every protocol (docs/theory.md, 18 and 25)."""

from __future__ import annotations

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop.distributions import Design, Group
from innerloop.distributions.inner_rules import QueryRows


def task_rows(design: Design, group: Group, X: FloatArray, coefficients: FloatArray, cosine: FloatArray) -> QueryRows:
    """Return the query rows of tasks, and factors of the covariance of their noise.

    Parameters
    ----------
    design, group
        The protocol and the rule, and the sizes.
    X : (..., n_rows, n_features)
        Rows of tasks, support before query.
    coefficients : (n_rates, n_coefficients)
        As in `InnerRule.query_rows`.
    cosine : (n_rates,)
        What the rows are multiplied by.

    Returns
    -------
    QueryRows
        With the protocol "split" D E' is the covariance that the support's noise adds to that of query rows. With the
        others the same noise is in both, and D = E, (..., n_rates, n_query, n_rows), is the factor of all of it.
    """
    folds = design.episodes(group)
    if design.protocol == "split":
        return design.rule.query_rows(X[..., folds[0].support, :], X[..., folds[0].query, :], coefficients)
    B, Z = [], []
    for fold in folds:
        support = X[..., fold.support, :]
        rows = design.rule.query_rows(support, X[..., fold.query, :], coefficients)
        passed = rows.D @ support.swapaxes(-1, -2)[..., None, :, :] / len(fold.support)
        whole = np.zeros((*passed.shape[:-1], X.shape[-2]))
        whole[..., fold.support] = passed
        whole[..., np.arange(len(fold.query)), fold.query] += cosine[:, None]
        B.append(rows.B)
        Z.append(whole)
    stacked = np.concatenate(Z, axis=-2)
    return QueryRows(np.concatenate(B, axis=-2), stacked, stacked)
