"""The theory tab: settings of a design, what theory says of them as arrays, and the same as Python and as a command."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple, Self, final

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop.data.episodes import PROTOCOLS
from innerloop.distributions import Design, MixedLinearRegression
from innerloop.distributions.mixed_linear import power_law_variances
from innerloop.theory import RateOptimum, optimal_rates, turning_noise
from innerloop.theory.answer import LEVEL, TheoryAnswer, derived
from innerloop.theory.curves import LossCurves, loss_curves
from innerloop.theory.law import loss_law
from innerloop.theory.planner import Plan

N_RATES = 81
# Rates with a simulated dot on each curve.
_INNER_DOTS, _ADAPT_DOTS = 17, 11
# The best adaptation rate of the preset whose best inner rate turns its sign.
_TURNING_ADAPT_LR = 0.16
_LAW_POINTS, _LAW_TAIL = 121, 5e-4


class Control(NamedTuple):
    """A slider with a field for its number: what it sets, and between which values."""

    name: str
    label: str
    low: float
    high: float
    scale: str  # "count", "log count", "linear" or "log from 0"
    explanation: str


CONTROLS = (
    Control("n_tasks", "training tasks", 1, 2000, "log count", "m"),
    Control("n_features", "features", 1, 300, "log count", "p"),
    Control("n_support", "support rows of a task", 1, 500, "log count", "that the inner loop sees"),
    Control("n_query", "query rows of a task", 1, 500, "log count", "that score it"),
    Control("n_adapt", "adaptation rows", 1, 500, "log count", "of a new task"),
    Control("n_steps", "inner steps", 1, 10, "count", "in training and on a new task"),
    Control("noise_std", "label noise", 0, 5, "linear", "standard deviation"),
    Control("task_std", "spread of tasks", 0, 5, "linear", "distance of a task from the centre"),
    Control("l2", "ridge penalty", 0, 100, "log from 0", "on the meta-parameters"),
    Control("init_distance", "start", 0, 5, "linear", "distance of the start from the centre"),
    Control("decay", "spectrum", 0, 2, "linear", "feature variances fall as j to the minus this"),
)
_LIMITS = {control.name: (control.low, control.high) for control in CONTROLS} | {
    "n_runs": (10, 100_000),
    "budget": (4, 2_000_000),
    "inner_lr": (-1e3, 1e3),
    "adapt_lr": (-1e3, 1e3),
}


@final
@dataclass(frozen=True)
class Settings:
    """All that the theory tab shows follows from these.

    Parameters
    ----------
    n_tasks, n_features, n_support, n_query, n_adapt, n_steps, noise_std, task_std, l2, init_distance, protocol
        As the options of `innerloop theory`.
    decay
        Feature variances fall as j^-decay; 0 is isotropic.
    inner_lr, adapt_lr
        The rates that curves and laws are shown at; None is the best.
    budget
        Labelled rows to split; None is as many as the design has.
    n_runs
        Runs of the simulation.
    """

    n_tasks: int = 3
    n_features: int = 60
    n_support: int = 30
    n_query: int = 2
    n_adapt: int = 20
    n_steps: int = 1
    noise_std: float = 1.0
    task_std: float = 0.5
    l2: float = 0.0
    init_distance: float = 0.0
    protocol: str = "split"
    decay: float = 0.0
    inner_lr: float | None = None
    adapt_lr: float | None = None
    budget: int | None = None
    n_runs: int = 400

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Return the settings of a page, checked one by one."""
        if not isinstance(value, Mapping):
            raise TypeError(f"Settings must be an object, got {type(value).__name__}.")
        known = {field.name: field for field in fields(cls)}
        if unknown := sorted(set(value) - set(known)):
            raise ValueError(f"There is no setting {unknown[0]!r}.")
        return cls(**{name: _checked(name, str(known[name].type), given) for name, given in value.items()})

    def parts(self) -> tuple[MixedLinearRegression, Design, FloatArray]:
        """Return the distribution, the design and the start of meta-training."""
        variances = power_law_variances(self.n_features, self.decay) if self.decay else None
        dist = MixedLinearRegression(self.n_features, self.noise_std, self.task_std, covariance=variances)
        design = Design(
            self.n_tasks,
            self.n_support,
            self.n_query,
            self.n_adapt,
            self.n_steps,
            l2=self.l2,
            protocol=self.protocol,  # type: ignore[arg-type]  # Design checks it
        )
        return dist, design, np.full(self.n_features, self.init_distance / np.sqrt(self.n_features))

    @property
    def rows(self) -> int:
        """Labelled rows to split."""
        return self.n_tasks * (self.n_support + self.n_query) if self.budget is None else self.budget


