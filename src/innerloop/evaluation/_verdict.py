"""The recommendation in words, from the errors of methods on unseen tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from innerloop.evaluation.methods import GIVEN, GRADIENT, NO_INNER_LOOP, POOLED, RIDGE, TIED, Method
from innerloop.evaluation.scores import Score

# Relative differences below this one print as 0.0 %.
_NO_DIFFERENCE = 5e-4


def verdict(scores: Sequence[Score], asked: bool = False) -> str:
    """Return the recommendation: how new tasks should adapt, at which rates, or that no inner loop is needed.

    A method is called better if the difference exceeds two standard errors, and as good if it is within one.

    Parameters
    ----------
    scores
        First that of the model.
    asked
        Whether the user asked for the pooled ridge.
    """
    model = scores[0]
    if model.method.origins or asked:
        return _on_given(model, scores[1:])
    alone = min((score for score in scores if score.method.uses_task_alone), key=_mse)
    if alone.excess < -2 * alone.excess_se:
        return (
            f"Use each task's own rows alone: {alone.label} predicts unseen tasks better ({_gain_of(alone, model)} "
            f"lower error) than this model, which {_does(model)}."
        )
    by_method = {score.method: score for score in scores}
    if model.method is POOLED:
        return _on_pooled(model, by_method)
    if by_method[POOLED].excess <= by_method[POOLED].excess_se:
        return (
            f"Do not use an inner loop: {POOLED.label} over all tasks, without adaptation, predicts unseen tasks no "
            f"worse, within a standard error, than this model, which {_does(model)} (inner_lr = adapt_lr = 0 gives "
            "that ridge)."
        )
    advice = _on_adaptation(model, by_method) if model.method.adapts else _on_rates(model, by_method)
    if alone.excess > -_NO_DIFFERENCE * model.mse:
        return advice
    return f"{advice} The error of {alone.label} is {_gain_of(alone, model)} lower, which may be chance."


def _on_rates(model: Score, by_method: Mapping[Method, Score]) -> str:
    assert model.rates is not None
    adapted = f"{_gain_over(by_method[POOLED])} lower error than {POOLED.label}"
    if model.rates.inner_lr == 0:
        return (
            "Do not use an inner loop in training (inner_lr = 0 is as good as any); let a new task adapt with "
            f"adapt_lr = {model.rates.adapt_lr:.3g}: {adapted}."
        )
    plain, tied = by_method[NO_INNER_LOOP], by_method[TIED]
    use = f"Train with inner_lr = {model.rates.inner_lr:.3g}, {_adapting(model)}: {adapted}"
    if plain.excess <= 0:
        return f"{use}. Without an inner loop in training the error is no higher ({_gain_of(plain, model)} lower)."
    if plain.excess <= 2 * plain.excess_se:
        return f"{use}. Against training without an inner loop the gain, {_gain_over(plain)}, is not beyond chance."
    against_tied = f"{_gain_over(tied)} lower" if tied.excess > 0 else "no lower"
    return (
        f"{use}, {_gain_over(plain)} lower than without an inner loop in training, {against_tied} than with tied rates."
    )


def _adapting(model: Score) -> str:
    assert model.rates is not None
    return (
        f"adapt with adapt_lr = {model.rates.adapt_lr:.3g}" if model.rates.adapt_lr else "do not adapt (adapt_lr = 0)"
    )


def _on_adaptation(model: Score, by_method: Mapping[Method, Score]) -> str:
    gradient = by_method[GRADIENT]
    use = f"Let new tasks adapt {model.method.adapts}: {_gain_over(by_method[POOLED])} lower error than {POOLED.label}"
    step = f"{GRADIENT.label}{_rates(gradient)}"
    if abs(gradient.excess) <= max(gradient.excess_se, _NO_DIFFERENCE * model.mse):
        return f"{use}. The {step} does as well, within a standard error."
    word = "beats" if gradient.excess > 0 else "does worse on the tested rows than"
    return f"{use}; it {word} the {step} by {_gain_over(gradient).removeprefix('-')}."


def _on_pooled(model: Score, by_method: Mapping[Method, Score]) -> str:
    use = (
        f"Do not use an inner loop: {POOLED.label} over all tasks, without adaptation, which this model is, predicts "
        "unseen tasks"
    )
    better = _better(by_method[method] for method in (RIDGE, GRADIENT) if method in by_method)
    if better:
        best = min(better, key=_mse)
        gain = _gain_of(best, model)
        return f"{use} best over all numbers of rows; on the tested ones {best.label} has {gain} lower error."
    return f"{use} no worse, within two standard errors, than any that adapts."


def _on_given(model: Score, others: Sequence[Score]) -> str:
    # Other methods whose rates are 0 are the pooled ridge too.
    others = [score for score in others if score.method is POOLED or not score.is_pooled()]
    better = _better(others)
    best = min(better or others, key=_mse)
    is_plural, subject = _subject(model)
    if better:
        return (
            f"{subject} {'are' if is_plural else 'is'} not the best: {best.label}{_rates(best)} has "
            f"{_gain_of(best, model)} lower error on unseen tasks."
        )
    if best.excess <= 2 * best.excess_se:
        return (
            f"{subject} {'do' if is_plural else 'does'} as well on unseen tasks, within two standard errors, as the "
            f"best of the others, {best.label}."
        )
    has = "have" if is_plural else "has"
    return f"{subject} {has} {_gain_over(best)} lower error on unseen tasks than the best of the others, {best.label}."


def _better(scores: Iterable[Score]) -> list[Score]:
    """Return those that are better than the first by more than two standard errors."""
    return [score for score in scores if score.excess < -2 * score.excess_se]


def _mse(score: Score) -> float:
    return score.mse


def _subject(model: Score) -> tuple[bool, str]:
    """Return whether it is plural, and what the user asked for."""
    assert model.rates is not None
    if model.method is POOLED:
        return False, f"No adaptation, as asked ({POOLED.label}),"
    inner, adapt = (f"{name} = {rate:.3g}" for name, rate in vars(model.rates).items() if name != "l2")
    if model.method is GIVEN and model.rates.adapt_lr == 0:
        return False, f"The rate {inner} (given) without adaptation"
    origins = model.method.origins
    assert origins is not None
    return True, f"The rates {inner} ({origins[0]}) and {adapt} ({origins[1]})"


def _does(model: Score) -> str:
    """Return what the fitted model does, after "which"."""
    if model.method is POOLED:
        return "does not adapt"
    if model.method.adapts:
        return f"adapts {model.method.adapts}"
    assert model.rates is not None
    return f"has inner_lr = {model.rates.inner_lr:.3g} and adapt_lr = {model.rates.adapt_lr:.3g}"


def _rates(score: Score) -> str:
    """Return the rates in brackets; nothing for methods without, and for the pooled ridge."""
    if score.rates is None or score.method is POOLED:
        return ""
    return f" (inner_lr {score.rates.inner_lr:.3g}, adapt_lr {score.rates.adapt_lr:.3g})"


def _gain_over(score: Score) -> str:
    """Return by how much the first method's error is below this one."""
    return f"{100 * score.excess / score.mse:.1f} ± {100 * score.gain_se:.1f} %"


def _gain_of(score: Score, model: Score) -> str:
    """Return by how much this error is below the first method's."""
    return f"{-100 * score.excess / model.mse:.1f} ± {100 * score.loss_se:.1f} %"
