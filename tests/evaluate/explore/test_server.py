"""The server answers its own page on this machine, and refuses all others in one line."""

import http.client
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluate.__main__ import main
from evaluate.errors import EvaluateError
from evaluate.explore.explorer import Explorer, Shown
from evaluate.explore.server import MAX_BODY, Server
from tests.evaluate.explore.answers import unpacked
from tests.evaluate.explore.conftest import MAX_TOKENS

READ = {"text": "the table of words"}
ASKED = {"text": "the table of words", "model": 1, "layer": 2, "token": 3}
JSON = {"Content-Type": "application/json"}


def asked(
    server: Server, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes, http.client.HTTPMessage]:
    """Status, body and headers of an answer; a body that is no string is sent as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=600)
    try:
        content = body if isinstance(body, str | None) else json.dumps(body)
        connection.request(method, path, content, headers or {})
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def test_a_page_is_served_that_may_ask_its_server_alone(server: Server) -> None:
    for host in (None, f"localhost:{server.server_address[1]}"):  # the second one through a tunnel, of any port
        status, page, headers = asked(server, "GET", "/", headers={"Host": host} if host else None)
        assert status == 200 and b"connect-src 'self'" in page and b"{{" not in page
        assert headers["X-Frame-Options"] == "DENY" and headers["Cache-Control"] == "no-store"
    assert server.server_address[0] == "127.0.0.1"


def test_positions_and_attention_are_answered(server: Server, models: list[Shown]) -> None:
    own = {**JSON, "Origin": server.url.rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    status, answer, _ = asked(server, "POST", "/read", READ, own)
    assert status == 200 and unpacked(answer)[1].tolist() == unpacked(Explorer(models).read(READ["text"]))[1].tolist()
    status, answer, _ = asked(server, "POST", "/attention", ASKED, JSON)
    rows = unpacked(answer)[1].reshape(4, 4)
    assert status == 200 and rows.sum(1).tolist() == pytest.approx([1] * 4)
    assert rows.tolist() == Explorer(models).attention_rows("the table of words", 1, 2, 3).tolist()


@pytest.mark.parametrize(
    ("headers", "status", "said"),
    [
        ({"Host": "evil.example"}, 403, "this is 127.0.0.1, not evil.example"),
        ({"Host": "127.0.0.1.evil.example:80"}, 403, "not 127.0.0.1.evil.example:80"),
        ({"Host": "[::1"}, 403, "not [::1"),
        ({"Host": ""}, 403, "not a host without a name"),
        ({"Origin": "http://evil.example"}, 403, "requests of http://evil.example are not answered"),
        ({"Origin": "http://127.0.0.1:1"}, 403, "requests of http://127.0.0.1:1 are not answered"),
        ({"Origin": "null"}, 403, "requests of null are not answered"),
        ({"Sec-Fetch-Site": "cross-site"}, 403, "requests of other pages are not answered"),
        ({"Content-Type": "text/plain"}, 415, "the content type must be application/json"),
        ({"Content-Length": str(MAX_BODY + 1)}, 413, f"more than {MAX_BODY}"),
        ({"Content-Length": "-1"}, 411, "Content-Length must say"),
    ],
)
def test_a_request_of_another_page_is_refused(server: Server, headers: dict[str, str], status: int, said: str) -> None:
    found, body, _ = asked(server, "POST", "/read", READ, {**JSON, **headers})
    assert found == status and said in body.decode() and b"\n" not in body
    is_link = "Sec-Fetch-Site" in headers  # to the page itself, which the other page cannot read
    assert asked(server, "GET", "/", headers=headers)[0] == (403 if status == 403 and not is_link else 200)


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/read", "{", "the request is not JSON"),
        ("/read", "[" * 100_000, "the request is not JSON"),
        ("/read", [READ], "must be an object of text"),
        ("/read", {}, "must be an object of text"),
        ("/read", {"text": 5}, "text must be of type str"),
        ("/read", {"text": ""}, "the text is empty"),
        ("/read", '{"text": "\\ud800"}', "the text is not Unicode"),
        ("/read", {"text": "7 " * MAX_TOKENS}, f"tokens, more than {MAX_TOKENS}: shorten it"),
        ("/attention", ASKED | {"layer": 3}, "there is no layer 3: they are 0 to 2"),
        ("/attention", ASKED | {"layer": -1}, "there is no layer -1"),
        ("/attention", ASKED | {"layer": True}, "layer must be of type int"),
        ("/attention", ASKED | {"model": 2}, "there is no model 2: they are 0 to 1"),
        ("/attention", ASKED | {"token": 999}, "there is no token 999"),
        ("/attention", READ, "must be an object of text, model, layer, token"),
    ],
)
def test_a_wrong_request_is_answered_in_one_line(server: Server, path: str, body: Any, said: str) -> None:
    status, answer, _ = asked(server, "POST", path, body, JSON)
    assert status == 400 and said in answer.decode() and b"\n" not in answer


def test_other_addresses_do_not_exist(server: Server) -> None:
    for method in ("GET", "POST"):
        status, body, _ = asked(server, method, "/../etc/passwd", READ if method == "POST" else None, JSON)
        assert status == 404 and b"there is no /../etc/passwd" in body


def test_a_port_that_is_taken_is_one_line(server: Server, models: list[Shown]) -> None:
    port = server.server_address[1]
    for taken in (port, 70_000):
        with pytest.raises(EvaluateError, match=rf"port {taken} cannot be used \(.*\): give --port N"):
            Server(Explorer(models), "", taken)


@pytest.fixture
def signals() -> Iterator[None]:
    """Puts back what signals do."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_ctrl_c_ends_the_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # What `serve_forever` calls in every round: the signal comes while the page is served, and at no other time.
    monkeypatch.setattr(Server, "service_actions", lambda server: signal.raise_signal(signal.SIGINT))
    assert main(["explore", str(folder), "--port", "0"]) == 130
    assert re.search(r"http://127\.0\.0\.1:[1-9]\d*/ shows out; Ctrl-C ends it", capsys.readouterr().out)


def test_mistakes_are_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd, static = tmp_path / "odd.txt", str(tmp_path / "page.html")
    odd.write_bytes(b"caf\xe9")
    for arguments, said in (
        (["--text", str(odd)], "odd.txt is not UTF-8"),
        (["--text", str(tmp_path / "absent.txt")], "absent.txt: No such file"),
        (["--static", static, "--port", "1"], "--static serves nothing: leave out --port"),
        (
            ["--static", str(tmp_path / "new" / "page.html")],
            f"there is no folder {tmp_path / 'new'}: make it (mkdir -p)",
        ),
        (["--static", str(tmp_path)], f"--static {tmp_path} is a folder: name a file in it"),
        (["--static", static, "--max-tokens", "9"], "tokens, more than 9: shorten it, or start with --max-tokens N"),
        (["--yarn", "0.5"], "--yarn must be 1 or more, and is 0.5"),
        (["--max-tokens", "0"], "--max-tokens must be above 0, and is 0"),
    ):
        assert main(["explore", str(folder), *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert not Path(static).exists()
