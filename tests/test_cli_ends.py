"""How commands end: exit codes, one sentence, no worker left behind, and how to go on."""

import os
import signal
import subprocess
import sys
import time
from unittest.mock import MagicMock

import psutil
import pyarrow as pa
import pytest

import innerloop as il
from innerloop import cli
from innerloop._blocks import pool


def ended(monkeypatch, error, *arguments):
    """Return the exit code of a command that raises."""

    def fails(*_, **__):
        raise error

    monkeypatch.setattr(cli, "app", fails)
    monkeypatch.setattr(sys, "argv", ["innerloop", *arguments])
    monkeypatch.setattr(cli.warnings, "showwarning", cli.warnings.showwarning)
    with cli.warnings.catch_warnings(), pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("a\n  sentence."), "innerloop: a sentence.\n"),
        (RuntimeError("workers died."), "innerloop: workers died.\n"),
        (MemoryError(), "innerloop: there is not enough memory for this; take less data, or fewer processes.\n"),
        (OverflowError("too large."), "innerloop: too large.\n"),
        (pa.lib.ArrowException("bad file."), "innerloop: bad file.\n"),
        (FileNotFoundError(2, "No such file", "x.csv"), "innerloop: No such file: x.csv.\n"),
        (EOFError(), "innerloop: EOFError, without a reason given.\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_input_or_machine_cause_ends_in_a_sentence_and_code_2(monkeypatch, capsys, error, sentence):
    assert ended(monkeypatch, error) == 2
    assert capsys.readouterr().err == sentence


@pytest.mark.parametrize("error", [IndexError("7"), AssertionError(), NotImplementedError(), KeyError("x")], ids=repr)
def test_a_bug_shows_its_traceback_and_how_to_report_it(monkeypatch, capsys, error):
    assert ended(monkeypatch, error) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert f"mistake in innerloop {il.__version__}, not in your input; please report" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["simulate", "--store", "my runs"], "innerloop: stopped. To go on: innerloop simulate --store 'my runs'\n"),
        (["simulate", "--store=runs"], "innerloop: stopped. To go on: innerloop simulate --store=runs\n"),
        (["reproduce", "fig2"], "innerloop: stopped. To go on: innerloop reproduce fig2\n"),
        (["train", "sinusoid"], "innerloop: stopped.\n"),
        (["fit", "x.csv", "--out", "m"], "innerloop: stopped.\n"),
    ],
)
def test_a_stopped_command_says_how_to_go_on_where_it_can(monkeypatch, capsys, arguments, said):
    monkeypatch.setattr(pool, "stop_workers", lambda: None)
    monkeypatch.setattr(cli, "Timer", MagicMock())  # which would end this process
    before = signal.getsignal(signal.SIGINT)
    try:
        assert ended(monkeypatch, KeyboardInterrupt(), *arguments) == 130
        assert capsys.readouterr().err == said
        assert ended(monkeypatch, cli._Terminated(), *arguments) == 143
    finally:
        signal.signal(signal.SIGINT, before)


def test_workers_are_ended_at_once():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        pool.stop_workers()
        assert child.wait(5) == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_signal_ends_a_parallel_simulation_within_seconds_and_leaves_no_worker(tmp_path, number, code):
    options = ["--store", str(tmp_path / "runs"), "--jobs", "2", "--n-runs", "1000000"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "innerloop", "simulate", *options]
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's job in the background ignores it
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    try:
        running = subprocess.Popen(command, **pipes, env=environment)
    finally:
        signal.signal(signal.SIGINT, before)
    with running as process:
        while not list((tmp_path / "runs").glob("block-*.npz")):
            assert process.poll() is None
            time.sleep(0.05)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        try:
            _, shown = process.communicate(timeout=30)
        finally:
            process.kill()
        assert process.returncode == code
    assert ("stopped. To go on: innerloop simulate --store" in shown) == (number != signal.SIGKILL)
    psutil.wait_procs(workers, timeout=5)
    assert not [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]
