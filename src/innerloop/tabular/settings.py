"""Parameters of the estimator, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Literal, final, get_args

import numpy as np
from sklearn.utils import check_random_state

from innerloop._base.checks import as_count, as_nonnegative, as_rate
from innerloop.data.episodes import PROTOCOLS, Protocol
from innerloop.tabular.kinds import Adaptations
from innerloop.tabular.rate_choice import Rates

Basis = Literal["auto", "linear", "spline"]
_DEFAULT_FOLDS = 5
# Names of columns, or their positions.
Columns = tuple[str | int, ...]


@final
@dataclass(frozen=True)
class Settings:
    """Checked parameters of `MetaRegressor`; None stands for a choice by cross-validation.

    `curved` are the columns that `basis` names, if it does; `per_feature` stands for adapt_lr="per-feature"; `n_folds`
    and `splits` are `cv`, a number or what says the splits. The other fields are parameters of `MetaRegressor`.
    """

    adaptation: Adaptations = "auto"
    per_feature: bool = False
    basis: Basis = "auto"
    curved: Columns | None = None
    varying: Columns | None = None
    order: str | int | None = None
    inner_lr: float | None = None
    adapt_lr: float | None = None
    l2: float | None = None
    n_support: int | None = None
    n_query: int | None = None
    protocol: Protocol = "deal"
    n_steps: int = 1
    n_folds: int = 5
    splits: Any = None
    target_transform: Literal["log"] | None = None
    standardize: bool = True
    fit_intercept: bool = True
    seed: int = 0

    def takes_gradient_steps(self) -> bool:
        """Return whether tasks adapt by gradient steps, if at all, not by a ridge."""
        return self.adaptation in ("gradient", "none")

    def asks_for_choice(self) -> bool:
        """Return whether a rate or the penalty is to be chosen."""
        return self.inner_lr is None or self.adapt_lr is None or self.l2 is None

    def fixes_rates(self) -> bool:
        """Return whether a rate is fixed."""
        return self.inner_lr is not None or self.adapt_lr is not None

    def fixed_rates(self) -> Rates:
        """Return the rates and the penalty, if all are given; 0 stands for those that are not."""
        return Rates(self.inner_lr or 0.0, self.adapt_lr or 0.0, self.l2 or 0.0)

    def of_one_task(self) -> Settings:
        """Return the settings for one task, from which no rate can be chosen: rates that are not fixed are 0."""
        inner_lr, adapt_lr = (0.0 if rate is None else rate for rate in (self.inner_lr, self.adapt_lr))
        return replace(self, adaptation="gradient", per_feature=False, inner_lr=inner_lr, adapt_lr=adapt_lr)

    def asks_for_pooled_ridge(self) -> bool:
        """Return whether neither an inner loop nor adaptation is wanted."""
        return self.takes_gradient_steps() and self.inner_lr == self.adapt_lr == 0


def read_settings(parameters: Mapping[str, Any]) -> Settings:
    """Return the parameters of a `MetaRegressor`, by name, checked.

    Rates are those of gradient steps: where one is given, tasks adapt by gradient steps.

    Raises
    ------
    ValueError, TypeError
        If one is out of its range, or two do not go together.
    """
    given = SimpleNamespace(**parameters)
    adaptation = _one_of(given.adaptation, "adaptation", get_args(Adaptations))
    inner_lr = None if is_auto(given.inner_lr) else as_rate(given.inner_lr, "inner_lr")
    per_feature = isinstance(given.adapt_lr, str) and given.adapt_lr == "per-feature"
    adapt_lr = None if is_auto(given.adapt_lr) or per_feature else as_rate(given.adapt_lr, "adapt_lr")
    if per_feature and (given.adaptation not in ("auto", "gradient") or inner_lr is not None or given.n_steps != 1):
        raise ValueError(
            "`adapt_lr`='per-feature' learns the rates of one gradient step, in training and in adaptation; it "
            "needs inner_lr='auto', n_steps=1 and adaptation='gradient' or 'auto'."
        )
    if adaptation == "ridge":
        if inner_lr is not None or adapt_lr is not None:
            raise ValueError(
                "`inner_lr` and `adapt_lr` are rates of gradient steps, which adaptation='ridge' does not take; "
                "leave both 'auto', or pass adaptation='gradient'."
            )
    elif adaptation == "none":
        inner_lr, adapt_lr = inner_lr or 0.0, 0.0
    elif inner_lr is not None or adapt_lr is not None or per_feature:
        adaptation = "gradient"
    protocol = _one_of(given.protocol, "protocol", PROTOCOLS)
    if given.n_query is not None:
        if protocol in ("train", "leave-one-out"):
            raise ValueError(
                f"`n_query` is for the protocol 'split', as every row scores its task with protocol={protocol!r}; "
                "leave one of them out."
            )
        protocol = "split"
    named = None if isinstance(given.basis, str) else _columns(given.basis, "basis")
    n_folds, splits = _folds(given.cv)
    return Settings(
        adaptation=adaptation,
        per_feature=per_feature,
        basis="spline" if named is not None else _one_of(given.basis, "basis", get_args(Basis)),
        curved=named,
        varying=None if given.varying is None else _columns(given.varying, "varying"),
        order=None if given.order is None else _columns([given.order], "order")[0],
        inner_lr=inner_lr,
        adapt_lr=adapt_lr,
        l2=None if is_auto(given.l2) else float(as_nonnegative(given.l2, "l2")),
        n_support=None if given.n_support is None else as_count(given.n_support, "n_support"),
        n_query=None if given.n_query is None else as_count(given.n_query, "n_query"),
        protocol=protocol,
        n_steps=as_count(given.n_steps, "n_steps"),
        n_folds=n_folds,
        splits=splits,
        target_transform=_transform(given.target_transform),
        standardize=bool(given.standardize),
        fit_intercept=bool(given.fit_intercept),
        seed=as_seed(given.random_state),
    )


def _one_of(value: Any, name: str, values: tuple[str, ...]) -> Any:
    if isinstance(value, str) and value in values:
        return value
    *names, last = map(repr, values)
    raise ValueError(f"`{name}` must be {', '.join(names)} or {last}, got {value!r}.")


def _transform(value: Any) -> Literal["log"] | None:
    if value is None or (isinstance(value, str) and value == "log"):
        return value  # type: ignore[return-value]
    raise ValueError(f"`target_transform` must be None or 'log', got {value!r}.")


def _folds(cv: Any) -> tuple[int, Any]:
    """Return the number of folds, 5 for None, and a splitter or a list of splits if `cv` is one."""
    if hasattr(cv, "split") and not isinstance(cv, str):
        return _DEFAULT_FOLDS, cv
    if isinstance(cv, Iterable) and not isinstance(cv, str | bytes):
        return _DEFAULT_FOLDS, list(cv)
    return as_count(_DEFAULT_FOLDS if cv is None else cv, "cv", 2), None


def _columns(value: Any, name: str) -> Columns:
    """Return names or positions of columns."""
    items = [value] if isinstance(value, str | int | np.integer) else value
    if isinstance(items, Sequence | np.ndarray) and all(isinstance(c, str | int | np.integer) for c in items):
        return tuple(c if isinstance(c, str) else int(c) for c in items)
    raise TypeError(f"`{name}` must name columns of X, or give their positions; got {value!r}.")


def is_auto(value: Any) -> bool:
    """Return whether a parameter is "auto"."""
    return isinstance(value, str) and value == "auto"


def as_seed(random_state: Any) -> int:
    """Return a whole number from scikit-learn's `random_state`."""
    if isinstance(random_state, int | np.integer):
        return as_count(random_state, "random_state", 0)
    return int(check_random_state(random_state).randint(2**31 - 1))
