"""What the server counts, for Prometheus; `GET /metrics` prints it. No path, name or text of a client is a label."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        of: Any = {"registry": self.registry}
        self.requests = Counter("omni_requests", "Requests answered.", ["route", "code"], **of)
        self.errors = Counter("omni_errors", "Requests refused, by the code of the error.", ["code"], **of)
        self.cancelled = Counter("omni_cancelled", "Answers given up because the client had gone.", **of)
        self.queue = Gauge("omni_queue_depth", "Requests that wait for a row.", **of)
        self.running = Gauge("omni_running", "Answers being written.", **of)
        self.first = Histogram(
            "omni_time_to_first_token_seconds", "From request to first token.", buckets=SECONDS, **of
        )
        self.whole = Histogram("omni_request_seconds", "From request to the whole answer.", buckets=SECONDS, **of)
        self.prompt_tokens = Counter("omni_prompt_tokens", "Tokens of prompts.", **of)
        self.reused_tokens = Counter("omni_reused_tokens", "Tokens of prompts that were not run again.", **of)
        self.written_tokens = Counter("omni_generation_tokens", "Tokens written.", **of)
        self.steps = Counter("omni_steps", "Steps of the model; tokens by steps is the mean batch.", **of)
        self.clips = Counter("omni_clips_encoded", "Clips that went through the towers.", **of)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)
