"""The command line."""

from __future__ import annotations

import io
import sys
import warnings
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
    "compare": "Fit the same table with mixed-model packages, and score all on unseen groups.",
    "demo": "Recommend rates for two tables that come with the package.",
    "theory": "Predict the best learning rates and their expected test loss, before any training.",
    "simulate": "Measure the expected test loss by Monte Carlo, at many rates on the same draws.",
    "train": "Meta-train a network on few-shot tasks, at one inner rate of any sign or at many.",
    "reproduce": "Draw the figures of Bernacchia (2021), with theory that passes through the dots.",
}
for _name, _help in _HELP.items():
    app.command(f"innerloop.cli.{_name}:{_name}", help=_help)


def main() -> NoReturn:
    """Run the command line. Bad input ends in one sentence on standard error and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no sign for ± still shows the rest
    # Warnings of libraries (RuntimeWarning and such) are no messages of this program.
    warnings.simplefilter("ignore")
    warnings.simplefilter("default", UserWarning)
    warnings.showwarning = lambda message, *_, **__: print(f"innerloop: {_one_line(message)}", file=sys.stderr)
    # To cyclopts "-" is an option; commands read it as standard input.
    tokens = [_STANDARD_INPUT if token == "-" else token for token in sys.argv[1:]]
    try:
        app(tokens, exit_on_error=False, print_error=False)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit("innerloop: stopped.")
    except (CycloptsError, ValueError, TypeError, OSError, MemoryError) as error:
        print(f"innerloop: {_sentence(error)}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def _sentence(error: Exception) -> str:
    """Return an error as one sentence; the system's own errors as what failed, where and why."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}." if error.filename else f"{error.strerror}."
    return _one_line(error)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
