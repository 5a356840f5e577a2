"""Times of the explorer in Chromium: python benchmarks/explorer_speed.py --out FILE.

From the command to the first page with its curves, and from a change of a slider to the frame that shows its answer, at
60 features and 81 rates.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from solve_path import environment

N_UPDATES, N_STARTS = 60, 5
# One number is moved, the page asks, draws, and paints; `dataset.updates` counts the answers that were drawn.
_UPDATE = """async () => {
    const root = document.documentElement, slider = document.getElementById("set-noise_std-slider");
    const before = root.dataset.updates, start = performance.now();
    slider.valueAsNumber += 1;
    slider.dispatchEvent(new Event("input", {bubbles: true}));
    while (root.dataset.updates === before) await new Promise((resolve) => setTimeout(resolve));
    await new Promise(requestAnimationFrame);
    const curves = performance.now() - start;
    while (root.dataset.settled !== "true") await new Promise((resolve) => setTimeout(resolve));
    return [curves, performance.now() - start];
}"""
_ANSWER = """async () => {
    const question = {method: "POST", headers: {"Content-Type": "application/json"}, body: '{"noise_std": 1.01}'};
    const start = performance.now();
    await (await fetch("/theory", question)).json();
    return performance.now() - start;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        runs = [measured(browser, N_UPDATES if i == 0 else 0) for i in range(N_STARTS)]
        browser.close()
    (updates, settled), answers = zip(*runs[0]["updates"], strict=True), runs[0]["answers"]
    result = {
        "first_page_seconds": statistics.median(run["page"] for run in runs),
        "first_curves_seconds": statistics.median(run["curves"] for run in runs),
        "update_ms": {
            "median": statistics.median(updates),
            "fastest": min(updates),
            "95 %": sorted(updates)[int(0.95 * len(updates))],
        },
        "update_with_the_law_over_training_sets_ms": {"median": statistics.median(settled), "fastest": min(settled)},
        "of_which_the_server_ms": {"median": statistics.median(answers), "fastest": min(answers)},
        "load_average": os.getloadavg()[0],
        "environment": environment(),
    }
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measured(browser: Browser, n_updates: int) -> dict[str, object]:
    """Return the seconds to the first page and to its curves, and milliseconds of updates."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "innerloop", "explore", "--no-browser", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        page = browser.new_page(viewport={"width": 1400, "height": 950})
        page.goto(re.search(r"http\S+", process.stdout.readline())[0])
        page.wait_for_selector("#tab-theory")
        shown = time.perf_counter() - start
        page.wait_for_selector("#chart-inner svg")
        curves = time.perf_counter() - start
        page.wait_for_selector("html[data-settled=true]")
        updates = [page.evaluate(_UPDATE) for _ in range(n_updates)]
        answers = [page.evaluate(_ANSWER) for _ in range(n_updates and 20)]
        page.close()
        return {"page": shown, "curves": curves, "updates": updates, "answers": answers}
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


if __name__ == "__main__":
    main()
