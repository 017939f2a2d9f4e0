"""Answers -> parts, then the commit: flat tables, manifest, and ``_SUCCESS`` last.

    OUTPUT/
      _run/identity.json     what this run is: inputs, model, settings; another one is refused
      _run/parts/            one row per document, written by the run's tasks
      _run/checkpoint/       Ray's record of the documents that are done
      answers/*.parquet      one row per (document, question)
      rejects/*.parquet      what could not be answered, and why (absent if all could)
      manifest.json          files, rows, settings, fingerprints
      _SUCCESS               the results are whole; ``_run`` is gone

Everything up to ``_SUCCESS`` may be done again, any number of times. Readers go by ``_SUCCESS``.
"""

import fcntl
import json
import os
import posixpath
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from io import FileIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qa_ray.documents import Questions, reject
from qa_ray.errors import JobError, OutputError
from qa_ray.records import ANSWER, REJECT, REJECTS, flat
from qa_ray.storage import is_local, join, open_filesystem, read_text, remove_folder, write_text, writing
from qa_ray.tables import ParquetFolder

ROWS_PER_FILE = 1_000_000  # some 500 MB of answers with five n-best entries each
ROWS_PER_GROUP = 20_000
DOCUMENTS_PER_BATCH = 64
OURS = {"_run", "_SUCCESS", "answers", "rejects", "manifest.json", "run.log"}


@dataclass
class Output:
    """An output folder that belongs to this run."""

    uri: str
    identity: dict[str, Any]
    finished: bool
    resumed: bool
    _lock: FileIO | None = field(default=None, repr=False)

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Lets another run have the folder."""
        if self._lock:
            self._lock.close()

    @property
    def parts(self) -> str:
        """Where the tasks write, one row per document."""
        return join(self.uri, "_run", "parts")

    @property
    def checkpoint(self) -> str:
        """Where Ray notes the documents that are done."""
        return join(self.uri, "_run", "checkpoint")

    def manifest(self) -> dict[str, Any]:
        """The manifest of a finished run."""
        return json.loads(read_text(join(self.uri, "manifest.json")) or "{}")


def look(uri: str, identity: dict[str, Any]) -> Output:
    """What stands at ``uri``, changing nothing.

    Raises:
        OutputError: files that are not ours, or another run; the settings that differ are named.
    """
    if "?" in uri:  # Ray would take what follows for a query, and find nothing to resume
        raise OutputError(f"output: {uri!r} has a question mark in its name; give another folder with output=…")
    filesystem, path = open_filesystem(uri)
    with writing(uri):
        found = filesystem.ls(path, detail=False) if filesystem.isdir(path) else []
    names = {posixpath.basename(str(name)) for name in found}
    if filesystem.isfile(path):
        raise OutputError(f"output: {uri!r} is a file; give a folder with output=…")
    if strangers := sorted(names - OURS):
        raise OutputError(
            f"output: {uri!r} holds {strangers[0]!r}, which no run wrote; give an empty or new folder with output=…"
        )
    finished = "_SUCCESS" in names
    if finished:
        earlier = _read_json(join(uri, "manifest.json")).get("identity", {})
    else:
        earlier = _read_json(join(uri, "_run", "identity.json"))
    if not earlier and names & {"answers", "rejects", "manifest.json", "_SUCCESS"}:
        raise OutputError(
            f"output: {uri!r} holds answers of an unknown run; give a new folder with output=… or remove them"
        )
    if earlier and (differences := _differences(earlier, identity)):
        raise OutputError(
            f"output: {uri!r} holds another run, which differs in {'; '.join(differences)}; "
            "give a new folder with output=… or remove this one"
        )
    return Output(uri, identity, finished, resumed=bool(earlier) and not finished)


def claim(uri: str, identity: dict[str, Any]) -> Output:
    """The output folder ``uri`` for this run: new, to be resumed, or finished already. A live run's stays its own.

    Raises:
        OutputError: as ``look``; not writable; or a live run on this machine holds it.
    """
    output = look(uri, identity)
    if output.finished:
        return output
    with ExitStack() as stack:
        lock = stack.enter_context(_open_lock(uri)) if is_local(uri) else None
        if lock:
            _take(lock, uri)
        output = look(uri, identity)  # once more, now that no other run changes it
        if not output.resumed and not output.finished:
            write_text(join(uri, "_run", "identity.json"), json.dumps(identity, indent=2, ensure_ascii=False))
        stack.pop_all()
        return replace(output, _lock=lock)


def _read_json(uri: str) -> dict[str, Any]:
    """The object in the file ``uri``; none if the file is missing or was not written to its end."""
    try:
        return json.loads(read_text(uri) or "{}")
    except ValueError:
        return {}


def check_writable(uri: str) -> None:
    """Raises an OutputError if nothing can be written at ``uri``; leaves nothing behind."""
    filesystem, path = open_filesystem(uri)
    new = [folder for folder in (f"{path}/_run", path) if not filesystem.isdir(folder)]
    write_text(join(uri, "_run", "probe"), "")
    filesystem.rm(f"{path}/_run/probe")
    for folder in new if is_local(uri) else []:
        filesystem.rmdir(folder)


def _open_lock(uri: str) -> FileIO:
    filesystem, path = open_filesystem(join(uri, "_run", "lock"))
    with writing(uri):
        filesystem.makedirs(posixpath.dirname(path), exist_ok=True)
        return FileIO(path, "a+")


def _take(lock: FileIO, uri: str) -> None:
    """Takes a lock that ends with this process, however it ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with writing(uri):
            lock.truncate(0)
            lock.write(str(os.getpid()).encode())
    except BlockingIOError as error:
        lock.seek(0)
        raise OutputError(
            f"output: {uri!r} is being written by a live run (process {lock.read().decode() or 'unknown'}); "
            "wait for it, or give another folder with output=…"
        ) from error


