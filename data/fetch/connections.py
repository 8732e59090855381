"""Kept-alive connections to web servers: those of one thread, which asks for one thing at a time.

A request costs `requests` more time than a row of 16 KB does. So what it found out for an address (redirections, login,
proxy, certificates) is remembered, and later requests for the same address are sent as the first one was in the end.
That also spares the hub, which redirects each request for a file to a signed address elsewhere.
"""

import os
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from typing import Any, NamedTuple

import requests

from data.fetch.credentials import credentials_of

_local = threading.local()


def session() -> requests.Session:
    """Returns this thread's session; a forked process has its own. Cookies are not kept."""
    if getattr(_local, "process", None) != os.getpid():
        _local.process, _local.session = os.getpid(), requests.Session()
        _local.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return _local.session


class Known(NamedTuple):
    """A request without what is particular to one range of bytes, and what it was sent with."""

    request: requests.PreparedRequest
    settings: Mapping[str, Any]
    is_redirected: bool


class KnownRequests:
    """Requests by address, as they were sent in the end; shared by threads."""

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}
        self._hosts: dict[str, Known] = {}

    def send(
        self, method: str, url: str, own: Mapping[str, str], headers: Mapping[str, str], timeout: tuple[float, float]
    ) -> requests.Response:
        """Returns the answer, its body not read yet; `own` headers are for the host of this address only.

        Raises requests.RequestException.
        """
        host = "/".join(url.split("/", 3)[:3])
        known = self._known.get(url) or self._hosts.get(host)
        if known is not None:
            response = self._send_again(known, method, url, headers, timeout)
            if response is not None:
                return response
        login = credentials_of(url)  # without: those of ~/.netrc
        response = session().request(
            method, url, headers={**own, **headers}, auth=login, stream=True, timeout=timeout, allow_redirects=True
        )
        if response.status_code in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            request = response.request.copy()
            for name in headers:
                request.headers.pop(name, None)
            settings = session().merge_environment_settings(str(request.url), {}, True, None, None)
            place, key = (self._known, url) if response.history else (self._hosts, host)
            place[key] = Known(request, settings, bool(response.history))
        return response

    def _send_again(
        self, known: Known, method: str, url: str, headers: Mapping[str, str], timeout: tuple[float, float]
    ) -> requests.Response | None:
        """Returns the answer; None for a redirection, and where an earlier one leads nowhere any more."""
        request = known.request.copy()
        request.method = method
        request.headers.update(headers)
        if not known.is_redirected:
            request.prepare_url(url, None)
        try:
            response = session().get_adapter(str(request.url)).send(request, timeout=timeout, **known.settings)
        except requests.RequestException:
            self._known.pop(url, None)
            raise
        is_gone = known.is_redirected and response.status_code != HTTPStatus.PARTIAL_CONTENT
        if not is_gone and not response.is_redirect:
            return response
        response.close()
        self._known.pop(url, None)
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {"_known": {}, "_hosts": {}}
