"""What `innerloop fit` refuses: exit code 2, one line that says why, and nothing written."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from command_line import COLUMNS, QUICK, innerloop, save, small_table, tree
from innerloop.estimators.storage import load_model


@pytest.fixture
def table(tmp_path):
    return save(small_table(), tmp_path / "t.csv")


def refused(tmp_path, *args, out=None):
    """Run `fit`, check that it refused in one line and wrote nothing, and return the line."""
    before = tree(tmp_path)
    ran = innerloop("fit", *args, "--out", tmp_path / "model" if out is None else out)
    assert (ran.code, ran.out) == (2, ""), ran
    assert ran.err.count("\n") == 1, ran.err
    assert tree(tmp_path) == before
    return ran.err


def test_an_extra_that_is_not_installed_is_named(tmp_path, monkeypatch):
    (tmp_path / "rows").mkdir()
    save(small_table(), tmp_path / "rows" / "t.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = refused(tmp_path, tmp_path / "rows", *COLUMNS, "--work", tmp_path / "work")
    assert "pip install 'innerloop[table]'" in said


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--group", "tusk", "--target", "y"], "no column 'tusk'; did you mean 'task'?"),
        (["--group", "task", "--target", "score"], "no column 'score'; it has 'task', 'y', 'a'"),
        ([*COLUMNS, "--features", "a", "summ"], "no column 'summ'; did you mean 'sum'?"),
        ([*COLUMNS, "--drop", "a", "--drop", "sane"], "no column 'sane'; did you mean 'same'?"),
        ([*COLUMNS, "--features", "a,b"], "no column 'a,b'"),
        (["--group", "task", "--target", "task"], "--group and --target must be different columns, got 'task'"),
    ],
)
def test_columns_that_do_not_fit_are_named(table, tmp_path, args, words):
    message = refused(tmp_path, table, *args)
    assert words in message
    assert message.startswith("innerloop: ")
    assert str(table) in message or "--group" in message


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--target", "y"], "--group"),
        (["--group", "task"], "--target"),
        ([*COLUMNS, "--droop", "a"], "--droop"),
        ([*COLUMNS, "--n-support", "ten"], "ten"),
        ([*COLUMNS, "--inner-lr", "fast"], "fast"),
        ([*COLUMNS, "--adaptation", "slow"], "slow"),
        ([*COLUMNS, "another.csv"], "another.csv"),
    ],
)
def test_options_that_cannot_be_read_are_named(table, tmp_path, args, words):
    assert words in refused(tmp_path, table, *args)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--inner-lr", "nan"], "`inner_lr` must be a finite number"),
        (["--inner-lr", "inf"], "`inner_lr` must be a finite number"),
        (["--adapt-lr=-inf"], "`adapt_lr` must be a finite number"),
        (["--l2", "-1"], "`l2` must be zero or positive"),
        (["--n-steps", "0"], "`n_steps` must be at least 1"),
        (["--n-support", "0"], "`n_support` must be at least 1"),
        (["--n-query", "0"], "`n_query` must be at least 1"),
        (["--cv", "1"], "`cv` must be at least 2"),
        (["--seed", "-1"], "must be at least 0, got -1"),
        (["--min-rows", "-3"], "must be at least"),
    ],
    ids=lambda value: "".join(value) if isinstance(value, list) else "",
)
def test_parameters_out_of_range_are_named(table, tmp_path, args, words):
    assert words in refused(tmp_path, table, *COLUMNS, *args)


@pytest.mark.parametrize("features", [["a", "y"], ["a", "task"], ["a", "a"]])
def test_features_that_are_taken_are_named(table, tmp_path, features):
    assert repr(features[-1]) in refused(tmp_path, table, *QUICK, "--features", *features)


@pytest.mark.parametrize(
    ("column", "cell", "words"),
    [
        ("b", "high", "the text 'high' in column 'b', line 9"),
        ("y", "high", "the text 'high' in column 'y', line 9"),
        ("b", "inf", "an infinite value (inf) in column 'b', line 9"),
        ("y", "-inf", "an infinite value (-inf) in column 'y', line 9"),
        ("task", " ", "no task id in column 'task', line 9"),
    ],
)
def test_a_bad_cell_is_named_by_its_line_and_column(tmp_path, column, cell, words):
    frame = small_table().astype(object)
    frame.loc[7, column] = cell
    path = save(frame, tmp_path / "bad.csv")
    message = refused(tmp_path, path, *COLUMNS)
    assert str(path) in message
    assert words in message


def test_a_bad_cell_of_parquet_is_named_by_its_row(tmp_path):
    frame = small_table()
    frame.loc[7, "b"] = np.inf
    message = refused(tmp_path, save(frame, tmp_path / "bad.parquet"), *COLUMNS)
    assert "an infinite value (inf) in column 'b', row 7 (counted from 0)" in message


def test_a_missing_task_id_of_parquet_is_refused(tmp_path):
    frame = small_table()
    frame.loc[7, "task"] = None
    message = refused(tmp_path, save(frame, tmp_path / "bad.parquet"), *COLUMNS)
    assert "no task id in column 'task', row 7" in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "least"),
    [
        (["--n-support", "4", "--n-query", "3"], 7),
        (["--n-query", "4"], 10),
    ],
    ids=lambda value: "".join(value) if isinstance(value, list) else "",
)
def test_tasks_too_small_for_the_split_come_with_a_remedy_that_works(tmp_path, options, least):
    frame = small_table()
    kept = ~(frame["task"].isin(["NA", "t3"]) & (frame.index % 12 >= least - 1))
    path = save(frame[kept], tmp_path / "t.csv")
    message = refused(tmp_path, path, *QUICK, *options)
    assert "task 'NA'" in message
    assert f"has {least - 1} row(s)" in message
    assert f"--min-rows {least}" in message
    ran = innerloop("fit", path, *QUICK, *options, "--min-rows", least)
    assert (ran.code, ran.err) == (0, "")
    assert f"2 tasks of fewer than {least} rows are left out" in ran.out


@pytest.mark.slow
def test_the_largest_support_that_two_tasks_have_is_named(tmp_path):
    frame = small_table()
    path = save(frame[~((frame["task"] != "NA") & (frame.index % 12 >= 9))], tmp_path / "t.csv")
    message = refused(tmp_path, path, *QUICK, "--n-support", 50, "--n-query", 2)
    assert "the most that two tasks have rows for is --n-support 7 with --min-rows 9" in message
    ran = innerloop("fit", path, *QUICK, "--n-support", 7, "--n-query", 2, "--min-rows", 9)
    assert (ran.code, ran.err) == (0, "")
    message = refused(tmp_path, path, *QUICK, "--n-query", 20)
    assert "at least two tasks must have so many, and the second largest has 9." in message


@pytest.mark.parametrize(
    ("options", "words"),
    [([], "holds one task, '007'"), (["--min-rows", "13"], "no task large enough"), (["--min-rows", "9"], "one task")],
)
def test_fewer_than_two_tasks_are_refused(tmp_path, options, words):
    frame = small_table()
    kept = frame["task"] == "007"
    if options:
        kept |= (frame["task"] == "NA") & (frame.index % 12 < 8)
    message = refused(tmp_path, save(frame[kept], tmp_path / "t.csv"), *QUICK, *options)
    assert words in message
    assert "at least two are needed" in message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", b"", "is empty; it needs a header and rows"),
        ("t.csv", b"\n\n", "is empty; it needs a header and rows"),
        ("t.csv", b"task,y,a\n", "has a header but no rows"),
        ("t.csv", b"task,y,a,a\nu,1,2,3\n", "two columns named 'a'"),
        ("t.csv", b"task,y,a\nu,1,2\nu,1,2,3\n", "line 3"),
        ("t.csv", b"task,y,a\nu,1,2,3\nu,1,2,3\n", "line 2"),
        ("t.csv", b"PK\x03\x04\x00\x00\xff\xfe\x00", "t.csv"),
        ("t.csv", b'task,y,a\n"u,1,2\n', "not a regular CSV file"),
        ("t.parquet", b"", "not a whole Parquet file"),
        ("t.parquet", b"task,y,a\nu,1,2\n", "not a whole Parquet file"),
    ],
)
def test_files_that_are_no_tables_are_refused(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path, tmp_path / name, *COLUMNS)
    assert message.startswith("innerloop: ")
    assert words in message
    assert str(tmp_path / name) in message


@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_a_truncated_parquet_file_is_refused(tmp_path, part):
    path = save(small_table(), tmp_path / "t.parquet")
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert f"{path} is not a whole Parquet file" in refused(tmp_path, path, *COLUMNS)


def test_parquet_damaged_inside_is_refused(tmp_path):
    path = save(pd.concat([small_table()] * 50), tmp_path / "t.parquet")
    content = bytearray(path.read_bytes())
    content[200:4000] = bytes(3800)
    path.write_bytes(content)
    assert str(path) in refused(tmp_path, path, *COLUMNS)


@pytest.mark.parametrize(
    ("name", "words"), [("folder", "is a folder without CSV or Parquet files"), ("no.csv", "there is no file")]
)
def test_tables_that_are_no_files_are_refused(tmp_path, name, words):
    (tmp_path / "folder").mkdir()
    message = refused(tmp_path, tmp_path / name, *COLUMNS)
    assert words in message
    assert str(tmp_path / name) in message


def test_a_folder_that_holds_something_else_is_left_alone(table, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("words")
    message = refused(tmp_path, table, *QUICK, out=tmp_path / "thesis")
    assert "holds files that are no innerloop model" in message


@pytest.mark.parametrize("below", [".", "model", "a/b"])
def test_a_file_in_the_place_of_a_folder_is_left_alone(table, tmp_path, below):
    (tmp_path / "file").write_text("words")
    message = refused(tmp_path, table, *QUICK, out=tmp_path / "file" / below)
    assert str(tmp_path / "file") in message
    assert (tmp_path / "file").read_text() == "words"


@pytest.mark.slow
def test_a_folder_that_may_not_be_made_is_named(table, tmp_path, monkeypatch):
    def forbidden(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", forbidden)
    assert f"Permission denied: {tmp_path / 'model'}" in refused(tmp_path, table, *QUICK)


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.slow
@pytest.mark.parametrize("before", [0, 1, 2], ids=lambda n: f"after {n} files")
def test_a_full_disk_leaves_no_model_and_no_scraps(table, tmp_path, monkeypatch, before):
    synced = iter([None] * before)
    monkeypatch.setattr(os, "fsync", lambda handle: next(synced, handle) is not None and no_space())
    ran = innerloop("fit", table, *QUICK, "--out", tmp_path / "model")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "No space left on device" in ran.err
    assert str(tmp_path / "model") in ran.err
    assert not [name for name in tree(tmp_path) if name.endswith(".tmp")]
    with pytest.raises((ValueError, FileNotFoundError)):
        load_model(tmp_path / "model")


@pytest.mark.slow
def test_after_a_full_disk_the_same_command_works(table, tmp_path):
    command = ("fit", table, *QUICK, "--out", tmp_path / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        assert innerloop(*command).code == 2
    ran = innerloop(*command)
    assert (ran.code, ran.err) == (0, "")
    assert load_model(tmp_path / "model")


@pytest.mark.slow
def test_a_full_disk_leaves_the_earlier_model(table, tmp_path, monkeypatch):
    out = tmp_path / "model"
    assert innerloop("fit", table, *QUICK, "--out", out).code == 0
    coef = load_model(out).coef_
    monkeypatch.setattr(os, "fsync", no_space)
    assert innerloop("fit", table, *QUICK, "--n-support", "3", "--out", out).code == 2
    np.testing.assert_array_equal(load_model(out).coef_, coef)


@pytest.mark.parametrize("args", [["fti"], ["--nope"], ["predict"], ["demo", "--seed", "one"]])
def test_other_commands_refuse_in_one_line(tmp_path, monkeypatch, args):
    monkeypatch.chdir(tmp_path)
    ran = innerloop(*args)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert tree(tmp_path) == []
