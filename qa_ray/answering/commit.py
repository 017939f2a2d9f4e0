"""Part files -> the results: flat tables of answers and rejects, verified against the input, then published.

Every step can be repeated any number of times: a commit that was killed is done again from the part files by the next
run (output/publish.py).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qa_ray.answering.flatten import Flattened, FlattenSettings, file_name, flatten_parts
from qa_ray.answering.part_files import PartFile, finished_documents, list_parts
from qa_ray.answering.plan import Plan
from qa_ray.errors import JobError
from qa_ray.io.id_hashes import hash_ids, is_in
from qa_ray.io.row_checks import NOT_RETRIED, unknown_document
from qa_ray.io.storage import join, open_filesystem
from qa_ray.log import LOG
from qa_ray.output.folder import OutputFolder
from qa_ray.output.publish import discard, publish, uncommitted
from qa_ray.output.sinks import ROWS_PER_GROUP, ParquetSink, answer_formats, exported_formats
from qa_ray.schemas import REJECTS


def commit(
    plan: Plan, output: OutputFolder, run_metrics: dict[str, Any], known_parts: Sequence[PartFile] = ()
) -> dict[str, Any]:
    """Writes the answers and rejects of all part files, verifies their counts, and publishes; returns the manifest.

    ``known_parts`` need not be listed again; ``run_metrics`` (times, resources, peak memory) go into the manifest.

    Raises:
        JobError: documents, answers and rejects do not add up, or too many rejects (which are kept for inspection).
    """
    documents = plan.documents
    with uncommitted(output):
        parts = list_parts(output.parts, documents.id_column, documents.hash_key, known_parts)
        LOG.info(
            "committing %d documents from %d part files, with %d answers of earlier runs",
            sum(len(part.hashes) for part in parts),
            len(parts),
            sum(len(part.reused) for part in parts),
        )
        flattened = flatten_parts(flatten_settings(plan, output, plan.config.export), parts, 0, plan.previous)
        if flattened.counts["documents"] == documents.num_documents:
            _add_rejects(output, flattened, _unknown_documents(plan, finished_documents(parts)))
        _verify_counts(flattened.counts, documents.num_documents, plan.num_pairs)
        _check_rejects(output, flattened, plan.config.limits.max_rejected_fraction)
        manifest = {
            "identity": output.identity,
            "counts": {**flattened.counts, "rejects_by_reason": dict(flattened.rejects_by_reason)},
            "files": flattened.files,
            "previous": list(plan.previous.outputs),
            **run_metrics,
        }
        return publish(output, manifest)


def commit_retry(plan: Plan, output: OutputFolder, run_metrics: dict[str, Any]) -> dict[str, Any]:
    """Adds the answers to retried questions, and keeps the others as rejects; returns the new manifest.

    The answers that are there are not rewritten. New ones are added in every format that the output was exported to.

    Raises:
        JobError: answers and rejects do not add up.
    """
    manifest = output.manifest()
    with uncommitted(output):
        parts = list_parts(output.parts, plan.documents.id_column, plan.documents.hash_key)
        settings = flatten_settings(plan, output, exported_formats(manifest))
        flattened = flatten_parts(settings, parts, first_number=_next_number(manifest))
        added = flattened.counts["answers"]
        if added + flattened.counts["rejects"] != plan.num_pairs:
            raise JobError(
                f"{plan.num_pairs} rejects were retried, and {added} answers and {flattened.counts['rejects']} rejects "
                "came out; nothing was changed: run the same command again"
            )
        rejects = read_rejects(output, manifest)
        _add_rejects(output, flattened, [rejects.filter(pc.field("reason").isin(sorted(NOT_RETRIED)))])
        counts = manifest["counts"]
        files = {folder: manifest["files"][folder] + flattened.files[folder] for folder in settings.formats}
        return publish(
            output,
            {
                **manifest,
                "counts": counts
                | {name: counts[name] + flattened.counts[name] for name in ("answers", "windows")}
                | {
                    "rejects": flattened.counts["rejects"],
                    "rejects_by_reason": dict(flattened.rejects_by_reason),
                },
                "files": files | {"rejects": flattened.files["rejects"]},
                "retries": [*manifest.get("retries", []), {"run_id": output.run_id, **run_metrics, "answers": added}],
            },
        )


def read_rejects(output: OutputFolder, manifest: dict[str, Any]) -> pa.Table:
    """The rejects that the manifest names."""
    tables = [pa.Table.from_pylist([], REJECTS)]
    for file in manifest["files"]["rejects"]:
        filesystem, path = open_filesystem(join(output.uri, "rejects", file["name"]))
        with filesystem.open(path, "rb") as opened:
            tables.append(pq.read_table(opened))
    return pa.concat_tables(tables)


def flatten_settings(plan: Plan, output: OutputFolder, exports: Iterable[str]) -> FlattenSettings:
    """What the tasks of a commit need of plan and output."""
    return FlattenSettings(
        storage=plan.config.storage.model_dump(),
        parts=output.parts,
        output=output.uri,
        attempt=output.attempt,
        formats=answer_formats(exports),
        id_column=plan.documents.id_column,
        model_fingerprint=output.identity["model"],
        run_id=output.run_id,
    )


def _next_number(manifest: dict[str, Any]) -> int:
    """The number of the next data file: those of the manifest are numbered from 0, with gaps where one had no rows."""
    names = [file["name"] for files in manifest["files"].values() for file in files]
    return max((int(name.split("-")[1]) for name in names), default=-1) + 1


def _add_rejects(output: OutputFolder, flattened: Flattened, tables: Iterable[pa.Table]) -> None:
    """Adds a file of further rejects, which no part file has."""
    sink = ParquetSink(join(output.uri, "rejects"), f"{file_name(0, output.attempt)}-more")
    for table in tables:
        sink.write(table)
        flattened.rejects_by_reason.update(table["reason"].to_pylist())
    flattened.counts["rejects"] += sink.num_rows
    flattened.files["rejects"] += sink.close()


def _unknown_documents(plan: Plan, finished: np.ndarray) -> Iterator[pa.Table]:
    """The rejects of the bound questions whose document does not exist; ``finished`` are all documents' id hashes."""
    rows = []
    for document_id, question_id in plan.questions.bound(~_has_document(plan, finished)):
        rows.append(unknown_document(document_id, question_id))
        if len(rows) == ROWS_PER_GROUP:
            yield pa.Table.from_pylist(rows, REJECTS)
            rows = []
    yield pa.Table.from_pylist(rows, REJECTS)


