"""Users and passwords of the places that data is fetched from: never in an address that is kept.

An address goes wherever `data.root` goes: to the console, the run folder, checkpoints, W&B, the cache. So a password
that comes in an address is taken out of it at once, and kept in the environment of this process, for itself and the
processes that it starts. It best comes from there in the first place, or from ~/.netrc, which `requests` reads itself.

After `scheme://` comes a host with or without a port, or a login, an @ and then a host. What is not a host (`me:pa/ss`,
`me:my pass`: such characters should be written %2F and %20) is a login up to the first @ that a host follows. What can
be both is a host: `me:12/34@host` is a file at port 12.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, unquote

VARIABLE = "REPO_DATA_CREDENTIALS"  # environment variable: addresses like https://user:password@host, spaces between
SCHEME = re.compile(r"(?<![A-Za-z0-9+.:-])[A-Za-z][A-Za-z0-9+.-]*://")
PART = re.compile(r"[^\s/?#'\",\[\](){}]*")
NAME = r"(?:\[[0-9A-Fa-f:.%]+\]|[^\s/?#@:'\",\[\](){}]+)"  # of a host; in brackets: IPv6
# Around an address in a list or a sentence. Where an @ follows in the same part, it is within a password instead.
AFTER = r"(?=[/?#]|$|[\s'\",\])}](?![^/?#]*@))"
HOST = re.compile(rf"{NAME}(?=[/?#\s'\",\])}}]|$)|{NAME}:\d{{1,5}}{AFTER}")
LOGIN = re.compile(rf"(?P<login>.+?)@(?P<host>{NAME}(?::\d{{1,5}})?){AFTER}", re.DOTALL)


@dataclass(frozen=True)
class Login:
    """A user and a password in a text, and the place that they are for."""

    start: int
    """Where its address begins in the text."""
    end: int
    """Where the host of its address ends."""
    scheme: str
    """Of the address, in small letters."""
    host: str
    """Name and port."""
    user: str
    """Without escapes."""
    password: str
    """Without escapes."""

    @property
    def place(self) -> str:
        """The address without the login."""
        return f"{self.scheme}://{self.host}"

    @property
    def escaped(self) -> str:
        """The login as it stands in a valid address."""
        return quote(self.user, safe="") + (f":{quote(self.password, safe='')}" if self.password else "")


def take_credentials(text: str) -> str:
    """Returns a text without the users and passwords of addresses in it, and keeps those in the environment."""
    for login in _logins(text):
        address = f"{login.scheme}://{login.escaped}@{login.host}"
        kept = os.environ.get(VARIABLE, "").split()
        if address not in kept:
            os.environ[VARIABLE] = " ".join([address, *kept])
    return without_credentials(text)


def without_credentials(text: str) -> str:
    """Returns a text without the users and passwords of addresses in it."""
    for login in reversed(list(_logins(text))):
        text = text[: login.start] + login.place + text[login.end :]
    return text


def query_problem(address: str) -> str | None:
    """Returns why a root is refused whose address has a query, which may be a secret; None for others."""
    place, mark, _ = address.partition("?")
    if not mark or not re.match("https?://", place, re.IGNORECASE):
        return None
    return (
        f"must end before its ?, as {without_credentials(place)}: a signed link leads to one file, and would stay in "
        f"the run; a login belongs in {VARIABLE} or ~/.netrc"
    )


def with_credentials(address: str) -> str:
    """Returns an address with the user and password that the environment has for its host, if any."""
    login = _login_of(address)
    scheme, rest = address.split("://", 1)
    return f"{scheme}://{login.escaped}@{rest}" if login else address


def credentials_of(address: str) -> tuple[str, str] | None:
    """Returns the user and password that the environment has for the host of an address, or None."""
    login = _login_of(address)
    return None if login is None else (login.user, login.password)


def masked(text: str) -> str:
    """Returns a message without the passwords that the environment has: a library may have put one into it."""
    for login in _kept():
        secret = login.password or login.user
        for written in (login.escaped, f"{login.user}:{login.password}", quote(secret, safe=""), secret):
            text = text.replace(written, "***")
    return text


def _login_of(address: str) -> Login | None:
    """Returns the first login in the environment for the same scheme, host and port."""
    scheme, _, rest = address.partition("://")
    place = f"{scheme.lower()}://{re.split('[/?#]', rest, maxsplit=1)[0]}"
    return next((login for login in _kept() if login.place == place), None)


def _kept() -> Iterator[Login]:
    for address in os.environ.get(VARIABLE, "").split():
        yield from _logins(address)


def _logins(text: str) -> Iterator[Login]:
    """Yields the logins in a text; stores use the part before the @ for the name of a container, too."""
    schemes: list[re.Match[str]] = []
    for scheme in SCHEME.finditer(text):  # but for what is in the first part of an address: a user, or a password
        if not (schemes and PART.fullmatch(text, schemes[-1].end(), scheme.start())):
            schemes.append(scheme)
    ends = [*(match.start() for match in schemes), len(text)][1:]
    for match, end in zip(schemes, ends, strict=True):
        rest = text[match.end() : end]
        found = None if HOST.match(rest) else LOGIN.match(rest)
        kind = match[0].lower().removesuffix("://")
        if found and (kind in ("http", "https") or ":" in found["login"]):
            user, _, password = found["login"].partition(":")
            yield Login(match.start(), match.end() + found.end(), kind, found["host"], unquote(user), unquote(password))
