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

from innerloop._checks import FloatArray, as_count, as_labels, as_nonnegative, as_rate
from innerloop._progress import progress
from innerloop.adaptation import Adaptation, GradientSteps, NoAdaptation
from innerloop.estimators._inputs import as_seed, is_auto, like, plain
from innerloop.estimators._scaling import Scaling
from innerloop.estimators._training import MetaTraining, Settings
from innerloop.tasks import TaskSet

# Rows predicted at once; bounds the memory that gathers each row's own coefficients.
_ROWS_AT_ONCE = 2**16

# What `to_state` keeps beside the parameters, the scaling and cv_results_.
_SCALARS = ("inner_lr_", "adapt_lr_", "l2_", "n_support_", "n_features_in_", "_single_target")
_ARRAYS = (
    *("coef_", "intercept_", "groups_", "group_coef_", "group_intercept_", "_theta"),
    *("inner_lr_se_", "adapt_lr_se_", "feature_names_in_"),
)


class MetaRegressor(RegressorMixin, BaseEstimator):
    """Linear regression for many related tasks, meta-trained exactly at signed inner learning rates.

    Meta-training finds the coefficients from which one gradient step of rate `inner_lr` on a few rows of each
    training task does best; a new task then takes a gradient step of rate `adapt_lr` on its own few rows. Both
    rates, and whether to use an inner loop at all, are chosen by cross-validation over whole tasks.

    Parameters
    ----------
    inner_lr : float or "auto", default="auto"
        Inner learning rate of meta-training; negative rates are usual. 0 is pooled least squares.
    adapt_lr : float or "auto", default="auto"
        Learning rate with which a task adapts.
    adaptation : {"auto", "gradient", "none"}, default="auto"
        How tasks adapt; "auto" is "gradient", whose rate may turn out to be 0.
    l2 : float or "auto", default="auto"
        Ridge penalty on the meta-parameters, in units of the half mean squared error.
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
    inner_lr_, adapt_lr_, l2_ : float
        The rates and the penalty in use.
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
        the paired ``difference`` to inner_lr = 0 at its own best adapt_lr and l2, and ``difference_se``.
        None where nothing was chosen.
    n_features_in_ : int
    feature_names_in_ : (n_features,), where X had string column names

    Notes
    -----
    With ``inner_lr=0`` this is pooled (ridge) regression, and one task with ``inner_lr=0, l2=0`` is ordinary least
    squares. The choice is the simplest within one standard error of the best: no inner loop, adaptation only,
    inner loop in training only, both. docs/theory.md, section "Choosing the rates".

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

    # With metadata routing on, `groups` reaches the model as well as the splitter without further requests.
    __metadata_request__fit = {"groups": True}
    __metadata_request__predict = {"groups": True}
    __metadata_request__score = {"groups": True}

    def __init__(
        self,
        inner_lr: float | Literal["auto"] = "auto",
        adapt_lr: float | Literal["auto"] = "auto",
        adaptation: Literal["auto", "gradient", "none"] = "auto",
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
        X, groups = self._take_groups(X, groups)
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=np.float64)
        if groups is None:
            warnings.warn(
                "neither `groups` nor `group` is given: all rows count as one task and there is no inner loop. "
                "Pass groups=..., or name the column with MetaRegressor(group=...).",
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
        rates = training.chosen()
        self.inner_lr_, self.adapt_lr_, self.l2_ = rates.inner_lr, rates.adapt_lr, rates.l2
        self.n_support_ = training.n_support
        self.inner_lr_se_, self.adapt_lr_se_, self.cv_results_ = np.nan, np.nan, None
        if held_out is not None:
            errors = held_out.standard_errors(settings.seed)
            fixed = (training.settings.inner_lr, training.settings.adapt_lr)
            self.inner_lr_se_, self.adapt_lr_se_ = (
                error if rate is None else np.nan for error, rate in zip(errors, fixed, strict=True)
            )
            self.cv_results_ = held_out.table()
        self._scaling, self._theta = training.scaling, training.coef(rates)
        self._single_target = tasks.y.ndim == 1
        self.coef_, self.intercept_ = self._original(self._theta)
        if not hasattr(self, "n_features_in_"):
            self.n_features_in_ = tasks.n_features
            if tasks.feature_names is not None:
                self.feature_names_in_ = np.array(tasks.feature_names, dtype=object)
        self._remember(tasks if remember else tasks.select(np.arange(0)))

    def settings(self) -> Settings:
        """Return the parameters, checked."""
        if self.adaptation not in ("auto", "gradient", "none"):
            raise ValueError(f"`adaptation` must be 'auto', 'gradient' or 'none', got {self.adaptation!r}.")
        adapt_lr = None if is_auto(self.adapt_lr) else as_rate(self.adapt_lr, "adapt_lr")
        return Settings(
            inner_lr=None if is_auto(self.inner_lr) else as_rate(self.inner_lr, "inner_lr"),
            adapt_lr=0.0 if self.adaptation == "none" else adapt_lr,
            l2=None if is_auto(self.l2) else float(as_nonnegative(self.l2, "l2")),
            n_support=None if self.n_support is None else as_count(self.n_support, "n_support"),
            n_query=None if self.n_query is None else as_count(self.n_query, "n_query"),
            n_steps=as_count(self.n_steps, "n_steps"),
            n_folds=as_count(self.cv, "cv", 2),
            standardize=bool(self.standardize),
            fit_intercept=bool(self.fit_intercept),
            seed=as_seed(self.random_state),
        )

    def predict(self, X: Any, groups: ArrayLike | None = None) -> FloatArray:
        """Predict rows: seen groups with their adapted coefficients, all others with the meta-parameters.

        Parameters
        ----------
        X : (n_rows, n_features) array or data frame
        groups : (n_rows,), default=None
            Task id of each row. None, without a `group` column in X: the meta-parameters for all rows.

        Returns
        -------
        (n_rows,) or (n_rows, n_targets)
        """
        check_is_fitted(self)
        X, groups = self._take_groups(X, groups, required=False)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        coef, intercept = np.atleast_2d(self.coef_), np.atleast_1d(self.intercept_)
        prediction = X @ coef.T + intercept
        if groups is not None:
            place, known = self._find(as_labels(groups, "groups", len(X)))
            rows = np.flatnonzero(known)
            group_coef = self.group_coef_.reshape(-1, *coef.shape)
            group_intercept = self.group_intercept_.reshape(-1, *intercept.shape)
            for part in np.array_split(rows, -(-len(rows) // _ROWS_AT_ONCE) or 1):
                own = np.einsum("ij,ikj->ik", X[part], group_coef[place[part]])
                prediction[part] = own + group_intercept[place[part]]
        return np.asarray(prediction[:, 0] if self._single_target else prediction)

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
        X, groups = self._take_groups(X, groups)
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=np.float64, reset=False)
        if groups is None:
            raise ValueError("`groups` must say which task each row belongs to, got None.")
        tasks = TaskSet.from_arrays(X, y, groups)
        if tasks.y.shape[1:] != (() if self._single_target else (len(np.atleast_1d(self.intercept_)),)):
            raise ValueError(f"`y` must have the targets seen in fit, got shape {tasks.y.shape}.")
        adapted = copy.copy(self)
        adapted._remember(tasks, self)
        return adapted

    def score(
        self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> float:
        """Return the coefficient of determination R2 of ``predict(X, groups)``."""
        return float(r2_score(y, self.predict(X, groups=groups), sample_weight=sample_weight))

    def to_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return all that a fitted estimator knows as plain values and arrays, for `from_state`."""
        check_is_fitted(self)
        params = {name: plain(value) for name, value in self.get_params().items()}
        arrays = {name: np.asarray(getattr(self, name)) for name in _ARRAYS if hasattr(self, name)}
        if "feature_names_in_" in arrays:
            arrays["feature_names_in_"] = arrays["feature_names_in_"].astype(np.str_)
        arrays |= {f"scaling.{name}": np.asarray(value) for name, value in vars(self._scaling).items()}
        arrays |= {f"cv_results_.{name}": column for name, column in (self.cv_results_ or {}).items()}
        return {"params": params, **{name: plain(getattr(self, name)) for name in _SCALARS}}, arrays

    @classmethod
    def from_state(cls, scalars: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """Return the fitted estimator that `to_state` described."""
        model = cls(**scalars["params"])
        for name in _SCALARS:
            setattr(model, name, scalars[name])
        for name in _ARRAYS:
            if name in arrays:
                setattr(model, name, arrays[name][()])
        if "feature_names_in_" in arrays:
            model.feature_names_in_ = arrays["feature_names_in_"].astype(object)
        parts: dict[str, dict[str, Any]] = {"scaling": {}, "cv_results_": {}}
        for name, array in arrays.items():
            owner, _, key = name.partition(".")
            if key:
                parts[owner][key] = array
        parts["scaling"]["intercept"] = bool(parts["scaling"]["intercept"])
        model._scaling = Scaling(**parts["scaling"])
        model.cv_results_ = parts["cv_results_"] or None
        return model

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _rule(self) -> Adaptation:
        return GradientSteps(self.adapt_lr_, self.n_steps) if self.adapt_lr_ else NoAdaptation()

    def _remember(self, tasks: TaskSet, known: MetaRegressor | None = None) -> None:
        """Keep the adapted coefficients of these tasks, beside those that `known` has of other tasks."""
        scaled = self._scaling.tasks(tasks)
        adapted = self._rule().adapt(self._theta, scaled)
        coef, intercept = self._original(adapted)
        ids = tasks.ids
        if known is not None and len(known.groups_):
            kept = ~np.isin(known.groups_, like(ids, known.groups_))
            ids = np.concatenate((known.groups_[kept], ids))
            coef = np.concatenate((known.group_coef_[kept], coef))
            intercept = np.concatenate((known.group_intercept_[kept], intercept))
        order = np.argsort(ids, kind="stable")
        self.groups_, self.group_coef_, self.group_intercept_ = ids[order], coef[order], intercept[order]

    def _original(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return scikit-learn's coefficients and intercepts of scaled ones (..., n_columns, n_targets)."""
        coef, intercept = self._scaling.original(theta)
        if self._single_target:
            return coef[..., 0], intercept[..., 0][()]
        return np.ascontiguousarray(np.swapaxes(coef, -1, -2)), intercept

    def _find(self, groups: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Return each row's place among the known groups, and whether it has one."""
        if len(self.groups_) == 0:
            return np.zeros(len(groups), dtype=np.intp), np.zeros(len(groups), dtype=bool)
        groups = like(groups, self.groups_)
        place = np.minimum(np.searchsorted(self.groups_, groups), len(self.groups_) - 1)
        return place, self.groups_[place] == groups

    def _take_groups(self, X: Any, groups: Any, required: bool = True) -> tuple[Any, Any]:
        """Return X without its column of task ids, and the task ids."""
        if self.group is None:
            return X, groups
        import narwhals as nw

        frame = nw.from_native(X, eager_only=True, pass_through=True)
        if not isinstance(frame, nw.DataFrame):
            if groups is None and required:
                raise ValueError(
                    f"`group` names the column {self.group!r}, but X is not a data frame; pass a frame, or "
                    "the task ids as groups=..."
                )
            return X, groups
        if self.group not in frame.columns:
            if groups is None and required:
                from innerloop._frames import missing_column

                raise ValueError(missing_column(self.group, frame.columns, "`X`"))
            return X, groups
        if groups is None:
            groups = frame[self.group].to_numpy()
        return frame.drop(self.group).to_native(), groups
