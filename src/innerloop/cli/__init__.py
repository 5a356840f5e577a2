"""The command line: `innerloop fit`, `innerloop predict`, `innerloop demo`, `innerloop theory`."""

from __future__ import annotations

import sys
from typing import NoReturn

from cyclopts import App

from innerloop import __version__

app = App(
    name="innerloop",
    version=__version__,
    help="Which inner learning rate to meta-train with, which to adapt with, and whether to use an inner loop.",
)
app.command("innerloop.cli.fit:fit")
app.command("innerloop.cli.predict:predict")
app.command("innerloop.cli.demo:demo")
app.command("innerloop.cli.theory:theory")


def main() -> NoReturn:
    """Run the command line. Bad input ends in one sentence on standard error and exit code 2."""
    try:
        app()
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit("innerloop: stopped.")
    except (ValueError, TypeError, OSError) as error:
        print(f"innerloop: {_sentence(error)}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def _sentence(error: Exception) -> str:
    """Return an error as one sentence; the system's own errors as what failed, where and why."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}." if error.filename else f"{error.strerror}."
    return " ".join(str(error).split())
