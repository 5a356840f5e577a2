"""Pictures of a random-effects model: the coefficients of groups, and curves of the population and of groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from innerloop._base.checks import FloatArray, IntArray
from innerloop.plots.style import BLUE, GREY, ORANGE, axes_or_new, legend_below, plain
from innerloop.tabular.fitted_table import FittedTable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from innerloop.estimators import MetaRegressor

# Groups of a picture: of more, so many of the lowest, of the middle and of the highest.
_MOST_GROUPS, _OF_EACH = 30, 10
_MOST_CURVES = 8
_N_POINTS = 120
_LONGEST_NAME = 18
# Inches of a caterpillar plot: width, for axis and legend, and for each group.
_WIDTH, _MARGIN, _LINE = 4.4, 1.5, 0.17


def plot_group_effects(model: MetaRegressor, ax: Axes | None = None, coefficient: str | None = None) -> Axes:
    """Draw a coefficient of the known groups in order of size, with two standard errors to either side.

    Of more than 30 groups the ten lowest, the ten in the middle and the ten highest are drawn; the title says so.

    Parameters
    ----------
    model
        A fitted `MetaRegressor` with one target that knows groups.
    ax
        Axes to draw on; None draws on those of a new pyplot figure.
    coefficient
        Name of a coefficient in ``model.group_effects()``; None: that in which groups differ most, in standard errors.

    Returns
    -------
    matplotlib.axes.Axes
        The axes that were drawn on.

    Raises
    ------
    ValueError
        If the model knows no groups, has several targets, or has no such coefficient.

    Examples
    --------
    >>> import innerloop as il
    >>> tasks = il.MixedLinearRegression(1, task_std=2.0).sample_tasks(n_tasks=8, n_rows=6, seed=0)
    >>> model = il.MetaRegressor(adaptation="ridge").fit(tasks.X, tasks.y, groups=tasks.task_of_row)
    >>> ax = il.plot_group_effects(model)
    """
    frame = model.group_effects()
    if frame.empty:
        raise ValueError("`model` knows no groups, so there is nothing to draw; fit or adapt it with groups.")
    if "target" in frame:
        raise ValueError("`model` has several targets; draw those of models with one target each.")
    names = differing_coefficients(frame)
    name = names[0] if coefficient is None else coefficient
    if name not in names:
        raise ValueError(f"`coefficient` must be one of {', '.join(map(repr, names))}, got {coefficient!r}.")
    population = model.effects().population
    n_shown = min(frame["group"].nunique(), _MOST_GROUPS)
    ax = axes_or_new(ax, _WIDTH, caterpillar_height(n_shown))
    return draw_group_effects(frame, population, name, ax)


def differing_coefficients(frame: pd.DataFrame) -> list[str]:
    """Return the coefficients of `group_effects`, that in which groups differ most in standard errors first."""
    return list(_difference(frame).sort_values(ascending=False, kind="stable").index)


def well_known_coefficients(frame: pd.DataFrame) -> list[str]:
    """Return those of `differing_coefficients` in which groups differ by more than a standard error; the first always.

    An intercept far from all rows, for instance, is not known well enough for a picture of groups.
    """
    difference = _difference(frame)
    return [name for i, name in enumerate(differing_coefficients(frame)) if i == 0 or difference[name] > 1]


def _difference(frame: pd.DataFrame) -> pd.Series[float]:
    """Return the standard deviation of groups' estimates in units of their mean standard error, by coefficient."""
    by_name = frame.groupby("coefficient", sort=False)
    return by_name["estimate"].std(ddof=0) / by_name["standard_error"].mean().replace(0.0, np.inf)


def caterpillar_height(n_groups: int) -> float:
    """Return the height in inches of a picture of so many groups."""
    return _MARGIN + _LINE * min(n_groups, _MOST_GROUPS)


