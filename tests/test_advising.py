"""Advice on further data: predicted errors against those of drawn tasks."""

import numpy as np
import pytest

import innerloop as il
from cases import prepared as training_of
from innerloop.adaptation.scale_mixture import ScaledRidge
from innerloop.data.tasks import TaskSet
from innerloop.estimators.meta_regressor import fitted_regressor
from innerloop.evaluation import advice as advising
from innerloop.evaluation import evaluate
from innerloop.evaluation.advice import advice_from, further_data, predicted_error

pytestmark = pytest.mark.usefixtures("one_thread")

p = 5
DIST = il.MixedLinearRegression(
    p, noise_std=1.0, task_std=np.linspace(0.2, 0.6, p), mean=np.arange(p) / 2, covariance=np.linspace(0.5, 1.5, p)
)


@pytest.fixture(scope="module")
def tasks():
    return DIST.sample_tasks(150, 16, seed=1)


def prepared(tasks, n_support, adaptation="ridge"):
    return training_of(tasks, adaptation=adaptation, n_support=n_support, basis="linear").choose()


@pytest.fixture(scope="module")
def trained(tasks):
    return prepared(tasks, 6)


def main_member(trained):
    """Return the predictor of largest weight, which the advice is about."""
    return trained.predictor.members[list(trained.choice.candidates).index(trained.choice.main)]


def errors_after_adapting(trained, X, y, n_adapt):
    """Return each task's mean squared error on its other rows, of X (n_tasks, n_rows, n_columns)."""
    m, p = len(X), X.shape[2]
    starts = n_adapt * np.arange(m + 1)
    support = TaskSet(X[:, :n_adapt].reshape(-1, p), y[:, :n_adapt].reshape(-1, 1), starts, np.arange(m))
    member = main_member(trained)
    theta = member.rule.adapt(member.coef, support)
    return np.square(y[:, n_adapt:] - (X[:, n_adapt:] @ theta)[..., 0]).mean(axis=1)


def brute_force(trained, dist, n_adapt, n_tasks=4_000, n_query=20):
    """Return the error on tasks drawn by the fitted model with features of their own, and its standard error."""
    rng, effects, p = np.random.default_rng(7), trained.effects, trained.training.tasks.n_features
    drawn = dist.sample_tasks(n_tasks, n_adapt + n_query, seed=8)
    X = trained.training.scaling.design(drawn.X).reshape(n_tasks, -1, p)
    noise_std = np.sqrt(effects.noise[0])
    away = rng.multivariate_normal(np.zeros(p), effects.new_task_cov[0], n_tasks, method="eigh")
    y = (X @ (effects.mean[:, 0] + noise_std * away)[..., None])[..., 0] + noise_std * rng.standard_normal(X.shape[:2])
    errors = errors_after_adapting(trained, X, y, n_adapt)
    return errors.mean(), errors.std() / np.sqrt(n_tasks)


@pytest.mark.slow
@pytest.mark.parametrize("adaptation", ["gradient", "ridge"])
@pytest.mark.parametrize(("n_rows", "n_features", "n_support"), [(6, 10, 3), (12, 10, 6), (12, 4, 6)])
def test_the_predicted_error_is_that_on_rows_that_no_task_adapted_on(
    monkeypatch, n_rows, n_features, n_support, adaptation
):
    monkeypatch.setattr(advising, "_DRAWS", (8_000, 8_000))
    dist = il.MixedLinearRegression(n_features, task_std=np.full(n_features, 0.8), mean=np.ones(n_features))
    trained = prepared(dist.sample_tasks(400, n_rows, seed=1), n_support, adaptation)
    assert trained.adaptation == adaptation
    found, error = brute_force(trained, dist, n_support)
    # The table's rows are a draw as well.
    assert abs(predicted_error(trained, n_support) - found) < 4 * np.sqrt(2) * error
    # A task has too few rows for twice as many, and repeats those it has.
    more, error = brute_force(trained, dist, 2 * n_support)
    assert more - 4 * np.sqrt(2) * error < predicted_error(trained, 2 * n_support) < found


@pytest.mark.slow
def test_the_predicted_error_of_tasks_of_different_scales_is_that_on_new_ones():
    rng, m, n_adapt = np.random.default_rng(0), 300, 6
    n_tasks = 10 * m
    coef = np.array([1.0, -1.0]) + rng.standard_normal((n_tasks, 2))
    X = rng.standard_normal((n_tasks, 12, 2))
    scale = np.exp(0.5 * rng.standard_normal((n_tasks, 1)))
    y = (X @ coef[..., None])[..., 0] + scale * rng.standard_normal((n_tasks, 12))
    table = TaskSet.from_arrays(X[:m].reshape(-1, 2), y[:m].ravel(), np.repeat(np.arange(m), 12))
    trained = prepared(table, n_adapt)
    assert isinstance(main_member(trained).rule, ScaledRidge)
    design = trained.training.scaling.design(X[m:].reshape(-1, 2)).reshape(-1, 12, 3)
    errors = errors_after_adapting(trained, design, y[m:] - trained.training.scaling.y_mean, n_adapt)
    # The noise of the table's own tasks is that of a draw.
    assert abs(predicted_error(trained, n_adapt) - errors.mean()) < 4 * errors.std() * np.sqrt(1 / m + 1 / len(errors))


