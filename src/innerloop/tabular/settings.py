"""The estimator's parameters, checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
from sklearn.utils import check_random_state

from innerloop._base.checks import as_count, as_nonnegative, as_rate
from innerloop.tabular.adaptation_choice import Kind
from innerloop.tabular.rate_choice import Rates

if TYPE_CHECKING:
    from innerloop.estimators.meta_regressor import MetaRegressor

# Kinds of adaptation to choose from, by the parameter `adaptation`, from simple to rich.
_KINDS: dict[str, tuple[Kind, ...]] = {
    "auto": ("none", "gradient", "ridge"),
    "none": ("gradient",),  # at rates 0
    "gradient": ("gradient",),
    "ridge": ("ridge",),
}


@final
@dataclass(frozen=True)
class Settings:
    """What the user fixed: None stands for "choose by cross-validation", and `kinds` of adaptation are compared."""

    kinds: tuple[Kind, ...] = ("none", "gradient", "ridge")
    inner_lr: float | None = None
    adapt_lr: float | None = None
    l2: float | None = None
    n_support: int | None = None
    n_query: int | None = None
    n_steps: int = 1
    per_feature: bool = False
    n_folds: int = 5
    standardize: bool = True
    fit_intercept: bool = True
    seed: int = 0

    def asks_for_choice(self) -> bool:
        """Return whether anything is left to choose."""
        return self.inner_lr is None or self.adapt_lr is None or self.l2 is None

    def fixes_rates(self) -> bool:
        """Return whether a rate is fixed."""
        return self.inner_lr is not None or self.adapt_lr is not None

    def fixed_rates(self) -> Rates:
        """Return the rates where none is left to choose."""
        return Rates(self.inner_lr or 0.0, self.adapt_lr or 0.0, self.l2 or 0.0)

    def of_one_task(self) -> Settings:
        """Return the same with every rate zero that is not fixed: one task tells nothing of how tasks differ."""
        inner_lr, adapt_lr = (0.0 if rate is None else rate for rate in (self.inner_lr, self.adapt_lr))
        return replace(self, kinds=("gradient",), inner_lr=inner_lr, adapt_lr=adapt_lr, per_feature=False)


def read_settings(model: MetaRegressor) -> Settings:
    """Return the parameters of an estimator, or say what is wrong with one.

    Rates are those of gradient steps: where one is given, tasks adapt by these.
    """
    if not isinstance(model.adaptation, str) or model.adaptation not in _KINDS:
        raise ValueError(f"`adaptation` must be 'auto', 'none', 'gradient' or 'ridge', got {model.adaptation!r}.")
    kinds = _KINDS[model.adaptation]
    inner_lr = None if is_auto(model.inner_lr) else as_rate(model.inner_lr, "inner_lr")
    per_feature = isinstance(model.adapt_lr, str) and model.adapt_lr == "per-feature"
    adapt_lr = None if is_auto(model.adapt_lr) or per_feature else as_rate(model.adapt_lr, "adapt_lr")
    if per_feature and (model.adaptation not in ("auto", "gradient") or inner_lr is not None or model.n_steps != 1):
        raise ValueError(
            "`adapt_lr`='per-feature' learns the rates of one gradient step, in training and in adaptation alike; it "
            "needs inner_lr='auto', n_steps=1 and adaptation='gradient' or 'auto'."
        )
    if model.adaptation == "ridge":
        if inner_lr is not None or adapt_lr is not None:
            raise ValueError(
                "`inner_lr` and `adapt_lr` are rates of gradient steps, which adaptation='ridge' does not take; "
                "leave both 'auto', or pass adaptation='gradient'."
            )
        inner_lr = adapt_lr = 0.0  # the pooled ridge, which may predict unseen tasks
    elif model.adaptation == "none":
        inner_lr, adapt_lr = inner_lr or 0.0, 0.0
    elif inner_lr is not None or adapt_lr is not None or per_feature:
        kinds = ("gradient",)
    return Settings(
        kinds=kinds,
        inner_lr=inner_lr,
        adapt_lr=adapt_lr,
        l2=None if is_auto(model.l2) else float(as_nonnegative(model.l2, "l2")),
        n_support=None if model.n_support is None else as_count(model.n_support, "n_support"),
        n_query=None if model.n_query is None else as_count(model.n_query, "n_query"),
        n_steps=as_count(model.n_steps, "n_steps"),
        per_feature=per_feature,
        n_folds=as_count(model.cv, "cv", 2),
        standardize=bool(model.standardize),
        fit_intercept=bool(model.fit_intercept),
        seed=as_seed(model.random_state),
    )


def is_auto(value: Any) -> bool:
    """Return whether a parameter is left to be chosen."""
    return isinstance(value, str) and value == "auto"


def as_seed(random_state: Any) -> int:
    """Return a whole number from scikit-learn's `random_state`."""
    if isinstance(random_state, int | np.integer):
        return as_count(random_state, "random_state", 0)
    return int(check_random_state(random_state).randint(2**31 - 1))
