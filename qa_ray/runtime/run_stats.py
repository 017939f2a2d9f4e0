"""Run statistics: what all actors of a run report, summed for the progress line, the run report and Prometheus.

Prometheus exports COUNTERS as ``ray_qa_<name>_total``, and ``ray_qa_documents_waiting``. Labels are a stage, a worker
or a reason, never an id or a text: anyone who can reach the metrics port can read them.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.util import metrics

from qa_ray.schemas import BatchSize

COUNTERS = {
    "documents": "documents finished",
    "windows": "windows computed by the model",
    "windows_left_out": "windows that were not read, because windows.read chose others",
    "tokens": "tokens computed by the model, without padding",
    "computed_tokens": "tokens computed by the model, with padding",
    "answers": "questions answered, null answers included",
    "rejects": "questions rejected",
    "seconds": "busy time of the actors",
    "oom_retries": "batches halved and retried because they did not fit into memory",
}
LABELS = {"rejects": ("reason",), "seconds": ("stage", "worker")}


@dataclass
class Counts:
    """Documents finished in all runs; all else is of this run."""

    documents: int = 0
    documents_waiting: int = 0  # tokenized, not answered yet
    windows: int = 0
    windows_left_out: int = 0  # of the documents answered, not read
    tokens: int = 0
    computed_tokens: int = 0  # with padding
    answers: int = 0
    rejects: Counter[str] = field(default_factory=Counter)  # by reason
    seconds: dict[str, float] = field(default_factory=dict)  # by stage, summed over actors
    busy_share: dict[str, float] = field(default_factory=dict)  # by actor, of the time since it started
    oom_retries: int = 0  # batches that did not fit into memory
    stuck_reads: list[str] = field(default_factory=list)  # the places of documents that could not be read in time
    batch_tokens: int = 0  # the smallest limit of any actor
    peak_actor_bytes: int = 0  # of the actor that used most
    timed_windows: int = 0  # all but the first batch
    timed_seconds: float = 0.0  # from the end of the first batch to the end of the last

    @property
    def windows_per_second(self) -> float:
        """Throughput from the first batch on, so without starting Ray and loading the model."""
        return self.timed_windows / self.timed_seconds if self.timed_seconds else 0.0

    @property
    def padding_fraction(self) -> float:
        """The share of padding in computed tokens."""
        return 1 - self.tokens / self.computed_tokens if self.computed_tokens else 0.0


@dataclass
class _Worker:
    """When an actor started, on the monotonic clock, and how long it was busy."""

    started: float
    busy_seconds: float = 0.0


class RunStats:
    """An actor that all others report to; the driver polls ``counts``, the actors poll ``abort_reason``."""

    def __init__(self, finished_documents: int, num_pairs: int, max_rejected_fraction: float, max_rejects: int):
        self._counts = Counts(documents=finished_documents)
        self._num_pairs, self._limit, self._max_rejects = num_pairs, max_rejected_fraction, max_rejects
        self._workers: dict[str, _Worker] = {}
        self._last_detail = ""
        self._first_batch_at: float | None = None
        self._metrics = _Metrics()

    def register(self, stage: str) -> str:
        """A unique name for a new actor of this stage, such as ``answer-1``."""
        name = f"{stage}-{1 + sum(name.startswith(f'{stage}-') for name in self._workers)}"
        self._workers[name] = _Worker(time.monotonic())
        return name

    def add_batch(self, size: BatchSize) -> None:
        """Adds a batch that the model computed."""
        counts = self._counts
        counts.windows += size.num_windows
        counts.tokens += size.num_tokens
        counts.computed_tokens += size.num_computed
        counts.batch_tokens = min(counts.batch_tokens or size.batch_tokens, size.batch_tokens)
        counts.oom_retries += size.oom_retries
        if self._first_batch_at is None:
            self._first_batch_at = time.monotonic()
        else:
            counts.timed_windows += size.num_windows
            counts.timed_seconds = time.monotonic() - self._first_batch_at
        self._metrics.add("windows", size.num_windows)
        self._metrics.add("tokens", size.num_tokens)
        self._metrics.add("computed_tokens", size.num_computed)
        self._metrics.add("oom_retries", size.oom_retries)

    def add_tokenized(self, worker: str, documents: int, seconds: Mapping[str, float]) -> None:
        """Adds a tokenized block, which now waits for the model; ``seconds`` are by stage."""
        self._counts.documents_waiting += documents
        self._metrics.documents_waiting.set(self._counts.documents_waiting)
        self._add_seconds(worker, seconds)

    def add_block(
        self,
        worker: str,
        documents: int,
        answers: int,
        windows_left_out: int,
        rejects: list[dict[str, Any]],
        seconds: Mapping[str, float],
        peak_bytes: int,
    ) -> None:
        """Adds a finished block; ``rejects`` have the fields of schemas.REJECT, ``seconds`` are by stage."""
        counts = self._counts
        counts.documents += documents
        # A block that is answered again after its actor died was tokenized only once.
        counts.documents_waiting = max(0, counts.documents_waiting - documents)
        counts.answers += answers
        counts.windows_left_out += windows_left_out
        counts.peak_actor_bytes = max(counts.peak_actor_bytes, peak_bytes)
        reasons = Counter(row["reason"] for row in rejects)
        counts.rejects.update(reasons)
        self._last_detail = rejects[-1]["detail"] if rejects else self._last_detail
        self._metrics.add("documents", documents)
        self._metrics.add("answers", answers)
        self._metrics.add("windows_left_out", windows_left_out)
        for reason, count in reasons.items():
            self._metrics.add("rejects", count, reason=reason)
        self._metrics.documents_waiting.set(counts.documents_waiting)
        self._add_seconds(worker, seconds)

    def add_stuck_read(self, place: str) -> None:
        """Adds the place of documents that a read task gave up."""
        self._counts.stuck_reads.append(place)

    def counts(self) -> Counts:
        """The sums over all blocks so far."""
        now = time.monotonic()
        self._counts.busy_share = {
            name: round(worker.busy_seconds / max(now - worker.started, 1e-9), 3)
            for name, worker in self._workers.items()
        }
        return self._counts

    def abort_reason(self) -> str | None:
        """Why the job should stop now: it has more rejects than its limit allows; None while it is within the limit."""
        num_rejects = self._counts.rejects.total()
        if num_rejects <= self._max_rejects:
            return None
        reasons = ", ".join(f"{reason} {count}" for reason, count in self._counts.rejects.most_common(5))
        return (
            f"{num_rejects} of {self._num_pairs} questions were rejected already ({reasons}), more than "
            f"limits.max_rejected_fraction={self._limit}; the last one: {self._last_detail}; raise the limit "
            "and run the same command again: finished documents are kept; or fix the input and give a new output "
            "folder, because another input is another run"
        )

    def _add_seconds(self, worker: str, seconds: Mapping[str, float]) -> None:
        for stage, spent in seconds.items():
            self._counts.seconds[stage] = self._counts.seconds.get(stage, 0.0) + spent
            self._workers[worker].busy_seconds += spent
            self._metrics.add("seconds", spent, stage=stage, worker=worker)


class _Metrics:
    """The same numbers for Prometheus; Ray's counters refuse an increment of 0."""

    def __init__(self):
        self._counters = {
            name: metrics.Counter(f"qa_{name}", description, LABELS.get(name)) for name, description in COUNTERS.items()
        }
        self.documents_waiting = metrics.Gauge("qa_documents_waiting", "documents tokenized, not answered yet")

    def add(self, name: str, value: float, **labels: str) -> None:
        if value:
            self._counters[name].inc(value, labels)
