"""A study of a table: the fitted model, its errors against other methods on unseen tasks, figures and a report."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, final

from innerloop._base.files import check_file, write_whole
from innerloop._base.progress import progress as progress_bar
from innerloop.data.targets import log_targets
from innerloop.data.tasks import TaskSet, check_task_set
from innerloop.estimators.meta_regressor import MetaRegressor, fitted_regressor
from innerloop.evaluation import Curve, Evaluation, evaluate, evaluate_on, n_ticks
from innerloop.evaluation.advice import Advice, advice_from
from innerloop.evaluation.calibrated_model import CalibratedModel
from innerloop.evaluation.coverage import Coverage
from innerloop.evaluation.rate_slices import RateSlice, slices
from innerloop.plots.table import plot_learning_curves
from innerloop.report.page import N_TICKS, Names, report_page
from innerloop.report.pictures import as_svg
from innerloop.tabular.settings import read_settings
from innerloop.tabular.totals import fitted_table, sample_of
from innerloop.tabular.training import MetaTraining

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# A process of Python takes about so long until it can fit a table.
_SECONDS_OF_A_START = 3.0


def study(
    tasks: TaskSet,
    model: MetaRegressor | None = None,
    *,
    unseen: TaskSet | None = None,
    title: str = "Table",
    target: str = "y",
    group: str = "",
    progress: bool = False,
    n_jobs: int | None = None,
) -> TableStudy:
    """Fit a table and compare the model with plain baselines on unseen tasks.

    Parameters
    ----------
    tasks
        A `TaskSet` of at least two tasks.
    model
        A `MetaRegressor` with the parameters to use; it is not changed. None: the default parameters.
    unseen
        Tasks to score on, which have no part in training. None: the tasks themselves by nested cross-validation, so
        that no error depends on the targets of its task.
    title, target, group
        Names of the table, the target and the column of task ids, for figures and the report; a model without the
        parameter `group` takes the latter.
    progress
        Whether to show a progress bar, where standard error is a terminal.
    n_jobs
        Processes for the nested cross-validation, -1 for all cores. None: as many where the fit took longer than
        processes take to start, else 1. The results are the same.

    Returns
    -------
    TableStudy

    Raises
    ------
    TypeError
        If `tasks` or `unseen` is no `TaskSet`.
    ValueError
        If there is one task only, `unseen` has other columns, or a parameter of the model is out of its range.

    Examples
    --------
    >>> import innerloop as il
    >>> tasks = il.MixedLinearRegression(2, noise_std=1.0, task_std=2.0).sample_tasks(20, 10, seed=0)
    >>> result = il.study(tasks)
    >>> result.model.adaptation_
    'ridge'
    """
    check_task_set(tasks)
    if len(tasks) < 2:
        raise ValueError("`tasks` must hold at least two tasks: from one, no differences can be estimated.")
    if unseen is not None:
        check_task_set(unseen)
        unseen = unseen.encode(tasks.column_map)
        if (unseen.X.shape[1:], unseen.y.shape[1:]) != (tasks.X.shape[1:], tasks.y.shape[1:]):
            raise ValueError(
                f"`unseen` must have the features and targets of `tasks`, got rows of X {unseen.X.shape[1:]} and y "
                f"{unseen.y.shape[1:]} instead of {tasks.X.shape[1:]} and {tasks.y.shape[1:]}."
            )
    parameters = (MetaRegressor() if model is None else model).get_params()
    parameters["group"] = parameters["group"] or group or None
    settings = read_settings(parameters)
    if settings.target_transform:
        target = f"log({target})"
        tasks = replace(tasks, y=log_targets(tasks.y, "`tasks.y`"))
        unseen = None if unseen is None else replace(unseen, y=log_targets(unseen.y, "`unseen.y`"))
    ticks = settings.n_folds + (n_ticks(settings, len(tasks)) if unseen is None else 0)
    with progress_bar("Comparing rates", ticks, shown=progress) as tick:
        start = perf_counter()
        sample, extremes = sample_of(tasks, settings.seed)
        training = MetaTraining.prepare(sample, settings, tick, extremes=extremes).with_gradient(tick)
        trained, table = fitted_table(training.choose(), tasks)
        if n_jobs is None:
            n_jobs = -1 if perf_counter() - start > _SECONDS_OF_A_START else 1
        evaluation = evaluate(trained, sample, tick, n_jobs) if unseen is None else evaluate_on(trained, sample, unseen)
    names = tasks.feature_names if tasks.column_map is None else tasks.column_map.inputs
    fitted = fitted_regressor(parameters, table, names)
    return TableStudy(fitted, evaluation, Names(title, target, group))


def advise(tasks: TaskSet, model: MetaRegressor | None = None) -> Advice:
    """Recommend an adaptation and rates for a table, with their gain and the further data that would help most.

    Parameters
    ----------
    tasks
        A `TaskSet` of at least two tasks.
    model
        A `MetaRegressor` with the parameters to use; it is not changed. None: the default parameters.

    Returns
    -------
    Advice
        Its string is a sentence or two.

    Raises
    ------
    TypeError, ValueError
        As in `study`.

    Notes
    -----
    docs/theory.md, section "Further data".

    Examples
    --------
    >>> import innerloop as il
    >>> tasks = il.MixedLinearRegression(1, task_std=2.0).sample_tasks(n_tasks=20, n_rows=8, seed=0)
    >>> advice = il.advise(tasks, il.MetaRegressor(adaptation="gradient"))
    >>> bool(advice)
    True
    """
    return study(tasks, model).advise()


@final
@dataclass(frozen=True, eq=False)
class TableStudy:
    """A table's fitted model, and its errors against other methods on unseen tasks; `study` makes it.

    Parameters
    ----------
    model
        A fitted `MetaRegressor`.
    evaluation
        Errors of all methods, task by task.
    names
        Of the table, the target and the column of task ids.

    Examples
    --------
    >>> import innerloop as il
    >>> tasks = il.MixedLinearRegression(1, task_std=2.0).sample_tasks(n_tasks=8, n_rows=6, seed=0)
    >>> result = il.study(tasks, il.MetaRegressor(adaptation="gradient"))
    >>> result.model.adaptation_, len(result.curves) == len(result.methods)
    ('gradient', True)
    """

    model: MetaRegressor
    evaluation: Evaluation = field(repr=False)
    names: Names = field(repr=False)

    @property
    def tasks(self) -> TaskSet:
        """The tasks that the model is fitted to."""
        return self.evaluation.tasks

    @property
    def verdict(self) -> str:
        """The recommendation, in a sentence or two."""
        return self.evaluation.verdict

    @property
    def curves(self) -> list[Curve]:
        """Learning curves of all methods over the rows that unseen tasks adapt on, that of the model first."""
        return self.evaluation.curves

    @property
    def methods(self) -> pd.DataFrame:
        """The methods with their rates and errors on unseen tasks, the model first.

        Columns "method", "inner_lr", "adapt_lr", "mse", "mse_se", "excess" (the paired difference to the first row)
        and "excess_se". Rates are NaN where a method has none.
        """
        import pandas as pd

        nan = float("nan")
        rows = [
            {
                "method": score.label,
                "inner_lr": nan if score.rates is None else score.rates.inner_lr,
                "adapt_lr": nan if score.rates is None else score.rates.adapt_lr,
                "mse": score.mse,
                "mse_se": score.mse_se,
                "excess": score.excess,
                "excess_se": score.excess_se,
            }
            for score in self.evaluation.scores
        ]
        return pd.DataFrame(rows)

    def advise(self) -> Advice:
        """Return the recommendation with its gain, and the further data that would lower the error most."""
        return advice_from(self.evaluation)

    def coverage(self) -> Coverage:
        """Return the coverage of the model's prediction intervals on unseen tasks."""
        return self.evaluation.coverage

    def rate_slices(self, calibrated: CalibratedModel | None = None) -> list[RateSlice]:
        """Return cross-validated loss against adapt_lr and against inner_lr, through the best gradient step.

        Parameters
        ----------
        calibrated
            From `innerloop.calibrate`, for the theory's prediction; None leaves that out.
        """
        return slices(self.evaluation, calibrated)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the errors of all methods against the number of rows that unseen tasks adapt on.

        Parameters
        ----------
        ax
            Axes to draw on; None draws on those of a new pyplot figure.

        Returns
        -------
        matplotlib.axes.Axes
            The axes that were drawn on.
        """
        return plot_learning_curves(self, ax)

    def report(self, path: str | Path, command: str = "", progress: bool = False) -> None:
        """Write a report: one HTML page that needs no other file.

        Parameters
        ----------
        path
            File to write, with the ending .html or .htm. It is written whole or not at all.
        command
            By which the report was made, to show on the page.
        progress
            Whether to show a progress bar, where standard error is a terminal.

        Raises
        ------
        ValueError, OSError
            If the file cannot be written.
        ImportError
            If matplotlib or jinja2 is not installed.
        """
        check_file(Path(path), "path", (".html", ".htm"))
        write_whole(Path(path), self.page(command, progress).encode(errors="replace"))

    def page(self, command: str = "", progress: bool = False) -> str:
        """Return the page that `report` writes."""
        with progress_bar("Writing the report", N_TICKS, shown=progress) as tick:
            return report_page(self.model, self.evaluation, self.names, command, tick)

    def _repr_html_(self) -> str:
        """Return verdict, table and learning curves, for notebooks."""
        table = self.methods.to_html(index=False, float_format=lambda number: f"{number:.4g}", na_rep="", border=0)
        try:
            picture = as_svg(self.plot, "Learning curves")
        except ImportError:
            picture = ""
        return f'<p>{escape(self.verdict)}</p>{table}<div style="max-width: 34rem">{picture}</div>'
