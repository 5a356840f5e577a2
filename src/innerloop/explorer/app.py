"""The explorer: its page, its questions and answers, and the command's life from the first line to Ctrl-C."""

from __future__ import annotations

import shutil
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.resources import files
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from innerloop.explorer.jobs import Jobs
from innerloop.explorer.server import Content, File, Server

if TYPE_CHECKING:
    from innerloop.explorer.table_tab import Table

PORT = 8765
SWEEP = "sweep.nc"
# The name of the table that the command was given.
_GIVEN = "given"
_KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def explore(
    folder: Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    browser: bool = True,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the page until the program is interrupted, which is its usual end.

    Parameters
    ----------
    folder
        Of a fitted model, or of a sweep.
    host
        The one address to listen on.
    port
        None is 8765, or a free one if that is taken.
    browser
        Whether to open the page in the system's browser.
    say
        Takes a line for the user.

    Raises
    ------
    ValueError
        If `folder` is neither, or the address cannot be had.
    """
    _check_address(host)
    check_folder(folder)
    with tempfile.TemporaryDirectory(prefix="innerloop-") as scratch:
        answers = Answers(folder, Path(scratch))
        server = _server(host, port, Content(page_files(), answers.by_path(), answers.upload))
        say(f"Open {server.entrance}")
        say("The address works once; this browser is then remembered. Ctrl-C ends the explorer.")
        threading.Thread(target=answers.warm_up, daemon=True).start()
        if browser:
            threading.Thread(target=webbrowser.open, args=(server.entrance,), daemon=True).start()
        try:
            server.serve_forever(poll_interval=0.1)
        except KeyboardInterrupt:
            say("Ended.")
        finally:
            server.server_close()
            answers.close()


def check_folder(folder: Path | None) -> None:
    """Refuse a folder that holds neither a model nor a sweep, before any server is there."""
    if folder is None or (folder / SWEEP).is_file():
        return
    from innerloop.explorer.table_tab import Table

    Table.open(folder, str(folder))


def _check_address(host: str) -> None:
    try:
        address = ip_address(host)
    except ValueError:
        raise ValueError(f"`--host` must be an IP address, such as 127.0.0.1, got {host!r}.") from None
    if address.is_unspecified:
        raise ValueError(
            f"`--host` must be the one address by which others reach this machine, got {host}, which is all of them."
        )


def _server(host: str, port: int | None, content: Content) -> Server:
    try:
        return Server(host, PORT if port is None else port, content)
    except (OSError, OverflowError) as error:
        if port is None:
            return Server(host, 0, content)
        raise ValueError(
            f"`--port` {port} of {host} cannot be had: {error}; name another, or 0 for a free one."
        ) from None


def page_files() -> dict[str, File]:
    """Return the files of the page by their paths; there are no others."""
    folder = files("innerloop.explorer").joinpath("static")
    read = {
        f"/{file.name}": File(_KINDS[Path(file.name).suffix], file.read_bytes())
        for file in folder.iterdir()
        if Path(file.name).suffix in _KINDS
    }
    return {"/": read["/page.html"], **read}


@final
class Answers:
    """Questions of the page and their answers.

    What they need is imported when it is first asked for, so that the page is there before.

    Parameters
    ----------
    folder
        As in `explore`.
    scratch
        Folder for uploads and what jobs write; it goes with the command.
    """

    def __init__(self, folder: Path | None, scratch: Path) -> None:
        self._folder, self._scratch = folder, scratch
        self._jobs: Jobs | None = None
        self._tables: dict[str, Table] = {}
        self._lock = threading.Lock()

    def by_path(self) -> Mapping[str, Callable[[Any], Any]]:
        """Return the answers by the path of the question."""
        return {
            "/start": self.start,
            "/theory": self.theory,
            "/law": self.law,
            "/job/start": self.start_job,
            "/job/state": lambda question: self.jobs.state(_text(question, "job")),
            "/job/stop": lambda question: self.jobs.stop(_text(question, "job")),
            "/table": lambda question: self.table(question).describe(),
            "/table/caterpillar": lambda question: self.table(question).caterpillar(_text(question, "coefficient")),
            "/table/new": self.new_group,
            "/sweep": self.sweep,
        }

    @property
    def jobs(self) -> Jobs:
        """The jobs that run."""
        with self._lock:
            if self._jobs is None:
                from innerloop.explorer import work

                self._jobs = Jobs(work.KINDS)
            return self._jobs

    def warm_up(self) -> None:
        """Import what the first questions need, while the browser starts."""
        import innerloop.explorer.theory_tab  # noqa: F401

    def close(self) -> None:
        """End all jobs."""
        if self._jobs is not None:
            self._jobs.close()

    def start(self, _: Any) -> dict[str, Any]:
        """Return what the page is made of."""
        from innerloop.data.episodes import PROTOCOLS
        from innerloop.explorer.theory_tab import CONTROLS, Settings, presets

        return {
            "controls": [control._asdict() for control in CONTROLS],
            "protocols": list(PROTOCOLS),
            "presets": presets(),
            "settings": asdict(Settings()),
            "table": _GIVEN if self._holds("manifest.json") else None,
            "sweep": self._holds(SWEEP),
        }

    def theory(self, question: Any) -> dict[str, Any]:
        """Return what theory says of settings."""
        from innerloop.explorer.theory_tab import theory

        return theory(question)

    def law(self, question: Any) -> dict[str, Any]:
        """Return the law of the loss over training sets."""
        from innerloop.explorer.theory_tab import training_sets

        return training_sets(question)

    def start_job(self, question: Any) -> dict[str, str]:
        """Start a job of a kind and return its name; with a fit also that of the table that it will make."""
        from innerloop.explorer.theory_tab import Settings

        kind = _text(question, "kind")
        if kind == "fit":
            return self._start_fit(question)
        if kind not in ("chance", "plans", "simulate"):
            raise ValueError(f"There is no work {kind!r}.")
        settings = asdict(Settings.from_json(question.get("settings")))
        folder = (tempfile.mkdtemp(dir=self._scratch),) if kind == "simulate" else ()
        return {"job": self.jobs.start(kind, settings, *folder)}

    def _start_fit(self, question: Any) -> dict[str, str]:
        folder = self._uploaded(_text(question, "upload"))
        names = _text(question, "name"), _text(question, "group"), _text(question, "target")
        model = folder / "model"
        if model.exists():
            shutil.rmtree(model)
        self._tables.pop(folder.name, None)
        (folder / "name").write_text(names[0], encoding="utf-8")
        return {"job": self.jobs.start("fit", str(folder / "table.csv"), names, str(model)), "table": folder.name}

    def _uploaded(self, name: str) -> Path:
        """Return the folder of an upload; names that were not given to the page are of no folder."""
        if name not in {path.name for path in self._scratch.iterdir() if (path / "table.csv").exists()}:
            raise ValueError("This table is no longer here; choose its file again.")
        return self._scratch / name

    def _holds(self, name: str) -> bool:
        return self._folder is not None and (self._folder / name).is_file()

    def table(self, question: Any) -> Table:
        """Return a fitted table: that of the command, or one that was uploaded and fitted."""
        from innerloop.explorer.table_tab import Table

        name = _text(question, "table")
        with self._lock:
            if name not in self._tables:
                if name == _GIVEN and self._folder is not None:
                    self._tables[name] = Table.open(self._folder, str(self._folder))
                else:
                    folder = self._uploaded(name)
                    self._tables[name] = Table.open(
                        folder / "model", (folder / "name").read_text(encoding="utf-8"), True
                    )
            return self._tables[name]

    def new_group(self, question: Any) -> dict[str, Any]:
        """Return what a table says of a new group."""
        along = question.get("along") if isinstance(question, Mapping) else None
        return self.table(question).new_group(
            question.get("rows"), question.get("level"), None if along is None else _text(question, "along")
        )

    def sweep(self, _: Any) -> dict[str, Any]:
        """Return the curves of the command's sweep."""
        from innerloop.explorer.sweep_tab import sweep

        if self._folder is None or not self._holds(SWEEP):
            raise ValueError("The command was given no folder of a sweep.")
        return sweep(self._folder)

    def upload(self, content: bytes) -> dict[str, str]:
        """Keep an uploaded table for a fit, as it is, and return its name."""
        folder = Path(tempfile.mkdtemp(dir=self._scratch))
        (folder / "table.csv").write_bytes(content)
        return {"table": folder.name}


def _text(question: Any, name: str) -> str:
    value = question.get(name) if isinstance(question, Mapping) else None
    if not isinstance(value, str):
        raise TypeError(f"`{name}` must be text.")
    return value
