"""Redirects, tokens and schemes: who gets credentials and who does not, and what is refused."""

from __future__ import annotations

import json

import httpx
import pytest

from codellama.errors import DownloadError
from codellama.hub.transport import StatusError, Transport, is_loopback
from hub.servers import Fault, Server, serving


def get(transport: Transport, url: str, limit: int = 1000) -> bytes:
    with transport as client:
        return client.get_bytes(url, limit=limit)


def test_a_token_is_fetched_once_when_asked_for(server: Server, transport: Transport) -> None:
    server.add("/a", b"one", token="t0k")
    server.add("/b", b"two", token="t0k")
    server.add("/token", json.dumps({"token": "t0k"}).encode())
    with transport as client:
        assert client.get_bytes(f"{server.url}/a", limit=10) == b"one"
        assert client.get_bytes(f"{server.url}/b", limit=10) == b"two"
    asked = [seen.path for seen in server.seen if seen.path.startswith("/token")]
    assert asked == ["/token?service=models&scope=repository%3Alibrary%2Fm%3Apull"]


def test_a_token_that_does_not_help_is_a_refusal(server: Server, transport: Transport) -> None:
    server.add("/a", b"one", token="right")
    server.add("/token", json.dumps({"access_token": "wrong"}).encode())
    with pytest.raises(StatusError, match="401"):
        get(transport, f"{server.url}/a")
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"{}",
        b'{"token": 3}',
        b'{"token": "a\\nb"}',
        b'{"token": "\xc3\xa9"}',
        b"[" * 60_000,
        b" " * 70_000,
    ],
)
def test_hostile_token_answers_are_errors(
    server: Server, transport: Transport, answer: bytes
) -> None:
    server.add("/a", b"one", token="right")
    server.add("/token", answer)
    with pytest.raises(DownloadError, match=r"token|metadata"):
        get(transport, f"{server.url}/a")


@pytest.mark.parametrize(
    "challenge",
    ["Bearer", 'Bearer realm="file:///etc/passwd"', 'Bearer realm="ftp://x"', 'Bearer service="x"'],
)
def test_hostile_challenges_are_errors(
    server: Server, transport: Transport, challenge: str
) -> None:
    server.add("/a", b"", plan=[Fault("status", 401, {"WWW-Authenticate": challenge})])
    with pytest.raises(DownloadError):
        get(transport, f"{server.url}/a")
    assert len(server.seen) == 1


def test_credentials_do_not_follow_a_redirect_to_another_host(server: Server) -> None:
    with serving() as other:
        other.add("/real", b"bytes")
        server.add("/a", b"", redirect=f"{other.url}/real")
        assert get(Transport(token="secret", token_for=server.url), f"{server.url}/a") == b"bytes"
    assert server.seen[0].headers["Authorization"] == "Bearer secret"
    assert "Authorization" not in other.seen[0].headers


def test_credentials_are_for_one_host_only(server: Server) -> None:
    server.add("/a", b"x")
    get(Transport(token="secret", token_for="https://huggingface.co"), f"{server.url}/a")
    assert "Authorization" not in server.seen[0].headers


def test_redirects_on_one_host_are_followed(server: Server, transport: Transport) -> None:
    server.add("/a", b"", redirect="/b")
    server.add("/b", b"here")
    assert get(transport, f"{server.url}/a") == b"here"


@pytest.mark.parametrize("location", ["http://[", "ftp://x/y", "//", "http://\0", "javascript:1"])
def test_hostile_redirects_are_errors(server: Server, transport: Transport, location: str) -> None:
    server.add("/a", b"", redirect=location)
    with pytest.raises(DownloadError):
        get(transport, f"{server.url}/a")


def test_plain_http_is_for_this_machine_only(transport: Transport) -> None:
    with pytest.raises(DownloadError, match="plain http"):
        get(transport, "http://registry.example/v2/")


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:80", "127.9.9.9", "[::1]:80", "::1", "a.localhost:1"]
)
def test_this_machine_is_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["example.com", "localhost.example.com", "10.0.0.1:80", "128.0.0.1", "", "127.0.0.1.nip.io"],
)
def test_other_machines_are_known(host: str) -> None:
    assert not is_loopback(host)


def test_plain_http_to_other_machines_is_for_those_who_ask_for_it(
    server: Server, transport: Transport
) -> None:
    server.add("/a", b"x")
    url = f"{server.url}/a".replace("127.0.0.1", "0.0.0.0")  # reaches this machine, is not loopback
    with pytest.raises(DownloadError, match="plain http"):
        get(transport, url)
    assert get(Transport(insecure=True), url) == b"x"


def test_https_is_not_left_for_plain_http(transport: Transport) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(302, headers={"Location": "http://127.0.0.1/a"})

    with transport as client, httpx.Client(transport=httpx.MockTransport(answer)) as fake:
        client._client, real = fake, client._client
        with pytest.raises(DownloadError, match="from https to http: refused"):
            client.get_bytes("https://registry.example/a", limit=10)
        client._client = real
    assert asked == ["https://registry.example/a"]


def test_metadata_is_bounded(server: Server, transport: Transport) -> None:
    server.add("/a", b"x" * 2000)
    with pytest.raises(DownloadError, match="more than 1000 bytes"):
        get(transport, f"{server.url}/a")


def test_metadata_cut_short_is_asked_for_again(server: Server, transport: Transport) -> None:
    server.add("/a", b"x" * 500, plan=[Fault("cut", 100), Fault("stall", 0), Fault("status", 502)])
    assert get(transport, f"{server.url}/a") == b"x" * 500


def test_errors_show_no_signatures(server: Server, transport: Transport) -> None:
    with pytest.raises(DownloadError) as caught:
        get(transport, f"{server.url}/gone?X-Signature=secret")
    assert "secret" not in str(caught.value)
