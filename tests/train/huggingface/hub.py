"""A hub on this machine that takes uploads, as far as its own client asks: repositories, LFS files, commits."""

import hashlib
import json
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.data.fetch.server import COMMIT, FileServer, Handler, serving

TOKEN = "hf_of_this_test"


class HubHandler(Handler):
    """Keeps what is committed in the folder that the server serves, one repository for all names."""

    def do_GET(self) -> None:  # noqa: N802
        if self.path.startswith("/api/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid username or password."})
        else:
            super().do_GET()

    def do_POST(self) -> None:  # noqa: N802 - the name that the library calls
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, hub = self.path.partition("?")[0], self.hub
        hub.asked.append(path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            hub.created.append(json.loads(body))
            self.answer(409 if len(hub.created) > 1 else 200, {"url": f"{hub.server.url}/a/b"})
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            modes = [
                (file["path"], "lfs" if file["path"].endswith(".safetensors") else "regular")
                for file in json.loads(body)["files"]
            ]
            files = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes]
            self.answer(200, {"files": files})
        elif path.endswith("/objects/batch"):
            self.answer(
                200, {"transfer": "basic", "objects": [self.place(item) for item in json.loads(body)["objects"]]}
            )
        elif path.endswith("/commit/main"):
            self.commit([json.loads(line) for line in body.splitlines()])
            self.answer(200, {"commitUrl": f"{hub.server.url}/a/b/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.answer(404, {"error": f"nothing at {path}"})

    def do_PUT(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.objects[hashlib.sha256(body).hexdigest()] = body
        self.answer(self.hub.storage_status, {})

    @property
    def hub(self) -> "Hub":
        """What the server knows."""
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        return hub

    def place(self, item: dict[str, object]) -> dict[str, object]:
        """Where to put an object; one that is there needs no upload."""
        href = f"{self.hub.server.url}/lfs/{item['oid']}"
        return item | ({} if item["oid"] in self.hub.objects else {"actions": {"upload": {"href": href}}})

    def commit(self, lines: list[dict[str, dict[str, str]]]) -> None:
        """Writes the files of a commit."""
        for line in lines:
            value, target = line["value"], self.server.folder / line["value"].get("path", "")
            if str(line["key"]) == "file":
                target.write_bytes(b64decode(value["content"]))
            elif str(line["key"]) == "lfsFile":
                target.write_bytes(self.hub.objects[value["oid"]])

    def answer(self, status: int, content: dict[str, object]) -> None:
        """A JSON object."""
        self.send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})


class Hub:
    """What was asked of a hub, and what it holds."""

    def __init__(self, server: FileServer) -> None:
        self.server = server
        self.asked: list[str] = []
        self.created: list[dict[str, object]] = []
        self.objects: dict[str, bytes] = {}
        self.storage_status = 200


@contextmanager
def hub_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub whose files lie in `folder`, and which the hub's client takes for the real one."""
    folder.mkdir()
    with serving(folder) as server:
        hub = server.hub = Hub(server)  # type: ignore[attr-defined]
        server.RequestHandlerClass = HubHandler
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub
