"""The report in a real Chromium, from a file, with the network off."""

import json
from pathlib import Path

import numpy as np
import pytest

from report.metrics import STATISTICS, probe_nll, probe_score
from report.page import write_page
from report.page_data import read_run
from report.probes import ProbeText, read_probes, write_probes
from report.run_folder import RunFiles
from tests.report.browser import Browser
from tests.report.conftest import NUM_STEPS
from tests.report.folders import HEADS, LAYERS, add_probes, evaluated, make_run

pytestmark = pytest.mark.system

HEAT, CURVE = "document.getElementById('heat')", "document.getElementById('curve')"
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


@pytest.fixture(scope="module")
def tiny_run(real_run: RunFiles, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFiles, Path]:
    """A real run that was stopped once, and its page."""
    page = tmp_path_factory.mktemp("page") / "tiny.html"
    write_page(read_run(real_run), page)
    return real_run, page


def test_the_page_of_a_real_run_renders_without_a_network_or_a_console_message(
    browser: Browser, tiny_run: tuple[RunFiles, Path]
) -> None:
    folder, page = tiny_run
    for dark in (False, True):
        browser.open(page, dark=dark)
        assert browser.text("h1") == folder.path.name
        assert browser.text("#status") == f"finished after step {NUM_STEPS}"
        titles = browser.ask("[...document.querySelectorAll('#main-charts figcaption span')].map(s => s.textContent)")
        assert titles == ["Loss", "Learning rate", "Gradient norm", "Tokens per second"]
        notes = browser.ask("[...document.querySelectorAll('.grid > figure > .note')].map(s => s.textContent)")
        assert "Cross entropy per valid token. Unit: nats." in notes and all(notes)
        drawn = browser.ask("[...document.querySelectorAll('.plot')].filter(p => p.querySelector('.main-svg')).length")
        assert drawn == browser.ask("document.querySelectorAll('.plot').length") > len(titles) + 3
        for section in ("means", "rest"):
            browser.click(f"#{section} summary")
            assert browser.eventually(f"document.querySelectorAll('#{section} .main-svg').length > 0")
        assert browser.ask("performance.getEntriesByType('resource').length") == 0
        assert browser.console_messages() == []


def test_the_slider_of_the_heat_map_goes_through_the_readings(
    browser: Browser, tiny_run: tuple[RunFiles, Path]
) -> None:
    folder, page = tiny_run
    browser.open(page)
    rows = [row for row in folder.read_metrics() if "positions/layer_01/std" in row]
    for index in (len(rows) - 1, 0, 2):
        browser.slide("heat-step", index)
        expected = [rows[index][f"positions/layer_{layer:02d}/std"] for layer in (1, 2)]
        assert browser.ask(f"{HEAT}.data[0].z") == [pytest.approx(heads, rel=1e-4) for heads in expected]
        assert browser.text("#heat-label") == f"step {rows[index]['step']}"
    browser.choose("statistic", list(STATISTICS).index("range"))
    expected = [rows[2][f"positions/layer_{layer:02d}/range"] for layer in (1, 2)]
    assert browser.ask(f"{HEAT}.data[0].z") == [pytest.approx(heads, rel=1e-4) for heads in expected]
    shown = STATISTICS["range"]
    assert browser.text("#meaning").lower() == f"{shown.meaning}. unit: {shown.unit}.".lower()
    assert browser.console_messages() == []


def test_curves_show_each_probe_text_with_its_tokens(browser: Browser, tiny_run: tuple[RunFiles, Path]) -> None:
    folder, page = tiny_run
    browser.open(page)
    browser.click("#texts button:nth-child(3)")
    browser.choose("layer", 1)
    browser.choose("head", 0)
    pieces: list[str] = []
    for index, step in ((5, NUM_STEPS), (0, 0)):  # probed at the start, at an interval of 2, and at a stop
        browser.slide("curve-step", index)
        probes = read_probes(step, folder.probe(step))
        assert probes is not None
        z, pieces = probes.z["table"][1, 0], probes.pieces["table"]
        assert browser.ask(f"{CURVE}.data.at(-1).y") == pytest.approx(z.tolist(), abs=1e-4 * float(np.ptp(z)))
        assert browser.text("#curve-label") == f"step {step}"
    assert browser.ask("document.getElementById('tokens').textContent") == "".join(pieces)
    browser.point_at("#tokens span:nth-child(3)")
    assert "token 2: z" in browser.ask(f"{CURVE}.querySelector('.hovertext').textContent")
    assert browser.console_messages() == []