def _differences(earlier: dict[str, Any], identity: dict[str, Any]) -> list[str]:
    return [
        f"{key} ({_short(earlier.get(key))} there, {_short(identity.get(key))} now)"
        for key in sorted(earlier.keys() | identity.keys())
        if earlier.get(key) != identity.get(key)
    ]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:16] + "…"


def commit(
    output: Output,
    *,
    questions: Questions,
    num_documents: int,
    id_column: str,
    max_rejected_fraction: float,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Flattens the parts into the results, verifies the counts, and marks the run as done; returns the manifest.

    ``facts`` go into the manifest as they are (settings, times, peak memory).

    Raises:
        JobError: documents, answers and rejects do not add up, or too many rejects (they stay to be looked at).
    """
    answers, rejects = _results(join(output.uri, "answers")), _results(join(output.uri, "rejects"))
    reached = np.zeros(questions.num_bound, dtype=bool)
    totals: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    fingerprint = output.identity["model"]
    for part in _part_batches(output):
        totals.update(
            documents=part.num_rows,
            windows=int(part["num_windows"].to_numpy().sum()),
            tokens=int(part["num_tokens"].to_numpy().sum()),
        )
        for document_id in part[id_column].to_pylist():
            rows = questions.rows_of(str(document_id))
            if reached[rows].any():
                raise JobError(f"document {document_id!r} was answered twice; remove {output.uri!r} and run again")
            reached[rows] = True
        answers.write(_flatten(part, "answers", ANSWER, id_column, fingerprint))
        rejects.write(rejected := _flatten(part, "rejects", REJECT, id_column))
        reasons.update(rejected["reason"].to_pylist())
    for unknown in _unknown_documents(questions, ~reached):
        rejects.write(unknown)
        reasons.update(unknown["reason"].to_pylist())
    answers.close()
    rejects.close()
    _verify(answers, rejects, totals["documents"], num_documents, questions)
    _check_rejects(answers, rejects, reasons, max_rejected_fraction)
    manifest = {
        "identity": output.identity,
        "counts": {
            **totals,
            "answers": answers.num_rows,
            "rejects": rejects.num_rows,
            "rejects_by_reason": dict(reasons),
        },
        "files": {"answers": answers.files, "rejects": rejects.files},
        **facts,
    }
    write_text(join(output.uri, "manifest.json"), json.dumps(manifest, indent=2, ensure_ascii=False))
    write_text(join(output.uri, "_SUCCESS"), "")
    output.release()
    remove_folder(join(output.uri, "_run"))
    return manifest


def _results(uri: str) -> ParquetFolder:
    """A folder for results, without those of a commit that was killed."""
    remove_folder(uri)
    return ParquetFolder(uri, max_group_rows=ROWS_PER_GROUP, max_file_rows=ROWS_PER_FILE)


def _part_batches(output: Output) -> Iterator[pa.Table]:
    filesystem, path = open_filesystem(output.parts)
    for name in sorted(str(name) for name in filesystem.find(path)) if filesystem.isdir(path) else []:
        with filesystem.open(name, "rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(DOCUMENTS_PER_BATCH):
                yield pa.Table.from_batches([batch])


def _flatten(
    part: pa.Table, column: str, struct: pa.StructType, id_column: str, model_fingerprint: str | None = None
) -> pa.Table:
    """One row per entry of the list ``column``, behind its document's id; answers are followed by its other columns."""
    lists = part[column].combine_chunks()
    parents, entries = lists.value_parent_indices(), lists.flatten()
    schema = flat(struct)
    document_ids = part[id_column].cast(pa.string()).take(parents)
    arrays = [
        document_ids,
        *(entries.field(name).cast(schema.field(name).type) for name in schema.names[1:]),
    ]
    table = pa.table(arrays, schema=schema)
    if model_fingerprint is None:
        return table
    table = table.append_column("model_fingerprint", pa.array([model_fingerprint] * table.num_rows, pa.string()))
    for name in part.schema.names:
        if name not in (id_column, "answers", "rejects", "num_tokens", "num_windows"):
            table = table.append_column(part.schema.field(name), part[name].take(parents))
    return table


def _unknown_documents(questions: Questions, missed: np.ndarray) -> Iterator[pa.Table]:
    rows = []
    for document_id, question_id in questions.bound(missed):
        detail = f"question {question_id!r} is bound to document {document_id!r}, which is not among the documents"
        rows.append({"document_id": document_id} | reject(question_id, "documents", "unknown_document", detail))
        if len(rows) == ROWS_PER_GROUP:
            yield pa.Table.from_pylist(rows, REJECTS)
            rows = []
    yield pa.Table.from_pylist(rows, REJECTS)


def _verify(
    answers: ParquetFolder, rejects: ParquetFolder, documents_out: int, documents_in: int, questions: Questions
) -> None:
    expected = questions.num_bound + len(questions.to_all) * documents_in
    if documents_out != documents_in or answers.num_rows + rejects.num_rows != expected:
        raise JobError(
            f"{documents_in} documents and {expected} questions went in, {documents_out} documents came out with "
            f"{answers.num_rows} answers and {rejects.num_rows} rejects; nothing was committed: start the job again, "
            "and if it stays so, remove the output and report it"
        )


def _check_rejects(answers: ParquetFolder, rejects: ParquetFolder, reasons: Counter[str], limit: float) -> None:
    fraction = rejects.num_rows / max(1, answers.num_rows + rejects.num_rows)
    if fraction > limit:
        remove_folder(answers.uri)
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(5))
        raise JobError(
            f"{rejects.num_rows} of {answers.num_rows + rejects.num_rows} questions ({fraction:.1%}) were rejected "
            f"({counts}), more than limits.max_rejected_fraction={limit}; look at "
            f"{rejects.uri!r}, then mend the input or raise the limit and start again: nothing is computed twice"
        )
