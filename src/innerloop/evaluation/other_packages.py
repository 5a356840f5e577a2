"""Comparison of innerloop with mixed-model packages on the same unseen groups of a table."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, final

import numpy as np
from scipy.linalg import qr

from innerloop._base.checks import FloatArray, IntArray, as_count
from innerloop._base.seeds import stream
from innerloop._base.standard_errors import mean_and_error, ratio_errors
from innerloop.adaptation.predictor import mean_squares
from innerloop.data.episodes import Episodes
from innerloop.data.tasks import TaskSet, check_task_set, check_unweighted
from innerloop.estimators.meta_regressor import MetaRegressor, predict_episodes

Effects = Literal["intercept", "slopes"]

_TRAIN_SHARE = 0.75


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
    """A fitted linear mixed model: fixed effects, covariance of random effects, residual variance, and a note."""

    beta: FloatArray
    covariance: FloatArray
    noise: float
    note: str


def compare(
    tasks: TaskSet,
    n_adapt: int = 10,
    seed: int = 0,
    time_limit: float = 120.0,
    tick: Callable[[str], None] = lambda _: None,
) -> list[Contender]:
    """Fit three quarters of the groups with each package, and score the others.

    An unseen group gives `n_adapt` rows to adapt on and is scored on the rest; a group with none left is not scored.
    `MixedLM` of statsmodels predicts new groups by its fixed effects alone; we add the best linear unbiased prediction
    from its estimates, which uses the adaptation rows. Random slopes are those of all features.

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

    Returns
    -------
    list of Contender
        innerloop first. Packages that are not installed are listed with a note.

    Raises
    ------
    ValueError
        If there are several targets, or no group is left to train or to score.

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
    for package, effects in (("statsmodels", "intercept"), ("statsmodels", "slopes"), ("gpboost", "intercept")):
        name = f"{_MODELS[package]}, random {effects}"
        if importlib.util.find_spec(package) is None:
            rows.append((name, None, np.nan, f"not installed: pip install {package}"))
            continue
        tick(name)
        fitted, seconds = _limited(package, (design(train.X), train.y, train.task_of_row, effects), time_limit)
        if isinstance(fitted, str):
            rows.append((name, None, seconds, fitted))
            continue
        rows.append((f"{name}: fixed effects", _errors(fitted, design, unseen, adapt=False), seconds, fitted.note))
        rows.append((f"{name}: adapted by hand", _errors(fitted, design, unseen, adapt=True), seconds, fitted.note))
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
    model = MetaRegressor().fit(train.X, train.y, groups=train.task_of_row)
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
        _, R, order = qr((X[:, varying] - mean[varying]) / std[varying], mode="economic", pivoting=True)
        size = np.abs(np.diagonal(R))
        kept = np.sort(varying[order[: int((size > 1e-8 * size[:1]).sum())]])
        return cls(mean[kept], std[kept], kept)

    def __call__(self, X: FloatArray) -> FloatArray:
        return np.column_stack((np.ones(len(X)), (X[:, self.kept] - self.mean) / self.std))


def _errors(fitted: Components, design: _Design, unseen: Episodes, adapt: bool) -> FloatArray:
    """Return the error of each unseen group, by fixed effects or after the best linear unbiased prediction."""
    q, errors = len(fitted.covariance), []
    for X, y, X_query, y_query in unseen:
        beta = fitted.beta
        if adapt:
            E = design(X)
            Z = E[:, :q]
            spread = Z @ fitted.covariance
            u = spread.T @ np.linalg.solve(spread @ Z.T + fitted.noise * np.eye(len(y)), y - E @ beta)
            beta = beta + np.pad(u, (0, len(beta) - q))
        errors.append(float(np.mean(np.square(y_query - design(X_query) @ beta))))
    return np.array(errors)


def _contender(name: str, errors: FloatArray | None, seconds: float, note: str, *, first: FloatArray) -> Contender:
    if errors is None:
        return Contender(name, np.nan, np.nan, np.nan, np.nan, seconds, note)
    gap = errors - first
    if len(errors) == 1:
        return Contender(name, float(errors[0]), np.nan, float(gap[0]), np.nan, seconds, note)
    return Contender(name, *mean_and_error(errors), *mean_and_error(gap), seconds, note, *ratio_errors(errors, first))


def _limited(
    package: str, arguments: tuple[FloatArray, FloatArray, IntArray, str], limit: float
) -> tuple[Components | str, float]:
    """Fit in another process, which is ended after `limit` seconds: some mixed models take hours."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_fit_and_send, args=(package, arguments, sending), daemon=True)
    process.start()
    sending.close()
    try:
        if not receiving.poll(limit):
            return f"stopped after {limit:g} s", float(limit)
        answer: tuple[Components | str, float] = receiving.recv()
        return answer
    except EOFError:
        return "its process died", np.nan
    finally:
        process.kill()
        process.join()


def _fit_and_send(package: str, arguments: Any, sending: Any) -> None:
    fit = {"statsmodels": _statsmodels, "gpboost": _gpboost}[package]
    _silence()
    try:
        importlib.import_module(package)
        start = time.perf_counter()
        fitted: Components | str = fit(*arguments)
        seconds = time.perf_counter() - start
    except Exception as error:  # any error of another package is shown in the table
        fitted, seconds = f"{type(error).__name__}: {error}", np.nan
    sending.send((fitted, seconds))


def _silence() -> None:
    """Discard what packages print, also from C."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream_number in (1, 2):
        os.dup2(null, stream_number)


def _statsmodels(E: FloatArray, y: FloatArray, groups: IntArray, effects: Effects) -> Components:
    from statsmodels.regression.mixed_linear_model import MixedLM

    result = MixedLM(y, E, groups, exog_re=E if effects == "slopes" else None).fit()
    note = "" if result.converged else "did not converge"
    return Components(np.asarray(result.fe_params), np.asarray(result.cov_re), float(result.scale), note)


def _gpboost(E: FloatArray, y: FloatArray, groups: IntArray, effects: Effects) -> Components:  # noqa: ARG001
    import gpboost

    model = gpboost.GPModel(group_data=groups, likelihood="gaussian")
    model.fit(y=y, X=E)
    noise, spread = np.ravel(model.get_cov_pars(format_pandas=False))[:2]
    beta = np.ravel(model.get_coef(format_pandas=False))[: E.shape[1]]
    return Components(beta, np.array([[float(spread)]]), float(noise), "")


_MODELS: dict[str, str] = {"statsmodels": "statsmodels MixedLM", "gpboost": "GPBoost"}


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
    times = f"{best.seconds / ours.seconds:.0f} times as long" if best.seconds > ours.seconds else "less time"
    if best.excess <= best.excess_se:
        return f"innerloop does as well on unseen groups as the best of the others, {best.name}, which took {times}."
    percent, error = 100 * best.excess / best.mse, 100 * best.gain_se
    return (
        f"innerloop has {percent:.1f} ± {error:.1f} % lower error on unseen groups than the best of the others, "
        f"{best.name}, which took {times}."
    )
