"""The explorer's page in a real Chromium: from its server, and as a file without one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluate.__main__ import main
from evaluate.explore.explorer import Explorer, Shown
from evaluate.explore.pages import static_page
from evaluate.explore.server import Server
from tests.evaluate.explore.answers import unpacked
from tests.evaluate.explore.conftest import FIRST_TEXT, MAX_TOKENS, shown
from tests.report.browser import Browser, open_browser

pytestmark = pytest.mark.system

CTRL_ENTER = "\ue009\ue007"
HOSTILE = "</script><img src=x onerror='window.hacked = 1'> & the table\tof words.\nThe table.\n"
STRIP, PANEL = "document.getElementById('strip')", "document.getElementById('panel')"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser(is_local=True) as browser:
        yield browser


def inked(browser: Browser, canvas: str, tone: str) -> int:
    """How many pixels of a canvas have about a color of the theme: edges of lines are paler."""
    drawn = f"""(() => {{
        const canvas = document.querySelector('{canvas}'), g = canvas.getContext('2d');
        g.fillStyle = color('{tone}');
        const wanted = parseInt(g.fillStyle.slice(1), 16);
        const {{ data }} = g.getImageData(0, 0, canvas.width, canvas.height);
        let count = 0;
        for (let at = 0; at < data.length; at += 4)
          count += [16, 8, 0].every((shift, part) => Math.abs(data[at + part] - ((wanted >> shift) & 255)) < 60);
        return count;
    }})()"""
    return int(browser.ask(drawn))


def type_hostile(browser: Browser, server: Server) -> str:
    """Opens the page, types a text, chooses a head of layer 1 and returns what the page has read."""
    browser.open(server.url)
    assert browser.eventually("document.body.dataset.count === '1'")
    browser.ask("document.getElementById('source').value = ''")
    browser.type("#source", HOSTILE.replace("\t", " ") + CTRL_ENTER)
    assert browser.eventually("document.body.dataset.count === '2'")
    browser.choose("layer", 1)
    browser.choose("head", 2)  # it shares the positions of key-value head 1
    return str(browser.ask("text.source"))


def test_the_page_begins_with_a_token_and_its_legends(browser: Browser, server: Server) -> None:
    browser.open(server.url)
    assert browser.eventually("document.body.dataset.count === '1'")
    assert browser.ask("text.source") == FIRST_TEXT and "mixed and residual" in browser.text("h1")
    assert browser.ask("text.pieces.slice(view.token + 1).join('').trim()") == ""  # the last one that is no white space
    assert browser.eventually(f"{PANEL}.textContent.split('Attends most to').length === 3")  # in both models
    legend = browser.text("#legend")
    for said in ("mixed: the chosen head", "residual: the chosen head", "tokens at its place in residual", "the index"):
        assert said in legend
    assert "position of mixed" in browser.text("#strip-legend")
    assert "of each model by itself" in browser.text("#attention-legend")
    for layer, why in ((0, "all heads of layer 0 (rope) are alike"), (2, "")):
        browser.choose("layer", layer)  # the second model has heads in layer 2
        assert browser.ask("document.getElementById('head').disabled") == bool(why)
        assert browser.text("#head-note") == why
        assert browser.eventually("document.querySelector('#curves span').textContent.includes('all heads')")
    assert "longer than in training (64)" in browser.text("#status")
    assert browser.console_messages() == []


def test_a_text_that_is_typed_is_drawn_as_it_was_read(browser: Browser, server: Server, models: list[Shown]) -> None:
    typed = type_hostile(browser, server)
    assert browser.ask("window.hacked") is None and browser.ask("text.pieces.join('')") == typed
    header, numbers = unpacked(Explorer(models).read(typed))
    length = len(header["pieces"])
    repo, residual = (numbers[start * length : (start + 1) * length] for start in (1 + 1, 3 + 1 + 1))
    assert browser.ask("[...text.positions(0, 1, 2)]") == pytest.approx(repo.tolist(), rel=1e-6)
    z = [float(value) + index for index, value in enumerate(residual)]
    assert browser.ask("[...text.positions(1, 1, 2)]") == pytest.approx(z, rel=1e-6)
    assert browser.ask("[...text.positions(1, 1, 2, true)]") == pytest.approx(residual.tolist(), rel=1e-6)
    assert browser.eventually("!waiting.size")
    assert inked(browser, "#curves figure:nth-child(1) canvas", "accent") > 100
    assert inked(browser, "#curves figure:nth-child(2) canvas", "warm") > 100
    assert inked(browser, "#overviews canvas", "accent") > 50
    assert browser.console_messages() == []


def test_a_token_is_pointed_at_and_chosen(browser: Browser, server: Server, models: list[Shown]) -> None:
    typed = type_hostile(browser, server)
    header, numbers = unpacked(Explorer(models).read(typed))
    length = len(header["pieces"])
    repo = numbers[2 * length : 3 * length]
    browser.ask("document.getElementById('tolerance').value = 0.5")
    browser.point_at("#strip span:nth-child(6)")
    assert browser.eventually(f"{PANEL}.textContent.includes('token 5: ')")
    same = sum(abs(float(z) - float(repo[5])) < 0.5 for z in repo) - 1
    assert f"{same} other token" in browser.text("#panel .same-count")
    assert browser.ask(f"{STRIP}.querySelectorAll('.same').length") == same

    browser.click("#strip span:nth-child(9)")
    expected = Explorer(models).attention_rows(typed, 0, 1, 8)[2]
    assert browser.eventually("attentionOf(0, view.head) && attentionOf(1, view.head)")
    assert browser.ask("[...attentionOf(0, view.head)]") == pytest.approx(expected.tolist(), rel=1e-5)
    assert browser.eventually(f"{PANEL}.textContent.includes('Attends most to (head 2)')")
    assert f"{100 * expected.max():.1f} %" in browser.text("#panel")

    browser.type("#strip", "],\ue014")  # the next layer, the head before, the next token
    assert browser.ask("[view.layer, view.head, view.token]") == [2, 1, 9]
    assert browser.eventually(f"{PANEL}.textContent.includes('no position in this layer')")
    browser.click("#curves figure:nth-child(2) canvas")  # a place in the curve is a token
    assert browser.ask("view.token") == pytest.approx(length / 2, abs=length / 10)
    browser.choose("models", 1)
    assert browser.ask("document.querySelectorAll('#curves canvas').length") == 1
    for statistic in range(1, 5):
        browser.choose("statistic", statistic)
        assert browser.eventually("!waiting.size")
    assert browser.console_messages() == []


def test_a_token_is_text_and_a_text_that_is_too_long_is_refused(browser: Browser, server: Server) -> None:
    type_hostile(browser, server)
    markup = "<img src=x onerror='window.hacked = 1'>"  # in one token
    browser.ask(f"(text.pieces[8] = text.pieces[9] = `{markup}`, buildStrip(), 0)")
    browser.ask("choose({ layer: 1, token: 8, hover: null })")
    assert browser.eventually(f"{PANEL}.textContent.includes('token 8: <img')")
    assert browser.ask("document.querySelectorAll('img').length") == 0 and browser.ask("window.hacked") is None

    browser.ask(f"(document.getElementById('source').value = '7 '.repeat({MAX_TOKENS}), 0)")
    browser.click("#read")
    assert browser.eventually("document.getElementById('status').className === 'wrong'")
    assert f"more than {MAX_TOKENS}: shorten it" in browser.text("#status")
    messages = browser.console_messages()
    assert len(messages) == 1 and "400 (Bad Request)" in messages[0]  # Chromium's own words


def test_a_file_shows_a_text_without_a_server(
    browser: Browser, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, source = tmp_path / "page.html", tmp_path / "text.txt"
    source.write_text(HOSTILE)
    assert main(["explore", str(folder), "--text", str(source), "--static", str(page)]) == 0
    assert f"{page}: 0.1 MiB" in capsys.readouterr().out
    for dark in (False, True):
        browser.open(page, dark=dark)
        assert browser.ask("[text.source, text.pieces.join('')]") == [HOSTILE, HOSTILE]
        assert inked(browser, "#curves canvas", "accent") > 100
        assert browser.ask("view.token") > 9 and "Attends most to" in browser.text("#panel")
        browser.click("#strip span:nth-child(9)")
        assert browser.eventually(f"{PANEL}.textContent.includes('token 8: ')")
        assert browser.eventually(f"{PANEL}.textContent.includes('Attends most to')")
        assert browser.ask("attention.tokens.size === text.length")
        assert browser.ask("performance.getEntriesByType('resource').length") == 0
        assert browser.ask("window.hacked") is None
        assert browser.console_messages() == []


def test_a_file_says_what_is_left_out(browser: Browser, models: list[Shown], tmp_path: Path) -> None:
    explorer, page = Explorer(models), tmp_path / "page.html"
    page.write_text(static_page(explorer, FIRST_TEXT, attention_bytes=24_000))
    browser.open(page)
    length = browser.ask("text.length")
    kept = browser.ask("[...attention.tokens]")
    assert 5 < len(kept) < length and kept[-1] == length - 1
    assert browser.ask("view.token") in kept and browser.ask("attentionOf(0, view.head) !== null")
    browser.ask(f"choose({{ layer: 2, head: 1, token: {kept[3]} }}, true)")
    for model in (0, 1):
        expected = explorer.attention_rows(FIRST_TEXT, model, 2, kept[3])[1]
        assert browser.ask(f"[...attentionOf({model}, 1)]") == pytest.approx(expected.tolist(), rel=1e-5)
    assert browser.eventually("document.getElementById('attention-note').textContent.includes('in bold above')")
    browser.ask(f"choose({{ token: {kept[3] + 1} }}, true)")
    note = f"This file holds attention from {len(kept)} of {length} tokens"
    assert browser.eventually("document.getElementById('attention-note').textContent.includes('is left out')")
    assert note in browser.text("#attention-note") and browser.console_messages() == []


def test_many_layers_and_heads_scroll_in_their_panels(browser: Browser, sample: Path, tmp_path: Path) -> None:
    model = shown("large", ["rope", *["repo"] * 39], sample / "tokenizer.json", num_heads=64, hidden_size=128)
    page = tmp_path / "page.html"
    page.write_text(static_page(Explorer([model]), "the table", attention_bytes=100_000))
    for width in (1280, 700):
        browser.open(page, width=width)
        heights = browser.ask("[...document.querySelectorAll('figure')].map((figure) => figure.clientHeight)")
        assert len(heights) == 5 and max(heights) < 700
        assert browser.ask("document.documentElement.scrollWidth") <= width
    browser.ask("choose({ layer: 1, head: 63 })")
    for figure in ("overviews", "attentions"):  # the chosen row is in sight
        box = f"document.querySelector('#{figure} .scrolled')"
        assert browser.ask(f"{box}.scrollHeight > {box}.clientHeight + 50")
        assert browser.eventually(f"{box}.scrollTop > 20")
    assert browser.console_messages() == []
