"""Comparison of innerloop with mixed-model packages on the same unseen groups of a table."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, NamedTuple, final

import numpy as np
from scipy.linalg import qr

from innerloop._base.checks import FloatArray, IntArray, as_count
from innerloop._base.seeds import stream
from innerloop._base.standard_errors import mean_and_error, ratio_errors
from innerloop.adaptation.predictor import mean_squares
from innerloop.data.episodes import Episodes
from innerloop.data.tasks import TaskSet, check_task_set, check_unweighted
from innerloop.estimators.meta_regressor import MetaRegressor, fitted_regressor, predict_episodes
from innerloop.tabular.curvature import varies_within
from innerloop.tabular.settings import read_settings
from innerloop.tabular.training import MetaTraining

Effects = Literal["intercept", "slopes"]

_TRAIN_SHARE = 0.75
_MOST_TREES = 500


@final
@dataclass(frozen=True)
class Contender:
    """Errors of a package on the unseen groups, and its time.

    Parameters
    ----------
    name
        Package and model.
    mse, mse_se
        Mean over unseen groups of their mean squared error, and its standard error over groups. NaN if there is none.
    excess, excess_se
        Difference to the first contender, paired over groups.
    seconds
        Time to fit the training groups, choices included.
    note
        What went wrong; empty where nothing did.
    gain_se, loss_se
        Standard errors of ``excess / mse`` and of ``excess`` as a part of the first contender's `mse`.
    """

    name: str
    mse: float
    mse_se: float
    excess: float
    excess_se: float
    seconds: float
    note: str = ""
    gain_se: float = np.nan
    loss_se: float = np.nan


class Components(NamedTuple):
    """A fitted mixed model, as needed to predict unseen groups.

    Parameters
    ----------
    fixed : (n_rows,)
        Predictions of the rows of unseen groups by the fixed part.
    covariance : (q, q)
        Of the random effects.
    noise
        Residual variance.
    note
        What went wrong; empty where nothing did.
    """

    fixed: FloatArray
    covariance: FloatArray
    noise: float
    note: str = ""


class _Rows(NamedTuple):
    """What a package is given: designs E of training rows and of unseen rows, and columns that have random effects."""

    E: FloatArray
    y: FloatArray
    groups: IntArray
    E_unseen: FloatArray
    varying: IntArray

    def of(self, package: _Package) -> _Rows:
        """Return what a package is given whose model may have no slopes."""
        return self if package.effects == "slopes" else self._replace(varying=self.varying[:1])


class _Package(NamedTuple):
    """A model of another package: module, name for pip, name in tables, what varies, and how it is fitted."""

    module: str
    pip: str
    name: str
    effects: Effects
    fit: Callable[[_Rows], Components]


def compare(
    tasks: TaskSet,
    n_adapt: int = 10,
    seed: int = 0,
    time_limit: float = 120.0,
    tick: Callable[[str], None] = lambda _: None,
    slopes: Sequence[str | int] | None = None,
) -> list[Contender]:
    """Fit three quarters of the groups with each package, and score the others.

    An unseen group gives `n_adapt` rows to adapt on and is scored on the rest; a group with none left is not scored.
    `MixedLM` of statsmodels predicts new groups by its fixed effects alone; we add the best linear unbiased prediction
    from its estimates, which uses the adaptation rows; so we do with the other packages. Compared are linear mixed
    models of statsmodels, mixedlm, mixedlm-rs and GPBoost, and boosted trees with a random intercept of GPBoost.

    Parameters
    ----------
    tasks
        A `TaskSet` with one target.
    n_adapt
        Rows of an unseen group that are given, from 1.
    seed
        Draws the groups and their rows.
    time_limit
        Seconds after which another package is stopped.
    tick
        Called with the name of each contender before its turn.
    slopes
        Names or positions of the features with random slopes, where a model has slopes; None: all that vary within
        groups.

    Returns
    -------
    list of Contender
        innerloop first. Packages that are not installed are listed with a note.

    Raises
    ------
    ValueError
        If there are several targets, no group is left to train or to score, or a slope is no feature.

    Examples
    --------
    >>> import innerloop as il
    >>> tasks = il.MixedLinearRegression(1).sample_tasks(n_tasks=12, n_rows=8, seed=0)
    >>> contenders = il.compare(tasks, n_adapt=4)
    >>> contenders[0].name
    'innerloop'
    """
    check_task_set(tasks)
    check_unweighted(tasks, "`compare`")
    if tasks.y.ndim > 1:
        raise ValueError(f"`tasks` must have one target, got {tasks.y.shape[1]}.")
    train, unseen = _split(tasks, as_count(n_adapt, "n_adapt"), seed)
    tick("innerloop")
    seconds, errors = _innerloop(train, unseen)
    rows: list[tuple[str, FloatArray | None, float, str]] = [("innerloop", errors, seconds, "")]
    design = _Design.build(train.X)
    E, E_unseen = design(train.X), design(unseen.X)
    with_slopes = np.append(0, design.places(_slopes(train, slopes)))
    # Without slopes that model is the random intercept.
    packages = [package for package in _PACKAGES if package.effects == "intercept" or len(with_slopes) > 1]
    given = _Rows(E, train.y, train.task_of_row, E_unseen, with_slopes)
    for package, fitted, seconds in _fit_all(packages, given, time_limit, tick):
        if isinstance(fitted, str):
            rows.append((package.name, None, seconds, fitted))
            continue
        Z = E_unseen[:, given.of(package).varying]
        fixed, adapted = (_errors(fitted, Z, unseen, adapt) for adapt in (False, True))
        rows.append((f"{package.name}: fixed effects", fixed, seconds, fitted.note))
        rows.append((f"{package.name}: adapted by hand", adapted, seconds, fitted.note))
    return [_contender(*row, first=errors) for row in rows]


def _split(tasks: TaskSet, n_adapt: int, seed: int) -> tuple[TaskSet, Episodes]:
    order = stream(seed).permutation(len(tasks))
    n_train = int(_TRAIN_SHARE * len(tasks))
    scored = order[n_train:][tasks.sizes[order[n_train:]] > n_adapt]
    if n_train == 0 or len(scored) == 0:
        raise ValueError(
            f"`tasks` must have groups to train on and unseen groups of more than {n_adapt} rows to score, got "
            f"{n_train} and {len(scored)}; adapt on fewer rows."
        )
    train = tasks.select(np.sort(order[:n_train])).fit_columns()
    unseen = tasks.select(np.sort(scored)).encode(train.column_map)
    return train, unseen.split(n_support=n_adapt, seed=seed)


def _innerloop(train: TaskSet, unseen: Episodes) -> tuple[float, FloatArray]:
    start = time.perf_counter()
    parameters = MetaRegressor().get_params()
    model = fitted_regressor(parameters, MetaTraining.prepare(train, read_settings(parameters)).choose().table())
    seconds = time.perf_counter() - start
    residual = unseen.y[unseen.query_rows] - predict_episodes(model, unseen)
    return seconds, mean_squares(unseen, residual[:, None])


@final
@dataclass(frozen=True, eq=False)
class _Design:
    """Design matrix of a mixed model: an intercept and standardised features, without linearly dependent ones."""

    mean: FloatArray
    std: FloatArray
    kept: IntArray

    @classmethod
    def build(cls, X: FloatArray) -> _Design:
        mean, std = X.mean(axis=0), X.std(axis=0)
        varying = np.flatnonzero(std > 1e-12 * np.maximum(np.abs(mean), 1e-300))
        if len(varying) == 0:
            return cls(mean[varying], std[varying], varying)
        _, R, order = qr((X[:, varying] - mean[varying]) / std[varying], mode="economic", pivoting=True)
        size = np.abs(np.diagonal(R))
        kept = np.sort(varying[order[: int((size > 1e-8 * size[:1]).sum())]])
        return cls(mean[kept], std[kept], kept)

    def __call__(self, X: FloatArray) -> FloatArray:
        return np.column_stack((np.ones(len(X)), (X[:, self.kept] - self.mean) / self.std))

    def places(self, features: IntArray) -> IntArray:
        """Return the columns of those features that are in the design."""
        return 1 + np.flatnonzero(np.isin(self.kept, features))


def _slopes(tasks: TaskSet, slopes: Sequence[str | int] | None) -> IntArray:
    """Return the positions of the features that may have random slopes."""
    if slopes is None:
        return np.flatnonzero(varies_within(tasks))
    names = list(tasks.feature_names or ())
    positions = [names.index(s) if s in names else s for s in slopes]
    for given, position in zip(slopes, positions, strict=True):
        if not isinstance(position, int | np.integer) or not 0 <= position < tasks.n_features:
            known = ", ".join(map(repr, names)) if names else f"0 to {tasks.n_features - 1}"
            raise ValueError(f"`slopes` must name features ({known}), got {given!r}.")
    return np.array(positions, dtype=np.intp)


def _errors(fitted: Components, Z: FloatArray, unseen: Episodes, adapt: bool) -> FloatArray:
    """Return the error of each unseen group, by the fixed part or after the best linear unbiased prediction.

    Z are the columns with random effects of the rows of the episodes: (n_rows, q).
    """
    residual, cov, error = unseen.y - fitted.fixed, fitted.covariance, (unseen.y - fitted.fixed)[unseen.query_rows]
    ends, query_ends = np.cumsum(unseen.n_support), np.cumsum(unseen.n_query)
    errors = []
    for i, (end, query_end) in enumerate(zip(ends, query_ends, strict=True)):
        rows = unseen.support_rows[end - unseen.n_support[i] : end]
        query = slice(query_end - unseen.n_query[i], query_end)
        left = error[query]
        if adapt:
            spread = Z[rows] @ cov
            V = spread @ Z[rows].T + fitted.noise * np.eye(len(rows))
            u = spread.T @ np.linalg.solve(V, residual[rows])
            left = left - Z[unseen.query_rows[query]] @ u
        errors.append(float(np.mean(np.square(left))))
    return np.array(errors)


def _contender(name: str, errors: FloatArray | None, seconds: float, note: str, *, first: FloatArray) -> Contender:
    if errors is None:
        return Contender(name, np.nan, np.nan, np.nan, np.nan, seconds, note)
    gap = errors - first
    if len(errors) == 1:
        return Contender(name, float(errors[0]), np.nan, float(gap[0]), np.nan, seconds, note)
    return Contender(name, *mean_and_error(errors), *mean_and_error(gap), seconds, note, *ratio_errors(errors, first))


def _fit_all(
    packages: Sequence[_Package], rows: _Rows, limit: float, tick: Callable[[str], None]
) -> Iterator[tuple[_Package, Components | str, float]]:
    """Yield each model with what was fitted, or why it was not, and the seconds.

    The models of a package are fitted in one other process, which is ended where one of them takes longer than `limit`
    seconds, as some mixed models take hours; another process then goes on.
    """
    for module, of_module in groupby(packages, key=lambda package: package.module):
        left = list(of_module)
        if importlib.util.find_spec(module) is None:
            yield from ((package, f"not installed: pip install {package.pip}", np.nan) for package in left)
            continue
        while left:
            context = multiprocessing.get_context("spawn")
            receiving, sending = context.Pipe(duplex=False)
            process = context.Process(target=_fit_and_send, args=(left, rows, sending), daemon=True)
            process.start()
            sending.close()
            try:
                while left:
                    tick(left[0].name)
                    if not receiving.poll(limit):
                        yield left.pop(0), f"stopped after {limit:g} s", float(limit)
                        break
                    yield left.pop(0), *receiving.recv()
            except EOFError:
                yield left.pop(0), "its process died", np.nan
            finally:
                process.kill()
                process.join()


def _fit_and_send(packages: Sequence[_Package], rows: _Rows, sending: Any) -> None:
    _silence()
    for package in packages:
        try:
            importlib.import_module(package.module)
            start = time.perf_counter()
            fitted: Components | str = package.fit(rows.of(package))
            seconds = time.perf_counter() - start
        except Exception as error:  # any error of another package is shown in the table
            fitted, seconds = f"{type(error).__name__}: {error}", np.nan
        sending.send((fitted, seconds))


def _silence() -> None:
    """Discard what packages print, also from C."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream_number in (1, 2):
        os.dup2(null, stream_number)


