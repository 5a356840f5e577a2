"""What errors on unseen tasks say, in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from innerloop.evaluation.methods import (
    GIVEN,
    GIVEN_ADAPT_LR,
    GIVEN_INNER_LR,
    GRADIENT,
    NO_INNER_LOOP,
    PER_FEATURE,
    PER_TASK,
    POOLED,
    RIDGE,
    TASK_MEAN,
    TIED,
    Method,
)

# How tasks adapt, and where inner_lr and adapt_lr come from, by the name of the first method.
_HOW = {RIDGE: "by ridge", PER_FEATURE: f"with {PER_FEATURE}"}
_ORIGIN = {GIVEN: ("given", "given"), GIVEN_INNER_LR: ("given", "tuned"), GIVEN_ADAPT_LR: ("tuned", "given")}
# Errors that differ by less than this part print as 0.0 % apart.
_NO_DIFFERENCE = 5e-4


def verdict(methods: Sequence[Method], asked: bool = False) -> str:
    """Return in words what the errors say: rates to use, or that an inner loop does not earn its place.

    A method is better where the difference exceeds two standard errors, and as good where it is within one.

    Parameters
    ----------
    methods
        The model's own first.
    asked
        Whether the user asked for the pooled ridge.
    """
    own = methods[0]
    if own.name in _ORIGIN or asked:
        return _on_given(own, methods[1:])
    alone = min((m for m in methods if m.name in (PER_TASK, TASK_MEAN)), key=_mse)
    if alone.excess < -2 * alone.excess_se:
        return (
            f"Use each task's own rows alone: {alone.name} predicts unseen tasks better ({_gain_of(alone, own)} lower "
            f"error) than this model, which {_does(own)}."
        )
    by_name = {method.name: method for method in methods}
    if own.name == POOLED:
        return _on_pooled(own, by_name)
    if by_name[POOLED].excess <= by_name[POOLED].excess_se:
        return (
            f"Do not use an inner loop: {POOLED} over all tasks, without adaptation, predicts unseen tasks no worse, "
            f"within a standard error, than this model, which {_does(own)} (inner_lr = adapt_lr = 0 gives that ridge)."
        )
    return _on_way(own, by_name) if own.name in _HOW else _on_rates(own, by_name)


def _on_rates(own: Method, by_name: dict[str, Method]) -> str:
    assert own.rates is not None
    adapted = f"{_gain_over(by_name[POOLED])} lower error than {POOLED}"
    if own.rates.inner_lr == 0:
        return (
            "Do not use an inner loop in training (inner_lr = 0 is as good as any); let a new task adapt with "
            f"adapt_lr = {own.rates.adapt_lr:.3g}: {adapted}."
        )
    plain, tied = by_name[NO_INNER_LOOP], by_name[TIED]
    use = f"Train with inner_lr = {own.rates.inner_lr:.3g}, {_adapting(own)}: {adapted}"
    if plain.excess <= 0:
        return f"{use}. Without an inner loop in training the error is no higher ({_gain_of(plain, own)} lower)."
    if plain.excess <= 2 * plain.excess_se:
        return f"{use}. Against training without an inner loop the gain, {_gain_over(plain)}, is not beyond chance."
    against_tied = f"{_gain_over(tied)} lower" if tied.excess > 0 else "no lower"
    return (
        f"{use}, {_gain_over(plain)} lower than without an inner loop in training, {against_tied} than with tied rates."
    )


def _adapting(own: Method) -> str:
    assert own.rates is not None
    return f"adapt with adapt_lr = {own.rates.adapt_lr:.3g}" if own.rates.adapt_lr else "do not adapt (adapt_lr = 0)"


def _on_way(own: Method, by_name: dict[str, Method]) -> str:
    gradient = by_name[GRADIENT]
    use = f"Let new tasks adapt {_HOW[own.name]}: {_gain_over(by_name[POOLED])} lower error than {POOLED}"
    step = f"{GRADIENT}{_rates(gradient)}"
    if abs(gradient.excess) <= max(gradient.excess_se, _NO_DIFFERENCE * own.mse):
        return f"{use}. The {step} does as well, within a standard error."
    word = "beats" if gradient.excess > 0 else "does worse on the tested rows than"
    return f"{use}; it {word} the {step} by {_gain_over(gradient).removeprefix('-')}."


def _on_pooled(own: Method, by_name: dict[str, Method]) -> str:
    use = (
        f"Do not use an inner loop: {POOLED} over all tasks, without adaptation, which this model is, predicts unseen "
        "tasks"
    )
    better = _better(by_name[name] for name in (RIDGE, GRADIENT) if name in by_name)
    if better:
        best = min(better, key=_mse)
        gain = _gain_of(best, own)
        return f"{use} best over all numbers of rows; on the tested ones {best.name} has {gain} lower error."
    return f"{use} no worse, within two standard errors, than any that adapts."


def _on_given(own: Method, others: Sequence[Method]) -> str:
    # Other methods whose rates turned out to be 0 are the pooled ridge.
    others = [method for method in others if method.name == POOLED or not method.is_pooled()]
    better = _better(others)
    best = min(better or others, key=_mse)
    is_plural, subject = _subject(own)
    if better:
        return (
            f"{subject} {'are' if is_plural else 'is'} not the best: {best.name}{_rates(best)} has "
            f"{_gain_of(best, own)} lower error on unseen tasks."
        )
    if best.excess <= 2 * best.excess_se:
        return (
            f"{subject} {'do' if is_plural else 'does'} as well on unseen tasks, within two standard errors, as the "
            f"best of the others, {best.name}."
        )
    has = "have" if is_plural else "has"
    return f"{subject} {has} {_gain_over(best)} lower error on unseen tasks than the best of the others, {best.name}."


def _better(methods: Iterable[Method]) -> list[Method]:
    """Return those that are better than the first beyond two standard errors."""
    return [method for method in methods if method.excess < -2 * method.excess_se]


def _mse(method: Method) -> float:
    return method.mse


def _subject(own: Method) -> tuple[bool, str]:
    """Return whether it is plural, and what the user asked for."""
    assert own.rates is not None
    if own.name == POOLED:
        return False, f"No adaptation, as asked ({POOLED}),"
    inner, adapt = (f"{name} = {rate:.3g}" for name, rate in vars(own.rates).items() if name != "l2")
    if own.name == GIVEN and own.rates.adapt_lr == 0:
        return False, f"The rate {inner} (given) without adaptation"
    origins = _ORIGIN[own.name]
    return True, f"The rates {inner} ({origins[0]}) and {adapt} ({origins[1]})"


def _does(own: Method) -> str:
    """Return what the fitted model does."""
    if own.name == POOLED:
        return "does not adapt"
    if own.name in _HOW:
        return f"adapts {_HOW[own.name]}"
    assert own.rates is not None
    return f"has inner_lr = {own.rates.inner_lr:.3g} and adapt_lr = {own.rates.adapt_lr:.3g}"


def _rates(method: Method) -> str:
    """Return the rates in brackets; nothing for methods without, and for the pooled ridge."""
    if method.rates is None or method.name == POOLED:
        return ""
    return f" (inner_lr {method.rates.inner_lr:.3g}, adapt_lr {method.rates.adapt_lr:.3g})"


def _gain_over(method: Method) -> str:
    """Return how far the first method's error is below this one's."""
    return f"{100 * method.excess / method.mse:.1f} ± {100 * method.gain_se:.1f} %"


def _gain_of(method: Method, own: Method) -> str:
    """Return how far this method's error is below the first one's."""
    return f"{-100 * method.excess / own.mse:.1f} ± {100 * method.loss_se:.1f} %"
