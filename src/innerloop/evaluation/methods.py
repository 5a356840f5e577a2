"""The methods that are compared on unseen tasks.

A method is an object: its names, what it is in words, how it looks in figures, how its rates are chosen, and how it
predicts. To add one, write its class here and put an instance into `METHODS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, final

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop.data.episodes import Episodes
from innerloop.data.tasks import TaskSet
from innerloop.evaluation._errors import mean_errors, ridge_errors
from innerloop.tabular.kinds import Gradient
from innerloop.tabular.rate_choice import Adapt, Rates
from innerloop.tabular.settings import Settings
from innerloop.tabular.training import GradientTraining, MetaTraining, TrainedTable

# Errors of tasks (n_tasks,) on episodes of unseen tasks, given episodes of training tasks with as many support rows
# (None without rows), by which a method may choose what depends on that number.
Scorer = Callable[[Episodes, Episodes | None], FloatArray]


class Method(ABC):
    """A method of the comparison.

    Attributes
    ----------
    key
        Its name in code.
    label
        Its name in tables, figures and sentences.
    explanation
        The rest of a sentence that starts with the label; empty for methods that need none.
    adapts
        How tasks adapt, after "adapt": "by ridge". Empty where rates say it.
    rates_caption
        What the rates at the top of a report are, if this method is the model.
    origins
        Where inner_lr and adapt_lr come from, if the user gave one: each "given" or "tuned".
    uses_task_alone
        Whether a task is predicted from its rows alone.
    colour, line, marker
        In figures: the name of a colour in `innerloop.plots.style`, and a line style and a marker of matplotlib.
    """

    key: ClassVar[str]
    label: ClassVar[str]
    explanation: ClassVar[str] = ""
    adapts: ClassVar[str] = ""
    rates_caption: ClassVar[str] = ""
    origins: ClassVar[tuple[str, str] | None] = None
    uses_task_alone: ClassVar[bool] = False
    colour: ClassVar[str]
    line: ClassVar[str] = "-"
    marker: ClassVar[str]

    def __repr__(self) -> str:
        return f"<method {self.key}>"

    def is_compared(self, settings: Settings) -> bool:  # noqa: ARG002
        """Return whether it is compared where a model has these settings."""
        return True

    def is_model(self, trained: TrainedTable) -> bool:  # noqa: ARG002
        """Return whether it is what this model does."""
        return False

    def choose(self, training: MetaTraining, free: MetaTraining) -> Rates | None:  # noqa: ARG002
        """Return its rates, chosen on all tasks of a training; None where it has none.

        `free` is the same training with no rate given.
        """
        return None

    @abstractmethod
    def fit(self, trained: TrainedTable, rates: Rates | None, tasks: TaskSet) -> Scorer:
        """Fit it.

        Parameters
        ----------
        trained
            The model on the training tasks.
        rates
            Those that the method chose.
        tasks
            The training tasks, in scaled units.
        """


class _Chosen(Method):
    """The model itself, fitted anew."""

    def is_model(self, trained: TrainedTable) -> bool:
        return self.is_compared(trained.training.settings)

    def fit(self, trained: TrainedTable, rates: Rates | None, tasks: TaskSet) -> Scorer:  # noqa: ARG002
        return lambda unseen, _: trained.mse(unseen)


class _AtRates(Method):
    """Gradient steps at chosen rates, from meta-parameters trained for them."""

    def fit(self, trained: TrainedTable, rates: Rates | None, tasks: TaskSet) -> Scorer:  # noqa: ARG002
        assert rates is not None
        predictor = trained.training.predictor_at(rates)
        return lambda unseen, _: predictor.mse(unseen.whitened())


@final
class RidgeAdaptation(_Chosen):
    """The combination of ridges of random-effects models."""

    key, label, adapts = "ridge", "ridge adaptation", "by ridge"
    explanation = (
        "starts from the coefficients of the population and moves towards a fit of the new task's rows, the further "
        "the more rows there are and the more tasks differ."
    )
    rates_caption = "inner_lr / adapt_lr of the best gradient step"
    colour, marker = "blue", "o"

    def is_compared(self, settings: Settings) -> bool:
        """Return whether tasks adapt by ridge."""
        return not settings.takes_gradient_steps()


@final
class FeatureRates(_Chosen):
    """One gradient step with a learning rate for each feature."""

    key, label, adapts = "feature_rates", "one rate for each feature", "with one rate for each feature"
    explanation = "is a gradient step with a separate learning rate for the coefficient of each feature."
    colour, marker = "blue", "P"

    def is_compared(self, settings: Settings) -> bool:
        """Return whether each feature has a rate of its own."""
        return settings.per_feature


class _Given(_AtRates):
    """Gradient steps of which the user gave a rate other than 0."""

    colour, marker = "sky", "X"

    def is_compared(self, settings: Settings) -> bool:
        origins = tuple("tuned" if rate is None else "given" for rate in (settings.inner_lr, settings.adapt_lr))
        is_free = settings.asks_for_pooled_ridge() or not settings.takes_gradient_steps()
        return not is_free and origins == self.origins

    def is_model(self, trained: TrainedTable) -> bool:
        return self.is_compared(trained.training.settings)

    def choose(self, training: MetaTraining, free: MetaTraining) -> Rates:  # noqa: ARG002
        return _gradient(training).rates()


@final
class GivenRates(_Given):
    """Both rates as given."""

    key, label, origins = "given", "rates as given", ("given", "given")
    rates_caption = "inner_lr / adapt_lr, given"


@final
class GivenInnerRate(_Given):
    """The inner rate as given."""

    key, label, origins = "given_inner_lr", "inner_lr as given, adapt_lr tuned", ("given", "tuned")
    rates_caption = "inner_lr, given / adapt_lr, tuned"


@final
class GivenAdaptationRate(_Given):
    """The adaptation rate as given."""

    key, label, origins = "given_adapt_lr", "adapt_lr as given, inner_lr tuned", ("tuned", "given")
    rates_caption = "inner_lr, tuned / adapt_lr, given"


@final
class BestGradientStep(_AtRates):
    """The simplest gradient step within a standard error of the best."""

    key, label = "gradient", "best gradient step"
    explanation = (
        "moves the shared coefficients by adapt_lr times the slope of the error on the new task's rows (0: not at "
        "all); inner_lr is the same rate inside training, where it may be negative (0: training without an inner loop)."
    )
    rates_caption = "recommended inner_lr / adapt_lr"
    colour, marker = "green", "^"

    def is_model(self, trained: TrainedTable) -> bool:
        """Return whether the model takes gradient steps, or was trained with an inner loop."""
        kind = trained.choice.main
        return isinstance(kind, Gradient) and not kind.chosen.inner_lr == kind.chosen.adapt_lr == 0

    def choose(self, training: MetaTraining, free: MetaTraining) -> Rates:  # noqa: ARG002
        """Return the rates of the simplest step within a standard error of the best."""
        return _gradient(free).rates()


class _BestInGrid(_AtRates):
    """The best gradient step under a constraint."""

    adapt: ClassVar[Adapt]
    inner_lr: ClassVar[float | None] = 0.0

    def choose(self, training: MetaTraining, free: MetaTraining) -> Rates:  # noqa: ARG002
        held_out = _gradient(free).held_out
        assert held_out is not None
        return held_out.best(self.adapt, self.inner_lr).rates


@final
class NoInnerLoop(_BestInGrid):
    """Gradient steps from pooled training."""

    key, label, adapt = "no_inner_loop", "no inner loop in training", "tuned"
    colour, line, marker = "green", ":", ">"


@final
class TiedRates(_BestInGrid):
    """Gradient steps with the rate of the inner loop."""

    key, label, adapt, inner_lr = "tied", "tied rates (usual MAML)", "tied", None
    explanation = "is the gradient step with the same rate in training as for new tasks."
    colour, line, marker = "yellow", ":", "<"


@final
class PooledRidge(_BestInGrid):
    """One ridge over the rows of all tasks."""

    key, label, adapt = "pooled", "one pooled ridge", "none"
    explanation = "has one set of coefficients for all tasks, whatever rows a new task brings."
    rates_caption = "inner_lr / adapt_lr: neither inner loop nor adaptation"
    colour, marker = "orange", "s"

    def is_model(self, trained: TrainedTable) -> bool:  # noqa: ARG002
        """Return True: a model that is no other method is this one."""
        return True


@final
class RidgePerTask(Method):
    """A ridge on the rows of the task alone, its penalty chosen on training tasks with as many rows."""

    key, label, uses_task_alone = "per_task", "one ridge per task", True
    explanation = "and mean of the task use only the rows of the new task."
    colour, line, marker = "grey", "--", "v"

    def fit(self, trained: TrainedTable, rates: Rates | None, tasks: TaskSet) -> Scorer:  # noqa: ARG002
        """Return errors by ridges of each task's support rows."""
        intercept = trained.training.settings.fit_intercept

        def errors(unseen: Episodes, similar: Episodes | None) -> FloatArray:
            penalty = 0 if similar is None else int(ridge_errors(similar, intercept).mean(axis=0).argmin())
            return ridge_errors(unseen, intercept)[:, penalty]

        return errors