def _statsmodels(rows: _Rows) -> Components:
    from statsmodels.regression.mixed_linear_model import MixedLM

    return _like_statsmodels(MixedLM, rows)


def _mixedlm_rs(rows: _Rows) -> Components:
    from mixedlm_rs import MixedLM

    return _like_statsmodels(MixedLM, rows)


def _like_statsmodels(model: Any, rows: _Rows) -> Components:
    random = rows.E[:, rows.varying] if len(rows.varying) > 1 else None
    result = model(rows.y, rows.E, rows.groups, exog_re=random).fit()
    note = "" if result.converged else "did not converge"
    fixed = rows.E_unseen @ np.asarray(result.fe_params)
    return Components(fixed, np.asarray(result.cov_re), float(result.scale), note)


def _mixedlm(rows: _Rows) -> Components:
    import mixedlm
    import pandas as pd

    names = [f"x{j}" for j in range(rows.E.shape[1])]
    frame = pd.DataFrame(rows.E, columns=names).assign(y=rows.y, g=rows.groups.astype(str))
    random = " + ".join(["1", *(names[j] for j in rows.varying[1:])])
    result = mixedlm.lmer(f"y ~ {' + '.join(['1', *names[1:]])} + ({random} | g)", frame)
    beta = np.array([result.fixef()[name] for name in ("(Intercept)", *names[1:])])
    note = "" if result.converged else "did not converge"
    return Components(
        rows.E_unseen @ beta, np.asarray(result.VarCorr().groups["g"].cov), float(result.sigma) ** 2, note
    )


