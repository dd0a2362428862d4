"""Which models are loaded: loaded when first asked for, kept for as long as clients say, shared by
all requests.

One Loaded model is one engine with one worker thread. A request holds a lease, so that a model is
never taken away under it; what nobody has asked for during its keep_alive is let go. Runs on the
event loop; loading itself runs in a thread.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from codellama.api.loading import (
    DEFAULT_CONTEXT,
    LONGEST_CONTEXT,
    Parts,
    open_file,
    open_parts,
)
from codellama.api.prompting import Prompter
from codellama.engine.constrain import Grammars
from codellama.engine.engine import Engine
from codellama.engine.scheduler import SchedulerConfig
from codellama.errors import CodeLlamaError, ModelTooLargeError, RequestError
from codellama.serve.defaults import Defaults
from codellama.serve.names import Names, Resolved
from codellama.serve.settings import FOREVER, Settings
from codellama.serve.worker import Worker

__all__ = ["Lease", "Loaded", "Models", "Opener"]

log = logging.getLogger("codellama.serve")

STEP_TOKENS = 128
"""Prompt tokens per step: what a keystroke waits for, and a closed socket. The engine's own default
of 512 makes both wait four times as long."""

PREFIX_BYTES = 512 << 20
"""Of a saved prefix cache: 22,000 tokens of SmolLM2 (23 kB each), 1,000 of a 7B."""

Opener = Callable[[Resolved, int | None, Settings], Parts]
"""A resolved name and a context (None: the model's own) → what a model is made of."""


@dataclass(slots=True, eq=False)
class Loaded:
    """A model in memory.

    Attributes:
        key: which model it is (digest or path). identity: that, and whatever else decides the
            numbers it computes; saved prefixes carry it.
        defaults: template, system prompt and parameters of its Modelfile.
        expires: monotonic time at which it may go; inf for ever. until: the same as a date.
    """

    key: str
    resolved: Resolved
    parts: Parts
    prompts: Prompter
    grammars: Grammars
    worker: Worker
    defaults: Defaults
    identity: str
    load_s: float = 0.0
    expires: float = FOREVER
    keep_alive: float = 300.0
    users: int = 0
    closing: bool = False

    @property
    def engine(self) -> Engine:
        return self.worker.engine

    @property
    def context(self) -> int:
        return self.engine.context

    @property
    def kv_type(self) -> str:
        """How its cache keeps keys and values."""
        return str(getattr(self.parts.runner, "kv_type", "f16"))

    @property
    def until(self) -> datetime:
        left = self.expires - time.monotonic() if self.expires < FOREVER else 100 * 365 * 86400.0
        return datetime.now(UTC) + timedelta(seconds=max(0.0, min(left, 3.2e9)))

    @property
    def memory_bytes(self) -> int:
        """Weights and cache, as far as the runner says."""
        runner = self.parts.runner
        return int(getattr(runner, "weight_bytes", 0) + getattr(runner, "cache_bytes", 0))


@dataclass(slots=True)
class Lease:
    """A request's hold on a model. `release` once; `load_s` is what loading it took just now.

    `notes` are for the client: what was asked for and is not as asked.
    """

    loaded: Loaded
    resolved: Resolved
    context: int
    load_s: float
    release: Callable[[], None]
    notes: list[str] = field(default_factory=list)


class Models:
    """Every loaded model of a server."""

    def __init__(
        self, settings: Settings, names: Names | None = None, opener: Opener | None = None
    ) -> None:
        self.settings = settings
        self.names = names or Names(settings.model)
        self.loads = 0
        self._open = opener or _open
        self._loaded: dict[str, Loaded] = {}
        self._lock = asyncio.Lock()
        self._told: set[str] = set()

    @property
    def loaded(self) -> list[Loaded]:
        return list(self._loaded.values())

    async def lease(
        self, name: str | None, *, num_ctx: int | None = None, keep_alive: float | None = None
    ) -> Lease:
        """Hold a model, loading it if need be.

        Args:
            num_ctx: longest prompt and answer for this request; a longer one than is loaded loads
                the model again. What the model cannot do at all is cut down and noted.

        Raises: as Names.resolve and api.loading do.
        """
        resolved = await asyncio.to_thread(self.names.resolve, name)
        key = resolved.info.digest or str(resolved.info.path)
        notes = [resolved.notice] if resolved.notice else []
        if resolved.notice and resolved.notice not in self._told:
            self._told.add(resolved.notice)
            log.warning(resolved.notice)
        async with self._lock:
            loaded, load_s = self._loaded.get(key), 0.0
            if num_ctx is not None and num_ctx < 1:
                num_ctx = None
            if loaded is None or loaded.closing or _too_short(loaded, num_ctx):
                loaded = await self._load(resolved, key, num_ctx)
                load_s = loaded.load_s
            loaded.users += 1
        loaded.keep_alive = self.settings.keep_alive if keep_alive is None else keep_alive
        loaded.expires = FOREVER
        context = min(loaded.context, num_ctx or loaded.context)
        if num_ctx is not None and num_ctx > (reach := _reach(loaded)):
            notes.append(f"num_ctx {num_ctx} is more than the model's {reach}: {reach} is used")
        released = False

        def release() -> None:
            nonlocal released
            if not released:
                released = True
                loaded.users -= 1
                loaded.expires = time.monotonic() + loaded.keep_alive

        return Lease(loaded, resolved, context, load_s, release, notes)

    async def preload(self) -> None:
        """Load the model that `settings` names before anybody asks for it. What prevents it is
        logged, and told to whoever asks.
        """
        try:
            (await self.lease(None)).release()
        except CodeLlamaError as error:
            log.warning("%s is not loaded yet: %s", self.settings.model, error)

    async def unload(self, loaded: Loaded) -> None:
        """Let a model go when its last request has ended."""
        loaded.keep_alive = 0.0
        loaded.expires = time.monotonic()
        await self.collect()

    async def collect(self) -> None:
        """Let go what has expired."""
        now = time.monotonic()
        for loaded in self.loaded:
            if loaded.users == 0 and loaded.expires <= now:
                await self._drop(loaded)

    async def watch(self) -> None:
        """Collect for ever."""
        while True:
            await asyncio.sleep(0.5)
            await self.collect()

    async def close(self) -> None:
        for loaded in self.loaded:
            await self._drop(loaded, self.settings.drain)

    # Inside.

    async def _load(self, resolved: Resolved, key: str, num_ctx: int | None) -> Loaded:
        if (old := self._loaded.get(key)) is not None:
            old.closing = True
            num_ctx = max(num_ctx or 0, old.context)
            await self._drop_when_free(old)
        while len(self._loaded) >= self.settings.max_loaded:
            idle = [each for each in self.loaded if each.users == 0]
            if not idle:
                raise ModelTooLargeError(
                    f"{len(self._loaded)} models are loaded and busy: wait, or raise "
                    "OLLAMA_MAX_LOADED_MODELS"
                )
            await self._drop(min(idle, key=lambda each: each.expires))
        begin = time.perf_counter()
        parts = await self._opened(resolved, num_ctx or self.settings.context)
        loaded = await asyncio.to_thread(self._make, resolved, key, parts)
        loaded.load_s = time.perf_counter() - begin
        self._loaded[key] = loaded
        self.loads += 1
        await self._restore_prefixes(loaded)
        log.info(
            "loaded %s in %.2f s: context %d, KV cache %s, memory %d MB",
            resolved.info.name, loaded.load_s, loaded.context, loaded.kv_type,
            loaded.memory_bytes >> 20,
        )  # fmt: skip
        return loaded

    async def _opened(self, resolved: Resolved, context: int | None) -> Parts:
        """Open it; where memory is short, once more without the models that nobody uses."""
        try:
            return await asyncio.to_thread(self._open, resolved, context, self.settings)
        except ModelTooLargeError:
            idle = [each for each in self.loaded if each.users == 0]
            if not idle:
                raise
            for each in idle:
                await self._drop(each)
            return await asyncio.to_thread(self._open, resolved, context, self.settings)

    def _make(self, resolved: Resolved, key: str, parts: Parts) -> Loaded:
        tokenizer = parts.tokenizer
        engine = Engine(
            parts.runner,
            stop_ids=tokenizer.stop_ids,
            config=SchedulerConfig(step_tokens=STEP_TOKENS),
        )
        defaults = Defaults.of(resolved.info)
        prompts = Prompter(
            tokenizer,
            name=resolved.info.name,
            vocab_size=parts.runner.vocab_size,
            chat_template=parts.chat_template,
        )
        most = self.settings.max_queue + SchedulerConfig().max_running
        worker = Worker(engine, tokenizer, most=most, max_seconds=self.settings.max_seconds)
        grammars = Grammars(
            tokenizer.piece,
            tokenizer.vocab_size,
            vocab_size=parts.runner.vocab_size,
            stop_ids=tokenizer.stop_ids,
            encode=lambda raw: tokenizer.encode_infilling(raw.decode("utf-8", "replace")),
        )
        kept = getattr(parts.runner, "kv_type", "")
        identity = _identity(resolved, key, getattr(parts.runner, "isa", ""), kept)
        return Loaded(key, resolved, parts, prompts, grammars, worker, defaults, identity)

    async def _restore_prefixes(self, loaded: Loaded) -> None:
        """Before the first request is served: what an earlier run had computed."""
        path = self._saved(loaded)
        if path is not None:
            future = loaded.worker.call(
                lambda engine: engine.restore_prefixes(path, loaded.identity)
            )
            if tokens := await asyncio.wrap_future(future):
                log.info("restored a prefix cache of %d tokens", tokens)

    async def _save_prefixes(self, loaded: Loaded) -> None:
        path = self._saved(loaded)
        if path is None or not loaded.resolved.info.path.exists():  # of a model that was deleted
            return
        future = loaded.worker.call(
            lambda engine: engine.save_prefixes(path, loaded.identity, most_bytes=PREFIX_BYTES)
        )
        try:
            if tokens := await asyncio.wrap_future(future):
                log.info("saved a prefix cache of %d tokens", tokens)
        except OSError as error:
            log.warning("the prefix cache was not saved: %s", error.strerror)

    def _saved(self, loaded: Loaded) -> Path | None:
        """The file of a model's prefixes."""
        folder = self.settings.cache_folder
        name = hashlib.sha256(loaded.key.encode()).hexdigest()[:32]
        return None if folder is None else folder / f"{name}.prefixes"

    async def _drop_when_free(self, loaded: Loaded) -> None:
        while loaded.users:
            await asyncio.sleep(0.01)
        await self._drop(loaded)

    async def _drop(self, loaded: Loaded, drain_s: float = 0.0) -> None:
        loaded.closing = True
        if self._loaded.get(loaded.key) is loaded:
            del self._loaded[loaded.key]
        await asyncio.to_thread(loaded.worker.drain, drain_s)
        try:
            await self._save_prefixes(loaded)
        finally:
            await asyncio.to_thread(loaded.worker.close)
        log.info("unloaded %s", loaded.resolved.info.name)


def _identity(resolved: Resolved, key: str, isa: str, kv_type: str) -> str:
    """What must be the same for computed prefixes to be of use; asked when the model is loaded,
    since its file may change later.
    """
    from codellama import __version__

    try:
        stat = resolved.info.path.stat()
        file = stat.st_size, stat.st_mtime_ns
    except OSError:  # a model without a file, in tests
        file = 0, 0
    return hashlib.sha256(repr((key, *file, __version__, isa, kv_type)).encode()).hexdigest()


def _too_short(loaded: Loaded, num_ctx: int | None) -> bool:
    return num_ctx is not None and loaded.context < min(num_ctx, _reach(loaded))


def _reach(loaded: Loaded) -> int:
    config = loaded.parts.config
    return max(config.context, LONGEST_CONTEXT if config.rope_theta >= 1e6 else 0)


def _open(resolved: Resolved, context: int | None, settings: Settings) -> Parts:
    """Open a model with a cache for several requests, as far as half the free memory goes."""
    from codellama.weights.memory import available_memory

    file = open_file(resolved.info.path)
    config = file.config
    reach = max(config.context, LONGEST_CONTEXT if config.rope_theta >= 1e6 else 0)
    length = min(context or min(config.context, DEFAULT_CONTEXT), reach)
    if length < 1:
        raise RequestError(f"a context of {length} tokens holds nothing")
    free = available_memory()
    each = config.kv_bytes(1, settings.kv_type)
    room = settings.parallel * length if free is None else free // 2 // each
    return open_parts(
        file,
        context=length,
        threads=settings.threads,
        device=settings.device,
        isa=None,
        progress=None,
        kv_type=settings.kv_type,
        cache_tokens=max(length, min(settings.parallel * length, room)),
    )
