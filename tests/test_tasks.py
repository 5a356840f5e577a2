"""Tasks: how rows become tasks, and what split, deal and select promise."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import innerloop as il

SIZES = (6, 1, 12, 5, 9, 30)


def table_of(sizes=SIZES, p=3, n_targets=None, seed=0, ids=None):
    """Return X, y and ids in a mixed order; y numbers the rows."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"task {i}" for i in range(len(sizes))] if ids is None else ids)
    groups = np.repeat(ids, sizes)[rng.permutation(sum(sizes))]
    y = np.arange(float(sum(sizes)))
    if n_targets is not None:
        y = y[:, None] + 0.5 * np.arange(n_targets)
    return rng.standard_normal((len(groups), p)), y, groups


def tasks_of(**arguments):
    return il.TaskSet.from_arrays(*table_of(**arguments))


def contents(tasks, episodes):
    """Return what each task's episodes hold, in order."""
    held = {}
    for task, (_, y_support, _, y_query) in zip(episodes.task.tolist(), episodes, strict=True):
        held.setdefault(tasks.ids[task].item(), []).append((y_support.tolist(), y_query.tolist()))
    return held


SCHEMES = {
    "split 3+2": lambda tasks, seed=0: tasks.split(3, 2, seed),
    "split 2+rest": lambda tasks, seed=0: tasks.split(2, None, seed),
    "split rest+1": lambda tasks, seed=0: tasks.split(None, 1, seed),
    "deal": lambda tasks, seed=0: tasks.deal(seed=seed),
    "deal 4": lambda tasks, seed=0: tasks.deal(4, seed),
}
SCHEME = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
LARGE = (6, 12, 5, 9, 30)


def test_from_arrays_keeps_each_row_with_its_task():
    X, y, groups = table_of()
    tasks = il.TaskSet.from_arrays(X, y, groups)
    assert (tasks.n_tasks, tasks.n_rows, tasks.n_features) == (len(SIZES), sum(SIZES), 3)
    assert len(tasks) == len(SIZES)
    np.testing.assert_array_equal(tasks.sizes, SIZES)
    np.testing.assert_array_equal(tasks.ids[tasks.task_of_row], np.sort(groups))
    for task_id, own_X, own_y in tasks:
        np.testing.assert_array_equal(own_X, X[groups == task_id])
        np.testing.assert_array_equal(own_y, y[groups == task_id])


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "float16", "float32", "bool", ">f8", "longdouble"])
def test_from_arrays_takes_any_numeric_dtype(dtype):
    X = (np.arange(12).reshape(6, 2) % 2).astype(dtype)
    tasks = il.TaskSet.from_arrays(X, X[:, 0], np.arange(6) % 2)
    assert tasks.X.dtype == tasks.y.dtype == np.float64
    np.testing.assert_array_equal(tasks.X[:3], X[::2].astype(float))


IDS = [
    ["b", "a", "b", "é", "a", "日本"],
    [3, -1, 3, 7, -1, 0],
    np.array([3, 1, 3, 2, 1, 0], dtype=object),
    np.array([3, 1, 3, 2, 1, 0], dtype="uint8"),
    pd.Series(["b", "a", "b", "c", "a", "d"], index=[5, 5, 1, 0, 9, 9]),
    pd.Categorical(["b", "a", "b", "c", "a", "d"]),
    pl.Series(["b", "a", "b", "c", "a", "d"]),
]


@pytest.mark.parametrize("groups", IDS, ids=lambda groups: str(np.asarray(groups).dtype))
def test_ids_may_be_numbers_or_text_and_come_sorted(groups):
    y = np.arange(6.0)
    tasks = il.TaskSet.from_arrays(y[:, None], y, groups)
    labels = np.asarray(groups).tolist()
    assert tasks.ids.tolist() == sorted(set(labels))
    for task_id, _, own in tasks:
        assert own.tolist() == [i for i, label in enumerate(labels) if label == task_id]