def _gpboost(rows: _Rows) -> Components:
    import gpboost

    n_slopes, slopes = len(rows.varying) - 1, {}
    if n_slopes:
        slopes = {
            "group_rand_coef_data": rows.E[:, rows.varying[1:]],
            "ind_effect_group_rand_coef": [1] * n_slopes,
        }
    model = gpboost.GPModel(group_data=rows.groups, likelihood="gaussian", **slopes)
    model.fit(y=rows.y, X=rows.E)
    noise, *variances = np.ravel(model.get_cov_pars(format_pandas=False))[: 2 + n_slopes]
    beta = np.ravel(model.get_coef(format_pandas=False))[: rows.E.shape[1]]
    return Components(rows.E_unseen @ beta, np.diag(variances), float(noise))


def _gpboost_trees(rows: _Rows) -> Components:
    """Fit boosted trees with a random intercept; the number of trees is that of lowest error on held-out groups."""
    import gpboost
    from sklearn.model_selection import GroupKFold

    X, X_unseen = (np.ascontiguousarray(E[:, 1:]) if E.shape[1] > 1 else E for E in (rows.E, rows.E_unseen))
    settings = {"objective": "regression_l2", "learning_rate": 0.05, "num_leaves": 15, "verbose": -1, "seed": 0}
    settings["min_data_in_leaf"] = int(np.clip(len(X) // 30, 2, 20))
    n_folds = min(4, len(np.unique(rows.groups)))
    tried = gpboost.cv(
        params=settings,
        train_set=gpboost.Dataset(X, rows.y, free_raw_data=False),
        gp_model=gpboost.GPModel(group_data=rows.groups, likelihood="gaussian"),
        num_boost_round=_MOST_TREES,
        early_stopping_rounds=20,
        folds=list(GroupKFold(n_folds).split(X, rows.y, rows.groups)),
        verbose_eval=False,
    )
    n_trees = max(1, min(len(values) for values in tried.values()))
    model = gpboost.GPModel(group_data=rows.groups, likelihood="gaussian")
    data = gpboost.Dataset(X, rows.y, free_raw_data=False)
    booster = gpboost.train(params=settings, train_set=data, gp_model=model, num_boost_round=n_trees)
    new_group = np.full(len(X_unseen), rows.groups.max() + 1)
    predicted = booster.predict(data=X_unseen, group_data_pred=new_group, pred_latent=True)
    noise, spread = np.ravel(model.get_cov_pars(format_pandas=False))[:2]
    return Components(np.asarray(predicted["fixed_effect"]), np.array([[float(spread)]]), float(noise))


_PACKAGES = (
    _Package("statsmodels", "statsmodels", "statsmodels MixedLM, random intercept", "intercept", _statsmodels),
    _Package("statsmodels", "statsmodels", "statsmodels MixedLM, random slopes", "slopes", _statsmodels),
    _Package("mixedlm", "mixedlm", "mixedlm, random slopes", "slopes", _mixedlm),
    _Package("mixedlm_rs", "mixedlm-rs", "mixedlm-rs, random slopes", "slopes", _mixedlm_rs),
    _Package("gpboost", "gpboost", "GPBoost, random intercept", "intercept", _gpboost),
    _Package("gpboost", "gpboost", "GPBoost, random slopes", "slopes", _gpboost),
    _Package("gpboost", "gpboost", "GPBoost trees, random intercept", "intercept", _gpboost_trees),
)


def _times(ratio: float) -> str:
    if ratio > 1.5:
        return f"{ratio:.0f} times as long"
    return "about as long" if ratio > 2 / 3 else "less time"


def best_of(contenders: Sequence[Contender]) -> str:
    """Return the result of a comparison, in words."""
    ours, others = contenders[0], [c for c in contenders[1:] if np.isfinite(c.mse)]
    if not others:
        return "No other package fitted the table."
    best = min(others, key=lambda contender: contender.mse)
    if not np.isfinite(best.excess_se):
        return "One unseen group is too few to tell packages apart; adapt on fewer rows, or bring more groups."
    if best.excess < -best.excess_se:
        percent, error = -100 * best.excess / ours.mse, 100 * best.loss_se
        return f"{best.name} has {percent:.1f} ± {error:.1f} % lower error on unseen groups than innerloop."
    times = _times(best.seconds / ours.seconds)
    if best.excess <= best.excess_se:
        return f"innerloop does as well on unseen groups as the best of the others, {best.name}, which took {times}."
    percent, error = 100 * best.excess / best.mse, 100 * best.gain_se
    return (
        f"innerloop has {percent:.1f} ± {error:.1f} % lower error on unseen groups than the best of the others, "
        f"{best.name}, which took {times}."
    )
