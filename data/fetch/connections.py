"""Kept-alive connections to web servers, which the threads of a process share.

A request costs `requests` more time than a row of 16 KB does. So what it found out for an address (redirections, login,
proxy, certificates) is remembered, and later requests for the same host or address are sent by the connection pool of
the first one, as that was in the end. That also spares the hub, which redirects each request for a file to a signed
address elsewhere.
"""

import os
import re
from collections.abc import Mapping
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from typing import Any, NamedTuple

import requests
import urllib3

from data.fetch.credentials import credentials_of

MAX_CONNECTIONS = 64  # of one reader to one host
KEPT_CONNECTIONS = 4 * MAX_CONNECTIONS  # of a process, which may have several readers

PLAIN_PATH = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")  # which any client asks for as it is

_sessions: dict[int, requests.Session] = {}


def session() -> requests.Session:
    """Returns the session of this process; a forked one has its own. Cookies are not kept."""
    process = os.getpid()
    if process not in _sessions:
        made = requests.Session()
        made.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("http://", "https://"):
            made.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=KEPT_CONNECTIONS))
        _sessions.setdefault(process, made)
    return _sessions[process]


class Known(NamedTuple):
    """How a request was sent in the end, without what is particular to one range of bytes."""

    pool: urllib3.HTTPConnectionPool
    headers: Mapping[str, str]
    proxies: Mapping[str, str]
    target: str | None
    """What the server was asked for, of an address that is redirected."""


class KnownRequests:
    """Requests by address, as they were sent in the end; shared by threads."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._known: dict[str, Known] = {}
        self._hosts: dict[str, Known] = {}
        self._process = os.getpid()  # last: other threads look at it

    def send(
        self, method: str, url: str, own: Mapping[str, str], headers: Mapping[str, str], timeout: tuple[float, float]
    ) -> urllib3.BaseHTTPResponse:
        """Returns the answer, its body not read yet; `own` headers are for the host of this address only.

        Raises requests.RequestException, urllib3.exceptions.HTTPError and OSError.
        """
        if self._process != os.getpid():  # whose connections these are
            self._begin()
        host = "/".join(url.split("/", 3)[:3])
        known = self._known.get(url) or self._hosts.get(host)
        if known is not None:
            response = self._send_again(known, method, url, headers, timeout)
            if response is not None:
                return response
        login = credentials_of(url)  # without: those of ~/.netrc
        answer = session().request(
            method, url, headers={**own, **headers}, auth=login, stream=True, timeout=timeout, allow_redirects=True
        )
        if answer.status_code in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            place, key = (self._known, url) if answer.history else (self._hosts, host)
            place[key] = _known_from(answer, headers)
        return answer.raw

    def _send_again(
        self, known: Known, method: str, url: str, headers: Mapping[str, str], timeout: tuple[float, float]
    ) -> urllib3.BaseHTTPResponse | None:
        """Returns the answer; None for a redirection, and where an earlier one leads nowhere any more."""
        try:
            response = known.pool.urlopen(
                method,
                known.target or _target(url, known.proxies),
                headers={**known.headers, **headers},
                timeout=urllib3.Timeout(connect=timeout[0], read=timeout[1]),
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
                decode_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError):
            self._known.pop(url, None)
            raise
        is_gone = known.target is not None and response.status != HTTPStatus.PARTIAL_CONTENT
        if not is_gone and not response.get_redirect_location():
            return response
        response.close()
        self._known.pop(url, None)
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._begin()


def unreachable_reason(error: Exception) -> str | None:
    """Returns why no connection was made at all, such as a name that is not known; None for any other failure."""
    cause = error.args[0] if isinstance(error, requests.ConnectionError) and error.args else error
    for name in ("reason", "original_error"):  # of too many tries, and of a proxy
        cause = getattr(cause, name, cause)
    if not isinstance(cause, urllib3.exceptions.NewConnectionError):
        return None
    return getattr(cause.__cause__, "strerror", None) or str(cause)


def _known_from(answer: requests.Response, headers: Mapping[str, str]) -> Known:
    """Returns how the request was sent that got this answer, without these headers."""
    address = str(answer.request.url)
    settings = session().merge_environment_settings(address, {}, True, None, None)
    adapter = session().get_adapter(address)
    assert isinstance(adapter, requests.adapters.HTTPAdapter)
    pool = adapter.get_connection_with_tls_context(
        answer.request, settings["verify"], settings["proxies"], settings["cert"]
    )
    adapter.cert_verify(pool, address, settings["verify"], settings["cert"])
    sent = answer.request.headers.items()
    kept = {name: value if isinstance(value, str) else value.decode() for name, value in sent if name not in headers}
    target = _target(address, settings["proxies"]) if answer.history else None
    return Known(pool, kept, settings["proxies"], target)


def _target(url: str, proxies: Mapping[str, str]) -> str:
    """Returns what a server, or a proxy, is asked for at an address; of most, `requests` need not be asked."""
    path = url[url.find("/", url.find("//") + 2) :]
    if not proxies and PLAIN_PATH.fullmatch(path):
        return path
    request = requests.PreparedRequest()
    request.prepare_url(url, None)
    adapter = session().get_adapter(url)
    assert isinstance(adapter, requests.adapters.HTTPAdapter)
    return adapter.request_url(request, dict(proxies))