def test_a_whole_number_is_the_same_id_among_fractions():
    rows = np.random.default_rng(0).standard_normal((20, 2))
    whole, mixed = (il.TaskSet.from_arrays(rows, rows[:, 0], np.repeat(ids, 10)) for ids in ([1, 2], [1.0, 2.5]))
    np.testing.assert_array_equal(whole.shuffled(0)[:10], mixed.shuffled(0)[:10])


GOOD = {"X": np.ones((4, 2)), "y": np.ones(4), "groups": ["a", "a", "b", "b"]}
BAD_ARRAYS = [
    ({"X": np.ones(4)}, ValueError, r"`X` must be 2-dimensional .* reshape\(-1, 1\)"),
    ({"X": np.ones((0, 2)), "y": [], "groups": []}, ValueError, r"at least one row, got shape \(0, 2\)"),
    ({"X": [["a", "b"]] * 4}, TypeError, "`X` must hold numbers only"),
    ({"X": np.full((4, 2), 1j)}, TypeError, "`X` must hold real numbers"),
    (
        {"X": [[1, 2], [1, np.nan], [1, 2], [1, 2]]},
        ValueError,
        r"missing \(NaN\) at row 1, column 1 \(counted from 0\)",
    ),
    ({"X": [[1, 2], [1, 2], [-np.inf, 2], [1, 2]]}, ValueError, "infinite at row 2, column 0"),
    (
        {"X": [[1, 2], [1, np.nan], [1, 2], [1, 2]], "feature_names": ["u", "v"]},
        ValueError,
        r"missing \(NaN\) at row 1, column 'v'",
    ),
    ({"y": np.ones(3)}, ValueError, r"`y` must have one row per row of features \(4\), got 3"),
    ({"y": [1, 2, np.inf, 3]}, ValueError, "`y` must be finite, .* infinite at row 2"),
    (
        {"y": np.ones((4, 0))},
        ValueError,
        r"`y` must have shape \(rows,\) or \(rows, targets\), got shape \(4, 0\)",
    ),
    ({"groups": ["a", "b"]}, ValueError, r"`groups` must hold one task id per row \(4\), got shape \(2,\)"),
    ({"groups": ["a", None, "b", "b"]}, ValueError, "`groups` has a missing task id at row 1"),
    ({"groups": [1.0, 2.0, 1.0, np.nan]}, ValueError, "`groups` has a missing task id at row 3"),
    ({"groups": [np.nan, "a", "b", "b"]}, ValueError, "`groups` has a missing task id at row 0"),
    ({"feature_names": ["u"]}, ValueError, "`feature_names` must name 2 features, got 1"),
]


@pytest.mark.parametrize(("changes", "error", "message"), BAD_ARRAYS)
def test_from_arrays_says_what_is_wrong_and_where(changes, error, message):
    with pytest.raises(error, match=message):
        il.TaskSet.from_arrays(**{**GOOD, **changes})


@pytest.mark.parametrize("n_targets", [None, 2])
@pytest.mark.parametrize(("n_support", "n_query"), [(3, 2), (1, 4), (2, None), (None, 1)])
def test_split_gives_disjoint_rows_of_the_sizes_asked_for(n_support, n_query, n_targets):
    tasks = tasks_of(sizes=LARGE, n_targets=n_targets)
    episodes = tasks.split(n_support, n_query, seed=3)
    rows = {task_id: set(y.reshape(len(y), -1)[:, 0]) for task_id, _, y in tasks}
    assert len(episodes) == len(tasks)
    assert episodes.task.tolist() == list(range(len(tasks)))
    for task_id, episode in zip(tasks.ids, episodes, strict=True):
        support, query = (list(episode[i].reshape(len(episode[i]), -1)[:, 0]) for i in (1, 3))
        size = len(rows[task_id])
        assert len(support) == (size - n_query if n_support is None else n_support)
        assert len(query) == (size - n_support if n_query is None else n_query)
        drawn = set(support) | set(query)
        assert len(drawn) == len(support) + len(query)
        assert drawn <= rows[task_id]


