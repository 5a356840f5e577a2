"""The demo's tables and `innerloop demo`."""

from __future__ import annotations

import re

import numpy as np
import pytest
from sklearn.datasets import load_digits

from command_line import innerloop, tree
from innerloop.cli import demo as command
from innerloop.cli._demo_tables import (
    IMAGES_PER_CLASS,
    PAPER_N_FEATURES,
    PAPER_N_QUERY,
    PAPER_N_SUPPORT,
    PAPER_N_TASKS,
    TASKS_PER_PAIR,
    digit_pairs,
    paper_table,
)
from innerloop.estimators.storage import load_model
from innerloop.evaluation.methods import GRADIENT, NO_INNER_LOOP, POOLED, TIED


@pytest.fixture(scope="module")
def train():
    return digit_pairs(range(6))


@pytest.fixture(scope="module")
def unseen():
    return digit_pairs(range(6, 10))


def digits_of(tasks):
    return {int(digit) for task in tasks.ids for digit in re.match(r"(\d) or (\d),", task).groups()}


def images_of(X):
    return {image.tobytes() for image in X}


@pytest.mark.parametrize(("digits", "n_pairs"), [(range(6), 15), (range(6, 10), 6), (range(3, 5), 1)])
def test_every_pair_of_digits_comes_as_often(digits, n_pairs):
    tasks = digit_pairs(digits)
    assert (len(tasks), tasks.n_features) == (n_pairs * TASKS_PER_PAIR, 64)
    assert set(tasks.sizes) == {2 * IMAGES_PER_CLASS}
    assert digits_of(tasks) == set(digits)


def test_classes_of_every_task_are_balanced(train):
    for _, _, y in train:
        assert sorted(y) == [-1.0] * IMAGES_PER_CLASS + [1.0] * IMAGES_PER_CLASS


def test_classes_of_every_task_are_its_two_digits(train):
    images, labels = load_digits(return_X_y=True)
    label_of = {image.tobytes(): label for image, label in zip(images / 16, labels, strict=True)}
    for task, X, y in train:
        found = {sign: {label_of[x.tobytes()] for x in X[y == sign]} for sign in (-1.0, 1.0)}
        assert sorted(found[-1.0] | found[1.0]) == [int(task[0]), int(task[5])]
        assert len(found[-1.0]) == len(found[1.0]) == 1


def test_either_digit_of_a_pair_may_be_plus_one(train):
    images, labels = load_digits(return_X_y=True)
    label_of = {image.tobytes(): label for image, label in zip(images / 16, labels, strict=True)}
    first_is_plus = [label_of[X[y == 1][0].tobytes()] == int(task[0]) for task, X, y in train]
    assert 0.3 < np.mean(first_is_plus) < 0.7


def test_tasks_of_a_pair_share_no_image(train):
    pairs = {}
    for task, X, _ in train:
        pairs.setdefault(task.split(",")[0], []).append(images_of(X))
    for tasks in pairs.values():
        assert len(tasks) == TASKS_PER_PAIR
        assert len(set().union(*tasks)) == sum(map(len, tasks)) == TASKS_PER_PAIR * 2 * IMAGES_PER_CLASS


def test_training_and_unseen_tasks_share_no_digit_and_no_image(train, unseen):
    assert digits_of(train).isdisjoint(digits_of(unseen))
    assert images_of(train.X).isdisjoint(images_of(unseen.X))


def test_pixels_are_between_zero_and_one(train):
    assert (train.X.min(), train.X.max()) == (0.0, 1.0)


@pytest.mark.parametrize("make", [paper_table, lambda seed: digit_pairs(range(3), seed)], ids=["paper", "digits"])
def test_tables_depend_on_the_seed_alone(make):
    first, again, other = make(0), make(0), make(1)
    assert first.X.tobytes() == again.X.tobytes()
    assert first.y.tobytes() == again.y.tobytes()
    assert first.ids.tolist() == other.ids.tolist()
    assert first.y.tobytes() != other.y.tobytes()


def test_the_paper_table_has_its_stated_sizes():
    tasks = paper_table()
    assert (len(tasks), tasks.n_features) == (PAPER_N_TASKS, PAPER_N_FEATURES)
    assert set(tasks.sizes) == {PAPER_N_SUPPORT + PAPER_N_QUERY}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What `innerloop demo` printed, its folder and the evaluations it showed."""
    out, shown = tmp_path_factory.mktemp("demo") / "out", []
    show = command.show
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "show", lambda study: (shown.append(study.evaluation), show(study)))
        ran = innerloop("demo", "--out", out)
    return ran, out, shown


@pytest.mark.slow
def test_the_demo_ends_well_and_says_nothing_on_standard_error(demo):
    assert (demo[0].code, demo[0].err) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "paper"])
def test_the_demo_writes_a_model_a_picture_and_a_report_of_either_table(demo, name):
    written = ["arrays", "held_out_loss.png", "manifest.json", "model", "report.html"]
    assert [n.split("-")[0] for n in tree(demo[1] / name)] == written
    assert "Against the alternatives" in (demo[1] / name / "report.html").read_text()
    assert (demo[1] / name / "held_out_loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    n_features = {"digits": 64, "paper": PAPER_N_FEATURES}[name]
    assert np.isfinite(load_model(demo[1] / name).predict(np.zeros((2, n_features)))).all()


@pytest.mark.slow
def test_the_demo_writes_nothing_else(demo):
    assert sorted(path.name for path in demo[1].iterdir()) == ["digits", "paper"]


@pytest.mark.slow
@pytest.mark.parametrize("other", [NO_INNER_LOOP, TIED, POOLED])
def test_on_the_papers_table_a_negative_rate_is_better_beyond_two_standard_errors(demo, other):
    paper = demo[2][1]
    assert paper[GRADIENT].rates.inner_lr < 0 < paper[GRADIENT].rates.adapt_lr
    assert paper[other].excess > 2 * paper[other].excess_se
    assert paper.verdict.startswith(f"Train with inner_lr = {paper[GRADIENT].rates.inner_lr:.3g}, adapt with")
    assert paper.verdict in demo[0].out


@pytest.mark.slow
def test_on_digits_adaptation_tells_unseen_ones_apart(demo):
    digits = demo[2][0]
    assert digits[POOLED].excess > 2 * digits[POOLED].excess_se
    assert float(re.search(r"classified correctly after 10 images: ([\d.]+) %", demo[0].out)[1]) > 90


@pytest.mark.slow
def test_no_number_of_the_demo_is_cut_off(demo):
    assert "…" not in demo[0].out


def test_the_demo_leaves_other_files_alone(tmp_path):
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "mine.txt").write_text("words")
    ran = innerloop("demo", "--out", tmp_path)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert "holds files that are no innerloop model" in ran.err
    assert tree(tmp_path) == ["paper", "paper/mine.txt"]
