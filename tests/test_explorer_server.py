"""The explorer's server as raw requests: who is answered, with what headers, and that nothing else can be read."""

import functools
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from innerloop.explorer.app import Answers, explore, page_files
from innerloop.explorer.server import MOST_BYTES, MOST_UPLOADED, Content, Server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with the page, in a thread of this process."""
    answers = Answers(None, tmp_path_factory.mktemp("scratch"))
    made = Server("127.0.0.1", 0, Content(page_files(), answers.by_path(), answers.upload))
    threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()
    answers.close()


@pytest.fixture
def session(server):
    """The headers of the page's own requests."""
    host = f"127.0.0.1:{server.server_port}"
    cookie = f"{server.cookie}={server.access.session}"
    return {"Host": host, "Origin": f"http://{host}", "Cookie": cookie, "Content-Type": "application/json"}


def send(server, method, path, headers, body=None):
    """Return the status, the headers and the body of a request that has these headers and no others."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    response = connection.getresponse()
    read = response.read()
    connection.close()
    return response.status, response.headers, read


def raw(server, text):
    """Return all that comes back for these bytes."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def without(headers, *names):
    return {name: value for name, value in headers.items() if name not in names}


def foreign_hosts(port):
    names = [
        *("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil.example#localhost", "[::1]", "::1"),
        *("0.0.0.0", "127.0.0.2", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "localhost."),
        *("LOCALHOST.", "local host", "localhost,evil.example", "user@localhost", "localhost@evil.example", "*"),
        *("[::ffff:127.0.0.1]", "127.0.0.1%00", "localhost\\evil", "xn--localhost", "innerloop", "169.254.169.254"),
    ]
    ports = [f"{name}:{port}" for name in names]
    odd = ["", " ", ":", f":{port}", "127.0.0.1", "localhost", "127.0.0.1:", "127.0.0.1:80", f"127.0.0.1:{port + 1}"]
    odd += [f"127.0.0.1:{port}/", f"127.0.0.1:{port}.evil", f"127.0.0.1:0{port}", f"http://127.0.0.1:{port}"]
    return [*ports, *names[:20], *odd]


def test_only_the_exact_host_is_answered(server, session):
    refused = foreign_hosts(server.server_port)
    assert len(refused) >= 55
    for host in refused:
        for method, path, body in (("GET", "/", None), ("POST", "/start", b"{}")):
            headers = {**session, "Host": host, "Origin": f"http://{host}"}
            status, _, read = send(server, method, path, headers, body)
            assert status in (400, 421), host
            assert b"controls" not in read
    assert send(server, "GET", "/", without(session, "Host"))[0] in (400, 421)
    port = server.server_port
    twice = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: evil.example\r\nCookie: {session['Cookie']}\r\n\r\n"
    assert b" 421 " in raw(server, twice.encode()).split(b"\r\n")[0]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        assert send(server, "GET", "/", {**without(session, "Origin"), "Host": host})[0] == 200


@pytest.mark.parametrize(
    "origin",
    [
        *(None, "null", "", "http://evil.example", "https://{host}", "http://{host}.evil.example", "http://localhost"),
        *("http://{host}/", "HTTP://{host}", "http://{host} http://evil.example", "file://", "http://127.0.0.1"),
    ],
)
def test_only_the_page_itself_may_ask(server, session, origin):
    headers = without(session, "Origin")
    if origin is not None:
        headers["Origin"] = origin.format(host=session["Host"])
    status, answered, _ = send(server, "POST", "/start", headers, b"{}")
    assert status == 403
    assert "Access-Control-Allow-Origin" not in answered
    if origin is not None:
        assert send(server, "GET", "/", headers)[0] == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_sites_may_not_ask(server, session, site):
    for method, path, body in (("GET", "/page.js", None), ("POST", "/start", b"{}")):
        assert send(server, method, path, {**session, "Sec-Fetch-Site": site}, body)[0] == 403