def _has_document(plan: Plan, finished: np.ndarray) -> np.ndarray:
    """Whether the document of each bound question exists, [num_bound] bool."""
    ids = plan.questions.bound_ids.dictionary_encode()
    id_type = plan.documents.schema.field(plan.documents.id_column).type
    if pa.types.is_integer(id_type):  # hashes of documents' ids are those of integers
        bounds = np.iinfo(id_type.to_pandas_dtype())
        numbers = [
            int(id_) if re.fullmatch("0|-?[1-9][0-9]*", id_) and bounds.min <= int(id_) <= bounds.max else None
            for id_ in ids.dictionary.to_pylist()
        ]
        unique = pa.array(numbers, id_type)
        is_id = unique.is_valid().to_numpy(zero_copy_only=False)
        hashes = hash_ids(unique.fill_null(0), plan.documents.hash_key)
    else:
        is_id, hashes = True, hash_ids(ids.dictionary.cast(id_type), plan.documents.hash_key)
    return (is_in(hashes, finished) & is_id)[ids.indices.to_numpy()]


def _verify_counts(counts: Counter[str], num_documents: int, num_pairs: int) -> None:
    if counts["documents"] != num_documents or counts["answers"] + counts["rejects"] != num_pairs:
        raise JobError(
            f"{num_documents} documents and {num_pairs} questions went in, {counts['documents']} documents came "
            f"out with {counts['answers']} answers and {counts['rejects']} rejects; nothing was committed: run the "
            "same command again, and if this repeats, remove the output folder and report it"
        )


def _check_rejects(output: OutputFolder, flattened: Flattened, limit: float) -> None:
    num_rejects = flattened.counts["rejects"]
    num_questions = flattened.counts["answers"] + num_rejects
    if num_rejects <= limit * num_questions:
        return
    discard(output, keep="rejects")
    output.keeps_files = True  # the rejects, which the message names
    reasons = ", ".join(f"{reason} {count}" for reason, count in flattened.rejects_by_reason.most_common(5))
    raise JobError(
        f"{num_rejects} of {num_questions} questions ({num_rejects / num_questions:.1%}) were rejected ({reasons}), "
        f"more than limits.max_rejected_fraction={limit}; see {join(output.uri, 'rejects', f'*-{output.attempt}*')!r}; "
        "raise the limit and run the same command again, which computes nothing twice; or fix the input and give "
        "another output, because another input is another run"
    )
