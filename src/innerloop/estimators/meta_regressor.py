"""Meta-learned linear regression for tables of many small tasks."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted, validate_data

from innerloop._base.checks import FloatArray, IntArray, as_count, as_targets, as_weights
from innerloop._base.progress import progress
from innerloop.data.columns import ColumnMap, Columns
from innerloop.data.dataset import TaskDataset, check_dataset
from innerloop.data.episodes import Episodes, Protocol
from innerloop.data.frames import as_frame, is_frame, take_groups
from innerloop.data.ids import distinct_ids
from innerloop.data.targets import log_targets
from innerloop.data.tasks import TaskSet
from innerloop.tabular.effects import Effects, effects_of, group_effects_of
from innerloop.tabular.fitted_table import FittedTable
from innerloop.tabular.folds import fold_of_rows, fold_of_tasks
from innerloop.tabular.intervals import as_level
from innerloop.tabular.kinds import Adaptations
from innerloop.tabular.settings import Basis, read_settings
from innerloop.tabular.totals import fitted_table, sample_of
from innerloop.tabular.training import MetaTraining

if TYPE_CHECKING:
    import pandas as pd


class MetaRegressor(RegressorMixin, BaseEstimator):
    """Linear regression for many related tasks, meta-trained exactly at signed inner learning rates.

    A new task adapts on its few rows: by a ridge that shrinks its coefficients towards the population's, with a metric
    learned from the training tasks; by gradient steps from coefficients that were meta-trained for such steps; or not
    at all. The kind of adaptation and its parameters are chosen by cross-validation over whole tasks.

    Parameters
    ----------
    inner_lr : float or "auto", default="auto"
        Inner learning rate of meta-training for gradient steps; negative rates are usual. 0 is pooled least squares.
    adapt_lr : float, "auto" or "per-feature", default="auto"
        Learning rate of the gradient step by which a task adapts. "per-feature": one of either sign for each
        feature, the same in training and in adaptation (Meta-SGD, in closed form).
    adaptation : {"auto", "none", "gradient", "ridge"}, default="auto"
        How tasks adapt. "ridge": a convex combination of ridges whose metrics are those of random-effects models, from
        a random intercept to correlated slopes, straight and curved; the weights, one set for each number of rows, are
        those of lowest error on held-out tasks. "auto": one pooled ridge is among them. "gradient": gradient steps.
        "none": one pooled ridge, or meta-training with the given `inner_lr`. Where a rate is given, "auto" is
        "gradient"; a chosen rate may be 0.
    l2 : float or "auto", default="auto"
        Ridge penalty on the meta-parameters, in units of the half mean squared error. "auto": by cross-validation;
        for "ridge", by restricted maximum likelihood.
    group : str, default=None
        Name of the column of X, a data frame, that holds the task ids. It is not a feature.
    random_state : int, RandomState instance or None, default=0
        Assigns rows to support and query, and tasks to folds.
    n_support : int, default=None
        Rows on which a task adapts; rates are chosen for this number. None: half of the median task, at most 10.
        Smaller tasks adapt on all their rows but one.
    protocol : {"deal", "split", "train", "leave-one-out"}, default="deal"
        What scores a training task of gradient steps. "deal": every row once, after adaptation on `n_support` of the
        task's other rows. "split": the usual episodes of MAML, one per task, with `n_support` support and `n_query`
        query rows. "train": every row, after adaptation on all rows, itself included. "leave-one-out": every row,
        after adaptation on all others.
    n_query : int, default=None
        Query rows of a task with the protocol "split", which a number implies; further rows are not used in training.
        None: all rows but the support.
    n_steps : int, default=1
        Gradient steps, in training and in adaptation.
    cv : int, splitter or iterable of splits, default=5
        Folds of tasks in the cross-validation; or a splitter of scikit-learn, such as ``GroupKFold(4)``, which is given
        the rows and their groups; or pairs of arrays (positions of training rows, of rows held out). Splits hold every
        row out once, and whole groups. Of one task: rows.
    standardize : bool, default=True
        Whether features are scaled to unit standard deviation. Rates then do not depend on the units of the data.
    fit_intercept : bool, default=True
        Whether to fit an intercept, which adapts like any coefficient.
    basis : {"auto", "linear", "spline"} or list of columns, default="auto"
        Whether the target may be a curve in a feature, of splines that each group bends by itself. "auto": in those
        features of which the groups show it, with the weight that held-out groups give to curves beside straight lines.
        "spline": in every feature that varies within groups; a list of names or positions: in those.
    varying : list of columns, default=None
        Names or positions of the features whose coefficients may differ between groups. None: all that vary within
        groups.
    order : column, default=None
        Name or position of a feature, such as a date, by which the rows of a group come: choices and intervals are then
        made for adaptation on a group's first rows. None: on any rows.
    target_transform : {None, "log"}, default=None
        "log": for positive targets, whose noise grows with their level. Everything is fitted to their logarithms, and
        `coef_`, held-out errors and effects are of these; predictions are transformed back to the target's median,
        not its mean, intervals by their ends, and standard deviations as those of a log-normal target.
    verbose : bool, default=False
        Whether to show a progress bar while fitting, where standard error is a terminal.

    Attributes
    ----------
    coef_ : (n_features,) or (n_targets, n_features)
        The population's coefficients, in the units of X: generalised least squares under the random-effects model of
        largest weight, as a mixed model has them; those that gradient steps start from. Groups that are not known are
        predicted by the same combination as others. With a curve in a feature, that of the best straight line.
    intercept_ : float or (n_targets,)
        Their intercept.
    adaptation_ : str
        How tasks adapt: "none", "gradient" or "ridge".
    adaptation_results_ : dict of arrays
        Held-out mean squared error of each candidate and of their combination, "chosen", at numbers of rows, with its
        weight, and its paired difference to the combination. Errors of several targets are in units of each target's
        variance, and averaged.
    inner_lr_, adapt_lr_, l2_ : float
        The rates and the penalty in use. Where tasks adapt by ridge the rates are NaN, or, in a `study`, those of the
        best gradient step. Both are (n_columns,) with adapt_lr="per-feature": the rates of the
        features that are not constant, and of the intercept.
    inner_lr_se_, adapt_lr_se_ : float
        Bootstrap standard errors over tasks of the cross-validated optimum; NaN where nothing was chosen.
    n_support_ : int
        Support rows per episode.
    groups_ : (n_groups,)
        Ids of the known tasks.
    group_coef_, group_intercept_
        Their adapted coefficients: `coef_` and `intercept_` with a leading axis of tasks.
    cv_results_ : dict of arrays or None
        Held-out mean squared error over the grid of ``inner_lr``, ``l2`` and ``adapt_lr``: ``mse``, ``mse_se``,
        the paired ``difference`` to inner_lr = 0 at its best adapt_lr and l2, and ``difference_se``; in units
        as above. None where nothing was chosen.
    columns_ : ColumnMap or None
        How the columns of a data frame became features: `coef_` belongs to ``columns_.feature_names``, and
        ``columns_.notes`` says what was done. None where X was an array.
    notes_ : tuple of str
        What was done with columns, and what to know of a target of 0 and 1 or of counts.
    n_features_in_ : int
    feature_names_in_ : (n_features,), where X had string column names

    Notes
    -----
    With ``inner_lr=0`` this is pooled (ridge) regression, and one task with ``inner_lr=0, l2=0`` is ordinary least
    squares. Of gradient steps the simplest within one standard error of the best is taken: no inner loop,
    adaptation only, both. docs/theory.md, sections 5, 19, 21 and 30.

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

    coef_: FloatArray
    intercept_: Any  # a number, or an array of them
    adaptation_: str
    adaptation_results_: dict[str, NDArray[Any]]
    inner_lr_: Any  # a number, or an array of them
    adapt_lr_: Any
    l2_: float
    cv_results_: dict[str, NDArray[Any]] | None
    columns_: ColumnMap | None
    notes_: tuple[str, ...]
    _table: FittedTable
    _group: str | None  # these are parameters at the time of fitting
    _is_log: bool

    # With metadata routing on, `groups` reaches the model as well as the splitter without further requests.
    __metadata_request__fit = {"groups": True}
    __metadata_request__predict = {"groups": True}
    __metadata_request__score = {"groups": True}

    def __init__(
        self,
        inner_lr: float | Literal["auto"] = "auto",
        adapt_lr: float | Literal["auto", "per-feature"] = "auto",
        adaptation: Adaptations = "auto",
        l2: float | Literal["auto"] = "auto",
        group: str | None = None,
        random_state: Any = 0,
        *,
        basis: Basis | Sequence[str | int] = "auto",
        varying: Sequence[str | int] | None = None,
        order: str | int | None = None,
        n_support: int | None = None,
        protocol: Protocol = "deal",
        n_query: int | None = None,
        n_steps: int = 1,
        cv: Any = 5,
        standardize: bool = True,
        fit_intercept: bool = True,
        target_transform: Literal["log"] | None = None,
        verbose: bool = False,
    ) -> None:
        self.inner_lr = inner_lr
        self.adapt_lr = adapt_lr
        self.adaptation = adaptation
        self.l2 = l2
        self.group = group
        self.random_state = random_state
        self.basis = basis
        self.varying = varying
        self.order = order
        self.n_support = n_support
        self.protocol = protocol
        self.n_query = n_query
        self.n_steps = n_steps
        self.cv = cv
        self.standardize = standardize
        self.fit_intercept = fit_intercept
        self.target_transform = target_transform
        self.verbose = verbose

    def fit(
        self, X: Any, y: ArrayLike, groups: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Meta-train on the tasks.

        Parameters
        ----------
        X : (n_rows, n_features) array or data frame
            With `group` set, a frame that holds that column too. Columns of a frame may be of any kind: categories
            become columns of 0 and 1, dates days, missing values the median with a column that says where; see
            `columns_`.
        y : (n_rows,) or (n_rows, n_targets)
        groups : (n_rows,), default=None
            Task id of each row. Neither `groups` nor `group`: all rows are one task. Where X has the column that
            `group` names, that column holds the ids, and `groups` must agree with it or be None.
        sample_weight : (n_rows,), default=None
            Precisions of the rows: a row of weight w has noise of 1 / w times the variance, as the mean of w
            measurements has. Only their ratios matter; rows of weight 0 are left out. Errors are then weighted, and
            intervals are those of a row of average weight. None: all rows are equal.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If a parameter or the data cannot be used; the message says why.
        """
        settings = read_settings(self.get_params())
        X, groups = take_groups(self.group, X, groups)
        if not is_frame(X):
            X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=np.float64)
        if settings.target_transform:
            y = log_targets(as_targets(y, "y", len(X)), "`y`")
        if groups is None:
            warnings.warn(
                "neither `groups` nor `group` is given: all rows count as one task and there is no inner loop. "
                "Pass groups=..., or name the column with MetaRegressor(group=...); in cross_val_score and its like "
                "groups reach the model by that column, or by params={'groups': ...} after "
                "sklearn.set_config(enable_metadata_routing=True).",
                UserWarning,
                stacklevel=2,
            )
        knows_groups = groups is not None
        n_rows = len(X)
        row_fold = None if settings.splits is None else fold_of_rows(settings.splits, X, y, groups)
        groups = np.zeros(n_rows, dtype=int) if groups is None else groups
        weights = None if sample_weight is None else as_weights(sample_weight, "sample_weight", n_rows)
        if weights is not None and not weights.all():
            X, y, groups, row_fold, weights = _rows_with(weights > 0, X, y, groups, row_fold, weights)
        tasks = self._tasks(X, y, groups, weights)
        if row_fold is not None:
            row_fold = row_fold[np.argsort(distinct_ids(groups, "groups", len(X))[1], kind="stable")]
        sample, extremes = sample_of(tasks, settings.seed)
        if row_fold is not None and sample is not tasks:
            of_task = fold_of_tasks(row_fold, tasks)[np.searchsorted(tasks.ids, sample.ids)]
            row_fold = np.repeat(of_task, sample.sizes)
        with progress("Meta-training", settings.n_folds, shown=bool(self.verbose)) as tick:
            training = MetaTraining.prepare(sample, settings, tick, row_fold=row_fold, extremes=extremes)
        self._group, self._is_log = self.group, settings.target_transform == "log"
        self._set_table(fitted_table(training.choose(), tasks, remember=knows_groups)[1])
        return self

    def predict(
        self, X: Any, groups: ArrayLike | None = None, return_std: bool = False
    ) -> FloatArray | tuple[FloatArray, FloatArray]:
        """Predict rows: those of known groups by their adapted coefficients, others by the meta-parameters.

        Parameters
        ----------
        X : (n_rows, n_features) array or data frame
        groups : (n_rows,), default=None
            Task id of each row; see `fit` for X with a `group` column. None, without that column: the meta-parameters
            for all rows.
        return_std : bool, default=False
            Whether to return the standard deviation of targets around predictions too, due to the noise and to the
            uncertainty of the task's coefficients, calibrated on held-out tasks.

        Returns
        -------
        prediction : (n_rows,) or (n_rows, n_targets)
        std : the same shape, where asked for
        """
        X, place = self._rows(X, groups)
        prediction = self._table.predict(X, place)
        std = self._table.std(X, place) if return_std else None
        if self._is_log:
            prediction = np.exp(prediction)
            std = None if std is None else prediction * np.sqrt(np.exp(std**2) * np.expm1(std**2))
        return prediction if std is None else (prediction, std)

    def predict_interval(
        self,
        X: Any,
        groups: ArrayLike | None = None,
        level: float = 0.9,
        sample_weight: ArrayLike | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Return intervals that contain the target of a new row with a given probability.

        Their width is proportional to the model's standard deviation, with a factor from the residuals of held-out
        tasks after adaptation on as many rows. So coverage is correct on average over tasks, whatever the noise.

        Parameters
        ----------
        X, groups
            As in `predict`.
        level : float, default=0.9
            Above 0, at most 0.9999.
        sample_weight : (n_rows,), default=None
            Weights of the rows, above 0, in the unit of those of `fit`. None: that of an average row there.

        Returns
        -------
        lower, upper : (n_rows,) or (n_rows, n_targets)

        Raises
        ------
        ValueError
            If `level` is out of its range, or a weight is not positive.
        """
        level = as_level(level)
        X, place = self._rows(X, groups)
        weights = None if sample_weight is None else as_weights(sample_weight, "sample_weight", len(X))
        if weights is not None and not weights.all():
            raise ValueError("`sample_weight` must be positive here: a row of weight 0 has no interval.")
        prediction, half = self._table.predict(X, place), self._table.half_width(X, place, level, weights)
        lower, upper = prediction - half, prediction + half
        return (np.exp(lower), np.exp(upper)) if self._is_log else (lower, upper)

    def adapt(
        self, X: Any, y: ArrayLike, groups: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Return a fitted estimator that also knows the groups of these rows; the estimator itself does not change.

        Parameters
        ----------
        X, y, groups
            Labelled rows of new tasks, as in `fit`. A known group adapts on these rows alone, from the meta-parameters;
            see `update`.
        sample_weight
            Weights of the rows in the unit of those of `fit`. None: that of an average row there.

        Returns
        -------
        MetaRegressor
        """
        tasks = self._given(X, y, groups, sample_weight)
        return self._with(self._table.adapt(tasks))

    def update(
        self,
        X: Any,
        y: ArrayLike,
        groups: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        population: bool = False,
    ) -> Self:
        """Return a fitted estimator that has these rows of groups besides those it knows of them.

        Parameters
        ----------
        X, y, groups, sample_weight
            As in `adapt`. The rows of a known group are added to those it has, of `fit` and of earlier calls, so that
            each row is to be given once; a model saved with `forget_groups` has none.
        population
            Whether the population's coefficients and the noise are estimated anew, from all rows that the model was
            fitted to or knows; known groups then adapt anew. All that was chosen stays: scales, curves, weights of
            candidates, variances between groups, calibration. False: the population stays too.

        Returns
        -------
        MetaRegressor

        Raises
        ------
        ValueError
            With `population`: if the model has no sums over its population; if it knows a group by its coefficients
            alone; if it takes gradient steps, and knows the group already; or if groups that have adapted on other
            rows since held nearly all of a sum. If a weight is 1e12 times that of an average row of `fit`.

        Notes
        -----
        Up to rounding, an updated population does not depend on the order of updates, nor on how many there were: it
        is that of all rows at the same choices. A group that was forgotten counts as a new one. Gradient steps are
        trained on the new groups' rows as dealt for their ids. docs/scale.md, section "New rows and new groups".

        Examples
        --------
        >>> import innerloop as il
        >>> tasks = il.MixedLinearRegression(2).sample_tasks(n_tasks=10, n_rows=6, seed=0)
        >>> model = il.MetaRegressor(adaptation="ridge").fit(tasks.X, tasks.y, groups=tasks.task_of_row)
        >>> first = model.adapt(tasks.X[:3], tasks.y[:3], groups=["new"] * 3)
        >>> both = first.update(tasks.X[3:6], tasks.y[3:6], groups=["new"] * 3)
        >>> counted = both.update(tasks.X[6:9], tasks.y[6:9], groups=["other"] * 3, population=True)
        >>> bool((both.coef_ == model.coef_).all()), bool((counted.coef_ == model.coef_).any())
        (True, False)
        """
        tasks = self._given(X, y, groups, sample_weight)
        return self._with(self._table.with_population(tasks) if population else self._table.adapt(tasks, add=True))

    def _given(self, X: Any, y: ArrayLike, groups: ArrayLike | None, sample_weight: Any) -> TaskSet:
        """Return the tasks that labelled rows make, with the features and targets of `fit`."""
        check_is_fitted(self)
        X, groups = take_groups(self._group, X, groups)
        if groups is None:
            raise ValueError("`groups` must say which task each row belongs to, got None.")
        if self.columns_ is None:
            X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=np.float64, reset=False)
        weights = None if sample_weight is None else as_weights(sample_weight, "sample_weight", len(X))
        if self._is_log:
            y = log_targets(as_targets(y, "y", len(X)), "`y`")
        tasks = TaskSet.from_arrays(self._features(X), y, groups, weights=weights)
        if tasks.y.shape[1:] != np.shape(self.intercept_):
            raise ValueError(f"`y` must have the targets seen in fit, got shape {tasks.y.shape}.")
        return tasks

    def _with(self, table: FittedTable) -> Self:
        """Return the estimator with another fitted table."""
        other = copy.copy(self)
        other._set_table(table)
        return other

    def fit_dataset(
        self,
        data: TaskDataset,
        *,
        out: str | Path,
        work: str | Path | None = None,
        n_jobs: int = 1,
        executor: Executor | None = None,
        groups: Literal["coef", "rows"] = "coef",
        progress: bool = False,
    ) -> Self:
        """Fit a dataset that need not fit in memory, and write the model to a folder.

        What is chosen is chosen on ``data.sample(random_state)``; the population's coefficients and the noise are
        estimated from all rows, and all groups adapt. The result is the same, bit for bit, whatever the order of rows
        and files, how rows lie in files, and who computes, and that of `fit` on these rows where these are more than
        2^14 groups.

        Parameters
        ----------
        data
        out
            Folder of the model, for `innerloop.load_model`.
        work
            Folder for rows in buckets and what else is finished, from which a call that was killed goes on, and which
            later fits of the same files use again. It takes about the room of the rows as numbers of 8 bytes. None: a
            folder beside `out`, deleted in the end.
        n_jobs
            Number of processes; -1 takes all cores. Ignored with an executor.
        executor
            Any `concurrent.futures.Executor`, such as that of a Dask client, ``client.get_executor()``. Its workers
            must see the files of `data` and `work` under the same names.
        groups
            What is kept of each of more than 2^14 groups. "coef": its coefficients; `predict_interval`,
            `group_effects` and `update` then know groups after `adapt` only. "rows": its reduced rows too, of p
            columns and k targets at most p + k rows, as of groups in memory. Both stay on disk, and are mapped.
        progress
            Whether to show progress bars, where standard error is a terminal.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a file, a parameter or the room on the disk cannot be used; the message names it.

        Examples
        --------
        >>> import innerloop as il, pandas as pd, tempfile
        >>> tasks = il.MixedLinearRegression(2).sample_tasks(n_tasks=10, n_rows=6, seed=0)
        >>> frame = pd.DataFrame({"user": tasks.task_of_row, "a": tasks.X[:, 0], "b": tasks.X[:, 1], "y": tasks.y})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     frame.to_parquet(f"{folder}/rows.parquet")
        ...     data = il.TaskDataset(f"{folder}/rows.parquet", group="user", target="y")
        ...     model = il.MetaRegressor(adaptation="ridge").fit_dataset(data, out=f"{folder}/model")
        ...     written = model.predict_dataset(f"{folder}/rows.parquet", out=f"{folder}/predictions", group="user")
        ...     pd.read_parquet(written[0]).columns.tolist()
        ...
        ['user', 'prediction']
        """
        from innerloop.estimators.dataset_fit import Workers, fit_dataset

        check_dataset(data)
        workers = Workers(n_jobs, executor, progress)
        where = None if work is None else Path(work)
        table = fit_dataset(self.get_params(), data, Path(out), where, workers, groups)
        self._take(table, data.features)
        return self

    def update_dataset(
        self,
        data: TaskDataset,
        *,
        out: str | Path,
        work: str | Path | None = None,
        n_jobs: int = 1,
        executor: Executor | None = None,
        progress: bool = False,
    ) -> Self:
        """Return a fitted estimator that has the rows of a dataset too, written to a folder; this one stays.

        This is ``update(..., population=True)`` for rows that need not fit in memory: population and noise are
        estimated from all rows, old and new, at the choices that were made; new groups adapt, and known ones adapt
        anew. Known groups of which coefficients alone are kept keep these, and the dataset must have no rows of them.

        Parameters
        ----------
        data
            With the features and as many targets as in the fit; columns are encoded as there.
        out
            Folder of the updated model; it may be that of the model itself.
        work, n_jobs, executor, progress
            As in `fit_dataset`; workers must see the folder of this model too.

        Returns
        -------
        MetaRegressor

        Raises
        ------
        ValueError
            If a file, a column or the room on the disk cannot be used, or as with `update`; the message names it.

        Examples
        --------
        >>> import innerloop as il, pandas as pd, tempfile
        >>> tasks = il.MixedLinearRegression(2).sample_tasks(n_tasks=10, n_rows=6, seed=0)
        >>> frame = pd.DataFrame({"user": tasks.task_of_row, "a": tasks.X[:, 0], "b": tasks.X[:, 1], "y": tasks.y})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name, rows in (("old", frame[:42]), ("new", frame[42:])):
        ...         rows.to_parquet(f"{folder}/{name}.parquet")
        ...     old, new = (il.TaskDataset(f"{folder}/{name}.parquet", "user", "y") for name in ("old", "new"))
        ...     model = il.MetaRegressor(adaptation="ridge").fit_dataset(old, out=f"{folder}/model")
        ...     updated = model.update_dataset(new, out=f"{folder}/updated")
        ...     len(model.groups_), len(updated.groups_)
        ...
        (7, 10)
        """
        from innerloop.estimators.dataset_fit import Workers
        from innerloop.estimators.dataset_update import update_dataset

        check_is_fitted(self)
        check_dataset(data)
        workers, where = Workers(n_jobs, executor, progress), None if work is None else Path(work)
        features = getattr(self, "feature_names_in_", None)
        return self._with(
            update_dataset(params_of_fit(self), self._table, features, data, Path(out), where, workers, self._is_log)
        )

    def predict_dataset(
        self,
        path: str | Path | Sequence[str | Path],
        *,
        out: str | Path,
        group: str | None = None,
        progress: bool = False,
    ) -> list[Path]:
        """Predict all rows of files, known groups by their coefficients and others by the meta-parameters.

        Parameters
        ----------
        path
            A Parquet or CSV file, a list of them or a folder, with the columns of the features, encoded as in the fit;
            targets are not read.
        out
            Folder for the predictions: a file for each file, of its name and format, with the ids and "prediction" (of
            several targets "prediction_0" and so on), the rows in their order. A file is written whole or not at all.
        group
            Name of the column with the task ids; None: the parameter `group`.
        progress
            Whether to show a progress bar, where standard error is a terminal.

        Returns
        -------
        list of Path
            The files that were written.
        """
        from innerloop.estimators.dataset_predict import predict_dataset

        check_is_fitted(self)
        columns, group = self.columns_, self._group if group is None else group
        if group is None or columns is None:
            raise ValueError(
                "`predict_dataset` needs the names of the features and of the column of task ids; fit a dataset or a "
                "frame, and give group=..."
            )

        def predict(X: FloatArray, ids: NDArray[Any]) -> FloatArray:
            prediction = self._table.predict(X, self._table.places(ids))
            return np.exp(prediction) if self._is_log else prediction

        return predict_dataset(path, Path(out), group, columns, predict, progress)

    def nearest_groups(self, group: Any, n: int = 3) -> NDArray[Any]:
        """Return the known groups whose coefficients are nearest to those of a known group.

        Parameters
        ----------
        group
            Its id; one that `adapt` made known, for a new group.
        n
            How many.

        Returns
        -------
        (n,) or fewer
            Ids, the nearest first, by the Euclidean distance of coefficients of standardised features.

        Raises
        ------
        ValueError
            If the group is not known.
        """
        check_is_fitted(self)
        ids, _ = distinct_ids([group], "group", 1)
        place = int(self._table.known.whole.places(ids)[0])
        if place < 0:
            raise ValueError(f"`group` must be a known group, got {group!r}; `adapt` makes a new one known.")
        return self._table.nearest(place, as_count(n, "n"))

    def effects(self) -> Effects:
        """Return the random-effects model as a mixed-model user reads it, in the units of the data.

        Returns
        -------
        Effects
            The population's coefficients with standard errors, standard deviations and correlations between groups,
            and the noise.
        """
        check_is_fitted(self)
        return effects_of(self._table, self.feature_labels())

    def group_effects(self) -> pd.DataFrame:
        """Return the coefficients of the known groups, with standard errors.

        Returns
        -------
        pandas.DataFrame
            Columns "group", "coefficient", "estimate" and "standard_error"; of several targets "target" too.
        """
        check_is_fitted(self)
        return group_effects_of(self._table, self.feature_labels())

    def feature_labels(self) -> list[str]:
        """Return the names of the features that `coef_` belongs to: of columns, or x0, x1, ..."""
        check_is_fitted(self)
        if self.columns_ is not None:
            return list(self.columns_.feature_names)
        return [str(name) for name in getattr(self, "feature_names_in_", map("x{}".format, range(self.n_features_in_)))]

    def score(
        self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> float:
        """Return the coefficient of determination R2 of ``predict(X, groups)``."""
        return float(r2_score(y, self.predict(X, groups=groups), sample_weight=sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    @property
    def groups_(self) -> NDArray[Any]:
        """Ids of the known groups."""
        check_is_fitted(self)
        return self._table.known.whole.tasks.ids

    @property
    def group_coef_(self) -> FloatArray:
        """Coefficients of the known groups, computed when asked for: there may be very many."""
        return self._of_groups(0)

    @property
    def group_intercept_(self) -> FloatArray:
        """Their intercepts."""
        return self._of_groups(1)

    def _of_groups(self, which: int) -> FloatArray:
        check_is_fitted(self)
        values = self._table.group_coef[which]
        return values[:, 0] if self._table.single_target else values

    def _rows(self, X: Any, groups: ArrayLike | None) -> tuple[FloatArray, IntArray]:
        """Return checked rows, and the position of each one's group among the known: -1 for none."""
        check_is_fitted(self)
        X, groups = take_groups(self._group, X, groups, required=False)
        X = self._features(X)
        if groups is None:
            return X, np.full(len(X), -1)
        ids, task = distinct_ids(groups, "groups", len(X))
        return X, self._table.places(ids)[task]

    def _tasks(self, X: Any, y: Any, groups: Any, weights: FloatArray | None) -> TaskSet:
        """Return the tasks to fit, of an array or of a frame with columns of any kind."""
        if not is_frame(X):
            return TaskSet.from_arrays(X, y, groups, weights=weights, copy=False)
        validate_data(self, X, skip_check_array=True)  # keeps the names of columns
        ids, task = distinct_ids(groups, "groups", len(X))
        columns = Columns.read(X, task, name="`X`")
        if columns.notes:
            warnings.warn(f"{'; '.join(columns.notes)}.", UserWarning, stacklevel=3)
        return TaskSet.from_columns(columns, as_targets(y, "y", len(X)), ids, task, weights)

    def _features(self, X: Any) -> FloatArray:
        """Return the matrix of features of an array or a frame like that of `fit`."""
        columns = self.columns_
        if columns is None:
            return np.asarray(validate_data(self, X, reset=False, dtype=np.float64))
        if is_frame(X):
            if X.shape[1]:  # scikit-learn finds no names where there are no columns
                validate_data(self, X, reset=False, skip_check_array=True)
        else:
            import pandas as pd

            rows = validate_data(self, X, reset=False, dtype=None, ensure_all_finite=False)
            X = pd.DataFrame(rows, columns=getattr(self, "feature_names_in_", None))
        return columns.transform(columns.read(X))

    def _take(self, table: FittedTable, feature_names: Sequence[str] | None) -> None:
        """Become the estimator with these parameters that was fitted to a table of these features."""
        self.n_features_in_ = len(table.scaling.kept) if feature_names is None else len(feature_names)
        if feature_names is not None:
            self.feature_names_in_ = np.array(feature_names, dtype=object)
        self._group, self._is_log = self.group, self.target_transform == "log"
        self._set_table(table)

    def _set_table(self, table: FittedTable) -> None:
        """Set the fitted attributes, which are views of a fitted table."""
        selection = table.selection
        self._table, self.columns_ = table, table.columns
        self.notes_ = (*(() if table.columns is None else table.columns.notes), *table.target_notes)
        self.adaptation_, self.n_support_ = selection.adaptation, selection.n_support
        self.inner_lr_, self.adapt_lr_, self.l2_ = selection.rates
        self.inner_lr_se_, self.adapt_lr_se_ = selection.inner_lr_se, selection.adapt_lr_se
        self.cv_results_ = selection.cv_results or None
        self.adaptation_results_ = selection.adaptation_results
        target = 0 if table.single_target else slice(None)
        coef, intercept = table.meta_parameters()
        self.coef_, self.intercept_ = coef[target], intercept[target]


def _rows_with(mask: NDArray[np.bool_], X: Any, *others: Any) -> list[Any]:
    """Return the rows of a frame or an array, and of what goes with them, where a mask holds; None stays None."""
    kept = as_frame(X, "`X`").filter(mask.tolist()).to_native() if is_frame(X) else X[mask]
    return [kept, *(None if part is None else np.asarray(part)[mask] for part in others)]


def params_of_fit(model: MetaRegressor) -> dict[str, Any]:
    """Return the parameters, those that a fitted estimator goes on by as they were at the time of fitting."""
    return {**model.get_params(), "group": model._group, "target_transform": "log" if model._is_log else None}


def fitted_regressor(
    parameters: Mapping[str, Any], table: FittedTable, feature_names: Sequence[str] | None = None
) -> MetaRegressor:
    """Return the estimator with these parameters that was fitted to a table.

    Parameters
    ----------
    parameters
        Of `MetaRegressor`.
    table
        What `fit` with these parameters gives.
    feature_names
        Names of the columns of X, where they have names.
    """
    model = MetaRegressor(**parameters)
    model._take(table, feature_names)
    return model


def predict_episodes(model: MetaRegressor, episodes: Episodes) -> FloatArray:
    """Return predictions of the query rows of new tasks, each after adaptation on its support rows.

    Parameters
    ----------
    model
        Fitted; X and y of the episodes are in the units of its data.
    episodes
        With at least one support row each.
    """
    task, support, query = np.arange(len(episodes)), episodes.support_rows, episodes.query_rows
    tasks = TaskSet.from_arrays(episodes.X[support], episodes.y[support], np.repeat(task, episodes.n_support))
    adapted = model._table.forget_groups().adapt(tasks)  # whose ids may be the same numbers
    return adapted.predict(episodes.X[query], adapted.places(task)[np.repeat(task, episodes.n_query)])