@SCHEME
def test_targets_stay_with_their_features(scheme):
    X, y, groups = table_of(sizes=LARGE)
    for X_support, y_support, X_query, y_query in scheme(il.TaskSet.from_arrays(X, y, groups)):
        np.testing.assert_array_equal(X_support, X[y_support.astype(int)])
        np.testing.assert_array_equal(X_query, X[y_query.astype(int)])


BAD_SPLITS = [
    ({}, ValueError, "one of `n_support` and `n_query` must be a number; None means all other rows"),
    (
        {"n_support": 4, "n_query": 2},
        ValueError,
        r"task 'task 3' has 5 row\(s\), too few .* 4 support and 2 query",
    ),
    ({"n_support": 5}, ValueError, r"task 'task 3' has 5 row\(s\), too few .* 5 support and 1 query"),
    ({"n_support": 0, "n_query": 1}, ValueError, "`n_support` must be at least 1, got 0"),
    ({"n_support": 1, "n_query": -2}, ValueError, "`n_query` must be at least 1, got -2"),
    ({"n_support": 1.5}, TypeError, "`n_support` must be a whole number, got 1.5"),
    ({"n_support": 1, "seed": -1}, ValueError, "`seed` must be at least 0, got -1"),
    ({"n_support": 1, "seed": None}, TypeError, "`seed` must be a whole number, got None"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_SPLITS)
def test_split_says_what_is_wrong(arguments, error, message):
    tasks = tasks_of(sizes=LARGE, ids=["task 0", "task 2", "task 3", "task 4", "task 5"])
    tasks = tasks.select([0, 1, 2, 3, 4])
    with pytest.raises(error, match=message):
        tasks.split(**arguments)


@pytest.mark.slow
@given(order=st.permutations(range(sum(LARGE))), seed=st.integers(0, 2**40))
@SCHEME
def test_the_order_of_the_file_does_not_change_an_episode(scheme, order, seed):
    X, y, groups = table_of(sizes=LARGE)
    tasks = il.TaskSet.from_arrays(X, y, groups)
    mixed = il.TaskSet.from_arrays(X[order], y[order], groups[order])
    assert contents(mixed, scheme(mixed, seed)) == contents(tasks, scheme(tasks, seed))


@pytest.mark.slow
@given(keep=st.lists(st.booleans(), min_size=len(LARGE), max_size=len(LARGE)).filter(any))
@pytest.mark.parametrize("ids", [None, [5, 3, -2, 100, 7]], ids=["text", "numbers"])
@SCHEME
def test_other_tasks_do_not_change_an_episode(scheme, ids, keep):
    if scheme is SCHEMES["deal"]:
        scheme = SCHEMES["deal 4"]
    tasks = tasks_of(sizes=LARGE, ids=ids)
    fewer = tasks.select(keep)
    whole = contents(tasks, scheme(tasks))
    assert contents(fewer, scheme(fewer)) == {k: whole[k] for k in fewer.ids.tolist()}


@SCHEME
def test_the_seed_changes_what_is_drawn_and_repeats_it(scheme):
    tasks = tasks_of(sizes=LARGE)
    drawn = [contents(tasks, scheme(tasks, seed)) for seed in range(20)]
    assert all(drawn[i] != drawn[j] for i in range(20) for j in range(i))
    assert contents(tasks, scheme(tasks, 7)) == drawn[7]


def test_tasks_of_equal_rows_are_drawn_apart():
    X = np.random.default_rng(0).standard_normal((20, 2))
    y = np.arange(20.0)
    tasks = il.TaskSet.from_arrays(np.tile(X, (2, 1)), np.tile(y, 2), np.repeat(["a", "b"], 20))
    first, second = contents(tasks, tasks.split(10, 10)).values()
    assert first != second


def test_the_sign_of_zero_does_not_matter():
    X, y, groups = table_of(sizes=LARGE)
    X[::2, 0] = 0.0
    other = X.copy()
    other[::2, 0] = -0.0
    tasks, same = (il.TaskSet.from_arrays(rows, y, groups) for rows in (X, other))
    assert contents(tasks, tasks.split(2, 2)) == contents(same, same.split(2, 2))


@pytest.mark.slow
@pytest.mark.parametrize("constant", [False, True], ids=["distinct rows", "few distinct rows"])
def test_every_row_is_equally_often_in_the_support(constant):
    n_rows, n_support, n_seeds = 12, 5, 3000
    X = np.zeros((n_rows, 1)) if constant else np.arange(float(n_rows))[:, None]
    tasks = il.TaskSet.from_arrays(X, np.arange(float(n_rows)), np.zeros(n_rows, int))
    counts, pairs = np.zeros(n_rows), np.zeros((n_rows, n_rows))
    for seed in range(n_seeds):
        rows = tasks.split(n_support, seed=seed).support_rows
        counts[rows] += 1
        pairs[np.ix_(rows, rows)] += 1
    share = n_support / n_rows
    assert np.abs(counts - n_seeds * share).max() < 4 * np.sqrt(n_seeds * share * (1 - share))
    share *= (n_support - 1) / (n_rows - 1)
    off = pairs[np.triu_indices(n_rows, 1)]
    assert np.abs(off - n_seeds * share).max() < 4.5 * np.sqrt(n_seeds * share * (1 - share))


@given(seed=st.integers(0, 1000), order=st.permutations(range(12)))
def test_equal_rows_are_dealt_like_others(seed, order):
    values = np.array([0.0] * 6 + [1.0] * 4 + [2.0] * 2)
    tasks, mixed = (il.TaskSet.from_arrays(v[:, None], v, np.zeros(12, int)) for v in (values, values[list(order)]))
    assert contents(mixed, mixed.deal(3, seed)) == contents(tasks, tasks.deal(3, seed))
    episodes = tasks.deal(3, seed)
    assert sorted(episodes.query_rows.tolist()) == list(range(12))
    assert (episodes.n_support == 3).all()


def test_equal_rows_do_not_stay_together():
    values = np.array([0.0] * 30 + [1.0] * 30)
    tasks = il.TaskSet.from_arrays(values[:, None], values, np.zeros(60, int))
    shares = [tasks.split(30, seed=seed).y[tasks.split(30, seed=seed).support_rows].mean() for seed in range(200)]
    assert np.mean(shares) == pytest.approx(0.5, abs=4 * 0.065 / np.sqrt(200))
    assert 0.05 < np.std(shares) < 0.08


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    n_support=st.none() | st.integers(1, 45),
    seed=st.integers(0, 100),
)
def test_deal_makes_every_row_a_query_row_once(sizes, n_support, seed):
    tasks = tasks_of(sizes=sizes)
    episodes = tasks.deal(n_support, seed)
    assert sorted(episodes.query_rows.tolist()) == list(range(tasks.n_rows))
    wanted = tasks.default_support() if n_support is None else n_support
    assert episodes.n_support.tolist() == [min(wanted, sizes_of - 1) for sizes_of in tasks.sizes[episodes.task]]
    for task, (_, y_support, _, y_query) in zip(episodes.task, episodes, strict=True):
        own = tasks.y[tasks.starts[task] : tasks.starts[task + 1]]
        assert len(set(y_support) | set(y_query)) == len(y_support) + len(y_query)
        assert set(y_support) | set(y_query) <= set(own)
        assert len(y_query) >= 1


