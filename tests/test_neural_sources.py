"""Where networks get their tasks: any distribution or table, and no row of one stage in another."""

from itertools import combinations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")

import innerloop as il
import neural_reference  # noqa: F401  one torch thread
from cases import table
from innerloop.neural import (
    TEST,
    TRAINING,
    VALIDATION,
    DistributionTasks,
    MetaTrainer,
    SinusoidTasks,
    Stage,
    TaskSetTasks,
    Training,
    sweep,
)
from innerloop.neural.fewshot.omniglot import CharacterTasks, read_omniglot, split_alphabets
from innerloop.neural.sources import as_source
from omniglot_archive import write_archive

IDS = [f"school {i}" for i in range(40)]


def tasks_of(n_tasks=40, seed=0, ids=IDS):
    """Return a table whose rows all differ."""
    return il.TaskSet.from_arrays(*table([9] * n_tasks, 3, seed=seed, ids=ids[:n_tasks]))


GIVEN = {
    "paper": il.MixedLinearRegression(3),
    "quadratic": il.QuadraticRegression(3),
    "sinusoid": il.Sinusoid(0.1, il.RandomFeatures(1, 3)),
    "resampled": il.ResampledTasks(tasks_of()),
    "table": tasks_of(),
    "two targets": il.TaskSet.from_arrays(*table([9] * 40, 3, 2)),
    "table with its own test tasks": DistributionTasks(
        tasks_of(), test=tasks_of(12, 1, [f"new {i}" for i in range(12)])
    ),
    "old names": SinusoidTasks(2),
    "old name of a table": TaskSetTasks(tasks_of(), 2),
    "characters": None,
}


@pytest.fixture(scope="module")
def characters(tmp_path_factory):
    archive = write_archive(tmp_path_factory.mktemp("data") / "small.zip")
    return CharacterTasks(split_alphabets(read_omniglot(archive)), 3)


def rows(batch):
    """Return the rows of a batch as a set, each with its targets unless these are names of classes."""
    parts = []
    for X, y in ((batch.X_support, batch.y_support), (batch.X_query, batch.y_query)):
        columns = [X.flatten(0, 1).flatten(1)]
        columns += [y.flatten(0, 1)] if y.is_floating_point() else []
        parts.append(torch.cat(columns, dim=1).numpy())
    return {row.tobytes() for row in np.concatenate(parts)}


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_row_of_one_stage_comes_in_another(name, seed, characters):
    source = characters if GIVEN[name] is None else as_source(GIVEN[name], seed)
    seen = {stage: set() for stage in Stage}
    for stage in Stage:
        for number in range(10 if GIVEN[name] is None else 30):
            seen[stage] |= rows(source.sample(10, 3, 6, (stage, number)))
    assert seen[TRAINING].isdisjoint(seen[VALIDATION])
    assert seen[TRAINING].isdisjoint(seen[TEST])
    assert seen[VALIDATION].isdisjoint(seen[TEST])


def test_every_distribution_is_looked_at():
    shipped = [getattr(il, name) for name in il.__all__]
    distributions = {kind for kind in shipped if isinstance(kind, type) and issubclass(kind, il.TaskDistribution)} - {
        il.TaskDistribution
    }
    assert distributions == {type(given) for given in GIVEN.values() if isinstance(given, il.TaskDistribution)}


@pytest.mark.parametrize("name", ["paper", "quadratic", "sinusoid", "resampled", "table", "two targets"])
def test_one_word_for_tasks(name):
    """The same object goes into the simulation, the trainer and the sweep."""
    tasks, design, n_targets = GIVEN[name], il.Design(4, 3, 2), 2 if name == "two targets" else 1

    def net():
        return torch.nn.Linear(3, n_targets).double()

    assert il.estimate_loss(tasks, design, 0.1, 0.1, n_runs=2, n_test_tasks=2, n_test_rows=2).loss.notnull().all()
    trainer = MetaTrainer(net(), tasks, design, 0.1)
    trainer.train(2)
    assert trainer.evaluate(5).values.isfinite().all()
    assert (
        sweep(net, tasks, design, [0.1], [0.1], n_seeds=1, n_iterations=1, n_test=3, n_validation=2)
        .loss.notnull()
        .all()
    )


