"""The figures of an answer run -> ``run.json``, and those that also go into the manifest."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from ray.exceptions import RayError

from qa_ray.errors import OutputError
from qa_ray.io.storage import write_text
from qa_ray.process import peak_bytes
from qa_ray.runtime.run_stats import Counts
from qa_ray.version import VERSION


def run_figures(counts: Counts, resources: Mapping[str, Any]) -> dict[str, Any]:
    """Throughput, padding, batch size, resources and peak memory (MiB) of a run, for run.json and the manifest."""
    return {
        "windows_this_run": counts.windows,
        "windows_left_out": counts.windows_left_out,
        "windows_per_second": round(counts.windows_per_second, 2),
        "padding_fraction": round(counts.padding_fraction, 4),
        "batch_tokens": counts.batch_tokens,
        "resources": dict(resources),
        "peak_memory_mb": {"driver": peak_bytes() // 2**20, "actor": counts.peak_actor_bytes // 2**20},
    }


@contextmanager
def write_run_report(uri: str, poll: Callable[[], Counts], resources: Mapping[str, Any]) -> Iterator[None]:
    """Writes the report of the block to ``uri`` when it ends, whether it succeeds or raises.

    The block ends before the commit: a report of success does not mean that the output is complete, ``_SUCCESS`` does.
    """
    started, outcome = time.time(), "all documents are read"
    try:
        yield
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
        raise
    finally:
        with suppress(RayError, OutputError):  # the block's own error matters more
            counts = poll()
            report = {
                "outcome": outcome,
                "qa_ray": VERSION,
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
                "seconds": round(time.time() - started, 1),
                "documents_done": counts.documents,
                "window_tokens": counts.tokens,
                "answers": counts.answers,
                "rejects_by_reason": dict(counts.rejects),
                "oom_retries": counts.oom_retries,
                "seconds_by_stage": {stage: round(seconds, 2) for stage, seconds in counts.seconds.items()},
                "busy_share": counts.busy_share,
                **run_figures(counts, resources),
            }
            write_text(uri, json.dumps(report, indent=2, ensure_ascii=False))
