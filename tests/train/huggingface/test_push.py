"""`python -m model export --push` uploads through the hub's own client, to a hub on this machine."""

from pathlib import Path

import pytest

from model.__main__ import main
from tests.data.fetch.server import COMMIT
from tests.ports import refusing_port
from tests.train.conftest import Runs
from tests.train.huggingface.hub import hub_at
from train.huggingface.push import push
from train.huggingface.source import fetch_source


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_what_is_pushed_is_what_a_fetch_brings_back(
    exports: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(exports.folder("imported").path)
    monkeypatch.chdir(tmp_path)
    with hub_at(tmp_path / "hub", monkeypatch) as hub:
        assert main(["export", run, "out", "--push", "a/b"]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == f"uploaded to {hub.server.url}/a/b/commit/{COMMIT}"
        assert hub.created[0].items() >= {"name": "b", "organization": "a", "visibility": "private"}.items()
        assert contents(tmp_path / "hub") == contents(tmp_path / "out")
        push(tmp_path / "out", "a/b")  # again: the repository is there
        brought = contents(fetch_source("hf://a/b@main"))
    expected = contents(tmp_path / "out")
    assert brought == {name: value for name, value in expected.items() if name.endswith((".json", ".safetensors"))}


@pytest.mark.parametrize(("fault", "said"), [("login", "401"), ("storage", "403"), ("network", "refused")])
def test_what_fails_is_one_line_with_what_to_type(
    exports: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: str,
    said: str,
) -> None:
    run = str(exports.folder("imported").path)
    monkeypatch.chdir(tmp_path)
    with hub_at(tmp_path / "hub", monkeypatch) as hub, refusing_port() as port:
        if fault == "login":
            monkeypatch.setenv("HF_TOKEN", "hf_unknown")
        if fault == "storage":
            hub.storage_status = 403
        if fault == "network":
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
        assert main(["export", run, "out", "--push", "a/b"]) == 2
    _, begin, error = capsys.readouterr().err.rpartition("error: ")
    assert begin and error.startswith("out is written, but could not be uploaded to a/b (") and said in error
    assert error.endswith("then `hf upload --private a/b out`\n") and (tmp_path / "out" / "config.json").exists()
