"""A real browser without a screen or a network, and what a test asks of a page in it."""

import base64
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",  # it has none as root
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


class Browser:
    """One window."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver

    def open(self, page: Path | str, *, width: int = 1280, dark: bool = False) -> None:
        """Load a file, or an address of this machine; charts are drawn when this returns."""
        self.set_view(width=width, dark=dark)
        self._driver.get(page if isinstance(page, str) else page.resolve().as_uri())

    def reload(self) -> None:
        """Load the same page again."""
        self._driver.refresh()

    def set_view(self, *, width: int, dark: bool) -> None:
        """Change the window's width and the preferred theme."""
        self._command("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._command("Emulation.setEmulatedMedia", features=[theme])

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        return self._driver.execute_script(f"return {expression}")

    def eventually(self, expression: str, timeout: float = 600) -> bool:
        """Whether an expression comes true; the deadline is only there to end a test that fails."""
        deadline = time.monotonic() + timeout
        while not (held := bool(self.ask(expression))) and time.monotonic() < deadline:
            time.sleep(0.05)
        return held

    def text(self, selector: str) -> str:
        """What a person reads there."""
        return str(self._driver.find_element(By.CSS_SELECTOR, selector).text)

    def slide(self, name: str, value: int) -> None:
        """Move a slider, with the event that a person's hand causes."""
        self.ask(
            f"(s => {{ s.value = {value}; s.dispatchEvent(new Event('input')) }})(document.getElementById('{name}'))"
        )

    def choose(self, name: str, index: int) -> None:
        """Pick an option of a select."""
        change = "dispatchEvent(new Event('change'))"
        self.ask(f"(s => {{ s.selectedIndex = {index}; s.{change} }})(document.getElementById('{name}'))")

    def click(self, selector: str) -> None:
        """Click on the first element of that kind."""
        self._driver.find_element(By.CSS_SELECTOR, selector).click()

    def type(self, selector: str, keys: str) -> None:
        """Type on a keyboard into the first element of that kind."""
        self._driver.find_element(By.CSS_SELECTOR, selector).send_keys(keys)

    def point_at(self, selector: str, right: int = 0, down: int = 0, *, click: bool = False) -> None:
        """Move the mouse there, to so many pixels from the middle, and click if told so."""
        element = self._driver.find_element(By.CSS_SELECTOR, selector)
        actions = ActionChains(self._driver).move_to_element_with_offset(element, right, down)
        (actions.click() if click else actions).perform()

    def console_messages(self) -> list[str]:
        """What the console logged since the last call, of any level."""
        return [json.dumps(entry) for entry in self._driver.get_log("browser")]

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        height = self.ask("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": self.ask("innerWidth"), "height": height, "scale": 1}
        shot = self._command("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _command(self, name: str, **arguments: Any) -> Any:
        return self._driver.execute_cdp_cmd(name, arguments)


@contextmanager
def open_browser(*, is_local: bool = False) -> Iterator[Browser]:
    """A fresh Chromium with a profile of its own; skips the test where there is none."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no Chromium here: install the packages chromium and chromium-driver")
    with open_driver(is_local=is_local) as driver:
        yield Browser(driver)


@contextmanager
def open_driver(*, is_local: bool) -> Iterator[webdriver.Chrome]:
    """What drives it. It has no network; 127.0.0.1 alone if `is_local`. Raises FileNotFoundError without Chromium."""
    if CHROMIUM is None or DRIVER is None:
        raise FileNotFoundError("no Chromium here: install the packages chromium and chromium-driver")
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options, Service(DRIVER))
        try:
            if not is_local:
                driver.execute_cdp_cmd("Network.enable", {})
                offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
                driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
            yield driver
        finally:
            driver.quit()