def test_a_table_is_the_distribution_of_its_tasks():
    design, sizes = il.Design(4, 3, 2), {"n_runs": 3, "n_test_tasks": 2, "n_test_rows": 2}
    table_, dist = (il.estimate_loss(t, design, 0.1, 0.1, **sizes) for t in (tasks_of(), il.ResampledTasks(tasks_of())))
    assert table_.loss.identical(dist.loss)
    first, second = (
        as_source(t, 3).sample(4, 3, 2, (TRAINING, 0)) for t in (tasks_of(), il.ResampledTasks(tasks_of()))
    )
    assert all(torch.equal(a, b) for a, b in zip(first.tensors, second.tensors, strict=True))


def test_a_sinusoid_is_a_sine_wave_through_support_and_query():
    batch = as_source(il.Sinusoid(), 0).sample(20, 4, 6, (TEST, 1))
    X, y = (torch.cat(parts, dim=1).numpy() for parts in (batch.tensors[::2], batch.tensors[1::2]))
    for x, target in zip(X[..., 0], y[..., 0], strict=True):
        columns = np.column_stack((np.sin(x), np.cos(x)))
        np.testing.assert_allclose(columns @ np.linalg.lstsq(columns, target)[0], target, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_further_tasks_move_no_task_to_another_stage(seed):
    def stages(n_tasks):
        parts = DistributionTasks(tasks_of(n_tasks), seed).by_stage
        return {task: stage for stage, part in parts.items() for task in part.tasks.ids.tolist()}

    few, many = stages(30), stages(40)
    assert set(many) == set(IDS)
    assert all(many[task] == stage for task, stage in few.items())


def test_shares_are_those_asked_for():
    tasks = il.TaskSet.from_arrays(*table([2] * 3000, 1))
    counts = {stage: len(part.tasks) for stage, part in DistributionTasks(tasks, 0, 0.3, 0.1).by_stage.items()}
    assert sum(counts.values()) == 3000
    for stage, share in ((TRAINING, 0.6), (VALIDATION, 0.3), (TEST, 0.1)):
        assert abs(counts[stage] / 3000 - share) < 4 * np.sqrt(share * (1 - share) / 3000)


@pytest.mark.slow
def test_new_tasks_are_no_easier_than_they_are():
    """Targets without any relation to the inputs: half their variance is the least that new tasks can cost."""
    rng = np.random.default_rng(0)
    tasks = il.TaskSet.from_arrays(
        rng.standard_normal((300, 40)), rng.standard_normal(300), np.repeat(np.arange(30), 10)
    )
    trainer = MetaTrainer(
        torch.nn.Linear(40, 1).double(),
        tasks,
        il.Design(10, 5, 5),
        0.0,
        training=Training(optimiser=lambda tensors: torch.optim.SGD(tensors, 0.1)),
    )
    trainer.train(200)
    assert trainer.evaluate(100, stage=TRAINING).mean() < 0.4
    assert trainer.evaluate(100).mean() > 0.5


def test_a_round_of_a_table_takes_every_task_once():
    source = DistributionTasks(tasks_of(), validation=None, test=None)
    batch = source.sample(100, 3, 6, (TRAINING, 0))
    owner = {row.tobytes(): task for task, X, _ in tasks_of() for row in X}
    drawn = [
        {owner[row.tobytes()] for row in torch.cat(pair).numpy()} for pair in zip(*batch.tensors[::2], strict=True)
    ]
    assert all(len(owners) == 1 for owners in drawn)
    names = [owners.pop() for owners in drawn]
    assert set(names[:40]) == set(names[40:80]) == set(IDS)
    assert len(set(names[80:])) == 20


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: as_source(3, 0),
            TypeError,
            "`tasks` must be a TaskDistribution, .* a TaskSet, or an object .* got int",
        ),
        (lambda: as_source(il.Sinusoid, 0), TypeError, "got Sinusoid, a class"),
        (lambda: as_source(il.Sinusoid(), -1), ValueError, "`seed` must be at least 0"),
        (lambda: TaskSetTasks([1]), TypeError, "`tasks` must be a TaskSet, got list"),
        (
            lambda: DistributionTasks(tasks_of(), test=1.0),
            ValueError,
            "`test` must be a fraction between 0 and 1, tasks",
        ),
        (lambda: DistributionTasks(tasks_of(), validation=0.5, test=0.5), ValueError, "must leave tasks to train on"),
        (
            lambda: DistributionTasks(tasks_of(2)),
            ValueError,
            r"`tasks` has 2 task\(s\), of which none falls into .* with seed 0; take another seed",
        ),
        (
            lambda: DistributionTasks(tasks_of(), test=tasks_of(3, 1)),
            ValueError,
            "the training and the test tasks both hold task 'school [0-2]'; a task belongs to one stage",
        ),
        (
            lambda: DistributionTasks(tasks_of(), test=None).sample(1, 2, 2, (TEST, 0)),
            ValueError,
            "there are no test tasks; give `test`: a fraction",
        ),
        (
            lambda: il.estimate_loss(SinusoidTasks(), il.Design(2, 2, 2), 0.1, 0.1),
            TypeError,
            r"`dist` must be a TaskDistribution, such as innerloop.Sinusoid\(\), or a TaskSet, got DistributionTasks",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("design", "error", "words"),
    [
        (0.1, TypeError, r"`design` must be innerloop.Design, such as Design\(n_tasks=25, .* got float"),
        (il.Design(2, 3, 3, l2=0.1), ValueError, "`l2` of a network's design must be 0, got 0.1; add the penalty"),
        (il.Design(2, 3, 3, inner_rule="implicit"), ValueError, "'gradient', got 'implicit'; for implicit MAML"),
    ],
)
def test_a_design_that_networks_cannot_follow_is_refused(design, error, words):
    with pytest.raises(error, match=words):
        MetaTrainer(torch.nn.Linear(1, 1), il.Sinusoid(), design, 0.1)


