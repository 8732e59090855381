"""The page of evaluations in a real Chromium, wide and narrow, with the network off."""

from pathlib import Path

import pytest

from report.evaluation.page import write_evaluation
from tests.report.browser import Browser
from tests.report.evaluation import test_attention, test_page

pytestmark = pytest.mark.system


def test_the_page_draws_models_side_by_side_at_any_width(browser: Browser, tmp_path: Path) -> None:
    paths = [tmp_path / "rope", tmp_path / "<i>repo"]
    for path, needle in zip(paths, (0.1, 0.2), strict=True):
        test_page.folder_of(path, "copy,128,20,50.0,5.0,1.5,0.25,200", "copy,256,20,70.0,4.0,1.25,nan,100")
        test_attention.folder_of(path, [needle, 2 * needle])
    page = tmp_path / "page.html"
    write_evaluation(paths, page)
    boxes = "[...document.querySelectorAll('{}')].map(e => e.getBoundingClientRect())"
    for width, dark in ((1280, False), (400, True)):
        browser.open(page, width=width, dark=dark)
        assert browser.text("h1") == "rope, <i>repo"
        assert browser.ask("[...document.querySelectorAll('h2')].map(h => h.textContent)") == [
            "Probes",
            "Attention",
        ]
        assert browser.ask("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        inside = "r.width > 2 && r.left >= 0 && r.right <= innerWidth"
        assert browser.ask(f"{boxes.format('circle')}.filter(r => {inside}).length") == 8 + 4  # scores, layers
        browser.click("details summary")
        assert browser.ask(f"{boxes.format('rect')}.filter(r => {inside}).length") == 2 * 4
        assert browser.console_messages() == []
