"""Meta-learned linear regression for tables of many small tasks."""

from __future__ import annotations

import copy
import warnings
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted, validate_data

from innerloop._base.checks import FloatArray, IntArray
from innerloop._base.progress import progress
from innerloop.adaptation.rules import Adaptation, GradientSteps, NoAdaptation
from innerloop.data.frames import take_groups
from innerloop.data.ids import comparable, distinct_ids, places
from innerloop.data.tasks import TaskSet
from innerloop.tabular.fitted_table import from_state, to_state
from innerloop.tabular.intervals import as_level
from innerloop.tabular.known_rows import KnownRows
from innerloop.tabular.settings import Settings, read_settings
from innerloop.tabular.training import MetaTraining

# Rows predicted at once; bounds the memory that gathers each row's own coefficients.
_ROWS_AT_ONCE = 2**16


class MetaRegressor(RegressorMixin, BaseEstimator):
    """Linear regression for many related tasks, meta-trained exactly at signed inner learning rates.

    A new task adapts on its own few rows: by a ridge that draws its coefficients towards the population's, each as
    strongly as the training tasks agree on it, or by a gradient step from coefficients that were meta-trained for
    such steps, or not at all. Which, and with what strength, is chosen by cross-validation over whole tasks.

    Parameters
    ----------
    inner_lr : float or "auto", default="auto"
        Inner learning rate of meta-training for gradient steps; negative rates are usual. 0 is pooled least squares.
    adapt_lr : float, "auto" or "per-feature", default="auto"
        Learning rate of the gradient step by which a task adapts. "per-feature": one of either sign for each
        feature, the same in training and in adaptation (Meta-SGD, in closed form).
    adaptation : {"auto", "none", "gradient", "ridge"}, default="auto"
        How tasks adapt. "auto": the best of the other three on held-out tasks, over 0, 1, 2, 5, 10 and 20 rows
        or at `n_support` rows where that is given: by mean error beyond a standard error; within one no gradient
        steps, but a ridge if tasks are few, or most gain. "none": one pooled ridge, or what `inner_lr` gives.
        "gradient" where a rate is given; its rate may turn out to be 0.
    l2 : float or "auto", default="auto"
        Ridge penalty on the meta-parameters, in units of the half mean squared error. "auto": by cross-validation;
        for "ridge", by restricted maximum likelihood.
    group : str, default=None
        Name of the column of X, a data frame, that holds the task ids. It is not a feature.
    random_state : int, RandomState instance or None, default=0
        Deals rows into support and query and tasks into folds.
    n_support : int, default=None
        Rows on which a task adapts. Rates are tuned for this number. None: half of the median task, at
        most 10. Smaller tasks adapt on all their rows but one.
    n_query : int, default=None
        None: every row of a training task is a query row once, its support drawn from the task's other rows. A
        number: the usual MAML episodes, one per task, of `n_support` rows to adapt on and `n_query` others to
        score; the task's further rows are not used in training.
    n_steps : int, default=1
        Gradient steps, in training and in adaptation.
    cv : int, default=5
        Folds of tasks in the cross-validation.
    standardize : bool, default=True
        Whether features are brought to unit standard deviation. Rates refer to standardised features, so they
        do not depend on units.
    fit_intercept : bool, default=True
        Whether to fit an intercept, which adapts like any coefficient.
    verbose : bool, default=False
        Whether to show a progress bar while fitting, where standard error is a terminal.

    Attributes
    ----------
    coef_ : (n_features,) or (n_targets, n_features)
        Meta-parameters, in the units of X.
    intercept_ : float or (n_targets,)
        Their intercept.
    adaptation_ : str
        How tasks adapt: "none", "gradient" or "ridge".
    adaptation_results_ : dict of arrays
        Held-out mean squared error of each kind of adaptation at numbers of rows, and its paired difference to the
        chosen kind. Errors of several targets are in units of each target's variance, and averaged.
    inner_lr_, adapt_lr_, l2_ : float
        The rates and the penalty in use. Where "auto" chose "ridge" the rates are those of the best gradient step;
        with adaptation="ridge" they are NaN. Both are (n_columns,) with adapt_lr="per-feature": the rates of the
        features that are not constant, and of the intercept.
    inner_lr_se_, adapt_lr_se_ : float
        Bootstrap standard errors over tasks of the cross-validated optimum; NaN where nothing was chosen.
    n_support_ : int
        Support rows per episode.
    groups_ : (n_groups,)
        Ids of the tasks it knows.
    group_coef_, group_intercept_
        Their adapted coefficients: `coef_` and `intercept_` with a leading axis of tasks.
    cv_results_ : dict of arrays or None
        Held-out mean squared error over the grid of ``inner_lr``, ``l2`` and ``adapt_lr``: ``mse``, ``mse_se``,
        the paired ``difference`` to inner_lr = 0 at its own best adapt_lr and l2, and ``difference_se``; in units
        as above. None where nothing was chosen.
    n_features_in_ : int
    feature_names_in_ : (n_features,), where X had string column names

    Notes
    -----
    With ``inner_lr=0`` this is pooled (ridge) regression, and one task with ``inner_lr=0, l2=0`` is ordinary least
    squares. Of gradient steps the simplest within one standard error of the best is taken: no inner loop,
    adaptation only, both. docs/theory.md, sections 5, 19 and 21.

    Examples
    --------
    >>> import innerloop as il, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> groups = np.repeat(np.arange(50), 12)
    >>> X = rng.standard_normal((600, 3))
    >>> y = X @ [1.0, 2.0, 3.0] + rng.standard_normal(50)[groups]
    >>> model = il.MetaRegressor().fit(X, y, groups=groups)
    >>> model.predict(X[:2], groups=groups[:2]).shape
    (2,)
    """

    groups_: NDArray[Any]
    group_coef_: FloatArray
    group_intercept_: FloatArray
    adaptation_results_: dict[str, NDArray[Any]]
    inner_lr_: Any  # a number, or an array of them
    adapt_lr_: Any
    _known: KnownRows

    # With metadata routing on, `groups` reaches the model as well as the splitter without further requests.
    __metadata_request__fit = {"groups": True}
    __metadata_request__predict = {"groups": True}
    __metadata_request__score = {"groups": True}

    def __init__(
        self,
        inner_lr: float | Literal["auto"] = "auto",
        adapt_lr: float | Literal["auto", "per-feature"] = "auto",
        adaptation: Literal["auto", "none", "gradient", "ridge"] = "auto",
        l2: float | Literal["auto"] = "auto",
        group: str | None = None,
        random_state: Any = 0,
        *,
        n_support: int | None = None,
        n_query: int | None = None,
        n_steps: int = 1,
        cv: int = 5,
        standardize: bool = True,
        fit_intercept: bool = True,
        verbose: bool = False,
    ) -> None:
        self.inner_lr = inner_lr
        self.adapt_lr = adapt_lr
        self.adaptation = adaptation
        self.l2 = l2
        self.group = group
        self.random_state = random_state
        self.n_support = n_support
        self.n_query = n_query
        self.n_steps = n_steps
        self.cv = cv
        self.standardize = standardize
        self.fit_intercept = fit_intercept
        self.verbose = verbose

    def fit(self, X: Any, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Meta-train on the tasks.

        Parameters
        ----------
        X : (n_rows, n_features) array or data frame
            With `group` set, a frame that holds that column too.
        y : (n_rows,) or (n_rows, n_targets)
        groups : (n_rows,), default=None
            Task id of each row. None, without `group`: all rows are one task.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If a parameter or the data cannot be used; the message says why.
        """
        settings = self.settings()
        X, groups = take_groups(self.group, X, groups)
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=np.float64)
        if groups is None:
            warnings.warn(
                "neither `groups` nor `group` is given: all rows count as one task and there is no inner loop. "
                "Pass groups=..., or name the column with MetaRegressor(group=...); in cross_val_score and its like "
                "groups reach the model by that column, or by params={'groups': ...} after "
                "sklearn.set_config(enable_metadata_routing=True).",
                UserWarning,
                stacklevel=2,
            )
        tasks = TaskSet.from_arrays(X, y, np.zeros(len(X), dtype=int) if groups is None else groups)
        with progress("Meta-training", settings.n_folds, shown=bool(self.verbose)) as tick:
            training = MetaTraining.prepare(tasks, settings, tick)
        self.fit_from(training, tasks, remember=groups is not None)
        return self

    def fit_from(self, training: MetaTraining, tasks: TaskSet, remember: bool = True) -> None:
        """Set the fitted attributes from tasks made ready; `remember` the tasks as seen groups."""
        settings, held_out = training.settings, training.held_out
        predictor, rates = training.predictor, training.rates_in_use()
        self.adaptation_ = training.adaptation
        self.inner_lr_, self.adapt_lr_, self.l2_ = rates.inner_lr, rates.adapt_lr, rates.l2
        if settings.per_feature and isinstance(predictor.rule, GradientSteps):
            self.inner_lr_ = self.adapt_lr_ = predictor.rule.lr
        self.n_support_ = training.n_support
        self.inner_lr_se_, self.adapt_lr_se_, self.cv_results_ = np.nan, np.nan, None
        if held_out is not None:
            errors = held_out.standard_errors(settings.seed)
            fixed = (settings.inner_lr, settings.adapt_lr)
            self.inner_lr_se_, self.adapt_lr_se_ = (
                error if rate is None else np.nan for error, rate in zip(errors, fixed, strict=True)
            )
            self.cv_results_ = held_out.table()
        self.adaptation_results_ = training.choice.results
        self._scaling, self._theta = training.scaling, predictor.coef
        self._spread = training.spread
        self._calibration = training.choice.calibration
        self._single_target = tasks.y.ndim == 1
        self.coef_, self.intercept_ = self._original(predictor.unseen)
        if not hasattr(self, "n_features_in_"):
            self.n_features_in_ = tasks.n_features
            if tasks.feature_names is not None:
                self.feature_names_in_ = np.array(tasks.feature_names, dtype=object)
        known, rows, none = training.tasks, training.rows, np.arange(0)
        self._remember(*((known, rows) if remember else (known.select(none), rows.take(none))))

    def settings(self) -> Settings:
        """Return the parameters, checked."""
        return read_settings(self)

    def predict(
        self, X: Any, groups: ArrayLike | None = None, return_std: bool = False
    ) -> FloatArray | tuple[FloatArray, FloatArray]:
        """Predict rows: seen groups with their adapted coefficients, all others with the meta-parameters.

        Parameters
        ----------
        X : (n_rows, n_features) array or data frame
        groups : (n_rows,), default=None
            Task id of each row. None, without a `group` column in X: the meta-parameters for all rows.
        return_std : bool, default=False
            Whether to return the standard deviation of a target around its prediction too: that of the noise and of
            the task's coefficients, scaled to what held-out tasks showed.

        Returns
        -------
        prediction : (n_rows,) or (n_rows, n_targets)
        std : the same shape, where asked for
        """
        X, place = self._rows(X, groups)
        prediction = self._predict(X, place)
        if not return_std:
            return prediction
        n_rows, spread = self._accuracy(X, place)
        return prediction, self._targets(spread * self._calibration.std_factor(n_rows))

    def predict_interval(
        self, X: Any, groups: ArrayLike | None = None, level: float = 0.9
    ) -> tuple[FloatArray, FloatArray]:
        """Return intervals that hold the target of a new row with a given probability.

        Their width follows the model's standard deviation; its scale is that at which rows of held-out tasks were
        held, after adaptation on as many rows. So they are right on average over tasks, whatever the noise.

        Parameters
        ----------
        X, groups
            As in `predict`.
        level : float, default=0.9
            Above 0, at most 0.9999.

        Returns
        -------
        lower, upper : (n_rows,) or (n_rows, n_targets)

        Raises
        ------
        ValueError
            If `level` is out of its range.
        """
        level = as_level(level)
        X, place = self._rows(X, groups)
        n_rows, spread = self._accuracy(X, place)
        half = self._targets(spread * self._calibration.half_width(n_rows, level))
        prediction = self._predict(X, place)
        return prediction - half, prediction + half

    def _rows(self, X: Any, groups: ArrayLike | None) -> tuple[FloatArray, IntArray]:
        """Return checked rows, and the place of each among the known groups: -1 for none."""
        check_is_fitted(self)
        X, groups = take_groups(self.group, X, groups, required=False)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        if groups is None:
            return X, np.full(len(X), -1)
        ids, task = distinct_ids(groups, "groups", len(X))
        return X, places(ids, self.groups_)[task]

    def _predict(self, X: FloatArray, place: IntArray) -> FloatArray:
        coef, intercept = np.atleast_2d(self.coef_), np.atleast_1d(self.intercept_)
        prediction = X @ coef.T + intercept
        rows = np.flatnonzero(place >= 0)
        group_coef = self.group_coef_.reshape(-1, *coef.shape)
        group_intercept = self.group_intercept_.reshape(-1, *intercept.shape)
        for part in np.array_split(rows, -(-len(rows) // _ROWS_AT_ONCE) or 1):
            own = np.einsum("ij,ikj->ik", X[part], group_coef[place[part]])
            prediction[part] = own + group_intercept[place[part]]
        return self._targets(prediction)

    def _accuracy(self, X: FloatArray, place: IntArray) -> tuple[IntArray, FloatArray]:
        n_rows, std = self._spread.of_rows(self._rule(), self._theta, self._known, self._scaling.design(X), place)
        return n_rows, std / self._scaling.y_rate

    def _targets(self, values: FloatArray) -> FloatArray:
        return np.asarray(values[:, 0] if self._single_target else values)

    def adapt(self, X: Any, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Return a fitted estimator that also knows the groups of these rows; this one does not change.

        Parameters
        ----------
        X, y, groups
            Labelled rows of new tasks, as in `fit`. A group that is already known is adapted anew, from the
            meta-parameters, on these rows.

        Returns
        -------
        MetaRegressor
        """
        check_is_fitted(self)
        X, groups = take_groups(self.group, X, groups)
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=np.float64, reset=False)
        if groups is None:
            raise ValueError("`groups` must say which task each row belongs to, got None.")
        tasks = TaskSet.from_arrays(X, y, groups)
        if tasks.y.shape[1:] != (() if self._single_target else (len(np.atleast_1d(self.intercept_)),)):
            raise ValueError(f"`y` must have the targets seen in fit, got shape {tasks.y.shape}.")
        adapted = copy.copy(self)
        scaled = self._scaling.tasks(tasks)
        adapted._remember(scaled, KnownRows.of(scaled), self)
        return adapted

    def score(
        self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> float:
        """Return the coefficient of determination R2 of ``predict(X, groups)``."""
        return float(r2_score(y, self.predict(X, groups=groups), sample_weight=sample_weight))

    def to_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return all that a fitted estimator knows as plain values and arrays, for `from_state`."""
        check_is_fitted(self)
        return to_state(self)

    @classmethod
    def from_state(cls, scalars: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """Return the fitted estimator that `to_state` described."""
        model = cls(**scalars["params"])
        from_state(model, scalars, arrays)
        return model

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _rule(self) -> Adaptation:
        if self.adaptation_ == "ridge":
            return self._spread.ridge()
        return GradientSteps(self.adapt_lr_, self.n_steps) if self.adaptation_ == "gradient" else NoAdaptation()

    def _remember(self, tasks: TaskSet, rows: KnownRows, known: MetaRegressor | None = None) -> None:
        """Keep the adapted coefficients of these tasks, in scaled units, beside those that `known` has of others."""
        coef, intercept = self._original(self._rule().adapt(self._theta, tasks))
        ids = tasks.ids
        if known is not None and len(known.groups_):
            ids, known_ids = comparable(ids, known.groups_)
            kept = np.flatnonzero(~np.isin(known_ids, ids))
            ids = np.concatenate((known_ids[kept], ids))
            coef = np.concatenate((known.group_coef_[kept], coef))
            intercept = np.concatenate((known.group_intercept_[kept], intercept))
            order = np.argsort(ids, kind="stable")
            ids, coef, intercept = ids[order], coef[order], intercept[order]
            rows = (known._known.take(kept) + rows).take(order)
        self.groups_, self.group_coef_, self.group_intercept_, self._known = ids, coef, intercept, rows

    def _original(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return scikit-learn's coefficients and intercepts of scaled ones (..., n_columns, n_targets)."""
        coef, intercept = self._scaling.original(theta)
        if self._single_target:
            return coef[..., 0], intercept[..., 0][()]
        return np.ascontiguousarray(np.swapaxes(coef, -1, -2)), intercept
