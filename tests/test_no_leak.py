"""Nothing that is scored has a part in what scores it: rows of held-out and of unseen tasks, stage by stage."""

import numpy as np
import pytest

import innerloop as il
from cases import prepared, table
from innerloop.evaluation import _nested
from innerloop.evaluation.coverage import LEVELS
from innerloop.evaluation.methods import Method
from innerloop.tabular import training as tabular_training
from innerloop.tabular.training import MetaTraining

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def tasks_of(m=12, n=7, p=3, seed=0):
    return il.TaskSet.from_arrays(*table([n] * m, p, seed=seed))


def rows_of(X):
    """Return the different rows; features are continuous, so that a row names itself."""
    return {row.tobytes() for row in np.ascontiguousarray(X)}


class Spy(Method):
    """A method that records the rows it is given, and is never wrong."""

    key = label = "spy"
    colour, marker = "blue", "o"

    def __init__(self):
        self.fitted, self.scored, self.similar = set(), set(), set()

    def fit(self, trained, _, tasks):
        self.fitted |= rows_of(trained.training.tasks.X) | rows_of(tasks.X)

        def score(unseen, similar):
            self.scored |= rows_of(unseen.X[unseen.query_rows])
            if similar is not None:
                self.similar |= rows_of(similar.X[similar.query_rows]) | rows_of(similar.X[similar.support_rows])
            return np.zeros(len(np.unique(unseen.task)))

        return score


def test_methods_choose_and_fit_without_the_rows_that_score_them():
    tasks = tasks_of()
    rest, unseen = tasks.select(np.arange(8)), tasks.select(np.arange(8, 12))
    trained, spy = prepared(rest, adaptation="gradient").choose(), Spy()
    _nested._errors(trained, {spy: None}, rest, unseen, [0, 1, 3])
    assert len(spy.scored) == unseen.n_rows
    assert len(spy.fitted) == rest.n_rows
    assert not (spy.fitted | spy.similar) & spy.scored
    assert spy.similar <= spy.fitted


def test_a_fold_is_prepared_without_its_tasks(monkeypatch):
    tasks, fitted, scored, covered = tasks_of(), [], [], []
    prepare = MetaTraining.prepare

    def record(part, *args, **options):
        fitted.append(rows_of(part.X))
        return prepare(part, *args, **options)

    def scores(_, chosen, rest, unseen, sizes):
        scored.append((fitted[-1], rows_of(rest.X), rows_of(unseen.X)))
        return np.zeros((1 + len(sizes), len(unseen), len(chosen)))

    def shares(model, unseen, sizes):
        covered.append((model.training.scaling, model.training.tasks.n_rows, rows_of(unseen.X)))
        return np.zeros((len(sizes), len(unseen), len(LEVELS)))

    trained = prepared(tasks, adaptation="gradient").choose()
    monkeypatch.setattr(_nested, "on_threads", map)
    monkeypatch.setattr(MetaTraining, "prepare", record)
    monkeypatch.setattr(_nested, "_errors", scores)
    monkeypatch.setattr(_nested, "shares_inside", shares)
    _nested.evaluate(trained, tasks)
    assert len(scored) == len(covered) == _nested.N_FOLDS
    assert set().union(*(unseen for *_, unseen in scored)) == rows_of(tasks.X)
    for (prepared_on, rest, unseen), (scaling, n_rows, looked_at) in zip(scored, covered, strict=True):
        assert prepared_on == rest == rows_of(tasks.X) - unseen
        assert looked_at == unseen
        assert n_rows == len(rest)
        np.testing.assert_allclose(scaling.x_mean, np.mean([np.frombuffer(row) for row in rest], axis=0), atol=1e-3)


@pytest.mark.parametrize("adaptation", ["ridge", "gradient"])
def test_candidates_are_compared_on_tasks_that_they_were_not_fitted_to(adaptation, monkeypatch):
    caught = []

    class EnoughSeen(Exception):
        pass

    def catch(comparison, *_):
        caught.append(comparison)
        raise EnoughSeen

    monkeypatch.setattr(tabular_training, "choose_adaptation", catch)
    with pytest.raises(EnoughSeen):
        prepared(tasks_of(), adaptation=adaptation, cv=4).choose()
    (comparison,) = caught
    for n, splits in comparison.trials.items():
        assert len(splits) > 1
        supports = [rows_of(np.concatenate([part.X[part.support_rows] for part in folds])) for folds in splits]
        if n:
            assert len(set(map(frozenset, supports))) == len(splits)  # rows are dealt anew
        for folds in splits:
            for part, episodes in zip(comparison.parts, folds, strict=True):
                held_out = rows_of(episodes.X[episodes.query_rows]) | rows_of(episodes.X[episodes.support_rows])
                support = rows_of(episodes.X[episodes.support_rows])
                assert not support & rows_of(episodes.X[episodes.query_rows])
                assert not held_out & rows_of(part.sample.X)
                if part.gradient is not None:
                    training = part.gradient[0]
                    used = np.concatenate((training.support_rows, training.query_rows))
                    assert not held_out & rows_of(training.X[used])


def test_each_fold_has_the_objective_of_the_others():
    training = prepared(tasks_of(10), adaptation="gradient", cv=5)
    folds = training.gradient.folds
    for f, objective in enumerate(folds.training_objectives()):
        own = il.MetaObjective.from_episodes(folds.episodes.select(folds.fold != f))
        assert (objective.n_tasks, objective.weight) == (own.n_tasks, own.weight)
        np.testing.assert_allclose(il.solve(objective, -0.2).coef, il.solve(own, -0.2).coef, rtol=1e-10)