def _checked(name: str, kind: str, value: Any) -> Any:
    if name == "protocol":
        if value not in PROTOCOLS:
            raise ValueError(f"`protocol` must be one of {', '.join(PROTOCOLS)}, got {value!r}.")
        return value
    if value is None and "None" in kind:
        return None
    is_count = kind.startswith("int")
    if isinstance(value, bool) or not isinstance(value, int if is_count else int | float) or not math.isfinite(value):
        raise ValueError(f"`{name}` must be a {'whole number' if is_count else 'number'}, got {value!r}.")
    low, high = _LIMITS[name]
    if not low <= value <= high:
        raise ValueError(f"`{name}` must be from {low:g} to {high:g} here, got {value:g}.")
    return value if is_count else float(value)


def presets() -> dict[str, dict[str, Any]]:
    """Return the settings of the paper's figures, and of a design whose best rate turns its sign at its noise."""
    turning = Settings(
        n_features=20, n_tasks=3, n_support=20, n_query=20, n_adapt=20, noise_std=1.0, task_std=1.0, decay=1.0
    )
    dist, design, _ = turning.parts()
    noise = turning_noise(dist, design, _TURNING_ADAPT_LR)
    chosen = {
        "Figure 2: fewer query rows than features": Settings(),
        "Figure 3: more query rows than features": Settings(
            n_features=30, n_tasks=40, n_support=5, n_query=25, n_adapt=10, task_std=1.0
        ),
        "Phase boundary: the sign turns at this noise": replace(turning, noise_std=round(noise, 3)),
    }
    return {name: asdict(settings) for name, settings in chosen.items()}


def theory(value: Any) -> dict[str, Any]:
    """Return what is shown of settings at once: best rates, curves, map, law, sentences, and their code."""
    settings = Settings.from_json(value)
    dist, design, init = settings.parts()
    best = optimal_rates(dist, design, init)
    curves = loss_curves(dist, design, init, best, (settings.inner_lr, settings.adapt_lr), N_RATES)
    inner_lr, adapt_lr = curves.adapt.fixed, curves.inner.fixed
    turning = derived(lambda: turning_noise(dist, design, best.adapt_lr_no_inner, init))
    known = TheoryAnswer(best, curves.inner.references, None, None, turning)
    shown: dict[str, Any] = plain(
        {
            "settings": asdict(settings),
            "best": asdict(best),
            "references": None if known.references is None else asdict(known.references),
            "chosen": {"inner_lr": inner_lr, "adapt_lr": adapt_lr, "loss": curves.loss},
            "inner": {"rates": curves.inner.rates, "loss": curves.inner.loss},
            "adapt": {"rates": curves.adapt.rates, "loss": curves.adapt.loss},
            "map": {"inner_lr": curves.both.inner_lr, "adapt_lr": curves.both.adapt_lr, "loss": curves.both.loss},
            "ratio": design.n_query_rows / dist.n_features,
            "rows": settings.rows,
            "sentences": [*known.sentences(design), f"{best.method}: {best.trust}"],
            "python": as_python(settings, curves),
            "command": as_command(settings),
        }
    )
    return shown


