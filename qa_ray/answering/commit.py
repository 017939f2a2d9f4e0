"""Part files -> the results: flat tables of answers and rejects, verified, then the manifest and ``_SUCCESS``.

Every step before ``_SUCCESS`` can be repeated any number of times: a commit that was killed is done again from the part
files by the next run.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from qa_ray.answering.part_files import read_parts
from qa_ray.errors import JobError
from qa_ray.io.parquet_writer import ParquetFolderWriter
from qa_ray.io.question_table import QuestionTable
from qa_ray.io.row_checks import unknown_document
from qa_ray.io.storage import join, remove_folder
from qa_ray.output.folder import OutputFolder
from qa_ray.output.publish import publish
from qa_ray.output.sinks import ROWS_PER_GROUP, AnswerSinks, parquet_sink, remove_answers
from qa_ray.schemas import ANSWER, REJECT, REJECTS, flat


def commit(
    output: OutputFolder,
    *,
    questions: QuestionTable,
    num_documents: int,
    id_column: str,
    max_rejected_fraction: float,
    export: Iterable[str] = (),
    run_metrics: dict[str, Any],
) -> dict[str, Any]:
    """Writes the answers and rejects of all part files, verifies their counts, and publishes; returns the manifest.

    ``export`` names formats of output/sinks.py; ``run_metrics`` (times, resources, peak memory) go into the manifest.

    Raises:
        JobError: documents, answers and rejects do not add up, or too many rejects (which are kept for inspection).
    """
    remove_answers(output.uri)
    remove_folder(join(output.uri, "rejects"))
    answers, rejects = AnswerSinks(output.uri, export), parquet_sink(join(output.uri, "rejects"))
    is_answerable = np.zeros(questions.num_bound, dtype=bool)  # the bound questions whose documents exist
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
            is_answerable[questions.rows_of(str(document_id))] = True
        answers.write(flatten(part, "answers", ANSWER, id_column, fingerprint))
        rejects.write(part_rejects := flatten(part, "rejects", REJECT, id_column))
        reasons.update(part_rejects["reason"].to_pylist())
    for table in _unknown_documents(questions, ~is_answerable):
        rejects.write(table)
        reasons.update(table["reason"].to_pylist())
    answers.close()
    rejects.close()
    _verify_counts(answers, rejects, totals["documents"], num_documents, questions)
    _check_rejects(output, answers, rejects, reasons, max_rejected_fraction)
    manifest = {
        "identity": output.identity,
        "counts": {
            **totals,
            "answers": answers.num_rows,
            "rejects": rejects.num_rows,
            "rejects_by_reason": dict(reasons),
        },
        "files": {**answers.files, "rejects": rejects.files},
        **run_metrics,
    }
    return publish(output, manifest)


def flatten(
    part: pa.Table, column: str, struct: pa.StructType, id_column: str, model_fingerprint: str | None = None
) -> pa.Table:
    """One row per entry of the list ``column``: the document's id, then the fields of ``struct``.

    With a ``model_fingerprint``, that and the passed-through columns follow.
    """
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


def _unknown_documents(questions: QuestionTable, is_unknown: np.ndarray) -> Iterator[pa.Table]:
    """The rejects of the bound questions whose document does not exist."""
    rows = []
    for document_id, question_id in questions.bound(is_unknown):
        rows.append(unknown_document(document_id, question_id))
        if len(rows) == ROWS_PER_GROUP:
            yield pa.Table.from_pylist(rows, REJECTS)
            rows = []
    yield pa.Table.from_pylist(rows, REJECTS)


def _verify_counts(
    answers: AnswerSinks,
    rejects: ParquetFolderWriter,
    num_documents_out: int,
    num_documents_in: int,
    questions: QuestionTable,
) -> None:
    num_questions = questions.num_bound + len(questions.to_all) * num_documents_in
    if num_documents_out != num_documents_in or answers.num_rows + rejects.num_rows != num_questions:
        raise JobError(
            f"{num_documents_in} documents and {num_questions} questions went in, {num_documents_out} documents came "
            f"out with {answers.num_rows} answers and {rejects.num_rows} rejects; nothing was committed: run the same "
            "command again, and if this repeats, remove the output folder and report it"
        )


def _check_rejects(
    output: OutputFolder, answers: AnswerSinks, rejects: ParquetFolderWriter, reasons: Counter[str], limit: float
) -> None:
    fraction = rejects.num_rows / max(1, answers.num_rows + rejects.num_rows)
    if fraction > limit:
        remove_answers(output.uri)
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(5))
        raise JobError(
            f"{rejects.num_rows} of {answers.num_rows + rejects.num_rows} questions ({fraction:.1%}) were rejected "
            f"({counts}), more than limits.max_rejected_fraction={limit}; see "
            f"{rejects.uri!r}, then fix the input or raise the limit and run the same command again: nothing is "
            "computed twice"
        )
