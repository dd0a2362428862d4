"""Ollama's registry protocol (OCI distribution): `GET /v2/NAMESPACE/MODEL/manifests/TAG`, then each
blob by its digest.

Works with registry.ollama.ai and with any OCI registry that holds models in Ollama's form.
Anonymous bearer tokens are fetched when a registry asks for them; models that need a signed-in key
(private ones) are not reached, the error says so. Refuses manifests without a GGUF model layer
before anything else is fetched.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from codellama.errors import DownloadError, NotFoundError
from codellama.hub.download import Label, Progress, download
from codellama.hub.files import check_room
from codellama.hub.layout import Layout
from codellama.hub.manifest import MANIFEST_LIMIT, MANIFEST_TYPE, Layer, Manifest, parse_manifest
from codellama.hub.names import Name
from codellama.hub.store import Store
from codellama.hub.transport import StatusError, Transport, is_loopback

__all__ = ["fetch_layers", "pull_from_registry"]


def pull_from_registry(
    name: Name,
    store: Store,
    transport: Transport,
    progress: Progress,
    *,
    remote: Name | None = None,
    donors: tuple[Layout, ...] = (),
) -> None:
    """Bring a model into the store under `name`. `remote` is the spelling that the registry gets,
    if it differs.

    Layers that `donors` (Ollama's store) hold already are linked, not fetched. Raises NotFoundError
    for a name that the registry does not have and DownloadError for all else.
    """
    remote = remote or name
    scheme = "http" if is_loopback(remote.host) or transport.insecure else "https"
    base = f"{scheme}://{remote.host}/v2/{remote.namespace}/{remote.model}"
    progress(0, 0, Label("pulling manifest"))
    raw = _manifest(f"{base}/manifests/{remote.tag}", name, transport)
    manifest = _checked(raw, name)

    def fetch(layer: Layer, target: Path) -> None:
        label = Label(f"pulling {layer.digest[7:19]}", layer.digest)
        if any(store.link_blob(layer, donor.blob(layer.digest), verify=True) for donor in donors):
            progress(layer.size, layer.size, label)
            return
        _blob(f"{base}/blobs/{layer.digest}", layer, target, transport, label, progress)

    fetch_layers(name, raw, manifest, store, fetch, progress)


def fetch_layers(
    name: Name,
    raw: bytes,
    manifest: Manifest,
    store: Store,
    fetch: Callable[[Layer, Path], None],
    progress: Progress,
) -> None:
    """Have every layer, then commit the name; once more if somebody removed a layer in between."""
    wanted = list(manifest.files)
    store.make_root()
    for _ in range(3):
        missing = {layer.digest: layer.size for layer in wanted if not store.has(layer)}
        check_room(store.root, sum(missing.values()) - _begun(store, missing))
        for layer in wanted:
            store.ensure_blob(
                layer,
                lambda target, layer=layer: fetch(layer, target),  # type: ignore[misc]
                lambda: progress(0, 0, Label("waiting for another download of the same file")),
            )
        progress(0, 0, Label("writing manifest"))
        wanted = store.commit(name, raw)
        if not wanted:
            return
    raise DownloadError(
        f"files of {name} are removed as fast as they come: is another program cleaning the store?"
    )


def _begun(store: Store, digests: dict[str, int]) -> int:
    """Bytes of these blobs that partial files hold already."""
    total = 0
    for digest, size in digests.items():
        partial = store.partial(digest)
        total += min(partial.stat().st_size, size) if partial.is_file() else 0
    return total


def _manifest(url: str, name: Name, transport: Transport) -> bytes:
    try:
        return transport.get_bytes(url, limit=MANIFEST_LIMIT, headers={"Accept": MANIFEST_TYPE})
    except StatusError as error:
        if error.status == 404:
            raise NotFoundError(f"{name.host} has no model {name.typed!r}") from error
        raise _refusal(error, name) from error


def _checked(raw: bytes, name: Name) -> Manifest:
    try:
        manifest = parse_manifest(raw)
    except ValueError as error:
        raise DownloadError(
            f"{name.host} sent an unusable manifest for {name.typed}: {error}"
        ) from error
    if not any(layer.kind == "model" for layer in manifest.layers):
        kinds = ", ".join(sorted({layer.kind for layer in manifest.layers}))[:120]
        raise DownloadError(f"{name.typed} is not a GGUF model (its layers: {kinds})")
    return manifest


def _blob(
    url: str, layer: Layer, target: Path, transport: Transport, label: Label, progress: Progress
) -> None:
    sha256 = layer.digest.removeprefix("sha256:")
    try:
        download(
            transport, url, target, size=layer.size, sha256=sha256, label=label, progress=progress
        )
    except StatusError as error:
        raise DownloadError(
            f"{error} for the file {layer.digest[:19]}, which its manifest names"
        ) from error


def _refusal(error: StatusError, name: Name) -> DownloadError:
    if error.status in (401, 403):
        return DownloadError(
            f"{name.host} does not give {name.typed} to everybody ({error.status}): pull it "
            "with `ollama pull` after `ollama signin`; it is then read from Ollama's store"
        )
    return error
