"""How long the position explorer takes from the request for a text to the drawn page, and how large the answer is.

    python -m benchmarks.explore                    4,096 tokens: the demo's model, and 16 layers of 16 heads
    python -m benchmarks.explore --tokens 8192

Weights are random: positions cost the same. The server answers a real Chromium, without a screen, on this machine.
Seconds are wall time, which grows on a busy machine, and CPU time, which does not: of the server, and of all processes
of the browser.
"""

import argparse
import contextlib
import threading
import time

import psutil
import torch
from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait
from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks.figures import Figure, Origin, leave_out, report
from benchmarks.step import configured
from evaluate.explore.explorer import Explorer, Shown
from evaluate.explore.pages import served_page
from evaluate.explore.server import Server
from evaluate.subject import ModelSubject
from model.config import ModelConfig, PositionsConfig
from model.transformer import Olmo2
from model.weights import initialise, random_weights
from tests.report.browser import CHROMIUM, DRIVER, open_driver


def shown(name: str, config: ModelConfig, positions: PositionsConfig) -> Shown:
    """Returns a model of random weights, with a tokenizer that has a token for each word."""
    vocabulary = {str(token): token for token in range(config.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model = Olmo2(config, positions)
    initialise(model, random_weights(config, positions, seed=0), "cpu")
    return Shown(name, ModelSubject(model.eval(), tokenizer, torch.device("cpu"), [0]), None)


def measure(driver: webdriver.Chrome, model: Shown, num_tokens: int) -> None:
    """Reports the times of a text, of another head, and of what is shown of a token."""
    words = torch.randint(model.subject.model.embed_tokens.num_embeddings, (num_tokens,)).tolist()
    text = " ".join(map(str, words))
    explorer = Explorer([model])
    with Server(explorer, served_page(explorer, text), port=0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        driver.get("about:blank")
        start, of_browser = time.process_time(), browser_seconds(driver)
        driver.get(server.url)
        wait = WebDriverWait(driver, 600, poll_frequency=0.2)
        wait.until(lambda driver: driver.execute_script("return document.body.dataset.count === '1'"))
        computed, drawn = time.process_time() - start, browser_seconds(driver) - of_browser
        page, seconds, size = driver.execute_script(
            "return [Number(document.body.dataset.shown), text.seconds, text.bytes]"
        )
        of = f"{model.name}, {model.num_layers} layers x {model.num_heads} heads, {num_tokens} tokens"
        report(
            Figure(f"{of}: drawn after the request", page, "s"),
            Figure(f"{of}: the model", seconds, "s"),
            Figure(f"{of}: the answer", size / 1e6, "MB", origin=Origin.counted),
            Figure(f"{of}: CPU of the server", computed, "s"),
            Figure(f"{of}: CPU of the browser", drawn, "s"),
        )
        for what, act in (
            ("another head", "choose({ head: 1 })"),
            ("pointing at a token", f"choose({{ hover: {num_tokens // 2} }})"),
        ):
            before = browser_seconds(driver)
            wall = driver.execute_async_script(_TIMED, act)
            report(
                Figure(f"{of}: {what}", 1e3 * wall, "ms"),
                Figure(f"{of}: {what}, CPU", 1e3 * (browser_seconds(driver) - before), "ms"),
            )
        before, start = browser_seconds(driver), time.process_time()
        wall = driver.execute_async_script(_CLICK, num_tokens - 2)  # the page begins with the last one
        cpu = browser_seconds(driver) - before + time.process_time() - start
        what = f"{of}: attention from the last token but one"
        report(Figure(what, 1e3 * wall, "ms"), Figure(f"{what}, CPU", 1e3 * cpu, "ms"))
        explorer.close()
        server.shutdown()


def browser_seconds(driver: webdriver.Chrome) -> float:
    """Returns the CPU seconds of all processes of a browser so far."""
    total = 0.0
    for process in psutil.Process(driver.service.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


# The frame in which something is drawn, and the one after it, by which it is on the screen.
_TIMED = """
const [act, done] = arguments, start = performance.now();
eval(act);
requestAnimationFrame(() => requestAnimationFrame(() => done((performance.now() - start) / 1000)));
"""
_CLICK = """
const [token, done] = arguments, start = performance.now();
choose({ token });
const look = () => attentionOf(0, view.head) ? done((performance.now() - start) / 1000) : setTimeout(look, 2);
look();
"""


def main() -> None:
    """Reports the times of two models."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.explore", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tokens", type=int, default=4096)
    arguments = parser.parse_args()
    if CHROMIUM is None or DRIVER is None:
        leave_out("no Chromium here: install the packages chromium and chromium-driver")
    demo = configured("demo", "repo", [])
    wide = ModelConfig(
        hidden_size=256,
        intermediate_size=768,
        num_layers=16,
        num_heads=16,
        vocab_size=4096,
        eos_token_id=0,
        pad_token_id=0,
    )
    with open_driver(is_local=True) as driver:
        for name, config, positions in (
            ("demo", demo.model, demo.positions),
            ("16 layers", wide, PositionsConfig("repo")),
        ):
            measure(driver, shown(name, config, positions), arguments.tokens)


if __name__ == "__main__":
    main()