def training_sets(value: Any) -> dict[str, Any]:
    """Return the law of the loss over training sets at the rates that are shown: its density, and an interval."""
    settings = Settings.from_json(value)
    dist, design, init = settings.parts()
    best = optimal_rates(dist, design, init)
    inner_lr = best.inner_lr if settings.inner_lr is None else settings.inner_lr
    adapt_lr = best.adapt_lr if settings.adapt_lr is None else settings.adapt_lr
    law = loss_law(dist, design, inner_lr, adapt_lr, init)
    low, high = law.quantiles([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    ends = law.quantiles([_LAW_TAIL, 1 - _LAW_TAIL])
    losses = np.linspace(ends[0], ends[1], _LAW_POINTS)
    shown: dict[str, Any] = plain(
        {"loss": losses, "density": law.density(losses), "low": low, "high": high, "level": LEVEL}
    )
    return shown


def plans_as_json(plans: list[Plan]) -> list[dict[str, Any]]:
    """Return splits of a budget as plain values."""
    rows = []
    for plan in plans:
        group, best = plan.design.groups[0], plan.best
        rows.append(
            {
                **{"n_tasks": group.n_tasks, "n_support": group.n_support, "n_query": group.n_query},
                **{name: getattr(best, name) for name in ("inner_lr", "adapt_lr", "loss", "loss_untrained")},
            }
        )
    shown: list[dict[str, Any]] = plain(rows)
    return shown


def dot_rates(settings: Settings, best: RateOptimum) -> tuple[FloatArray, FloatArray]:
    """Return the inner and adaptation rates to simulate; the last of each is the one that is shown."""
    dist, design, init = settings.parts()
    at = settings.inner_lr, settings.adapt_lr
    curves = loss_curves(dist, design, init, best, at, 2)
    inner, adapt = curves.inner.rates, curves.adapt.rates
    return (
        np.append(np.linspace(inner[0], inner[1], _INNER_DOTS), curves.adapt.fixed),
        np.append(np.linspace(adapt[0], adapt[1], _ADAPT_DOTS), curves.inner.fixed),
    )


def as_python(settings: Settings, curves: LossCurves) -> str:
    """Return Python that computes all that the page shows."""
    inner, adapt, wide = curves.inner.rates, curves.adapt.rates, curves.both.adapt_lr
    s, p = settings, settings.n_features
    covariance, init = "", ""
    lines = ["import numpy as np", "import innerloop as il", "from innerloop.theory.planner import plan_design", ""]
    if s.decay:
        lines.append(f"variances = np.arange(1.0, {p + 1}) ** -{s.decay!r}")
        covariance = ", covariance=variances / variances.mean()"
    if s.init_distance:
        lines.append(f"init = np.full({p}, {s.init_distance!r} / np.sqrt({p}))")
        init = ", init=init"
    lines += [
        f"dist = il.MixedLinearRegression({p}, noise_std={s.noise_std!r}, task_std={s.task_std!r}{covariance})",
        f"design = il.Design({s.n_tasks}, n_support={s.n_support}, n_query={s.n_query}, n_adapt={s.n_adapt}, "
        f"n_steps={s.n_steps}, l2={s.l2!r}, protocol={s.protocol!r})",
        f"best = il.optimal_rates(dist, design{init})",
        f"inner_lr = {'best.inner_lr' if s.inner_lr is None else repr(s.inner_lr)}",
        f"adapt_lr = {'best.adapt_lr' if s.adapt_lr is None else repr(s.adapt_lr)}",
        "",
        f"inner_lrs = {_linspace(inner)}",
        f"adapt_lrs = {_linspace(adapt)}",
        "finite_lr = float(np.clip(inner_lr, -1e3, 1e3))",
        f"against_inner_lr = il.expected_loss(dist, design, inner_lrs, adapt_lr{init})",
        f"against_adapt_lr = il.expected_loss(dist, design, finite_lr, adapt_lrs{init})",
        f"over_both = il.expected_loss(dist, design, inner_lrs[:, None], {_linspace(wide)}{init})",
    ]
    if curves.inner.references is not None:
        lines.append(f"references = il.reference_losses(dist, design{init}, best=best)")
    lines += [
        "",
        "",
        "def interval():  # this and the next are not derived for every design, or take longer",
        f"    return il.loss_interval(dist, design, inner_lr, adapt_lr{init})",
        "",
        "",
        "def chance():",
        "    return il.chance_of_improvement(dist, design, inner_lr)",
        "",
        "",
        "def plans():",
        f"    return plan_design(dist, design, {s.rows}{init})",
        "",
        "",
        "def simulated():",
        f"    inner = np.append({_linspace(inner[[0, -1]], _INNER_DOTS)}, inner_lr)",
        f"    adapt = np.append({_linspace(adapt[[0, -1]], _ADAPT_DOTS)}, adapt_lr)",
        f"    return il.estimate_loss(dist, design, inner, adapt, n_runs={s.n_runs}{init})",
    ]
    return "\n".join(lines) + "\n"


def _linspace(rates: FloatArray, n: int | None = None) -> str:
    return f"np.linspace({float(rates[0])!r}, {float(rates[-1])!r}, {len(rates) if n is None else n})"


def as_command(settings: Settings) -> str:
    """Return the command that prints the table of the page, and the one that simulates."""
    options = {
        name: getattr(settings, name)
        for name in (
            *("n_tasks", "n_features", "n_support", "n_query", "n_adapt", "noise_std", "task_std", "n_steps", "l2"),
            *("init_distance", "protocol"),
        )
    }
    if settings.decay:
        options["covariance"] = settings.decay
    return shlex.join(
        ["innerloop", "theory", *(f"--{name.replace('_', '-')}={value}" for name, value in options.items())]
    )


def plain(value: Any) -> Any:
    """Return arrays and numbers as JSON has them: None for what is not finite, but infinite rates by their sign."""
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            return plain(value.tolist())
        return value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