@given(size=st.integers(2, 60), n_support=st.integers(1, 12))
def test_deal_uses_each_row_about_once_as_support_where_folds_are_of_its_size(size, n_support):
    tasks = tasks_of(sizes=[size])
    episodes = tasks.deal(n_support)
    used = np.bincount(episodes.support_rows, minlength=size)
    folds = len(episodes)
    assert used.sum() == folds * min(n_support, size - 1)
    assert used.max() - used.min() <= max(2, folds // 2)
    assert np.ptp(episodes.n_query) <= 1


def test_a_task_of_one_row_is_an_episode_without_support():
    tasks = il.TaskSet.from_arrays([[1.0], [2.0], [3.0]], [4.0, 5.0, 6.0], ["a", "b", "b"])
    parts = list(tasks.deal(5))
    assert [len(part[1]) for part in parts] == [0, 1, 1]
    np.testing.assert_array_equal(parts[0][2], [[1.0]])
    np.testing.assert_array_equal(parts[0][3], [4.0])


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((1,), 1), ((2,), 1), ((3, 5, 9), 2), ((12, 13), 6), ((100,), 10), ((1, 100, 100), 10)],
)
def test_the_default_support_is_half_the_median_task_within_1_and_10(sizes, expected):
    assert tasks_of(sizes=sizes).default_support() == expected


