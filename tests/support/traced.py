"""The hook for ``ray start --tracing-startup-hook=traced:write_spans``: each process writes its spans to $SPANS."""

import os
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor


def write_spans() -> None:
    file = (Path(os.environ["SPANS"]) / str(os.getpid())).open("w")
    exporter = ConsoleSpanExporter(out=file, formatter=lambda span: span.to_json(indent=None) + "\n")
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
