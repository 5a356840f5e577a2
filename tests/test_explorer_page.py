"""The explorer's page in Chromium: every control does what it says, and numbers are those of the code it offers."""

import http.server
import json
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import innerloop as il
from command_line import innerloop
from explorer_page import browser, chart, opened, running, settled, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chrome():
    with browser() as launched:
        yield launched


@pytest.fixture(scope="module")
def page(chrome):
    """The page of the theory."""
    with running() as address, opened(chrome, address) as shown:
        yield shown


@pytest.fixture(scope="module")
def school(tmp_path_factory):
    """A table of groups, and the model of it."""
    rng = np.random.default_rng(0)
    place = np.repeat(np.arange(16), 9)
    hours, age = rng.standard_normal((2, len(place)))
    score = 2 + rng.standard_normal(16)[place] + hours - age + 0.7 * rng.standard_normal(len(place))
    ids = [f"s{i:02d}" for i in place]
    frame = pd.DataFrame({"school": ids, "hours": hours.round(3), "age": age.round(3), "score": score.round(3)})
    folder = tmp_path_factory.mktemp("school")
    frame.to_csv(folder / "school.csv", index=False)
    assert (
        innerloop(
            "fit", folder / "school.csv", "--group", "school", "--target", "score", "--cv", 2, "--out", folder / "model"
        ).code
        == 0
    )
    return folder


def run(code):
    """Return what the offered Python leaves behind."""
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code, names)
    return names


def numbers(values):
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def agree(page):
    """Compare all that the theory tab shows with the Python that it offers."""
    settled(page)
    names = run(page.text_content("#python"))
    inner, adapt, both = (chart(page, f"chart-{name}") for name in ("inner", "adapt", "map"))
    np.testing.assert_allclose(numbers(inner["loss"]["x"]), names["inner_lrs"])
    np.testing.assert_allclose(numbers(inner["loss"]["y"]), names["against_inner_lr"], rtol=1e-9)
    np.testing.assert_allclose(numbers(adapt["loss"]["y"]), names["against_adapt_lr"], rtol=1e-9)
    best = names["best"]
    excess = 100 * (names["over_both"] / best.loss - 1)
    np.testing.assert_allclose([numbers(row) for row in both["map"]["z"]], excess, rtol=1e-7, atol=1e-7)
    assert inner["minimum"]["y"] == [best.loss]
    assert inner["no inner loop"]["at"] == best.loss_no_inner
    assert inner["tied rates"]["x"] == [best.lr_tied]
    assert inner["no meta-training"]["at"] == best.loss_untrained
    if "references" in names and np.isfinite(names["references"].bayes):
        (bayes,) = (series for name, series in inner.items() if name.startswith("Bayes-optimal"))
        assert bayes["at"] == names["references"].bayes
    if page.text_content("#law-says"):
        low, high = names["interval"]()
        law = page.evaluate("document.getElementById('chart-law').chart.spec.series.find(s => s.kind === 'band')")
        inside = [x for x, high in zip(law["x"], law["high"], strict=True) if high is not None]
        assert low <= min(inside) <= max(inside) <= high
        assert page.text_content("#law-says").split()[5] == f"{low:.5g}"
    return names


# Each control, a value to type, and one to move its slider to.
SLIDERS = {
    "n_tasks": "5",
    "n_features": "40",
    "n_support": "25",
    "n_query": "3",
    "n_adapt": "15",
    "n_steps": "2",
    "noise_std": "0.8",
    "task_std": "0.7",
    "l2": "0.05",
    "init_distance": "0.3",
    "decay": "0.4",
}


@pytest.mark.parametrize("name", SLIDERS)
def test_every_field_and_slider_changes_the_curves(page, name):
    page.select_option("#preset", index=1)
    settled(page)
    before = page.text_content("#best-loss")
    page.fill(f"#set-{name}", SLIDERS[name])
    agree(page)
    until(page, f"location.hash.includes('{name}={SLIDERS[name]}')")
    typed = page.text_content("#best-loss")
    assert typed != before
    page.focus(f"#set-{name}-slider")
    page.keyboard.press("ArrowRight")
    settled(page)
    value = float(page.input_value(f"#set-{name}"))
    assert value > float(SLIDERS[name])
    assert page.text_content("#best-loss") != typed


