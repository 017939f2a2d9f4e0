"""Rejects tried again: the rejected questions of a finished output, asked once more, and what came of it put there.

The answers that stand are not touched. New ones come in files of their own, then the manifest that names them, then the
old rejects are removed: killed in between, the same command does it again, with the same files.
"""

import json
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qa_ray.answering.commit import ROWS_PER_FILE, ROWS_PER_GROUP, flatten
from qa_ray.answering.part_files import read_parts
from qa_ray.errors import JobError
from qa_ray.io.document_table import DocumentTable, document_hashes
from qa_ray.io.parquet_writer import ParquetFolderWriter
from qa_ray.io.question_table import QuestionTable, hash_ids
from qa_ray.io.storage import join, open_filesystem, remove_file, write_text
from qa_ray.output.folder import OutputFolder
from qa_ray.schemas import ANSWER, REJECT, REJECTS


def rejected_questions(output: OutputFolder, questions: QuestionTable) -> QuestionTable:
    """The questions of ``output`` that were rejected, each bound to its document; not those to unknown documents."""
    table = _rejects(output)
    table = table.filter(pc.field("reason") != "unknown_document")
    asked: dict[str, dict[str, str | None]] = {}
    rows = []
    for document_id, question_id in zip(table["document_id"].to_pylist(), table["question_id"].to_pylist()):
        if document_id not in asked:
            asked = {document_id: {q.question_id: q.question for q in questions.of(document_id)}}
        rows.append((document_id, question_id, asked[document_id][question_id]))
    columns = [pa.array(column, pa.string()) for column in zip(*rows)] or [pa.array([], pa.string())] * 3
    return QuestionTable(pa.table(columns, ["document_id", "question_id", "question"]))


def documents_without(documents: DocumentTable, questions: QuestionTable) -> np.ndarray:
    """The hashes of the ids of all documents that none of these bound questions is asked of, sorted."""
    hashes = document_hashes(documents)
    ids = pa.array(sorted({document_id for document_id, _ in questions.bound(np.ones(questions.num_bound, bool))}))
    wanted = hash_ids(ids.cast(documents.schema.field(documents.id_column).type)) if len(ids) else []
    return np.setdiff1d(hashes, wanted)


def commit_retry(
    output: OutputFolder, questions: QuestionTable, id_column: str, facts: dict[str, Any]
) -> dict[str, Any]:
    """Adds the answers to the retried ``questions``, leaves the others as rejects; returns the new manifest.

    Raises:
        JobError: answers and rejects do not add up.
    """
    manifest = output.manifest()
    number = len(manifest.get("retries", [])) + 1
    answers = _folder(output, "answers", number)
    found = [pa.Table.from_pylist([], REJECTS)]
    windows = 0
    for part in read_parts(output.parts, id_column):
        answers.write(flatten(part, "answers", ANSWER, id_column, output.identity["model"]))
        found.append(flatten(part, "rejects", REJECT, id_column))
        windows += int(part["num_windows"].to_numpy().sum())
    answers.close()
    still = pa.concat_tables(found)
    if answers.num_rows + still.num_rows != questions.num_bound:
        raise JobError(
            f"{questions.num_bound} rejects were tried again, and {answers.num_rows} answers and {still.num_rows} "
            "rejects came out; nothing was changed: start the job again"
        )
    unknown = _rejects(output).filter(pc.field("reason") == "unknown_document")
    rejects = _folder(output, "rejects", number)
    rejects.write(pa.concat_tables([still, unknown]))
    rejects.close()
    outdated = [file["name"] for file in manifest["files"]["rejects"]]
    counts = manifest["counts"]
    counts["answers"] += answers.num_rows
    counts["windows"] += windows
    counts["rejects"] = rejects.num_rows
    counts["rejects_by_reason"] = dict(Counter([*still["reason"].to_pylist(), *unknown["reason"].to_pylist()]))
    manifest["files"]["answers"] += answers.files
    manifest["files"]["rejects"] = rejects.files
    manifest["retries"] = [*manifest.get("retries", []), facts | {"answers": answers.num_rows}]
    output.check()
    write_text(join(output.uri, "manifest.json"), json.dumps(manifest, indent=2, ensure_ascii=False))
    for name in outdated:
        remove_file(join(output.uri, "rejects", name))
    output.end()
    return manifest


def _rejects(output: OutputFolder) -> pa.Table:
    tables = [pa.Table.from_pylist([], REJECTS)]
    for file in output.manifest()["files"]["rejects"]:
        filesystem, path = open_filesystem(join(output.uri, "rejects", file["name"]))
        with filesystem.open(path, "rb") as opened:
            tables.append(pq.read_table(opened))
    return pa.concat_tables(tables)


def _folder(output: OutputFolder, name: str, number: int) -> ParquetFolderWriter:
    uri, prefix = join(output.uri, name), f"retry-{number:03}-part"
    return ParquetFolderWriter(uri, prefix=prefix, max_group_rows=ROWS_PER_GROUP, max_file_rows=ROWS_PER_FILE)
