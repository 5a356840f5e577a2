"""The command line."""

from __future__ import annotations

import io
import os
import shlex
import signal
import sys
import traceback
import warnings
from threading import Timer
from typing import NoReturn

from cyclopts import App, CycloptsError

from innerloop import __version__

_STANDARD_INPUT = "/dev/stdin"

app = App(
    name="innerloop",
    version=__version__,
    suppress_keyboard_interrupt=False,
    help="Which inner learning rate to meta-train with, which to adapt with, and whether to use an inner loop.",
)
_HELP = {
    "fit": "Meta-train on a table of many small tasks and recommend learning rates.",
    "predict": "Predict the rows of a table that have no target.",
    "update": "Add new rows and new groups to a saved model, without the old rows.",
    "compare": "Fit the same table with mixed-model packages, and score all on unseen groups.",
    "demo": "Recommend rates for two tables that come with the package.",
    "theory": "Predict the best learning rates and their expected test loss, before any training.",
    "simulate": "Measure the expected test loss by Monte Carlo, at many rates on the same draws.",
    "explore": "Open a live page: theory by sliders, a fitted table, a sweep of a network.",
    "train": "Meta-train a network on few-shot tasks, at one inner rate of any sign or at many.",
    "reproduce": "Draw the figures of Bernacchia (2021), with theory that passes through the dots.",
}
for _name, _help in _HELP.items():
    app.command(f"innerloop.cli.{_name}:{_name}", help=_help)


# Commands that go on where they were stopped, and the option that this takes.
_RESUMED = {"simulate": "--store", "fit": "--work", "update": "--work", "train": "--out", "reproduce": ""}
# A stopped command ends after so many seconds at the latest.
_SECONDS_TO_END = 4.0
# What input, a full disk or a small machine may cause. All else is a mistake of this program.
_NO_BUGS = (
    CycloptsError,
    ValueError,
    TypeError,
    OSError,
    RuntimeError,
    MemoryError,
    OverflowError,
    EOFError,
)
_FILE_LIBRARIES = {"pyarrow", "polars", "safetensors_rust", "zipfile"}


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def main() -> NoReturn:
    """Run the command line, and end it with one sentence on standard error where it cannot go on.

    Exit codes: 2 for bad input, 130 for Ctrl-C, 143 for SIGTERM, 1 for a closed pipe or a mistake of this program,
    which alone shows a traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no sign for ± still shows the rest
    # Warnings of libraries (RuntimeWarning and such) are no messages of this program.
    warnings.simplefilter("ignore")
    warnings.simplefilter("default", UserWarning)
    warnings.showwarning = lambda message, *_, **__: print(f"innerloop: {_one_line(message)}", file=sys.stderr)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, _terminate)
    # To cyclopts "-" is an option; commands read it as standard input.
    tokens = [_STANDARD_INPUT if token == "-" else token for token in sys.argv[1:]]
    try:
        app(tokens, exit_on_error=False, print_error=False)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except KeyboardInterrupt as stop:
        _end(143 if isinstance(stop, _Terminated) else 130)
    except Exception as error:
        if _is_bug(error):
            traceback.print_exc()
            _say(f"this is a mistake in innerloop {__version__}, not in your input; please report the lines above.")
            sys.exit(1)
        _say(_sentence(error))
        sys.exit(2)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    sys.exit(0)


def _terminate(*_: object) -> NoReturn:
    raise _Terminated


def _end(code: int) -> NoReturn:
    """End a stopped command and its workers, and say how to go on."""
    from innerloop._blocks.pool import stop_workers

    late = Timer(_SECONDS_TO_END, os._exit, [code])
    late.daemon = True
    late.start()
    for number in (signal.SIGTERM, signal.SIGINT):  # a second one must not leave workers behind
        signal.signal(number, signal.SIG_IGN)
    stop_workers()
    late.cancel()
    command, *options = sys.argv[1:] or [""]
    option = _RESUMED.get(command)
    resumed = option is not None and (not option or any(given.split("=")[0] == option for given in options))
    go_on = f" To go on: {shlex.join(['innerloop', *sys.argv[1:]])}" if resumed else ""
    _say(f"stopped.{go_on}")
    sys.exit(code)


def _is_bug(error: Exception) -> bool:
    if isinstance(error, NotImplementedError | RecursionError):
        return True
    if isinstance(error, ImportError):
        return error.name is not None  # else it is a sentence on an extra that is not installed
    of_a_file = type(error).__module__.partition(".")[0] in _FILE_LIBRARIES
    return not (isinstance(error, _NO_BUGS) or of_a_file)


def _say(sentence: str) -> None:
    print(f"innerloop: {sentence}", file=sys.stderr, flush=True)


def _sentence(error: Exception) -> str:
    """Return an error as one sentence; the system's own errors as what failed, where and why."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}." if error.filename else f"{error.strerror}."
    if isinstance(error, MemoryError) and not str(error):
        return "there is not enough memory for this; take less data, or fewer processes."
    return _one_line(error) or f"{type(error).__name__}, without a reason given."


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