@pytest.mark.slow
def test_the_population_is_known_as_the_fitted_model_says(trained):
    once, twice = (advising._population_cov(trained, 0, tasks, 1.0) for tasks in (1, 2))
    np.testing.assert_allclose(once, trained.effects.mean_cov[0], rtol=1e-6, atol=1e-12)
    penalty = np.diag(trained.effects.precision[0])
    np.testing.assert_allclose(np.linalg.inv(twice) + penalty, 2 * np.linalg.inv(once), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_half_the_rows_of_tasks_tell_as_much_as_those_that_are_left():
    tasks = il.MixedLinearRegression(6, task_std=np.full(6, 2.0)).sample_tasks(200, 8, seed=3)
    trained, rng = prepared(tasks, 3), np.random.default_rng(1)
    Lambda = trained.effects.task_cov[0]

    def trace():
        S = np.diag(trained.effects.precision[0])
        for _, X, _ in trained.training.tasks:
            left = rng.permutation(X)[:4]
            S += left.T @ np.linalg.solve(np.eye(len(left)) + left @ Lambda @ left.T, left)
        return np.trace(np.linalg.inv(S))

    drawn = np.array([trace() for _ in range(20)])
    found = np.trace(advising._population_cov(trained, 0, 1.0, 0.5))
    assert abs(found - drawn.mean()) < 4 * drawn.std(ddof=1) * np.sqrt(1 + 1 / 20)


@pytest.mark.slow
def test_tasks_of_one_row_are_taken_for_one():
    trained = prepared(DIST.sample_tasks(60, 1, seed=4), 1)
    assert predicted_error(trained, 5) < predicted_error(trained, 1)


@pytest.mark.slow
def test_the_predicted_error_is_that_on_new_tasks(trained):
    model = fitted_regressor({"adaptation": "ridge", "n_support": 6}, trained.table())
    new = DIST.sample_tasks(600, 46, seed=2)
    episodes = new.split(n_support=6)
    known = model.adapt(new.X[episodes.support_rows], new.y[episodes.support_rows], groups=np.repeat(np.arange(600), 6))
    left = new.y[episodes.query_rows] - known.predict(new.X[episodes.query_rows], groups=np.repeat(np.arange(600), 40))
    errors = np.square(left).reshape(600, 40).mean(axis=1)
    error = errors.std(ddof=1) / np.sqrt(600)
    # The model's variances are estimates, from 150 tasks: a few percent.
    assert abs(predicted_error(trained, 6) - errors.mean()) < 4 * error + 0.06 * errors.mean()


@pytest.mark.slow
def test_more_data_never_hurts(trained):
    now = predicted_error(trained, 6)
    assert predicted_error(trained, 6, tasks=2) < now
    assert predicted_error(trained, 6, rows=2) < now
    assert predicted_error(trained, 12) < now
    assert predicted_error(trained, 6, tasks=1e9) > float(trained.effects.noise[0])


@pytest.mark.slow
def test_options_gain_what_their_words_say_the_largest_first(trained):
    changes = {
        "twice as many training tasks": {"tasks": 2},
        "twice as many rows in every training task": {"rows": 2},
        "as many training rows, from half the tasks": {"tasks": 0.5, "rows": 2},
        "as many training rows, from twice the tasks": {"tasks": 2, "rows": 0.5},
        "12 rows of a new task to adapt on instead of 6": {"n_adapt": 12},
    }
    options, now = further_data(trained), predicted_error(trained, 6)
    assert len(options) == len(changes)
    for option in options:
        (change,) = [change for words, change in changes.items() if option.what.startswith(words)]
        assert option.gain == pytest.approx(1 - predicted_error(trained, **{"n_adapt": 6, **change}) / now)
    assert [o.gain for o in options] == sorted((o.gain for o in options), reverse=True)


@pytest.mark.slow
def test_advice_is_the_evaluation_in_words(tasks, trained):
    advice = advice_from(evaluate(trained, tasks))
    assert advice.adaptation == "ridge"
    assert advice.gain > 4 * advice.gain_se > 0
    assert str(advice).startswith(advice.verdict)
    assert "12 rows of a new task" in str(advice)


@pytest.mark.slow
def test_advice_from_tasks_alone():
    advice = il.advise(DIST.sample_tasks(30, 10, seed=3))
    assert advice.mse > 0
    assert advice.options
    with pytest.raises(ValueError, match="`tasks` must hold at least two tasks"):
        il.advise(DIST.sample_tasks(1, 10))
