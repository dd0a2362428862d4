"""HTTP as registries speak it: redirects, bearer tokens after a 401, stalls, retries, and answers
of bounded size.

One `Transport` serves one pull. It imports httpx when it is entered, not before. It knows no
registry and no file; every failure is a DownloadError in one line, without query strings (a content
network's URLs carry signatures there).

Safe by default: https cannot be redirected to plain http, credentials never follow a redirect to
another host, nothing is decompressed (so that sizes and ranges mean what they say), and plain http
is spoken to this machine only, unless told so.
"""

from __future__ import annotations

import contextlib
import ipaddress
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from codellama.errors import DownloadError

if TYPE_CHECKING:
    import httpx

__all__ = ["Backoff", "Retryable", "StatusError", "Transport", "is_loopback"]

STALL_SECONDS = 30.0
MAX_TRIES = 6
MAX_WAIT_SECONDS = 60.0  # of a server's Retry-After
_MAX_REDIRECTS = 10
_TOKEN_LIMIT = 64 << 10
_CHALLENGE = re.compile(r'([a-z_]+)\s*=\s*"([^"]*)"', re.IGNORECASE)
_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})


class Retryable(DownloadError):
    """A failure that may pass: the next try may succeed. `wait` is what the server asked for, in
    seconds.
    """

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class StatusError(DownloadError):
    """The server refused, and will again: 401, 403, 404 and the like."""

    def __init__(self, message: str, status: int, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code  # Hugging Face's X-Error-Code


class Backoff:
    """Counts failures in a row and waits longer after each: 0.5, 1, 2, 4, 8 s, with jitter."""

    def __init__(self, tries: int, sleep: Callable[[float], None]) -> None:
        self.tries = tries
        self._failures = 0
        self._sleep = sleep

    def failed(self, error: Retryable) -> None:
        """Wait before the next try; raises DownloadError when this was the last."""
        self._failures += 1
        if self._failures >= self.tries:
            raise DownloadError(
                f"{error} (tried {self.tries} times): run the same command again to go on"
            )
        wait = 0.5 * 2.0 ** min(self._failures - 1, 4) * random.uniform(0.75, 1.25)
        self._sleep(min(max(wait, error.wait or 0.0), MAX_WAIT_SECONDS))

    def progressed(self) -> None:
        self._failures = 0


class Transport:
    """A client for one pull; use as a context manager.

    Attributes:
        token: bearer token, sent to the host of the address `token_for` and to no other.
        insecure: allow plain http to other machines.
        stall_seconds: silence after which a connection is given up and tried again.
        tries: failures in a row before giving up. sleep: for tests.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        token_for: str = "",
        insecure: bool = False,
        stall_seconds: float = STALL_SECONDS,
        tries: int = MAX_TRIES,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.insecure = insecure
        self.stall_seconds = stall_seconds
        self.tries = tries
        self._sleep = sleep
        self._tokens: dict[str, str] = {_origin(token_for): token} if token else {}
        self._client: httpx.Client | None = None

    def __enter__(self) -> Transport:
        import httpx

        self._client = httpx.Client(
            timeout=httpx.Timeout(self.stall_seconds, pool=None),
            headers={"User-Agent": "codellama", "Accept-Encoding": "identity"},
            follow_redirects=False,
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()

    def backoff(self) -> Backoff:
        return Backoff(self.tries, self._sleep)

    @contextlib.contextmanager
    def stream(
        self, url: str, headers: Mapping[str, str] | None = None
    ) -> Iterator[httpx.Response]:
        """GET, through redirects and at most one token challenge; a 2xx or 416 answer whose body is
        still to be read.

        Raises Retryable for what may pass (also while the body is read) and StatusError for what
        will not.
        """
        import httpx

        try:
            response = self._open(url, headers or {})
            try:
                if response.status_code != 416:
                    _raise_for_status(response)
                yield response
            finally:
                response.close()
        except httpx.TimeoutException as error:
            raise Retryable(f"{_host(url)} was silent for {self.stall_seconds:g} s") from error
        except httpx.TransportError as error:
            raise Retryable(f"the connection to {_host(url)} failed: {_reason(error)}") from error
        except (httpx.InvalidURL, httpx.StreamError) as error:
            raise DownloadError(f"{_host(url)} sent what is not HTTP: {_reason(error)}") from error

    def get_bytes(self, url: str, *, limit: int, headers: Mapping[str, str] | None = None) -> bytes:
        """A small answer, whole, with retries. Raises DownloadError beyond `limit` bytes."""
        backoff = self.backoff()
        while True:
            try:
                with self.stream(url, headers) as response:
                    return self._read(response, limit)
            except Retryable as error:
                backoff.failed(error)

    def _read(self, response: httpx.Response, limit: int) -> bytes:
        data = bytearray()
        for chunk in response.iter_raw():
            data += chunk
            if len(data) > limit:
                raise DownloadError(
                    f"{_host(str(response.url))} sent more than {limit} bytes of metadata"
                )
        return bytes(data)

    def _open(self, url: str, headers: Mapping[str, str]) -> httpx.Response:
        response = self._follow(url, headers)
        if response.status_code != 401:
            return response
        challenge = response.headers.get("WWW-Authenticate", "")
        if (
            not challenge.lower().startswith("bearer ")
            or _origin(str(response.url)) in self._tokens
        ):
            return response
        response.close()
        self._tokens[_origin(str(response.url))] = self._fetch_token(challenge)
        return self._follow(url, headers)

    def _follow(self, url: str, headers: Mapping[str, str]) -> httpx.Response:
        assert self._client is not None, "use Transport as a context manager"
        self._check_scheme(url)
        request = self._client.build_request("GET", url, headers=dict(headers))
        for _ in range(_MAX_REDIRECTS):
            if token := self._tokens.get(_origin(str(request.url))):
                request.headers["Authorization"] = f"Bearer {token}"
            response = self._client.send(request, stream=True)
            if response.next_request is None:
                encoding = response.headers.get("Content-Encoding", "identity")
                if encoding.lower() != "identity":
                    response.close()
                    raise DownloadError(
                        f"{_host(url)} compressed its answer ({encoding[:20]}) unasked"
                    )
                return response
            response.close()
            request = (
                response.next_request
            )  # httpx has taken Authorization away if the host changed
            if url.startswith("https:") and request.url.scheme != "https":
                raise DownloadError(
                    f"{_host(url)} redirects from https to {request.url.scheme}: refused"
                )
        raise DownloadError(f"{_host(url)} redirects more than {_MAX_REDIRECTS} times")

    def _fetch_token(self, challenge: str) -> str:
        """The anonymous token of the Docker registry protocol: GET realm?service=…&scope=…."""
        import json

        fields = {key.lower(): value for key, value in _CHALLENGE.findall(challenge[:4096])}
        realm = fields.get("realm", "")
        if not realm.startswith(("https://", "http://")):
            raise DownloadError("the registry asks for a token but does not say where to get one")
        self._check_scheme(realm)
        response = self._follow(_with_query(realm, fields), {})
        try:
            _raise_for_status(response)
            answer = json.loads(self._read(response, _TOKEN_LIMIT))
        except (ValueError, RecursionError) as error:
            raise DownloadError(f"{_host(realm)} did not answer with a token") from error
        finally:
            response.close()
        token = (
            (answer.get("token") or answer.get("access_token"))
            if isinstance(answer, dict)
            else None
        )
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise DownloadError(f"{_host(realm)} did not answer with a token")
        return token

    def _check_scheme(self, url: str) -> None:
        plain = url.startswith("http://")
        if plain and not self.insecure and not is_loopback(_host(url)):
            raise DownloadError(
                f"{_host(url)} is asked for over plain http: refused unless told --insecure"
            )


def is_loopback(host: str) -> bool:
    """Whether `host` (with or without a port) is this machine."""
    has_port = host.count(":") == 1 or "]:" in host  # else the colons are an IPv6 address's own
    bare = host.rpartition(":")[0] if has_port else host
    if bare == "localhost" or bare.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(bare.strip("[]")).is_loopback
    except ValueError:
        return False


def _raise_for_status(response: Any) -> None:
    status = response.status_code
    if 200 <= status < 300:
        return
    host = _host(str(response.url))
    if status in _RETRYABLE:
        after = response.headers.get("Retry-After", "")
        raise Retryable(f"{host} answered {status}", float(after) if after.isdecimal() else None)
    raise StatusError(f"{host} answered {status}", status, response.headers.get("X-Error-Code", ""))


def _with_query(realm: str, fields: Mapping[str, str]) -> str:
    from urllib.parse import urlencode

    pairs = [(key, fields[key]) for key in ("service",) if fields.get(key)]
    pairs += [("scope", scope) for scope in fields.get("scope", "").split()]
    return realm + ("&" if "?" in realm else "?") + urlencode(pairs) if pairs else realm


def _origin(url: str) -> str:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    except ValueError as error:
        raise DownloadError(f"{url[:80]!r} is not an address") from error
    return f"{parts.scheme}://{parts.hostname}:{port}"


def _host(url: str) -> str:
    from urllib.parse import urlsplit

    return urlsplit(url).netloc.rpartition("@")[2] or "the server"


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
