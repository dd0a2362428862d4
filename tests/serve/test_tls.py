"""TLS and API keys together, live: a self-signed certificate, hashed keys, real clients."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from serve.conftest import Live, start, stop
from serve.support import INFILLS

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")


class Secured(NamedTuple):
    live: Live
    key: str
    certificate: Path
    keys: Path

    @property
    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.certificate)


def codellama(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "codellama", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def secured(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A server on every address: TLS, and a key that the command line made."""
    folder = tmp_path_factory.mktemp("secured")
    certificate, private, keys = folder / "c.pem", folder / "k.pem", folder / "keys"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", str(private), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    made = codellama("serve", "--api-keys", str(keys), "--new-key", "editor")
    key = made.stdout.strip()
    assert made.returncode == 0 and key.startswith("cl-")
    assert key not in keys.read_text()
    live = start(
        folder, store, "--host", "0.0.0.0", "--certificate", str(certificate),
        "--private-key", str(private), "--api-keys", str(keys), "--model", INFILLS,
    )  # fmt: skip
    url = live.url.replace("0.0.0.0", "localhost")
    assert url.startswith("https://")
    yield Secured(Live(url, store, live.process, live.log), key, certificate, keys)
    assert stop(live) == 0, live.log.read_text()
    assert key not in live.log.read_text()


def test_openai_python_with_the_key(secured: Secured) -> None:
    openai = pytest.importorskip("openai")
    try:
        client = openai.OpenAI(
            base_url=f"{secured.live.url}/v1",
            api_key=secured.key,
            http_client=openai.DefaultHttpxClient(verify=secured.context),
        )
    except TypeError:  # openai on httpx2 takes no client of httpx
        pytest.skip("this openai-python has an HTTP client of its own")
    with client:
        done = client.completions.create(model="codellama", prompt="def f", max_tokens=4)
        assert done.usage.completion_tokens <= 4 and done.choices
        pieces = client.completions.create(
            model="codellama", prompt="def f", max_tokens=4, stream=True
        )
        assert next(piece.object for piece in pieces) == "text_completion"
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="cl-nobody", max_retries=0).models.list()


REFUSED = ["/v1/models", "/v1/chat/completions", "/api/tags", "/api/chat", "/props", "/infill"]


@pytest.mark.parametrize("path", REFUSED)
@pytest.mark.parametrize("header", ["", "Bearer", "Bearer cl-wrong", "Basic {key}", "{key}"])
def test_without_the_key_each_dialect_says_401(secured: Secured, path: str, header: str) -> None:
    headers = {"authorization": header.format(key=secured.key)} if header else {}
    with httpx.Client(base_url=secured.live.url, verify=secured.context) as http:
        reply = http.request("GET" if path.count("/") == 1 else "POST", path, headers=headers)
    assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer"
    error = reply.json()["error"]
    if path.startswith("/v1"):
        assert error["type"] == "authentication_error" and "API key" in error["message"]
    elif path.startswith("/api"):
        assert isinstance(error, str) and "API key" in error
    else:
        assert (error["code"], error["type"]) == (401, "authentication_error")


def test_the_key_opens_every_dialect_and_a_revoked_one_none(secured: Secured) -> None:
    second = codellama(
        "serve", "--api-keys", str(secured.keys), "--new-key", "short"
    ).stdout.strip()
    headers = {"authorization": f"Bearer {second}"}
    with httpx.Client(base_url=secured.live.url, verify=secured.context, timeout=60) as http:
        for path in ("/v1/models", "/api/tags", "/slots"):
            assert http.get(path, headers=headers).status_code == 200
        kept = [line for line in secured.keys.read_text().splitlines() if "short" not in line]
        secured.keys.write_text("\n".join(kept) + "\n")
        assert http.get("/api/tags", headers=headers).status_code == 401
        headers = {"authorization": f"Bearer {secured.key}"}
        assert http.get("/api/tags", headers=headers).status_code == 200
        assert http.get("/health").json() == {"status": "ok"}


def test_others_certificates_and_plain_http_are_refused(secured: Secured) -> None:
    with pytest.raises(httpx.ConnectError, match=r"(?i)certificate"):
        httpx.get(f"{secured.live.url}/health")
    with pytest.raises(httpx.TransportError):
        httpx.get(secured.live.url.replace("https", "http") + "/health")


def test_a_public_address_needs_a_key_even_with_tls(secured: Secured, tmp_path: Path) -> None:
    private = secured.certificate.with_name("k.pem")
    done = codellama(
        "serve", "--host", "0.0.0.0", "--port", "0", "--certificate", str(secured.certificate),
        "--private-key", str(private),
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("codellama: ") and "--api-keys FILE --new-key" in line


def test_keys_on_disk_are_hashes_that_only_their_user_reads(secured: Secured) -> None:
    assert secured.keys.stat().st_mode & 0o077 == 0
    assert json.dumps(secured.keys.read_text()).count(secured.key[3:]) == 0
