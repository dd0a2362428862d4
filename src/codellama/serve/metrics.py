"""Prometheus metrics: vLLM's names and meanings, with llama.cpp's as aliases.

Counted where deltas pass by (`observe`); gauges are read from the models when asked for. Label
values are bounded: models by their names, paths by the routes' own patterns.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest

from codellama.serve.jobs import Delta, Job

__all__ = ["Metrics"]

_TTFT = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ITL = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """One registry per server, so that tests and several servers in a process do not collide."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        self.requests = counter("codellama:http_requests", "HTTP requests.", "path", "status")
        self.prompt_tokens = counter("vllm:prompt_tokens", "Prompt tokens processed.")
        self.generated = counter("vllm:generation_tokens", "Tokens generated.")
        self.cached = counter("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.")
        self.queried = counter("vllm:prefix_cache_queries", "Prompt tokens looked up in it.")
        self.finished = counter("vllm:request_success", "Finished requests.", "finished_reason")
        self.drafted = counter("vllm:spec_decode_num_draft_tokens", "Drafted tokens.")
        self.accepted = counter("vllm:spec_decode_num_accepted_tokens", "Accepted drafts.")
        self.mask_s = counter("codellama:constraint_seconds", "Time spent making masks.")
        self.masks = counter("codellama:constraint_masks", "Masks made for constrained answers.")
        self.prompt_s = counter("codellama:prompt_seconds", "Time spent in prompts.")
        self.predict_s = counter("codellama:predict_seconds", "Time spent in answers.")

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, buckets=buckets, registry=registry)

        self.ttft = histogram("vllm:time_to_first_token_seconds", "Time to first token.", _TTFT)
        self.itl = histogram(
            "vllm:inter_token_latency_seconds", "Mean time between an answer's tokens.", _ITL
        )
        self.e2e = histogram("vllm:e2e_request_latency_seconds", "Whole request.", _TTFT)

    def observe(self, job: Job, delta: Delta) -> None:
        """Count a finished sample."""
        finish = delta.finish
        if finish is None:
            return
        usage, timings = finish.completion.usage, finish.timings
        if delta.index == 0:
            self.prompt_tokens.inc(usage.prompt_tokens)
            self.queried.inc(usage.prompt_tokens)
            self.cached.inc(usage.cached_tokens)
            self.prompt_s.inc(timings.prompt_s)
            if timings.first_token:
                self.ttft.observe(timings.prompt_s)
        self.generated.inc(usage.completion_tokens)
        if job.left == 0 and (masks := getattr(job.prompt.constraint, "masks", 0)):
            self.masks.inc(masks)
            self.mask_s.inc(getattr(job.prompt.constraint, "seconds", 0.0))
        self.predict_s.inc(timings.predict_s)
        self.drafted.inc(finish.drafted)
        self.accepted.inc(finish.accepted)
        self.finished.labels(finish.completion.finish_reason).inc()
        self.e2e.observe(timings.ended - timings.submitted)
        if usage.completion_tokens > 1:
            self.itl.observe(timings.predict_s / (usage.completion_tokens - 1))

    def text(self, gauges: dict[str, float]) -> bytes:
        """The exposition: counters and histograms, `gauges` as read now, llama.cpp's aliases."""

        def total(metric: Counter) -> float:
            return float(next(iter(metric.collect())).samples[0].value)

        prompt_n, prompt_s = total(self.prompt_tokens), total(self.prompt_s)
        generated, predict_s = total(self.generated), total(self.predict_s)
        aliases = {
            "llamacpp:prompt_tokens_total": prompt_n,
            "llamacpp:prompt_seconds_total": prompt_s,
            "llamacpp:tokens_predicted_total": generated,
            "llamacpp:tokens_predicted_seconds_total": predict_s,
            "llamacpp:prompt_tokens_seconds": prompt_n / prompt_s if prompt_s else 0.0,
            "llamacpp:predicted_tokens_seconds": generated / predict_s if predict_s else 0.0,
        }
        lines = [generate_latest(self.registry).decode()]
        for name, value in {**gauges, **aliases}.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            lines.append(f"# TYPE {name} {kind}\n{name} {value:g}\n")
        return "".join(lines).encode()