@pytest.mark.parametrize("protocol", ["split", "train", "leave-one-out"])
def test_every_protocol(page, protocol):
    page.select_option("#preset", index=2)
    page.select_option("#set-protocol", protocol)
    names = agree(page)
    assert names["design"].protocol == protocol


def test_presets_are_the_papers_figures_and_the_turn_of_the_sign(page):
    from innerloop.papers.bernacchia2021 import fig2, fig3

    for index, figure in ((1, fig2), (2, fig3)):
        page.select_option("#preset", index=index)
        names = agree(page)
        assert names["design"] == figure.FIGURE.design
        assert (names["dist"].n_features, names["dist"].noise_std) == (figure.FIGURE.dist.n_features, 1.0)
    page.select_option("#preset", index=3)
    names = agree(page)
    assert abs(names["best"].slope_at_zero) < 0.01
    signs = []
    for factor in (0.8, 1.25):
        page.fill("#set-noise_std", str(round(factor * names["dist"].noise_std, 2)))
        signs.append(np.sign(agree(page)["best"].slope_at_zero))
    assert signs == [-1, 1]


def test_rates_can_be_typed_slid_and_picked_on_charts(page):
    page.select_option("#preset", index=1)
    settled(page)
    page.fill("#set-inner_lr", "-0.5")
    page.fill("#set-adapt_lr", "0.1")
    names = agree(page)
    assert (names["inner_lr"], names["adapt_lr"]) == (-0.5, 0.1)
    assert chart(page, "chart-inner")["chosen"]["at"] == -0.5
    for name, slider in (("inner_lr", "#set-inner_lr-slider"), ("adapt_lr", "#set-adapt_lr-slider")):
        page.focus(slider)
        page.keyboard.press("ArrowRight")
        moved = agree(page)[name]
        assert moved > names[name]
        assert page.input_value(f"#set-{name}") == str(moved)
    box = page.locator("#chart-map svg").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.7, box["y"] + 80)
    names = agree(page)
    assert names["inner_lr"] > 0.3
    assert names["adapt_lr"] > 0.1
    page.check("#set-inner_lr-best")
    page.check("#set-adapt_lr-best")
    names = agree(page)
    assert names["inner_lr"] == names["best"].inner_lr


def test_charts_are_read_by_keyboard(page):
    page.select_option("#preset", index=1)
    settled(page)
    page.focus("#chart-inner .plot")
    page.keyboard.press("ArrowRight")
    assert "loss 0." in page.text_content("#chart-inner output")
    page.keyboard.press("Enter")
    settled(page)
    assert not page.is_checked("#set-inner_lr-best")
    assert "minimum is" in page.get_attribute("#chart-inner .plot", "aria-label")
    for name in ("inner", "adapt", "map", "law"):
        page.click(f"#chart-{name} summary")
        page.wait_for_selector(f"#chart-{name} details td")
        assert page.locator(f"#chart-{name} details td").count() > 100
        page.click(f"#chart-{name} summary")


def test_the_chance_and_the_split_follow(page):
    page.select_option("#preset", index=1)
    page.fill("#set-n_tasks", "2")
    page.fill("#set-n_features", "12")
    page.fill("#set-budget", "60")
    names = agree(page)
    page.wait_for_selector("#chance[data-value]", timeout=120_000)
    page.wait_for_selector("#plans:not(.stale) table", timeout=240_000)
    assert page.evaluate("document.getElementById('plans').plans.length") == 5
    chance = float(page.get_attribute("#chance", "data-value"))
    assert chance == pytest.approx(names["chance"](), rel=1e-9)
    plans = page.evaluate("document.getElementById('plans').plans")
    for plan, expected in zip(plans, names["plans"](), strict=True):
        assert plan["n_tasks"] == expected.design.n_tasks
        assert plan["loss"] == pytest.approx(expected.best.loss, rel=1e-9)
    page.click("#plans button >> nth=1")
    assert page.input_value("#set-n_support") == str(plans[1]["n_support"])
    page.fill("#set-budget", "")
    settled(page)


