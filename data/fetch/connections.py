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
from typing import Any

import requests

from data.fetch.credentials import credentials_of

_local = threading.local()


def session() -> requests.Session:
    """Returns this thread's session; a forked process has its own. Cookies are not kept."""
    if getattr(_local, "process", None) != os.getpid():
        _local.process, _local.session = os.getpid(), requests.Session()
        _local.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return _local.session


class KnownRequests:
    """GET requests by address, as they were sent in the end; shared by threads."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[requests.PreparedRequest, Mapping[str, Any], bool]] = {}

    def get(
        self, url: str, own: Mapping[str, str], headers: Mapping[str, str], timeout: tuple[float, float]
    ) -> requests.Response:
        """Returns the answer to a GET, its body not read yet; `own` headers are for the host of this address only.

        Raises requests.RequestException.
        """
        known = self._known.get(url)
        if known is not None:
            response = self._send(url, *known, headers, timeout)
            if response is not None:
                return response
        login = credentials_of(url)  # without: those of ~/.netrc
        response = session().get(url, headers={**own, **headers}, auth=login, stream=True, timeout=timeout)
        if response.status_code == HTTPStatus.PARTIAL_CONTENT:
            request = response.request.copy()
            for name in headers:
                request.headers.pop(name, None)
            settings = session().merge_environment_settings(str(request.url), {}, True, None, None)
            self._known[url] = request, settings, bool(response.history)
        return response

    def _send(
        self,
        url: str,
        request: requests.PreparedRequest,
        settings: Mapping[str, Any],
        is_redirected: bool,
        headers: Mapping[str, str],
        timeout: tuple[float, float],
    ) -> requests.Response | None:
        """Returns the answer; None where a redirection led somewhere that is no longer valid."""
        request = request.copy()
        request.headers.update(headers)
        try:
            response = session().get_adapter(str(request.url)).send(request, timeout=timeout, **settings)
        except requests.RequestException:
            self._known.pop(url, None)
            raise
        if is_redirected and response.status_code != HTTPStatus.PARTIAL_CONTENT:
            response.close()
            self._known.pop(url, None)
            return None
        return response

    def __getstate__(self) -> dict[str, Any]:
        return {"_known": {}}
