"""The census of inner rates: its rule, its measurement on two small tables, and the numbers of its page."""

import csv
import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import innerloop as il

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "census.csv"


@pytest.fixture(scope="module")
def census():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module("census")


def frame(n_groups=9, n_rows=6, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n_groups * n_rows).round(2)
    group = np.repeat([f"g{i}" for i in range(n_groups)], n_rows)
    y = (2 * x + rng.normal(size=n_groups)[np.arange(len(x)) // n_rows] + rng.normal(size=len(x))).round(3)
    return pd.DataFrame({"rownames": np.arange(1, len(x) + 1), "where": group, "x1": x, "score": y})


def test_a_table_of_groups_qualifies_by_the_rule(census):
    table = census.qualify("package/name", frame())
    assert (table.group, table.target, table.n_support, table.tasks.feature_names) == ("where", "score", 3, ("x1",))
    assert (len(table.tasks), table.tasks.n_rows) == (9, 54)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.assign(where=np.arange(len(f)).astype(str)),  # no group twice
        lambda f: f[f["where"] < "g7"],  # seven groups
        lambda f: f.assign(score=f["score"].round(0).clip(-1, 1)),  # codes
        lambda f: f.assign(score=2 * f["x1"] + 1),  # a function of a feature
        lambda f: f.assign(x1=f.groupby("where")["x1"].transform("first"), other=0.0),  # nothing varies within groups
        lambda f: f.drop(columns="x1"),
        lambda f: f.rename(columns={"where": "year"}),
    ],
)
def test_what_does_not_follow_the_rule_is_left_out(census, change):
    table = census.qualify("package/name", change(frame()).reset_index(drop=True))
    assert table is None or table.target == "x1"


def test_whole_numbers_are_groups_where_the_file_is_sorted_by_them(census):
    sorted_by = frame().assign(where=np.repeat(np.arange(9) ** 2, 6))
    assert census.qualify("package/name", sorted_by).group == "where"
    mixed = sorted_by.sample(frac=1, random_state=0)
    assert census.qualify("package/name", mixed) is None


def test_the_same_table_counts_once(census):
    found = census.tables(
        iter([("a/one", frame()), ("b/one", frame(seed=1)), ("b/two", frame()), ("c/x", frame(seed=2))])
    )
    assert [table.name for table in found] == ["a/one", "c/x"]


@pytest.mark.slow
def test_a_census_of_two_tables_goes_on_where_it_was_stopped(census, tmp_path, monkeypatch, capsys):
    every = [("a/one", frame()), ("b/two", frame(n_groups=10, seed=1))]
    monkeypatch.setattr(census, "frames", lambda: iter(every))
    path, page = tmp_path / "census.csv", tmp_path / "page.md"
    census.main(["--out", str(path), "--tables", "1"])
    rows = path.read_text()
    path.write_text(rows + rows.splitlines()[1].replace("a/one", "b/two") + "\n")  # killed within the second table
    monkeypatch.setattr(census, "theory", lambda *_: -0.1)  # it takes most of the time, and was there for the first
    census.main(["--out", str(path)])
    measured = pd.read_csv(path)
    assert path.read_text().startswith(rows)
    assert measured["table"].tolist() == ["a/one"] * 4 + ["b/two"] * 4
    numbers = measured[["rate", "rate_se", "negative", "negative_se", "positive", "positive_se"]]
    assert np.isfinite(numbers).to_numpy().all()
    assert "b/two: 10 groups, 1 features" in capsys.readouterr().out
    page.write_text("<!-- answer -->\n<!-- end -->\n<!-- numbers -->\n<!-- end -->\n")
    census.main(["--out", str(path), "--page", str(page)])
    assert "| tables | 2 | 2 | 2 | 2 |" in page.read_text()
    pytest.importorskip("matplotlib")
    census.main(["--out", str(path), "--draw", str(tmp_path / "census.png")])
    assert (tmp_path / "census.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_best_rate_is_the_one_that_the_estimator_reports(census):
    table = census.qualify("package/name", frame())
    model = il.MetaRegressor(adaptation="gradient", protocol="split", l2=0.0, n_support=3)
    model.fit(table.tasks.X, table.tasks.y, groups=table.tasks.task_of_row)
    held_out = census.Trial.of(table.tasks, "split", 3).held_out("none")
    assert held_out.best().rates.inner_lr == pytest.approx(
        model.cv_results_["inner_lr"][model.cv_results_["mse"].argmin()]
    )
    assert held_out.standard_errors(0)[0] == pytest.approx(model.inner_lr_se_)


def test_the_page_has_the_numbers_of_the_file(census):
    page = (ROOT / "docs" / "census.md").read_text(encoding="utf-8")
    assert census.summary(RESULTS) in page
    assert census.answer(RESULTS) in page


def test_the_file_has_four_rows_for_each_table(census):
    with RESULTS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == census.FIELDS
    assert len({row["table"] for row in rows}) * 4 == len(rows)
    assert len(rows) >= 240  # 60 tables
    for page in ("README.md", "CHANGELOG.md", "docs/explain.md"):
        assert f"{len(rows) // 4} public tables" in " ".join((ROOT / page).read_text(encoding="utf-8").split())