def test_the_simulation_agrees_with_python_and_leaves_the_sliders_free(page):
    page.select_option("#preset", index=1)
    page.fill("#set-n_features", "20")
    page.fill("#set-n_runs", "40")
    names = agree(page)
    page.click("#simulate")
    until(page, "document.getElementById('simulate-says').textContent.includes('40 runs are done')", 120)
    dots = next(value for key, value in chart(page, "chart-inner").items() if key.startswith("simulated, 40"))
    simulated = names["simulated"]()
    np.testing.assert_allclose(dots["y"], simulated["loss"].values[:, -1], rtol=1e-9)
    np.testing.assert_allclose(
        numbers(dots["high"]) - dots["y"], 2 * simulated["stderr"].values[:, -1], rtol=1e-7, atol=1e-12
    )
    adapt = next(value for key, value in chart(page, "chart-adapt").items() if key.startswith("simulated"))
    np.testing.assert_allclose(adapt["y"], simulated["loss"].values[-1], rtol=1e-9)
    page.fill("#set-n_runs", "100000")
    settled(page)
    page.click("#simulate")
    page.wait_for_selector("#simulate-stop:visible")
    page.click("#simulate-stop")
    page.wait_for_selector("#simulate:visible")
    assert page.text_content("#simulate-says") == "Stopped."
    page.click("#simulate")
    page.fill("#set-noise_std", "1.3")
    settled(page)
    assert page.is_visible("#simulate")
    page.fill("#set-n_runs", "400")
    settled(page)


def test_a_burst_of_changes_leaves_the_last_and_no_queue(page):
    page.select_option("#preset", index=1)
    settled(page)
    asked = page.evaluate(
        """async () => {
            const slider = document.getElementById("set-noise_std-slider");
            const before = Number(document.documentElement.dataset.updates);
            for (let i = 0; i < 200; i += 1) {
                slider.value = i;
                slider.dispatchEvent(new Event("input", {bubbles: true}));
                if (i % 10 === 0) await new Promise(requestAnimationFrame);
            }
            return before;
        }"""
    )
    settled(page)
    assert page.input_value("#set-noise_std") == "4.975"
    assert agree(page)["dist"].noise_std == 4.975
    assert int(page.get_attribute("html", "data-updates")) - asked <= 60


def test_what_theory_refuses_is_a_sentence(page):
    page.select_option("#preset", index=1)
    page.fill("#set-n_tasks", "30")
    settled(page)
    assert "the expected loss does not exist" in page.text_content("#theory-refusal")
    assert page.is_disabled("#simulate")
    assert page.text_content("#law-says") == page.text_content("#chance") == ""
    assert page.is_hidden("#chart-inner .tools")
    page.fill("#set-l2", "0.1")
    agree(page)
    assert page.text_content("#theory-refusal") == ""


def test_a_link_holds_all_settings(page):
    page.select_option("#preset", index=3)
    page.fill("#set-l2", "0.02")
    page.fill("#set-inner_lr", "0.25")
    agree(page)
    until(page, "location.hash.includes('inner_lr=0.25')")
    shown = {name: page.input_value(f"#set-{name}") for name in [*SLIDERS, "inner_lr", "protocol"]}
    code = page.text_content("#python")
    page.reload()
    settled(page)
    assert {name: page.input_value(f"#set-{name}") for name in shown} == shown
    assert page.text_content("#python") == code


