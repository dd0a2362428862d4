"""A server on this machine that speaks the registries' protocols, and misbehaves as told.

`Server` answers GETs from a table of paths. Each resource carries a plan: one fault per request,
used up in order, then it behaves. `publish_ollama` and `publish_huggingface` fill the table as
those registries would.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.ollama.image."
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Fault:
    """What one request meets.

    kind: "status" (value = code), "cut" (body ends after value bytes), "stall" (silence after value
    bytes), "ignore_range", "wrong_range", "corrupt" (byte at value flipped), "promise"
    (Content-Length off by value), "extra" (value bytes too many, without a length), "gzip", "drip"
    (value bytes at a time, 20 ms apart), "redirect_loop".
    """

    kind: str
    value: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Resource:
    data: bytes
    etag: str = ""
    plan: list[Fault] = field(default_factory=list)
    redirect: str = ""
    token: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Seen:
    path: str
    headers: Mapping[str, str]


class Server:
    """Runs in threads of this process; `seen` lists the requests in order."""

    def __init__(self) -> None:
        self.resources: dict[str, Resource] = {}
        self.seen: list[Seen] = []
        self._http = _Http(("127.0.0.1", 0), _handler(self))
        self.host = f"127.0.0.1:{self._http.server_address[1]}"
        self.url = f"http://{self.host}"
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def add(self, path: str, data: bytes, **options: Any) -> Resource:
        self.resources[path] = Resource(data, **options)
        return self.resources[path]

    def count(self, path: str) -> int:
        return sum(seen.path == path for seen in self.seen)

    def wait(self, seconds: float) -> None:
        """Sleep, unless the test ends first."""
        self._stopped.wait(seconds)

    # What the registries would have

    def publish_ollama(self, name: str, layers: Mapping[str, bytes], tag: str = "latest") -> bytes:
        """`layers` maps kinds ("model", "template", …) to contents; returns the manifest."""
        entries = []
        for kind, data in layers.items():
            entries.append({"mediaType": LAYER + kind, "digest": digest(data), "size": len(data)})
            self.add(f"/v2/{name}/blobs/{digest(data)}", data, etag=f'"{digest(data)[7:23]}"')
        config = json.dumps({"model_family": "llama"}).encode()
        self.add(f"/v2/{name}/blobs/{digest(config)}", config)
        raw = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {"mediaType": CONFIG, "digest": digest(config), "size": len(config)},
                "layers": entries,
            }
        ).encode()
        self.add(f"/v2/{name}/manifests/{tag}", raw)
        return raw

    def publish_huggingface(
        self, repository: str, files: Mapping[str, bytes], large: int = 64
    ) -> None:
        """`files` by path; those of `large` bytes or more are LFS files, as on the hub."""
        siblings = []
        for path, data in files.items():
            entry: dict[str, Any] = {"rfilename": path, "size": len(data)}
            header = b"blob %d\0" % len(data)
            entry["blobId"] = hashlib.sha1(header + data).hexdigest()
            if len(data) >= large:
                entry["lfs"] = {"sha256": digest(data)[7:], "size": len(data), "pointerSize": 130}
            siblings.append(entry)
            self.add(f"/{repository}/resolve/{COMMIT}/{path}", data, etag=f'"{digest(data)[7:]}"')
        document = {"sha": COMMIT, "siblings": siblings, "cardData": {"license": "llama2"}}
        self.add(f"/api/models/{repository}/revision/main", json.dumps(document).encode())


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        yield server


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what half of the tests are about."""


def _handler(server: Server) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            server.seen.append(Seen(self.path, dict(self.headers.items())))
            resource = server.resources.get(path)
            try:
                if resource is None:
                    self.plain(404)
                elif (
                    resource.token
                    and self.headers.get("Authorization") != f"Bearer {resource.token}"
                ):
                    self.challenge()
                elif resource.redirect:
                    self.plain(307, {"Location": resource.redirect})
                else:
                    self.answer(resource, resource.plan.pop(0) if resource.plan else Fault("none"))
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def plain(self, status: int, headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def challenge(self) -> None:
            scope = 'service="models",scope="repository:library/m:pull"'
            header = f'Bearer realm="{server.url}/token",{scope}'
            self.plain(401, {"WWW-Authenticate": header})

        def answer(self, resource: Resource, fault: Fault) -> None:
            if fault.kind == "status":
                return self.plain(fault.value, {**resource.headers, **fault.headers})
            if fault.kind == "redirect_loop":
                return self.plain(302, {"Location": self.path})
            start = self.range_start(resource) if fault.kind != "ignore_range" else 0
            total = len(resource.data)
            if start is None or start > total or (start and start == total):
                return self.plain(416, {"Content-Range": f"bytes */{total}"})
            off = 1 if fault.kind == "wrong_range" and start else 0
            body = resource.data[start + off :]
            if fault.kind == "corrupt":
                flipped = bytearray(body)
                flipped[min(fault.value, len(body) - 1)] ^= 1
                body = bytes(flipped)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start + off}-{total - 1}/{total}")
            if resource.etag:
                self.send_header("ETag", resource.etag)
            if fault.kind == "gzip":
                self.send_header("Content-Encoding", "gzip")
            if fault.kind == "extra":
                body += b"x" * fault.value
                self.send_header("Connection", "close")
                self.close_connection = True
            else:
                wrong = fault.value if fault.kind == "promise" else 0
                self.send_header("Content-Length", str(len(body) + wrong))
            self.end_headers()
            self.send_body(body, fault)

        def range_start(self, resource: Resource) -> int | None:
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))
            condition = self.headers.get("If-Range")
            if wanted is None:
                return None
            return 0 if condition and condition != resource.etag else int(wanted[1])

        def send_body(self, body: bytes, fault: Fault) -> None:
            if fault.kind in ("cut", "stall"):
                self.wfile.write(body[: fault.value])
                self.wfile.flush()
                if fault.kind == "stall":
                    server.wait(5.0)
                self.close_connection = True
            elif fault.kind == "drip":
                for at in range(0, len(body), fault.value):
                    self.wfile.write(body[at : at + fault.value])
                    time.sleep(0.02)
            else:
                self.wfile.write(body)
                self.close_connection = self.close_connection or fault.kind == "promise"

    return Handler