def test_evaluations_have_curves_by_source_by_position_in_the_row_and_by_probe(
    browser: Browser, tmp_path: Path
) -> None:
    folder = make_run(tmp_path / "run", range(1, 5))
    with folder.metrics.open("a") as file:
        probes = [("copy", 128), ("copy", 64), *((f"task_{number}", 64) for number in range(6))]
        for step in (2, 3, 4):
            asked = {probe_nll(*probe): step / 10 for probe in probes} | {probe_score("copy", 64): step / 8}
            file.write(json.dumps({"step": step, **evaluated(step), **asked}) + "\n")
    write_page(read_run(folder), folder.report)
    browser.open(folder.report)
    plots = "[...document.querySelectorAll('#evaluation .plot')]"
    titles = browser.ask("[...document.querySelectorAll('#evaluation figcaption span')].map(s => s.textContent)")
    assert titles == [
        "Validation loss",
        "Validation perplexity",
        "Validation loss by source",
        "Validation perplexity by source",
        "Validation loss by position in the row",
        "NLL of right answers",
        "Score of answers",
    ]
    assert browser.ask(f"{plots}.every(plot => plot.querySelector('.main-svg'))")
    assert browser.ask(f"{plots}[0].data[0].x") == [2, 3, 4]
    assert browser.ask(f"{plots}[2].data.map(trace => trace.name)") == ["code", "web"]
    assert browser.ask(f"{plots}[2].data[1].y") == [pytest.approx(3 + 1 / step, rel=1e-4) for step in (2, 3, 4)]
    first, newest = browser.ask(f"{plots}[4].data.map(trace => [trace.name, trace.x, trace.y])")
    assert (first[0], newest[0]) == ("step 2", "step 4") and first[1] == newest[1] == [4, 12, 20]
    assert newest[2] == [3.25, 2.25, 1.25]
    names = ["copy, 64 tokens", "copy, 128 tokens", *(f"task_{number}, 64 tokens" for number in range(6))]
    assert browser.ask(f"{plots}[5].data.map(trace => trace.name)") == names
    assert browser.ask(f"{plots}[6].data.map(trace => [trace.x, trace.y])") == [[[2, 3, 4], [0.25, 0.375, 0.5]]]
    assert browser.ask(f"[5, 6].map(at => {plots}[at].querySelectorAll('.legend').length)") == [0, 1]
    assert browser.console_messages() == []