def draw_group_effects(frame: pd.DataFrame, population: pd.DataFrame, name: str, ax: Axes) -> Axes:
    """Draw one coefficient of groups, given the frames of `group_effects` and of the population."""
    rows = frame[frame["coefficient"] == name].sort_values("estimate", kind="stable")
    chosen, y = _chosen(len(rows))
    shown = rows.iloc[chosen]
    centre = float(population.loc[population["coefficient"] == name, "estimate"].iloc[0])
    ax.axvline(centre, color=ORANGE, lw=1.4, label=f"population: {centre:.4g}")
    style: dict[str, Any] = {"fmt": "o", "color": BLUE, "ms": 3.5, "lw": 1.1, "label": "group ± 2 s.e."}
    ax.errorbar(shown["estimate"].to_numpy(float), y, xerr=2 * shown["standard_error"].to_numpy(float), **style)
    ax.set_yticks(y, [plain(str(group), _LONGEST_NAME) for group in shown["group"]], fontsize=7)
    for label in ax.get_yticklabels():
        label.set_parse_math(False)
    ax.set_ylim(-0.8, y[-1] + 0.8)
    n, title = len(rows), plain(name, 40)
    if len(chosen) < n:
        title += f"\n{len(chosen)} of {n} groups: lowest, middle, highest"
    ax.set_title(title, fontsize=10, parse_math=False)
    ax.set_xlabel("coefficient, in units of the data")
    ax.grid(axis="y", color="#eeeeee", lw=0.6)
    ax.set_axisbelow(True)
    legend_below(ax)
    return ax


def _chosen(n: int) -> tuple[IntArray, FloatArray]:
    """Return the positions of the groups to draw, from low to high, and their heights, with gaps where some are out."""
    if n <= _MOST_GROUPS:
        return np.arange(n), np.arange(n, dtype=float)
    starts = np.array([0, (n - _OF_EACH) // 2, n - _OF_EACH])
    chosen = (starts[:, None] + np.arange(_OF_EACH)).ravel()
    return chosen, np.arange(3.0 * _OF_EACH) + np.repeat(np.arange(3.0), _OF_EACH)


def curved_features(table: FittedTable) -> list[int]:
    """Return the curves that predictions use, as positions in ``table.curves``."""
    if len(table.curves) == 0:
        return []
    end = table.effects.mean.shape[0] - table.scaling.intercept
    columns = np.arange(end - table.curves.n_columns, end)
    used = np.flatnonzero(table.predictor.weight.any(axis=0))
    # Of the population, and of groups.
    size = sum((np.abs(table.predictor.members[k].coef[columns]).sum(axis=1) for k in used), np.zeros(len(columns)))
    size += np.abs(table.known.whole.coef[:, columns]).sum(axis=(0, 2))
    return [i for i in range(len(table.curves)) if size[table.curves.curve_of_column == i].any()]


def draw_curve(table: FittedTable, curve: int, names: tuple[str, str], ax: Axes) -> Axes:
    """Draw predictions along a feature, the others at their mean: of the population and of some groups.

    Parameters
    ----------
    table
        With one target.
    curve
        Position in ``table.curves``.
    names
        Of the feature and of the target.
    ax
        To draw on.
    """
    scaling, j = table.scaling, int(table.curves.feature[curve])
    knots = table.curves.knots[curve]
    x = np.linspace(knots[0], knots[-1], _N_POINTS) / scaling.x_rate[j] + scaling.x_mean[j]
    X = np.zeros((_N_POINTS, len(scaling.kept)))
    X[:, scaling.kept] = scaling.x_mean
    X[:, np.flatnonzero(scaling.kept)[j]] = x
    places = table.places(table.known.whole.tasks.ids)
    n = len(places)
    if n:
        middle = table.predict(np.repeat(X[_N_POINTS // 2][None], n, axis=0), places)
        order = np.argsort(middle, kind="stable")
        for i, group in enumerate(order[np.unique(np.linspace(0, n - 1, min(n, _MOST_CURVES)).round().astype(int))]):
            label = f"groups ({min(n, _MOST_CURVES)} of {n})" if i == 0 else None
            ax.plot(x, table.predict(X, np.full(_N_POINTS, places[group])), color=GREY, lw=0.9, alpha=0.8, label=label)
    ax.plot(x, table.predict(X, np.full(_N_POINTS, -1)), color=BLUE, lw=2.4, label="population")
    for axis, name in ((ax.xaxis, names[0]), (ax.yaxis, names[1])):
        axis.set_label_text(plain(name, 40), parse_math=False)
    legend_below(ax)
    return ax
