"""Users and passwords of the places that data is fetched from: never in an address that is kept.

An address goes wherever `data.root` goes: to the console, the run folder, checkpoints, W&B, the cache. So a password
that comes in an address is taken out of it at once, and kept in the environment of this process, for itself and the
processes that it starts. It best comes from there in the first place, or from ~/.netrc, which `requests` reads itself.
"""

import os
import re
from urllib.parse import unquote

VARIABLE = "REPO_DATA_CREDENTIALS"  # environment variable: addresses like https://user:password@host, spaces between
LOGIN = re.compile(r"\b(?P<scheme>[a-z][a-z0-9+]*)://(?P<login>[^/\s'\"]+)@(?P<host>[^/\s'\"@,\]}]+)")


def take_credentials(text: str) -> str:
    """Returns a text without the users and passwords of addresses in it, and keeps those in the environment."""
    for match in LOGIN.finditer(text):
        kept = os.environ.get(VARIABLE, "").split()
        if _is_secret(match) and match[0] not in kept:
            os.environ[VARIABLE] = " ".join([match[0], *kept])
    return without_credentials(text)


def without_credentials(text: str) -> str:
    """Returns a text without the users and passwords of addresses in it."""
    return LOGIN.sub(lambda match: f"{match['scheme']}://{match['host']}" if _is_secret(match) else match[0], text)


def with_credentials(address: str) -> str:
    """Returns an address with the user and password that the environment has for its host, if any."""
    login = _login_of(address)
    scheme, rest = address.split("://", 1)
    return f"{scheme}://{login}@{rest}" if login else address


def credentials_of(address: str) -> tuple[str, str] | None:
    """Returns the user and password that the environment has for the host of an address, or None."""
    login = _login_of(address)
    if login is None:
        return None
    user, _, password = login.partition(":")
    return unquote(user), unquote(password)


def masked(text: str) -> str:
    """Returns a message without the passwords that the environment has: a library may have put one into it."""
    for match in LOGIN.finditer(os.environ.get(VARIABLE, "")):
        text = text.replace(match["login"], "***").replace(match["login"].partition(":")[2] or match["login"], "***")
    return text


def _login_of(address: str) -> str | None:
    """Returns `user:password` of the first address in the environment with the same scheme, host and port."""
    place = "/".join(address.split("/", 3)[:3])
    logins = LOGIN.finditer(os.environ.get(VARIABLE, ""))
    return next((match["login"] for match in logins if f"{match['scheme']}://{match['host']}" == place), None)


def _is_secret(match: re.Match[str]) -> bool:
    """Returns whether the part before the @ is a login: stores use it for the name of a container, too."""
    return match["scheme"] in ("http", "https") or ":" in match["login"]