def test_play_runs_to_the_last_step(browser: Browser, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", range(1, 4))
    write_page(read_run(folder), folder.report)
    browser.open(folder.report)
    shown = browser.ask("""new Promise(done => {
        const label = document.getElementById('heat-label'), seen = [];
        new MutationObserver(() => {
            seen.push(label.textContent);
            if (label.textContent === 'step 3') done(seen);
        }).observe(label, { childList: true });
        document.getElementById('heat-play').click();
    })""")
    assert shown == ["step 1", "step 2", "step 3"]


def test_a_click_on_a_head_shows_its_history_and_its_curve(browser: Browser, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", range(1, 4))
    add_probes(folder, [1, 3], ["a", " b", "\n"])
    write_page(read_run(folder), folder.report)
    browser.open(folder.report)
    browser.ask(f"{HEAT}.emit('plotly_click', {{ points: [{{ x: 2, y: 1 }}] }})")
    assert browser.text("#history-title") == f"spread: layer {LAYERS[1]}, head 2"
    assert browser.ask("document.getElementById('history').data.at(-1).y") == [
        pytest.approx(step * (LAYERS[1] + 0.2)) for step in (1, 2, 3)
    ]
    assert browser.text("#curve-title") == f"prose: layer {LAYERS[1]}, head 2"


def test_a_reload_keeps_what_was_chosen_and_shows_the_newest_step(browser: Browser, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", range(1, 4))
    add_probes(folder, [1, 3], ["a", " b", "\n"])
    write_page(read_run(folder), folder.report)
    browser.open(folder.report)
    browser.choose("statistic", 1)
    browser.choose("layer", 2)
    browser.choose("head", 3)
    browser.slide("heat-step", 0)
    browser.reload()
    assert browser.text("#history-title") == f"mean: layer {LAYERS[2]}, head 3"
    assert browser.text("#curve-title") == f"prose: layer {LAYERS[2]}, head 3"
    assert browser.text("#heat-label") == "step 3"
    assert browser.console_messages() == []


def test_axes_can_be_logarithmic_where_all_numbers_have_a_logarithm(browser: Browser, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", range(1, 4))
    write_page(read_run(folder), folder.report)
    browser.open(folder.report)
    browser.choose("axis-y", 1)
    history = "document.getElementById('history').layout.yaxis.type"
    assert browser.ask("document.querySelector('#main-charts .plot').layout.yaxis.type") == "log"
    assert browser.ask(history) == "log"
    browser.choose("statistic", 1)  # means, some of them below zero
    assert browser.ask(history) == "linear"


def test_what_comes_from_outside_is_text_and_never_markup(browser: Browser, tmp_path: Path) -> None:
    alert = {"event": "alert", "step": 2, "since": 1, "kind": HOSTILE, "where": HOSTILE, "message": HOSTILE, "time": ""}
    folder = make_run(tmp_path / HOSTILE.replace("/", "|"), range(1, 4), events=[alert])
    row = f'{{"step": 4, "{HOSTILE}": 1, "positions/layer_05/{HOSTILE}": [1, 2], "positions/layer_05/x{HOSTILE}": 1}}\n'
    folder.metrics.write_text(folder.metrics.read_text() + row)
    folder.config.write_text(f'data: {{root: "{HOSTILE}"}}\n')
    add_probes(folder, [1, 3], [HOSTILE, "<b>", "&lt;"])
    write_page(read_run(folder), tmp_path / "page.html")
    browser.open(tmp_path / "page.html")
    browser.click("#rest summary")
    browser.choose("statistic", 2)
    browser.point_at("#tokens span:nth-child(2)")
    assert browser.text("h1") == folder.path.name
    assert browser.text("#findings li p") == HOSTILE
    assert "<b>" in browser.ask(f"{CURVE}.querySelector('.hovertext').textContent")
    assert browser.ask("window.hacked") is None
    assert browser.ask("document.images.length") == 0
    assert browser.console_messages() == []


def test_findings_are_listed_and_marked_in_the_charts(browser: Browser, tmp_path: Path) -> None:
    found = {"kind": "dead_gradient", "where": "layer 6", "since": 1, "message": "layer 6: learns nothing", "time": ""}
    events = [{"event": "alert", "step": 2, **found}, {"event": "recovery", "step": 3, **found}]
    folder = make_run(tmp_path / "run", range(1, 5), events=events)
    write_page(read_run(folder), folder.report)
    browser.open(folder.report)
    assert (
        browser.ask("[...document.querySelectorAll('#findings li b')].map(b => b.textContent)") == ["dead gradient"] * 2
    )
    assert browser.text("#findings li:last-child span") == "alert at step 2, layer 6"
    assert browser.text("#findings li:last-child p") == "learns nothing"  # its place is said once
    lines = browser.ask("document.querySelector('#main-charts .plot').data.map(trace => trace.x)")
    assert [2, 2] in lines and [3, 3] in lines


@pytest.mark.parametrize("width", [390, 820, 1600])
def test_the_page_fits_a_phone_and_a_large_screen(
    browser: Browser, tiny_run: tuple[RunFiles, Path], width: int
) -> None:
    browser.open(tiny_run[1], width=width)
    assert browser.ask("document.documentElement.scrollWidth") <= width


def test_charts_follow_the_theme_while_the_page_is_open(browser: Browser, tiny_run: tuple[RunFiles, Path]) -> None:
    browser.open(tiny_run[1])
    light = browser.ask("getComputedStyle(document.body).backgroundColor"), browser.ask(f"{HEAT}.layout.font.color")
    browser.set_view(width=1280, dark=True)
    dark = browser.ask("getComputedStyle(document.body).backgroundColor"), browser.ask(f"{HEAT}.layout.font.color")
    assert light[0] != dark[0] and light[1] != dark[1]


def test_a_run_without_learned_positions_says_so(browser: Browser, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "rope", range(1, 4), learned=False)
    folder.config.write_text("positions: {scheme: rope}\n")
    write_page(read_run(folder), folder.report)
    browser.open(folder.report)
    assert "No layer of this run learns its positions" in browser.text("#findings")
    visible = browser.ask("[...document.querySelectorAll('section')].filter(s => !s.hidden).map(s => s.id)")
    assert visible == ["findings", "training", "rest"]
    assert browser.console_messages() == []


def test_a_run_before_its_first_reading_is_not_called_one_without_learned_positions(
    browser: Browser, tmp_path: Path
) -> None:
    folder = make_run(tmp_path / "young", range(1, 4), learned=False)
    folder.config.write_text("positions: {scheme: repo}\n")
    write_page(read_run(folder), folder.report)
    browser.open(folder.report)
    assert browser.text("#findings p") == "The position watch has not taken a reading yet."


def test_axes_fit_what_is_looked_at(browser: Browser, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", range(1, 101))
    z = np.stack([np.linspace(0, 1000 ** (head > 0), 3) for head in range(HEADS)])
    write_probes(folder.probe(1), LAYERS, [ProbeText("prose", np.arange(3), list("abc"))], {"prose": np.stack([z] * 3)})
    write_page(read_run(folder), folder.report)
    browser.open(folder.report)
    assert browser.ask("document.getElementById('history').layout.yaxis.type") == "log"  # a spread from 5 to 530
    assert browser.ask(f"{CURVE}.layout.yaxis.range") == pytest.approx([-0.06, 1.06])  # of the chosen head
    rate = "document.querySelectorAll('#main-charts .plot')[1].layout.yaxis.range"
    assert browser.ask(rate) == pytest.approx([0.9e-3, 1.1e-3])  # constant


def test_a_run_of_one_step_has_a_page(browser: Browser, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "young", range(1, 2))
    add_probes(folder, [0], ["a"])
    write_page(read_run(folder), folder.report)
    browser.open(folder.report)
    assert browser.ask(f"{HEAT}.data[0].z").__len__() == len(LAYERS)
    assert browser.ask(f"{CURVE}.data.length") == HEADS
    assert browser.console_messages() == []
