"""A password reaches the server that it is for, and no file, name or message."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as some

from data.errors import DataError
from data.fetch.credentials import (
    VARIABLE,
    credentials_of,
    masked,
    take_credentials,
    with_credentials,
    without_credentials,
)
from data.fetch.download import download
from data.fetch.roots import open_root
from tests.data.fetch.server import FileServer, serving

PASSWORD = "s3cr@t"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "remote").mkdir()
    (tmp_path / "remote/a.npy").write_bytes(bytes(1000))
    with serving(tmp_path / "remote") as server:
        server.login = f"me:{PASSWORD}"
        yield server


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(tmp_path)


def with_login(url: str) -> str:
    return url.replace("://", "://me:s3cr%40t@")


def fetch(root: str) -> None:
    (file,) = open_root(root).named(["a.npy"], "key")
    download(file)
    assert file.path.read_bytes() == bytes(1000)


def kept(folder: Path) -> bytes:
    """All names and contents below a folder."""
    paths = sorted(folder.rglob("*"))
    return b"\n".join(str(path).encode() + (path.read_bytes() if path.is_file() else b"") for path in paths)


def test_a_password_in_an_address_is_used_and_not_kept(server: FileServer, tmp_path: Path) -> None:
    fetch(with_login(server.url))
    fetch(server.url)  # the environment of this process has it now
    fetch(server.url.replace("http", "HTTP"))
    assert open_root(with_login(server.url)).address == server.url
    everything = kept(tmp_path / "corpora")
    assert b"a.npy" in everything and not any(secret in everything for secret in (b"s3cr", b"me:"))


def test_a_password_can_come_from_the_environment(server: FileServer) -> None:
    os.environ[VARIABLE] = f"https://a:b@elsewhere {with_login(server.url)}"
    fetch(server.url)


def test_a_password_can_come_from_netrc(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1\nlogin me\npassword {PASSWORD}\n")
    fetch(server.url)


def test_a_signed_link_is_no_root_and_is_not_printed(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"the address of the data must end before its \?, as https://host/a: "
    ) as error:
        open_root("https://host/a?sig=s3cr")
    assert "s3cr" not in str(error.value) and not (tmp_path / "corpora").exists()


@pytest.mark.parametrize("login", [None, "me:wrong@"])
def test_a_server_that_wants_a_password_says_where_it_can_come_from(server: FileServer, login: str | None) -> None:
    with pytest.raises(
        DataError, match=rf"answered 401 .*; give user and password in ~/\.netrc, .* {VARIABLE}"
    ) as error:
        fetch(server.url.replace("://", f"://{login}") if login else server.url)
    assert "wrong" not in str(error.value)


def test_a_cache_of_an_earlier_version_is_used_and_cleaned(server: FileServer, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    fetched = open_root(with_login(server.url), str(cache))
    fetched.named(["a.npy"], "key")
    listing = cache / ".listing.json"
    listing.write_text(listing.read_text().replace(server.url, with_login(server.url)))
    again = open_root(with_login(server.url), str(cache))
    again.named(["a.npy"], "key")
    assert again.listing == fetched.listing and again.address == server.url
    assert b"s3cr" not in kept(cache)


def test_logins_of_other_places_are_not_used() -> None:
    take_credentials("https://me:first@host:1/x and ftp://me:second@host")
    assert credentials_of("https://host:1/y") == ("me", "first")
    for other in ("https://host/y", "http://host:1/y", "https://host:1.evil/y", "https://other"):
        assert credentials_of(other) is None and with_credentials(other) == other
    assert with_credentials("ftp://host/a") == "ftp://me:second@host/a"
    assert masked("cannot log in to ftp://me:second@host with second") == "cannot log in to ftp://***@host with ***"


HOSTS = ("host", "h-1.example.org:8080", "127.0.0.1", "[::1]", "[fe80::1]:80")
AROUND = (
    "{}",
    "{}/prefix",
    "data.root={}/x",
    "data.root='{}'",
    "[{}/x, {}]",
    "{} and {}/x",
    "{}?a=1",
    "{},https://other",
)


@example("http", "a", "//", "host", "{}")
@example("http", "my_user", "//sec", "host", "{}")
@example("http", "u~b", "//sec", "host", "{}")
@given(
    some.sampled_from(["http", "https", "HTTP", "Https", "ftp", "s3"]),
    some.text("abc", min_size=1, max_size=3),
    some.text(some.sampled_from("xyzXYZ019/'\" @#?%+&=!,;:()[]{}.-~"), min_size=1, max_size=8),
    some.sampled_from(HOSTS),
    some.sampled_from(AROUND),
)
def test_no_password_stays_in_a_text_however_it_is_written(
    scheme: str, user: str, password: str, host: str, around: str
) -> None:
    assume("://" not in password)
    # Such a one must be escaped: written as it is, the address has another host.
    is_unclear = "@" in password or re.match(r"\d{1,5}([\s'\",\])}].*)?[/?#]", password) is not None
    for written in [quote(password, safe="")] + [password.replace("%", "%25")] * (not is_unclear):
        os.environ[VARIABLE] = ""
        address, clean = f"{scheme}://{user}:{written}@{host}", f"{scheme.lower()}://{host}"
        assert without_credentials(around.format(address, address)) == around.format(clean, clean)
        assert take_credentials(address) == clean and os.environ[VARIABLE].count(" ") == 0
        assert credentials_of(f"{clean}/file") == (user, password)
        for spelled in (f"{user}:{password}@", quote(password, safe=""), with_credentials(clean)):
            assert not {f"{user}:{password}", f"{user}:{quote(password, safe='')}"} & {masked(spelled)}


def test_a_name_of_a_container_or_a_sentence_is_no_login() -> None:
    for text in (
        "https://host:8080/pkg@v1/x",
        "[https://host/a, me@host]",
        "see https://host and mail me@host",
        "https://[::1]:80/a@b",
        "http://host",
        "https://",
    ):
        assert without_credentials(text) == text
    assert without_credentials("https://me:p@ss w@rd@host/pkg@v1") == "https://host/pkg@v1"


@pytest.mark.parametrize("address", ["hf://datasets/a/b@main", "abfs://container@account/x", "a@b", "/data/a:b@c", ""])
def test_what_is_no_login_stays(address: str) -> None:
    assert take_credentials(address) == address and os.environ[VARIABLE] == ""
