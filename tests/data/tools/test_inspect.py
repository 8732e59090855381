"""What `inspect` has read of token files on a server is kept: no row is asked for twice."""

import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import orjson
import pytest

from data.__main__ import main
from data.fetch.sparse import SparseCopy
from tests.data.fetch.server import serving
from tests.data.reading import end_threads

NAMES = [f"mix/source{number % 2}/part-{number}.npy" for number in range(4)]
ROW = 4096  # tokens: a block


@pytest.mark.parametrize("given", ["list", "sources"])
def test_rows_that_were_shown_are_kept_on_a_slow_disk(
    given: str, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, ended = SparseCopy.write, threading.Event()

    def slow(copy: SparseCopy, first: int, content: bytes) -> None:
        time.sleep(0.1)
        if not ended.is_set():  # threads end with their process
            write(copy, first, content)

    monkeypatch.setattr(SparseCopy, "write", slow)
    monkeypatch.chdir(tmp_path)  # the cache is below it
    served, tokenizer = tmp_path / "served", str(sample / "tokenizer.json")
    for number, name in enumerate(NAMES):
        (served / name).parent.mkdir(parents=True, exist_ok=True)
        np.random.default_rng(number).integers(0, 50, 20 * ROW, dtype="<u4").tofile(served / name)
    (tmp_path / "files.txt").write_text("\n".join(NAMES))
    with serving(served) as server:
        sources = {str(number): {"files": NAMES[number::2], "weight": 1} for number in range(2)}
        values = {"kind": "tokens", "root": server.url, "tokenizer": tokenizer, "sources": sources}
        (tmp_path / "mine.yaml").write_bytes(orjson.dumps(values))
        arguments = ["mine.yaml"]
        if given == "list":
            arguments = [server.url, "--file-list", "files.txt", "--tokenizer", tokenizer]
        printed = set()
        for _ in range(2):
            assert main(["inspect", *arguments, "--rows", "6", "--sequence-length", str(ROW)]) == 0
            ended.set()
            printed.add(capsys.readouterr().out)
            end_threads("rows to the disk")
            ended.clear()
    gets = Counter((name, extent) for method, name, extent in server.seen if method == "GET")
    assert len(printed) == 1 and len(gets) > 4 and set(gets.values()) == {1}
