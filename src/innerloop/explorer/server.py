"""The local web server of the explorer: who may ask, for what, and how much; nothing of what is shown.

The standard library's server and a page of its own instead of a framework, measured on two busy cores: Dash 4.4 showed
its first page 7.1 s after the command and redrew four plots in 205 ms, of 100 MB of packages; its page also needs a
content security policy that allows inline styles.
"""

from __future__ import annotations

import json
import secrets
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any, NamedTuple, final
from urllib.parse import parse_qs, urlsplit

TOKEN_BYTES = 16
MOST_BYTES, MOST_UPLOADED = 2**20, 2**25
# A connection that sends nothing for so long is closed.
_SECONDS_IDLE = 30
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_USED = (
    "This page belongs to a running `innerloop explore`. Open the address that the command printed; it works once, and "
    "then this browser is remembered until the command ends."
)


class File(NamedTuple):
    """A file of the page: its type and its content, held in memory."""

    kind: str
    content: bytes


Answer = Callable[[Any], Any]


@final
@dataclass(frozen=True, eq=False)
class Content:
    """What a server offers.

    Parameters
    ----------
    files
        By path; "/" is the page. No other file can be read.
    answers
        By path: functions from a JSON value to a JSON value.
    upload
        Takes the bytes of a file to "/upload".
    """

    files: Mapping[str, File]
    answers: Mapping[str, Answer]
    upload: Answer


@final
@dataclass(eq=False)
class Access:
    """Who may ask: a token that opens the page once, and the cookie that it is exchanged for."""

    token: str = field(default_factory=lambda: secrets.token_urlsafe(TOKEN_BYTES))
    session: str = field(default_factory=lambda: secrets.token_urlsafe(TOKEN_BYTES))
    used: bool = False

    def spend(self, token: str) -> bool:
        """Return whether it is the token, for the first time."""
        if self.used or not secrets.compare_digest(token.encode(), self.token.encode()):
            return False
        self.used = True
        return True

    def knows(self, session: str) -> bool:
        """Return whether it is the session of the cookie."""
        return secrets.compare_digest(session.encode(), self.session.encode())