@final
class TaskMean(Method):
    """The mean of the task's rows; of all training rows where it has none."""

    key, label, uses_task_alone = "task_mean", "mean of the task", True
    colour, line, marker = "purple", "--", "D"

    def fit(self, trained: TrainedTable, rates: Rates | None, tasks: TaskSet) -> Scorer:  # noqa: ARG002
        """Return errors by the mean of each task's support rows."""
        population = np.asarray(np.average(tasks.y, axis=0, weights=tasks.weights))
        return lambda unseen, _: mean_errors(unseen, population)


RIDGE, FEATURE_RATES, GRADIENT = RidgeAdaptation(), FeatureRates(), BestGradientStep()
GIVEN, GIVEN_INNER_LR, GIVEN_ADAPT_LR = GivenRates(), GivenInnerRate(), GivenAdaptationRate()
NO_INNER_LOOP, TIED, POOLED = NoInnerLoop(), TiedRates(), PooledRidge()
PER_TASK, TASK_MEAN = RidgePerTask(), TaskMean()
METHODS: tuple[Method, ...] = (
    *(RIDGE, FEATURE_RATES, GIVEN, GIVEN_INNER_LR, GIVEN_ADAPT_LR, GRADIENT),
    *(NO_INNER_LOOP, TIED, POOLED, PER_TASK, TASK_MEAN),
)


def _gradient(training: MetaTraining) -> GradientTraining:
    assert training.gradient is not None  # methods are compared after this training
    return training.gradient


def model_method(trained: TrainedTable) -> Method:
    """Return the method that a model is."""
    return next(method for method in METHODS if method.is_model(trained))


def compared_methods(trained: TrainedTable) -> list[Method]:
    """Return the methods to compare, the model first."""
    first = model_method(trained)
    settings = trained.training.settings
    return [first, *(m for m in METHODS if m is not first and m.is_compared(settings))]