def test_new_tasks_adapt_on_the_support_of_training_unless_told():
    assert il.Design(2, 3, 4).n_adapt == 3
    assert il.Design(2, [3, 4], 4, 7).n_adapt == 7
    with pytest.raises(ValueError, match="`n_adapt` must be given where `n_support` differs"):
        il.Design(2, [3, 4], 4)


def test_a_sweep_refuses_tasks_of_a_stage_that_are_too_small_before_it_trains():
    small = il.TaskSet.from_arrays(*table([4] * 5, 3, ids=[f"new {i}" for i in range(5)]))
    source = DistributionTasks(tasks_of(), test=small)

    def net():
        return torch.nn.Linear(3, 1)

    with pytest.raises(ValueError, match=r"task 'new 0' has 4 row\(s\), too few for 3 support and 2 query rows"):
        sweep(net, source, il.Design(4, 3, 2), [0.1], [0.1], n_seeds=1, n_iterations=10**9)


def test_the_same_index_gives_the_same_tasks():
    tasks = il.TaskSet.from_arrays(*table([9, 8, 12, 10], 3))
    for source in (SinusoidTasks(4), TaskSetTasks(tasks, 4, validation=None, test=None)):
        first, again, other = (source.sample(6, 3, 4, index) for index in ((0, 1), (0, 1), (0, 2)))
        assert all(torch.equal(a, b) for a, b in zip(first.tensors, again.tensors, strict=True))
        assert not torch.equal(first.X_query, other.X_query)
        assert first.X_support.shape[:2] == (6, 3)
        assert first.y_query.shape == (6, 4, 1)


@pytest.mark.parametrize("place", [1, 2, 3])
def test_every_number_of_an_index_changes_what_is_drawn(place):
    tasks = il.TaskSet.from_arrays(*table([9, 8, 12, 10], 3))
    index = [TRAINING, 4, 5, 6]
    other = [number + (i == place) for i, number in enumerate(index)]
    for source in (SinusoidTasks(4), TaskSetTasks(tasks, 4, validation=None, test=None)):
        first, second = (source.sample(6, 3, 4, tuple(way)) for way in (index, other))
        assert not torch.equal(first.X_query, second.X_query)
        assert not torch.equal(first.X_support, second.X_support)


def test_stages_of_a_distribution_have_different_tasks():
    drawn = [SinusoidTasks(4).sample(6, 3, 4, (stage, 0)).X_query for stage in (TRAINING, VALIDATION, TEST)]
    assert not any(torch.equal(a, b) for a, b in combinations(drawn, 2))


def test_a_table_deals_different_rows_to_support_and_query():
    X, y, groups = table([7, 7], 2)
    batch = TaskSetTasks(il.TaskSet.from_arrays(X, y, groups), validation=None, test=None).sample(2, 3, 4, (0,))
    rows = torch.cat([batch.X_support, batch.X_query], dim=1)
    assert {tuple(row) for row in rows.reshape(-1, 2).tolist()} == {tuple(row) for row in X.tolist()}
