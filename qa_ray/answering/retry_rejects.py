"""Retries the rejected questions of a finished output, and adds what is answered now to its results.

The answers that are there are not rewritten. New answers go to files of their own, then the manifest that names them is
written, then the old reject files are removed: if the retry is killed in between, the same command writes the same
files again.
"""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qa_ray.answering.commit import flatten
from qa_ray.answering.part_files import read_parts
from qa_ray.errors import JobError
from qa_ray.io.document_table import DocumentTable, document_hashes
from qa_ray.io.question_table import QuestionTable, hash_ids
from qa_ray.io.storage import join, open_filesystem, remove_file
from qa_ray.output.folder import OutputFolder
from qa_ray.output.publish import write_manifest
from qa_ray.output.sinks import AnswerSinks, exported_formats, parquet_sink
from qa_ray.schemas import ANSWER, REJECT, REJECTS


def rejected_questions(output: OutputFolder, questions: QuestionTable) -> QuestionTable:
    """The questions that ``output`` rejected, each bound to its document; without those of unknown documents."""
    rejects = _read_rejects(output)
    rejects = rejects.filter(pc.field("reason") != "unknown_document")
    texts_by_id: dict[str, dict[str, str | None]] = {}  # of one document: its rejects are neighbors
    rows = []
    for document_id, question_id in zip(rejects["document_id"].to_pylist(), rejects["question_id"].to_pylist()):
        if document_id not in texts_by_id:
            texts_by_id = {document_id: {q.question_id: q.question for q in questions.of(document_id)}}
        rows.append((document_id, question_id, texts_by_id[document_id][question_id]))
    columns = [pa.array(column, pa.string()) for column in zip(*rows)] or [pa.array([], pa.string())] * 3
    return QuestionTable(pa.table(columns, ["document_id", "question_id", "question"]))


def documents_without(documents: DocumentTable, questions: QuestionTable) -> np.ndarray:
    """The hashes, sorted, of the ids of all documents that none of these bound questions is asked of."""
    hashes = document_hashes(documents)
    ids = pa.array(sorted({document_id for document_id, _ in questions.bound(np.ones(questions.num_bound, bool))}))
    hashes_with = hash_ids(ids.cast(documents.schema.field(documents.id_column).type)) if len(ids) else []
    return np.setdiff1d(hashes, hashes_with)


def commit_retry(
    output: OutputFolder, questions: QuestionTable, id_column: str, run_metrics: dict[str, Any]
) -> dict[str, Any]:
    """Adds the answers to the retried ``questions`` and keeps the others as rejects; returns the new manifest.

    The answers are added in every format that the output was exported to.

    Raises:
        JobError: answers and rejects do not add up.
    """
    manifest = output.manifest()
    prefix = f"retry-{len(manifest.get('retries', [])) + 1:03}-part"
    answers = AnswerSinks(output.uri, exported_formats(manifest), prefix)
    reject_tables = [pa.Table.from_pylist([], REJECTS)]
    num_windows = 0
    for part in read_parts(output.parts, id_column):
        answers.write(flatten(part, "answers", ANSWER, id_column, output.identity["model"]))
        reject_tables.append(flatten(part, "rejects", REJECT, id_column))
        num_windows += int(part["num_windows"].to_numpy().sum())
    answers.close()
    retried_rejects = pa.concat_tables(reject_tables)
    if answers.num_rows + retried_rejects.num_rows != questions.num_bound:
        raise JobError(
            f"{questions.num_bound} rejects were retried, and {answers.num_rows} answers and "
            f"{retried_rejects.num_rows} rejects came out; nothing was changed: run the same command again"
        )
    unknown_documents = _read_rejects(output).filter(pc.field("reason") == "unknown_document")
    rejects = parquet_sink(join(output.uri, "rejects"), prefix)
    all_rejects = pa.concat_tables([retried_rejects, unknown_documents])
    rejects.write(all_rejects)
    rejects.close()
    outdated_files = [file["name"] for file in manifest["files"]["rejects"]]
    counts = manifest["counts"]
    counts["answers"] += answers.num_rows
    counts["windows"] += num_windows
    counts["rejects"] = rejects.num_rows
    counts["rejects_by_reason"] = dict(Counter(all_rejects["reason"].to_pylist()))
    for folder, files in answers.files.items():
        manifest["files"][folder] += files
    manifest["files"]["rejects"] = rejects.files
    manifest["retries"] = [*manifest.get("retries", []), run_metrics | {"answers": answers.num_rows}]
    write_manifest(output, manifest)
    for name in outdated_files:
        remove_file(join(output.uri, "rejects", name))
    output.end()
    return manifest


def _read_rejects(output: OutputFolder) -> pa.Table:
    tables = [pa.Table.from_pylist([], REJECTS)]
    for file in output.manifest()["files"]["rejects"]:
        filesystem, path = open_filesystem(join(output.uri, "rejects", file["name"]))
        with filesystem.open(path, "rb") as opened:
            tables.append(pq.read_table(opened))
    return pa.concat_tables(tables)
