"""Soak a live server: every dialect, a third aborted at random points, a tenth malformed.

    python scripts/soak.py --url http://127.0.0.1:11434 --requests 10000 [--pid PID]

Asserts: no 500; greedy answers equal those of the same requests alone; afterwards nothing runs or
waits, every block of the KV cache is free, and with --pid open files are back where they were and
the second half of the requests took no memory (the first one touches the cache's pages, once).
Exits 1 and says what is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

TEXTS = [
    "def add(a, b):",
    "import os\n",
    "class A:\n    def",
    "for i in range(",
    "x = [1, 2",
    "# a",
]


def requests() -> list[tuple[str, dict[str, Any]]]:
    """Greedy requests of every dialect, short enough to be many."""
    made: list[tuple[str, dict[str, Any]]] = []
    for n, text in enumerate(TEXTS):
        options = {"temperature": 0, "num_predict": 6 + n}
        chat = [{"role": "user", "content": text}]
        for stream in (False, True):
            body = {"model": "codellama", "options": options, "stream": stream}
            made.append(("/api/generate", body | {"prompt": text, "raw": True}))
            made.append(("/api/chat", body | {"messages": chat}))
            body = {"model": "codellama", "temperature": 0, "max_tokens": 6 + n, "stream": stream}
            made.append(("/v1/completions", body | {"prompt": text}))
            made.append(("/v1/chat/completions", body | {"messages": chat}))
            body = {"temperature": 0, "n_predict": 6 + n, "stream": stream}
            made.append(("/completion", body | {"prompt": text}))
            made.append(("/infill", body | {"input_prefix": text, "input_suffix": "\n"}))
        made.append(("/api/embed", {"model": "codellama", "input": text}))
        made.append(("/tokenize", {"content": text}))
    return made


MALFORMED = (
    b"",
    b"{",
    b"[]",
    b'{"model": 7}',
    b'{"prompt": {"a": [}}',
    b"\xff\xfe",
    b'{"n": 1e99}',
)


def text_of(raw: bytes) -> str:
    """The answer in a reply of any dialect, whole or streamed."""
    out = []
    for line in raw.decode().splitlines():
        line = line.removeprefix("data: ")
        if not line or line == "[DONE]":
            continue
        value = json.loads(line)
        if not isinstance(value, dict):
            continue
        out.append(value.get("response") or value.get("content") or "")
        out.append((value.get("message") or {}).get("content") or "")
        for choice in value.get("choices", ()):
            part = choice.get("delta") or choice.get("message") or choice
            out.append(part.get("content") or part.get("text") or "")
        out.append(json.dumps(value.get("tokens")) if "tokens" in value and len(value) == 1 else "")
    return "".join(out)


async def soak(arguments: argparse.Namespace) -> list[str]:
    problems: list[str] = []
    statuses: Counter[int] = Counter()
    chance = random.Random(arguments.seed)
    known = requests()
    limits = httpx.Limits(max_connections=arguments.parallel)
    async with httpx.AsyncClient(base_url=arguments.url, timeout=300, limits=limits) as http:
        alone = {}
        for number, (path, body) in enumerate(known):
            reply = await http.post(path, json=body)
            alone[number] = reply.status_code, text_of(reply.content)
        before = middle = await state(arguments)
        gate = asyncio.Semaphore(arguments.parallel)

        async def one(kind: float, number: int, cut: float, noise: bytes) -> None:
            path, body = known[number]
            async with gate:
                try:
                    if kind < 0.1:
                        reply = await http.post(path, content=noise)
                        statuses[reply.status_code] += 1
                        if reply.status_code >= 500 and reply.status_code != 501:
                            problems.append(f"{path} {noise!r}: {reply.status_code}")
                    elif kind < 0.43:
                        async with asyncio.timeout(cut):
                            await http.post(path, json=body)
                    else:
                        reply = await http.post(path, json=body)
                        statuses[reply.status_code] += 1
                        got = reply.status_code, text_of(reply.content)
                        if got != alone[number]:
                            problems.append(f"{path} {body}: {got} is not {alone[number]}")
                except (TimeoutError, httpx.TransportError):
                    statuses[0] += 1

        begin, done = time.monotonic(), 0
        while done < arguments.requests:
            batch = min(500, -(-arguments.requests // 2), arguments.requests - done)
            await asyncio.gather(
                *(
                    one(chance.random(), chance.randrange(len(known)), chance.random() * 0.2,
                        chance.choice(MALFORMED))
                    for _ in range(batch)
                )
            )  # fmt: skip
            done += batch
            print(f"{done} requests in {time.monotonic() - begin:.0f} s", file=sys.stderr)
            if 2 * done >= arguments.requests and middle is before:
                middle = await state(arguments)
    after = await state(arguments)
    problems += [f"{n} replies were {s}" for s, n in statuses.items() if s == 500]
    problems += compared(before, middle, after)
    figures = {"requests": done, "statuses": statuses, "seconds": round(time.monotonic() - begin)}
    figures |= {"before": before, "middle": middle, "after": after}
    print(json.dumps(figures))
    return problems


async def state(arguments: argparse.Namespace) -> dict[str, float]:
    """What must come back to where it was, once everything aborted has ended; by a client of its
    own, so that it sees the same connections each time."""
    found: dict[str, float] = {}
    async with httpx.AsyncClient(base_url=arguments.url, timeout=300) as http:
        for _ in range(100):
            found["running"] = len((await http.get("/slots")).json())
            if not found["running"]:
                break
            await asyncio.sleep(0.2)
        gauges = (await http.get("/metrics")).text.splitlines()
        for name in ("num_requests_waiting", "kv_cache_usage_perc"):
            found[name] = next(float(g.split()[1]) for g in gauges if g.startswith(f"vllm:{name} "))
        await asyncio.sleep(1.0)  # the server closes what the other clients left
        if arguments.pid is not None:
            found["files"] = len(os.listdir(f"/proc/{arguments.pid}/fd"))
            lines = Path(f"/proc/{arguments.pid}/status").read_text().splitlines()
            kilobytes = next(int(li.split()[1]) for li in lines if li.startswith("VmRSS"))
            found["rss_mb"] = round(kilobytes / 1024, 1)
    return found


def compared(
    before: dict[str, float], middle: dict[str, float], after: dict[str, float]
) -> list[str]:
    problems = []
    for name in ("running", "num_requests_waiting", "kv_cache_usage_perc"):
        if after[name]:
            problems.append(f"{name} is {after[name]} when all is done")
    if after.get("files", 0) > before.get("files", 0) + 4:
        problems.append(f"open files grew from {before['files']} to {after['files']}")
    if after.get("rss_mb", 0) > middle.get("rss_mb", 0) + 32:  # an allocator's slack
        problems.append(f"memory grew from {middle['rss_mb']:.0f} to {after['rss_mb']:.0f} MB")
    return problems


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", default="http://127.0.0.1:11434")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--parallel", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pid", type=int)
    problems = asyncio.run(soak(parser.parse_args()))
    for problem in problems[:20]:
        print(problem, file=sys.stderr)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