class Server(ThreadingHTTPServer):
    """A server on one address.

    Parameters
    ----------
    host, port
        Address to listen on, a loopback address or the one address by which others reach this machine; port 0 takes a
        free one.
    content
        What it offers.

    Raises
    ------
    OSError
        If the address cannot be had.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, content: Content) -> None:
        self.content, self.access = content, Access()
        if ":" in host:
            import socket

            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)
        shown = f"[{host}]" if ":" in host else host
        names = {shown, "localhost"} if ip_address(host).is_loopback else {shown}
        self.hosts = {f"{name}:{self.server_port}" for name in names}
        if self.server_port == 80:
            self.hosts |= names
        self.url = f"http://{shown}:{self.server_port}/"
        self.cookie = f"innerloop-{self.server_port}"

    def server_bind(self) -> None:
        """Bind without the look-up of this machine's name, which may wait for a network."""
        import socketserver

        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    @property
    def entrance(self) -> str:
        """The address that opens the page once."""
        return f"{self.url}?token={self.access.token}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of browsers that hang up."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Refused(Exception):
    """A request that is not answered, with its status and a sentence."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "innerloop", ""
    timeout = _SECONDS_IDLE

    def parse_request(self) -> bool:
        """Read the request line and the headers; a method that is not offered is no error of the parser."""
        if not super().parse_request():
            return False
        if self.command not in ("GET", "POST"):
            # The body, if there is one, is not read: the connection cannot be used again.
            self.close_connection = True
            self._send(HTTPStatus.METHOD_NOT_ALLOWED, _plain("Only GET and POST are offered."), {"Allow": "GET, POST"})
            return False
        return True

    def do_GET(self) -> None:
        """Answer with a file of the page."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Answer a question with JSON."""
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a line holds the token."""

    def _answer(self, method: Callable[[], None]) -> None:
        try:
            self._check_host()
            method()
        except _Refused as refused:
            self.close_connection = True  # the body may not have been read
            self._send(refused.status, _plain(str(refused)))

    def _check_host(self) -> None:
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.hosts]:
            raise _Refused(HTTPStatus.MISDIRECTED_REQUEST, "There is no such host here.")
        origins = self.headers.get_all("Origin", [])
        own = f"http://{self.headers['Host']}"
        if origins not in ([[own]] if self.command == "POST" else [[], [own]]):
            raise _Refused(HTTPStatus.FORBIDDEN, "Only the page itself may ask.")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise _Refused(HTTPStatus.FORBIDDEN, "Only the page itself may ask.")

    def _is_known(self) -> bool:
        try:
            cookies = SimpleCookie("; ".join(self.headers.get_all("Cookie", [])))
        except CookieError:
            return False
        given = cookies.get(self.server.cookie)
        return given is not None and self.server.access.knows(given.value)

    def _get(self) -> None:
        path, query = _parts(self.path)
        if path == "/" and (tokens := query.get("token")):
            if self._is_known() or self.server.access.spend(tokens[0]):
                session = f"{self.server.cookie}={self.server.access.session}"
                cookie = f"{session}; Path=/; HttpOnly; SameSite=Strict"
                self._send(HTTPStatus.SEE_OTHER, _plain(""), {"Location": "/", "Set-Cookie": cookie})
                return
            raise _Refused(HTTPStatus.FORBIDDEN, _USED)
        if not self._is_known():
            raise _Refused(HTTPStatus.FORBIDDEN, _USED)
        if path not in self.server.content.files:
            raise _Refused(HTTPStatus.NOT_FOUND, "There is no such page.")
        self._send(HTTPStatus.OK, self.server.content.files[path])

    def _post(self) -> None:
        if not self._is_known():
            raise _Refused(HTTPStatus.FORBIDDEN, _USED)
        path, _ = _parts(self.path)
        is_upload = path == "/upload"
        answer = self.server.content.upload if is_upload else self.server.content.answers.get(path)
        if answer is None:
            raise _Refused(HTTPStatus.NOT_FOUND, "There is no such question.")
        wanted = "application/octet-stream" if is_upload else "application/json"
        if self.headers.get_content_type() != wanted or self.headers.get("Content-Type") is None:
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"The body must be {wanted}.")
        body = self._body(MOST_UPLOADED if is_upload else MOST_BYTES)
        try:
            question = body if is_upload else json.loads(body)
        except (ValueError, RecursionError):
            raise _Refused(HTTPStatus.BAD_REQUEST, "The body is not JSON.") from None
        status, value = _asked(answer, question)
        self._send(status, File("application/json", json.dumps(value, allow_nan=False).encode()))

    def _body(self, most: int) -> bytes:
        lengths = self.headers.get_all("Content-Length", [])
        if (
            "Transfer-Encoding" in self.headers
            or len(lengths) != 1
            or not (lengths[0].isascii() and lengths[0].isdigit())
        ):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "The length of the body must be given.")
        if len(lengths[0]) > 12 or int(lengths[0]) > most:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"At most {most / 2**20:g} MiB are taken.")
        body = self.rfile.read(int(lengths[0]))
        if len(body) < int(lengths[0]):
            raise _Refused(HTTPStatus.BAD_REQUEST, "The body is not whole.")
        return body

    def _send(self, status: HTTPStatus, file: File, more: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {"Content-Type": file.kind, "Content-Length": str(len(file.content)), **_HEADERS, **(more or {})}
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(file.content)


def _parts(target: str) -> tuple[str, dict[str, list[str]]]:
    """Return the path and the query of a request; a path is compared as it is written, nothing is decoded."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return "", {}
    return ("" if parts.scheme or parts.netloc else parts.path), parse_qs(parts.query)


def _plain(sentence: str) -> File:
    return File("text/plain; charset=utf-8", sentence.encode())


def _asked(answer: Answer, question: Any) -> tuple[HTTPStatus, Any]:
    """Return the answer; what is refused becomes a sentence, and so does a mistake of this program."""
    try:
        return HTTPStatus.OK, answer(question)
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError, OverflowError) as error:
        return HTTPStatus.UNPROCESSABLE_ENTITY, {"sentence": " ".join(str(error).split()) or type(error).__name__}
    except Exception as error:  # whatever it is, the page says it
        traceback.print_exc()
        sentence = f"This is a mistake in innerloop, not in your input: {type(error).__name__}: {error}"
        return HTTPStatus.INTERNAL_SERVER_ERROR, {"sentence": sentence}