def copied(page, button, expected):
    """Copy, again where a busy browser had no focus, which the page then says, until the clipboard has the text."""
    for _ in range(5):
        page.bring_to_front()
        page.click(f"#copy-{button}")
        until(page, "document.getElementById('said').textContent !== ''")
        if page.evaluate(f"navigator.clipboard.readText().then(text => text === {expected})"):
            return
        page.wait_for_timeout(500)
    raise AssertionError(f"{button} was not copied")


def test_what_is_shown_can_be_taken_along(page):
    page.select_option("#preset", index=1)
    names = agree(page)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    for button, text in (("python", "#python"), ("command", "#command")):
        copied(page, button, f"document.querySelector('{text}').textContent")
    copied(page, "link", "location.href")
    printed = innerloop(*page.text_content("#command").split()[1:], "--json")
    assert json.loads(printed.out)["loss"] == names["best"].loss
    for kind, magic in (("SVG", b"<svg"), ("PNG", b"\x89PNG"), ("CSV", b"series,x,y")):
        for name in ("inner", "map"):
            with page.expect_download() as saving:
                page.click(f"#chart-{name} button:text-is('{kind}')")
            content = Path(saving.value.path()).read_bytes()
            assert content.startswith(magic)
    rows = pd.read_csv(saving.value.path())
    np.testing.assert_allclose(
        rows["value"].dropna().to_numpy().reshape(names["over_both"].shape),
        100 * (names["over_both"] / names["best"].loss - 1),
        rtol=1e-7,
        atol=1e-7,
    )