@pytest.mark.parametrize(
    "method", ["HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "post", "X"]
)
def test_other_methods_are_refused(server, session, method):
    status, headers, read = send(server, method, "/", session)
    assert status == 405
    assert headers["Allow"] == "GET, POST"
    assert b"<html" not in read


def test_without_the_cookie_nothing_is_read(server, session):
    cookie = session["Cookie"]
    for value in (None, "", "x=1", cookie[:-1], cookie + "x", cookie.split("=")[0] + "=", f"a{cookie}"):
        headers = without(session, "Cookie") | ({} if value is None else {"Cookie": value})
        for path in server.content.files:
            assert send(server, "GET", path, headers)[0] == 403
        for path in [*server.content.answers, "/upload"]:
            assert send(server, "POST", path, headers, b"{}")[0] == 403


def test_the_token_opens_the_page_once(tmp_path):
    answers = Answers(None, tmp_path)
    server = Server("127.0.0.1", 0, Content(page_files(), answers.by_path(), answers.upload))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    host = {"Host": f"127.0.0.1:{server.server_port}"}
    token = server.access.token
    assert len(token) >= 22  # 128 bits in base 64
    for wrong in ("", "x", token[:-1], token + "A", token.swapcase()):
        assert send(server, "GET", f"/?token={wrong}", host)[0] == 403
    status, headers, _ = send(server, "GET", f"/?token={token}", host)
    assert (status, headers["Location"]) == (303, "/")
    assert re.fullmatch(r"innerloop-\d+=[\w-]{22}; Path=/; HttpOnly; SameSite=Strict", headers["Set-Cookie"])
    assert token not in headers["Set-Cookie"]
    cookie = {**host, "Cookie": headers["Set-Cookie"].split(";")[0]}
    assert send(server, "GET", "/", cookie)[0] == 200
    assert send(server, "GET", f"/?token={token}", host)[0] == 403
    assert send(server, "GET", f"/?token={token}", cookie)[0] == 303
    server.shutdown()
    server.server_close()


def test_no_file_of_the_machine_can_be_reached(server, session):
    paths = [
        *("/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "//etc/passwd", "/etc/passwd", "/./page.js", "/page.js/"),
        *("/static/page.js", "/page.js%00", "/PAGE.JS", "\\etc\\passwd", "/%2fetc%2fpasswd", "/server.py", "/.git"),
        *("http://127.0.0.1/page.js", "file:///etc/passwd", "/page.js?a=1/../../x/../server.py", "*", "/upload"),
    ]
    for path in paths:
        status, _, read = send(server, "GET", path, without(session, "Origin"))
        assert status == (200 if path.startswith("/page.js?") else 404), path
        assert b"root:" not in read
    assert set(server.content.files) == {"/", *(path for path in server.content.files if path.count("/") == 1)}


def test_every_answer_forbids_what_the_page_does_not_need(server, session):
    for method, path, headers, body in (
        ("GET", "/", without(session, "Origin"), None),
        ("GET", "/page.js", without(session, "Origin"), None),
        ("GET", "/nothing", without(session, "Origin"), None),
        ("GET", "/", {"Host": "evil.example"}, None),
        ("POST", "/start", session, b"{}"),
        ("PUT", "/", session, b"{}"),
    ):
        answered = send(server, method, path, headers, body)[1]
        policy = answered["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answered["X-Content-Type-Options"] == "nosniff"
        assert answered["Cross-Origin-Resource-Policy"] == "same-origin"
        assert answered["Cache-Control"] == "no-store"
        assert "Python" not in answered["Server"]


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere():
    for path, file in page_files().items():
        text = file.content.decode()
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path
        if file.kind.startswith("text/html"):
            assert not re.search(r"<script(?![^>]*\bsrc=)|\bon\w+=|\bstyle=|<style", text)
        assert not re.search(r"\binnerHTML\b|\beval\(|new Function|document\.write", text), path


def test_bodies_are_limited_and_must_be_what_they_say(server, session):
    assert send(server, "POST", "/start", {**session, "Content-Length": str(MOST_BYTES + 1)})[0] == 413
    upload = {**session, "Content-Type": "application/octet-stream"}
    assert send(server, "POST", "/upload", {**upload, "Content-Length": str(MOST_UPLOADED + 1)})[0] == 413
    assert send(server, "POST", "/start", {**session, "Content-Length": "9" * 400})[0] == 413
    for length in ("-1", "1e3", "0x10", "", "²"):
        assert send(server, "POST", "/start", {**session, "Content-Length": length.encode()})[0] == 411
    assert send(server, "POST", "/start", {**session, "Transfer-Encoding": "chunked"})[0] == 411
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert send(server, "POST", "/start", {**session, "Content-Type": kind}, b"{}")[0] == 415
    assert send(server, "POST", "/start", without(session, "Content-Type"), b"{}")[0] == 415
    for body in (b"", b"{", b"\xff", b"[" * 100_000):
        assert send(server, "POST", "/start", session, body)[0] == 400


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ([], "must be an object"),
        ({"n_tasks": True}, "`n_tasks` must be a whole number"),
        ({"n_tasks": 1.5}, "`n_tasks` must be a whole number"),
        ({"n_features": 10**9}, "`n_features` must be from 1 to 300"),
        ({"noise_std": "1"}, "`noise_std` must be a number"),
        ({"protocol": "x"}, "`protocol` must be one of"),
        ({"__class__": 1}, "There is no setting"),
        ({"n_tasks": 30}, "the expected loss does not exist"),
    ],
)
def test_what_cannot_be_answered_is_a_sentence(server, session, question, said):
    status, _, read = send(server, "POST", "/theory", session, json.dumps(question).encode())
    assert status == 422
    assert said in json.loads(read)["sentence"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"host": "example.org"}, "must be an IP address"),
        ({"host": "0.0.0.0"}, "all of them"),
        ({"port": 70000}, "`--port`"),
    ],
)
def test_addresses_that_cannot_be_had_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        explore(browser=False, **options)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of a terminal")
def test_ctrl_c_ends_the_command_and_its_work():
    command = [sys.executable, "-m", "innerloop", "explore", "--no-browser", "--port", "0"]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # Where tests run in the background, Ctrl-C is ignored, and would be here.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    host, port, token = re.search(r"http://([\d.]+):(\d+)/\?token=(\S+)", running.stdout.readline()).groups()
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    try:
        connection.request("GET", f"/?token={token}")
        response = connection.getresponse()
        response.read()
        headers = {"Cookie": response.headers["Set-Cookie"].split(";")[0], "Origin": f"http://{host}:{port}"}
        question = json.dumps({"kind": "simulate", "settings": {"n_runs": 100_000, "n_features": 300}})
        connection.request("POST", "/job/start", question, {**headers, "Content-Type": "application/json"})
        job = connection.getresponse().read()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            connection.request("POST", "/job/state", job, {**headers, "Content-Type": "application/json"})
            state = json.loads(connection.getresponse().read())
            assert not state.get("sentence")
            if len(processes_of(running.pid)) > 1:
                break
            time.sleep(0.1)
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to all of them
        assert running.wait(30) == 0
        deadline = time.monotonic() + 5
        while processes_of(running.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not processes_of(running.pid)
    finally:
        connection.close()
        running.kill()
        running.stdout.close()


def processes_of(session):
    """Return the processes of a session that still live."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue
    return found
