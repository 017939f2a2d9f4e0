"""Parts -> the results: flat tables of answers and rejects, verified, the manifest, and ``_SUCCESS`` last.

Everything up to ``_SUCCESS`` may be done again, any number of times. Readers go by ``_SUCCESS``: until it stands,
nothing is promised. It is written only by the run that holds the claim, and only if there is none.
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from qa_ray.answering.part_files import read_parts
from qa_ray.errors import JobError, OutputError
from qa_ray.io.parquet_writer import ParquetFolderWriter
from qa_ray.io.question_table import QuestionTable
from qa_ray.io.row_checks import unknown_document
from qa_ray.io.storage import create_text, join, remove_folder, write_text
from qa_ray.output.folder import OutputFolder
from qa_ray.schemas import ANSWER, REJECT, REJECTS, flat

ROWS_PER_FILE = 1_000_000  # some 500 MB of answers with five n-best entries each
ROWS_PER_GROUP = 20_000


def commit(
    output: OutputFolder,
    *,
    questions: QuestionTable,
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
    for part in read_parts(output.parts, id_column):
        totals.update(
            documents=part.num_rows,
            windows=int(part["num_windows"].to_numpy().sum()),
            tokens=int(part["num_tokens"].to_numpy().sum()),
        )
        for document_id in part[id_column].to_pylist():
            reached[questions.rows_of(str(document_id))] = True
        answers.write(flatten(part, "answers", ANSWER, id_column, fingerprint))
        rejects.write(rejected := flatten(part, "rejects", REJECT, id_column))
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
    output.check()
    write_text(join(output.uri, "manifest.json"), json.dumps(manifest, indent=2, ensure_ascii=False))
    output.check()
    if output.lease and not create_text(join(output.uri, "_SUCCESS"), output.lease.owner.token):
        raise OutputError(f"output: {output.uri!r} was finished by another run; its results stand")
    output.end()
    return manifest


def _results(uri: str) -> ParquetFolderWriter:
    """A folder for results, without those of a commit that was killed."""
    remove_folder(uri)
    return ParquetFolderWriter(uri, max_group_rows=ROWS_PER_GROUP, max_file_rows=ROWS_PER_FILE)


def flatten(
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


def _unknown_documents(questions: QuestionTable, missed: np.ndarray) -> Iterator[pa.Table]:
    rows = []
    for document_id, question_id in questions.bound(missed):
        rows.append(unknown_document(document_id, question_id))
        if len(rows) == ROWS_PER_GROUP:
            yield pa.Table.from_pylist(rows, REJECTS)
            rows = []
    yield pa.Table.from_pylist(rows, REJECTS)


def _verify(
    answers: ParquetFolderWriter,
    rejects: ParquetFolderWriter,
    documents_out: int,
    documents_in: int,
    questions: QuestionTable,
) -> None:
    expected = questions.num_bound + len(questions.to_all) * documents_in
    if documents_out != documents_in or answers.num_rows + rejects.num_rows != expected:
        raise JobError(
            f"{documents_in} documents and {expected} questions went in, {documents_out} documents came out with "
            f"{answers.num_rows} answers and {rejects.num_rows} rejects; nothing was committed: start the job again, "
            "and if it stays so, remove the output and report it"
        )


def _check_rejects(
    answers: ParquetFolderWriter, rejects: ParquetFolderWriter, reasons: Counter[str], limit: float
) -> None:
    fraction = rejects.num_rows / max(1, answers.num_rows + rejects.num_rows)
    if fraction > limit:
        remove_folder(answers.uri)
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(5))
        raise JobError(
            f"{rejects.num_rows} of {answers.num_rows + rejects.num_rows} questions ({fraction:.1%}) were rejected "
            f"({counts}), more than limits.max_rejected_fraction={limit}; look at "
            f"{rejects.uri!r}, then mend the input or raise the limit and start again: nothing is computed twice"
        )