@pytest.mark.parametrize(
    "chosen", [[4, 0], [2, 0, 2], [False] * 5, [True, False, False, True, False], np.arange(5), [-1]]
)
def test_select_keeps_the_chosen_tasks_whole(chosen):
    tasks = tasks_of(sizes=LARGE)
    fewer = tasks.select(chosen)
    expected = np.arange(5)[np.asarray(chosen)].tolist()
    assert fewer.ids.tolist() == tasks.ids[expected].tolist()
    kept = {task_id: (X, y) for task_id, X, y in tasks}
    for task_id, X, y in fewer:
        np.testing.assert_array_equal(X, kept[task_id][0])
        np.testing.assert_array_equal(y, kept[task_id][1])
    assert fewer.n_rows == sum(LARGE[i] for i in expected)


def test_select_of_no_tasks_is_empty():
    assert len(tasks_of(sizes=LARGE).select([])) == 0


@pytest.mark.slow
def test_one_seed_picks_rows_of_all_ranks_from_different_tables():
    rng = np.random.default_rng(0)
    ranks = []
    for _ in range(4000):
        y = rng.standard_normal(6)
        _, _, _, query = next(iter(il.TaskSet.from_arrays(rng.standard_normal((6, 3)), y, [0] * 6).split(n_query=1)))
        ranks.append((y < query[0]).sum())
    counts = np.bincount(ranks, minlength=6)
    assert np.abs(counts - 4000 / 6).max() < 4 * np.sqrt(4000 * 5 / 36)


@pytest.mark.slow
def test_pooled_interpolation_of_split_tables_has_its_exact_expected_error():
    dist = il.MixedLinearRegression(n_features=30, noise_std=1.0, task_std=0.5)
    errors = []
    for seed in range(1000):
        episodes = dist.sample_tasks(n_tasks=6, n_rows=8, seed=seed).split(n_support=6, n_query=2)
        errors.append(np.square(il.solve(il.MetaObjective.from_episodes(episodes), 0.0).coef).sum())
    # Noise 12 / (30 - 12 - 1); each task's part is 2 / 30 (30 - 2 - 1) / (30 - 12 - 1) of nu^2.
    exact = 12 / 17 + 0.25 * 6 * 2 / 30 * 27 / 17
    assert abs(np.mean(errors) - exact) < 4 * np.std(errors) / np.sqrt(1000)


def test_a_row_supports_about_once_however_tasks_are_dealt():
    for size in range(4, 30):
        rows = np.random.default_rng(size).standard_normal((size, 2))
        for n_support in range(2, size // 2 + 1):
            dealt = il.TaskSet.from_arrays(rows, rows[:, 0], np.zeros(size, dtype=int)).deal(n_support)
            assert abs(dealt.n_support.sum() - size) <= n_support / 2