def test_tabs_and_labels_serve_keyboards_and_screen_readers(page):
    page.focus("#tab-theory")
    page.keyboard.press("ArrowRight")
    assert page.is_visible("#panel-table")
    page.keyboard.press("ArrowLeft")
    assert page.is_visible("#panel-theory")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("input, select, button, progress")].filter(e =>
            !e.labels?.length && !e.getAttribute("aria-label") && !e.textContent.trim()).map(e => e.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("[aria-live]").count() >= 5


@pytest.mark.parametrize("width", [412, 1000, 1400])
def test_nothing_is_wider_than_the_screen(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    for tab in ("table", "theory"):
        page.click(f"#tab-{tab}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size({"width": 1400, "height": 950})


# --- a table ---


def fill(page, rows):
    """Type rows of hours, age and score."""
    page.click("#new-clear")
    for i, row in enumerate(rows, 1):
        if i > 1:
            page.click("#new-add")
        for name, cell in zip(("hours", "age", "score"), row, strict=True):
            page.fill(f"[aria-label='{name}, row {i}']", cell)
    page.wait_for_selector("#panel-table[data-settled=true]")


def predictions_agree(page):
    names = run(page.text_content("#table-python"))
    steps, along = chart(page, "chart-steps"), chart(page, "chart-along")
    assert steps["new group"]["y"][-1] == pytest.approx(names["prediction"][0], rel=1e-9)
    band = steps["90 % interval"]
    assert (band["low"][-1], band["high"][-1]) == pytest.approx((names["low"][0], names["high"][0]), rel=1e-9)
    return steps, along


def test_a_new_group_changes_with_each_row(chrome, school):
    with running(school / "model") as address, opened(chrome, address) as page:
        page.wait_for_selector("#table-shown:visible")
        assert "adapt" in page.text_content("#table-verdict") or "inner loop" in page.text_content("#table-verdict")
        page.wait_for_selector("#panel-table[data-settled=true]")
        fill(page, [("0.5", "0.1", "6"), ("1", "-1", "8"), ("0", "0", "")])
        steps, along = predictions_agree(page)
        assert len(steps["new group"]["y"]) == 3
        assert steps["new group"]["y"][0] == pytest.approx(steps["population"]["at"])
        assert steps["new group"]["y"][0] < steps["new group"]["y"][1]  # its rows lie above the population
        model = il.load_model(school / "model")
        np.testing.assert_allclose(
            along["population"]["y"],
            model.predict(pd.DataFrame({"hours": along["population"]["x"], "age": 0.0}), groups=["?"] * 61),
        )
        assert [name for name in along if name.startswith("like ")]
        page.select_option("#new-along", "age")
        page.wait_for_selector("#panel-table[data-settled=true]")
        assert chart(page, "chart-along")["new group"]["x"] != along["new group"]["x"]
        page.fill("#new-level", "0.5")
        page.wait_for_selector("#panel-table[data-settled=true]")
        narrow = chart(page, "chart-steps")["50 % interval"]
        assert (
            narrow["high"][0] - narrow["low"][0] < steps["90 % interval"]["high"][0] - steps["90 % interval"]["low"][0]
        )
        page.fill("[aria-label='hours, row 1']", "x")
        page.wait_for_selector("#new-refusal:not(:empty)")
        page.click("#new-clear")
        caterpillar = page.evaluate("document.getElementById('chart-caterpillar').chart.found")
        effects = model.group_effects().query("coefficient == '(Intercept)'").sort_values("estimate")
        assert caterpillar["groups"] == effects["group"].tolist()
        np.testing.assert_allclose(caterpillar["estimate"], effects["estimate"])
        page.select_option("#coefficient", "hours")
        until(page, "document.getElementById('chart-caterpillar').chart.spec.title.startsWith('hours')")
        assert page.locator("#table-worst tbody tr").count() == 16
        assert page.locator("#table-methods tbody tr").count() >= 5


def test_rows_are_pasted_from_a_spreadsheet(chrome, school):
    with running(school / "model") as address, opened(chrome, address) as page:
        page.wait_for_selector("#panel-table[data-settled=true]")
        for text in ("score\thours\tage\n5\t1\t0\n\t2\t0\n", "1,0,5\n2,0,\n"):
            page.evaluate(
                """text => {
                    const data = new DataTransfer();
                    data.setData("text", text);
                    const field = document.querySelector("#new-rows tbody input");
                    const pasted = {clipboardData: data, bubbles: true, cancelable: true};
                    field.dispatchEvent(new ClipboardEvent("paste", pasted));
                }""",
                text,
            )
            page.wait_for_selector("#panel-table[data-settled=true]")
            cells = page.eval_on_selector_all("#new-rows tbody input", "fields => fields.map(field => field.value)")
            assert cells == ["1", "0", "5", "2", "0", ""]
            predictions_agree(page)
            page.click("#new-clear")


def test_a_table_is_dropped_and_fitted(page, school, monkeypatch):
    page.click("#tab-table")
    page.set_input_files("#file", school / "school.csv")
    page.wait_for_selector("#fit:enabled")
    assert page.eval_on_selector_all("#fit-target option", "all => all.map(o => o.value)") == [
        "school",
        "hours",
        "age",
        "score",
    ]
    page.select_option("#fit-group", "hours")
    page.select_option("#fit-target", "hours")
    page.click("#fit")
    until(page, "document.getElementById('fit-says').textContent.includes('different columns')", 60)
    page.select_option("#fit-group", "school")
    page.select_option("#fit-target", "score")
    page.click("#fit")
    page.wait_for_selector("#fit-stop:visible")
    page.click("#fit-stop")
    page.wait_for_selector("#fit:visible")
    page.click("#fit")
    page.wait_for_selector("#table-shown:visible", timeout=240_000)
    page.wait_for_selector("#panel-table[data-settled=true]")
    assert page.text_content("#fit-says") == "Fitted."
    assert "school.csv" in page.text_content("#table-name")
    fill(page, [("0.5", "0.1", "6"), ("0", "0", "")])
    monkeypatch.chdir(school)
    predictions_agree(page)
    page.click("#tab-theory")


def test_a_file_that_is_no_table_is_refused_in_a_sentence(page, tmp_path):
    (tmp_path / "evil.csv").write_text("<script>alert(1)</script>,b\n<img src=x onerror=alert(1)>,2\n")
    page.click("#tab-table")
    page.set_input_files("#file", tmp_path / "evil.csv")
    page.wait_for_selector("#fit:enabled")
    page.click("#fit")
    until(
        page,
        "!document.getElementById('fit').hidden && document.getElementById('fit-says').textContent.length > 20",
        60,
    )
    assert page.locator("#drop script, #drop img").count() == 0
    page.click("#tab-theory")


# --- a sweep ---


def test_the_curves_of_a_sweep(chrome, tmp_path):
    import xarray as xr

    rng = np.random.default_rng(0)
    rates, tried, n_seeds = np.array([-0.02, 0.0, 0.02]), np.array([0.01, 0.03]), 4
    by_seed = 1 + 5 * (rates - 0.01) ** 2 + 0.1 * rng.standard_normal((n_seeds, 3))
    gap = by_seed - by_seed[:, [1]]
    error = [values.std(axis=0, ddof=1) / np.sqrt(n_seeds) for values in (by_seed, gap)]
    data = {
        "loss": ("inner_lr", by_seed.mean(axis=0)),
        "stderr": ("inner_lr", error[0]),
        "difference": ("inner_lr", gap.mean(axis=0)),
        "difference_stderr": ("inner_lr", error[1]),
        "adapt_lr": ("inner_lr", tried[[0, 1, 0]]),
        "loss_by_seed": (("seed", "inner_lr"), by_seed),
        "validation_loss": (("inner_lr", "adapt_lr_tried"), np.ones((3, 2))),
        "kernel_loss": ("inner_lr", np.array([1.5, 1.25, 1.0])),
        "kernel_difference": ("inner_lr", np.array([0.25, 0.0, -0.25])),
    }
    result = xr.Dataset(data, {"inner_lr": rates, "adapt_lr_tried": tried, "seed": np.arange(n_seeds)})
    result.attrs["metric"] = "MSE"
    (tmp_path / "sweep.nc").write_bytes(bytes(result.to_netcdf(engine="scipy")))
    with running(tmp_path) as address, opened(chrome, address) as page:
        page.wait_for_selector("#sweep-rates table")
        assert page.is_visible("#panel-networks")
        assert page.inner_text("#sweep-says").startswith("Test MSE of networks")
        mean = chart(page, "chart-sweep")
        np.testing.assert_allclose(mean["mean of 4 seeds (thin: each)"]["y"], by_seed.mean(axis=0))
        kernel = [
            chart(page, name)["tangent kernel, without training"]["y"]
            for name in ("chart-sweep", "chart-sweep-difference")
        ]
        assert kernel == [[1.5, 1.25, 1.0], [0.25, 0.0, -0.25]]
        np.testing.assert_allclose(numbers(mean["± 2 s.e."]["high"]) - by_seed.mean(axis=0), 2 * error[0])
        np.testing.assert_allclose(chart(page, "chart-sweep-difference")["seed 2"]["y"], gap[2], atol=1e-15)
        assert page.locator("#sweep-rates tbody tr").count() == 3


# --- a hostile page ---

HOSTILE = Path(__file__).parent / "data" / "hostile.html"


class Hostile(http.server.BaseHTTPRequestHandler):
    """Another site, which serves the hostile page."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(HOSTILE.read_bytes())

    def log_message(self, *_):
        """Log nothing."""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_hostile_page_reads_nothing_and_changes_nothing(chrome, host):
    elsewhere = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
    try:
        with running() as address, opened(chrome, address) as page:  # the browser has the cookie
            target = address.split("?")[0]
            statuses = []
            hostile = page.context.new_page()
            hostile.on("response", lambda r: statuses.append((r.status, r.url)) if r.url.startswith(target) else None)
            hostile.goto(f"http://{host}:{elsewhere.server_port}/index.html?target={target}")
            until(hostile, "window.results", 30)
            assert hostile.evaluate("window.results") == {"read": [], "opened": []}
            assert statuses
            assert {status for status, _ in statuses} <= {403, 405}
            time.sleep(0.2)
            page.reload()
            settled(page)  # the page itself still works
    finally:
        elsewhere.shutdown()
        elsewhere.server_close()
