"""Episodes: ready-made ones, their selection, and their blocks of equal shape."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import innerloop as il
from cases import RAGGED, SHORT, draw


def assert_parts_equal(episodes, parts):
    for episode, part in zip(episodes, parts, strict=True):
        for ours, theirs in zip(episode, part, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("n_targets", [None, 1, 2])
def test_episodes_give_back_what_they_were_made_of(n_targets):
    parts = draw(RAGGED, 3, n_targets)
    episodes = il.Episodes(iter(parts))
    assert_parts_equal(episodes, parts)
    assert (len(episodes), episodes.n_features, episodes.n_targets) == (len(parts), 3, n_targets or 1)
    assert list(zip(episodes.n_support.tolist(), episodes.n_query.tolist(), strict=True)) == RAGGED


@pytest.mark.parametrize("keep", [[True] * 7, [False, True, False, True, True, False, False]])
def test_select_keeps_the_chosen_episodes(keep):
    parts = draw(RAGGED, 3)
    chosen = il.Episodes(parts).select(keep)
    assert_parts_equal(chosen, [part for part, kept in zip(parts, keep, strict=True) if kept])
    assert chosen.task.tolist() == np.flatnonzero(keep).tolist()


def test_select_speaks_of_tasks_that_may_have_several_episodes():
    X = np.arange(24.0)[:, None]
    tasks = il.TaskSet.from_arrays(X, X[:, 0], np.repeat([0, 1, 2], [4, 12, 8]))
    episodes = tasks.deal(3)
    chosen = episodes.select([True, False, True])
    assert set(chosen.task) == {0, 2}
    assert_parts_equal(chosen, [part for part, task in zip(episodes, episodes.task, strict=True) if task != 1])


@pytest.mark.slow
@given(st.one_of(st.lists(st.integers(-3, 2)), st.lists(st.booleans(), min_size=3, max_size=3)))
def test_both_selections_are_those_of_numpy(chosen):
    X = np.arange(24.0)[:, None]
    tasks = il.TaskSet.from_arrays(X, X[:, 0], np.repeat([0, 1, 2], [4, 12, 8]))
    expected = np.arange(3)[chosen or np.arange(0)].tolist()
    assert tasks.select(chosen).ids.tolist() == expected
    episodes = tasks.deal(3)
    parts = list(zip(episodes, episodes.task.tolist(), strict=True))
    wanted = [part for task in expected for part, of in parts if of == task]
    selected = episodes.select(chosen)
    assert_parts_equal(selected, wanted)
    assert selected.task.tolist() == [task for task in expected for _, of in parts if of == task]


def test_a_mask_has_one_bool_per_task_also_where_the_last_tasks_have_no_episode():
    X = np.arange(8.0)[:, None]
    tasks = il.TaskSet.from_arrays(X, X[:, 0], np.repeat([0, 1, 2, 3], [1, 4, 2, 1]))
    held_out = tasks.hold_out(1, tasks.shuffled(0))
    assert held_out.select([True, False, True, True]).task.tolist() == [2]


@pytest.mark.parametrize(
    ("chosen", "error", "sentence"),
    [
        ([True, False], ValueError, "`tasks` must hold one bool for each of 3, got 2"),
        ([True] * 5, ValueError, "`tasks` must hold one bool for each of 3, got 5"),
        ([0, 3], IndexError, "`tasks` must hold positions from -3 to 2, got 3"),
        ([0.0, 1.0], TypeError, "`tasks` must be a list of positions"),
        (1, TypeError, "`tasks` must be a list of positions"),
    ],
)
def test_selections_that_name_no_tasks_are_refused(chosen, error, sentence):
    tasks = il.TaskSet.from_arrays(np.arange(6.0)[:, None], np.arange(6.0), [0, 0, 1, 1, 2, 2])
    for selectable in (tasks, tasks.split(1), tasks.split(1).select([0, 2])):
        with pytest.raises(error, match=sentence):
            selectable.select(chosen)


@pytest.mark.parametrize("max_rows", [1, 2, 5, 7, 1000])
@pytest.mark.parametrize("n_targets", [None, 2])
def test_blocks_hold_every_query_row_once_with_its_support(n_targets, max_rows):
    episodes = il.Episodes(draw(RAGGED * 3, 3, n_targets))
    parts = list(episodes)
    seen = []
    for block in episodes.blocks(max_rows):
        assert block.query.shape[0] == block.support.shape[0] == len(block.members)
        assert block.query.size <= max(max_rows, 1)
        for i, member in enumerate(block.members):
            X_support, y_support, _, _ = parts[member]
            np.testing.assert_array_equal(block.X_support[i], X_support)
            np.testing.assert_array_equal(block.y_support[i], y_support.reshape(len(X_support), n_targets or 1))
            np.testing.assert_array_equal(block.X_query[i], episodes.X[block.query[i]])
            np.testing.assert_array_equal(block.y_query[i].ravel(), episodes.y[block.query[i]].ravel())
        seen.extend(block.query.ravel().tolist())
    assert sorted(seen) == sorted(episodes.query_rows.tolist())


X, Y = np.ones((3, 2)), np.ones(3)
REFUSED = [
    ([], ValueError, "`episodes` must hold at least one episode, got none"),
    ([(X, Y, X, Y), (X, Y, X[:0], Y[:0])], ValueError, "`X_query of episode 1` must have at least one row"),
    (
        [(X[:, :1], Y, X, Y)],
        ValueError,
        "`X_support of episode 0` and its `X_query` must have the same features, got 1",
    ),
    (
        [(X, Y, X, Y[:2])],
        ValueError,
        r"`y_query of episode 0` must have one row per row of features \(3\), got 2",
    ),
    (
        [(X, X, X, Y)],
        ValueError,
        "`y_support of episode 0` and its `y_query` must have the same number of targets",
    ),
    ([(X, Y, X, Y), (X, Y * np.nan, X, Y)], ValueError, "`y_support of episode 1` must be finite"),
    (
        [(X, Y, X * np.inf, Y)],
        ValueError,
        "`X_query of episode 0` must be finite, .* infinite at row 0, column 0",
    ),
    ([(X, Y, X, Y), (X[:, :1], Y, X[:, :1], Y)], ValueError, "`episodes` must agree in features and targets"),
    ([(X[0], Y, X, Y)], ValueError, "`X_support of episode 0` must be 2-dimensional"),
    ([(X, ["a"] * 3, X, Y)], TypeError, "`y_support of episode 0` must hold numbers only"),
]


@pytest.mark.parametrize(("parts", "error", "message"), REFUSED)
def test_episodes_say_which_one_is_wrong_and_how(parts, error, message):
    with pytest.raises(error, match=message):
        il.Episodes(parts)


def test_repr_is_one_line():
    assert repr(il.Episodes(draw(SHORT, 3, 2))) == "Episodes(n_episodes=4, n_features=3, n_targets=2)"
