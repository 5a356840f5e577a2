"""Parameters of the estimator, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, final

import numpy as np
from sklearn.utils import check_random_state

from innerloop._base.checks import as_count, as_nonnegative, as_rate
from innerloop.tabular.kinds import KINDS, FeatureGradient, Gradient, Kind, RandomEffectsRidge
from innerloop.tabular.rate_choice import Rates

# Kinds to compare, by the parameter `adaptation`.
_COMPARED: dict[str, tuple[type[Kind], ...]] = {"auto": KINDS, **{kind.name: (kind,) for kind in KINDS}}
_COMPARED["none"] = (Gradient,)  # at adapt_lr = 0: there may be an inner loop in training


@final
@dataclass(frozen=True)
class Settings:
    """Checked parameters of `MetaRegressor`; None stands for a choice by cross-validation.

    `kinds` of adaptation are compared, from simple to rich.
    """

    kinds: tuple[type[Kind], ...] = KINDS
    inner_lr: float | None = None
    adapt_lr: float | None = None
    l2: float | None = None
    n_support: int | None = None
    n_query: int | None = None
    n_steps: int = 1
    n_folds: int = 5
    standardize: bool = True
    fit_intercept: bool = True
    seed: int = 0

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
        return replace(self, kinds=(Gradient,), inner_lr=inner_lr, adapt_lr=adapt_lr)

    def asks_for_pooled_ridge(self) -> bool:
        """Return whether neither an inner loop nor adaptation is wanted."""
        return self.kinds == (Gradient,) and self.inner_lr == self.adapt_lr == 0


def read_settings(parameters: Mapping[str, Any]) -> Settings:
    """Return the parameters of a `MetaRegressor`, by name, checked.

    Rates are those of gradient steps: where one is given, tasks adapt by gradient steps.

    Raises
    ------
    ValueError, TypeError
        If one is out of its range, or two do not go together.
    """
    given = SimpleNamespace(**parameters)
    if not isinstance(given.adaptation, str) or given.adaptation not in _COMPARED:
        *names, last = map(repr, _COMPARED)
        raise ValueError(f"`adaptation` must be {', '.join(names)} or {last}, got {given.adaptation!r}.")
    kinds = _COMPARED[given.adaptation]
    inner_lr = None if is_auto(given.inner_lr) else as_rate(given.inner_lr, "inner_lr")
    per_feature = isinstance(given.adapt_lr, str) and given.adapt_lr == "per-feature"
    adapt_lr = None if is_auto(given.adapt_lr) or per_feature else as_rate(given.adapt_lr, "adapt_lr")
    if per_feature and (given.adaptation not in ("auto", "gradient") or inner_lr is not None or given.n_steps != 1):
        raise ValueError(
            "`adapt_lr`='per-feature' learns the rates of one gradient step, in training and in adaptation; it "
            "needs inner_lr='auto', n_steps=1 and adaptation='gradient' or 'auto'."
        )
    if kinds == (RandomEffectsRidge,):
        if inner_lr is not None or adapt_lr is not None:
            raise ValueError(
                "`inner_lr` and `adapt_lr` are rates of gradient steps, which adaptation='ridge' does not take; "
                "leave both 'auto', or pass adaptation='gradient'."
            )
        inner_lr = adapt_lr = 0.0  # those of the pooled ridge, which may predict tasks without rows
    elif given.adaptation == "none":
        inner_lr, adapt_lr = inner_lr or 0.0, 0.0
    elif inner_lr is not None or adapt_lr is not None or per_feature:
        kinds = (FeatureGradient,) if per_feature else (Gradient,)
    return Settings(
        kinds=kinds,
        inner_lr=inner_lr,
        adapt_lr=adapt_lr,
        l2=None if is_auto(given.l2) else float(as_nonnegative(given.l2, "l2")),
        n_support=None if given.n_support is None else as_count(given.n_support, "n_support"),
        n_query=None if given.n_query is None else as_count(given.n_query, "n_query"),
        n_steps=as_count(given.n_steps, "n_steps"),
        n_folds=as_count(given.cv, "cv", 2),
        standardize=bool(given.standardize),
        fit_intercept=bool(given.fit_intercept),
        seed=as_seed(given.random_state),
    )


def is_auto(value: Any) -> bool:
    """Return whether a parameter is "auto"."""
    return isinstance(value, str) and value == "auto"


def as_seed(random_state: Any) -> int:
    """Return a whole number from scikit-learn's `random_state`."""
    if isinstance(random_state, int | np.integer):
        return as_count(random_state, "random_state", 0)
    return int(check_random_state(random_state).randint(2**31 - 1))
