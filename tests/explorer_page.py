"""The explorer as a command of its own, and its page in Chromium; absent where there is no browser to drive."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


def chromium() -> str:
    """Return the browser to drive, or skip."""
    pytest.importorskip("playwright.sync_api", reason="driving the page needs playwright")
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("driving the page needs Chromium")


@contextmanager
def running(*arguments: object) -> Iterator[str]:
    """Run `innerloop explore` on a free port, and yield the address that it prints."""
    command = [sys.executable, "-m", "innerloop", "explore", *map(str, arguments), "--no-browser", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        yield re.search(r"http\S+", process.stdout.readline())[0]
    finally:
        process.terminate()  # ends it as Ctrl-C does, also where that is ignored
        try:
            process.wait(60)
        finally:
            process.kill()
            process.stdout.close()


@contextmanager
def browser() -> Iterator[object]:
    """Yield a headless Chromium."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@contextmanager
def opened(launched, address, **options):
    """Yield the page, in a context of its own; errors of its code and what its policy blocks fail the test."""
    context = launched.new_context(viewport={"width": 1400, "height": 950}, accept_downloads=True, **options)
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda line: problems.append(line.text) if "Content Security" in line.text else None)
    page.goto(address)
    settled(page)
    yield page
    context.close()
    assert not problems


def until(page, condition, seconds=60):
    """Wait until JavaScript is true; the page's policy forbids the way in which playwright waits."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(30)


def settled(page):
    """Wait until the theory tab shows what its settings say."""
    until(page, "document.documentElement.dataset.settled === 'true'")


def chart(page, name):
    """Return the series of a chart by name, and its map."""
    spec = page.evaluate(
        "name => { const {pick, ...spec} = document.getElementById(name).chart.spec; return spec }", name
    )
    return {series["name"]: series for series in spec["series"]} | {"map": spec.get("map")}
