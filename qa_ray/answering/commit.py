"""Part files -> the results: flat tables of answers and rejects, verified against the input, then published.

Every step can be repeated any number of times: a commit that was killed is done again from the part files by the next
run (output/publish.py).
"""

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
from qa_ray.io.id_types import common_id_type, id_strings, ids_of_type
from qa_ray.io.row_checks import NOT_RETRIED, unknown_document
from qa_ray.io.storage import join, open_filesystem
from qa_ray.log import LOG
from qa_ray.output.folder import OutputFolder
from qa_ray.output.publish import discard, publish, uncommitted
from qa_ray.output.sinks import ROWS_PER_GROUP, ParquetSink, answer_formats, exported_formats
from qa_ray.schemas import ANSWER, REJECT, REJECTS, flat
from qa_ray.wording import counted


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
        num_reused = sum(len(part.reused) for part in parts)
        LOG.info(
            "committing %s from %s%s",
            counted(sum(len(part.hashes) for part in parts), "document"),
            counted(len(parts), "part file"),
            f", with {counted(num_reused, 'answer')} of earlier runs" if num_reused else "",
        )
        flattened = flatten_parts(flatten_settings(plan, output, plan.config.export), parts, 0, plan.previous)
        if flattened.counts["documents"] == documents.num_documents:
            unknown = _unknown_documents(plan, finished_documents(parts), rejects_schema(plan))
            _add_rejects(output, flattened, unknown)
        _verify_counts(flattened.counts, documents.num_documents, plan.num_pairs)
        _check_rejects(output, flattened, plan)
        manifest = {
            "identity": output.identity,
            "counts": {**flattened.counts, "rejects_by_reason": dict(flattened.rejects_by_reason)},
            "files": flattened.files,
            "inputs": {table: files.as_json() for table, files in plan.inputs.items()},
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
        rejects = with_schema(read_rejects(output, manifest), settings.rejects)
        _add_rejects(output, flattened, [rejects.filter(pc.field("reason").isin(sorted(NOT_RETRIED)))])
        counts = manifest["counts"]
        files = {folder: manifest["files"][folder] + flattened.files[folder] for folder in settings.formats}
        return publish(
            output,
            {
                **manifest,
                "counts": counts
                | {name: counts[name] + flattened.counts[name] for name in ("answers", "windows", "windows_read")}
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
    tables = []
    for file in manifest["files"]["rejects"]:
        filesystem, path = open_filesystem(join(output.uri, "rejects", file["name"]))
        with filesystem.open(path, "rb") as opened:
            tables.append(pq.read_table(opened))
    return pa.concat_tables(tables) if tables else REJECTS.empty_table()


def with_schema(rejects: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rejects with ids of the types of ``schema``."""
    ids = [ids_of_type(id_strings(rejects[name]), schema.field(name).type) for name in schema.names[:2]]
    return pa.table([*ids, *(rejects[name] for name in schema.names[2:])], schema=schema)


def answers_schema(plan: Plan) -> pa.Schema:
    """The first columns of the answers: ids have the types that they have in the input."""
    documents = plan.documents
    question_ids = common_id_type([plan.questions.question_id_type, documents.listed_id_type])
    return flat(ANSWER, documents.id_type, question_ids)


def rejects_schema(plan: Plan) -> pa.Schema:
    """The columns of the rejects, whose documents may also be some that only questions name."""
    answers = answers_schema(plan)
    document_ids = common_id_type([plan.documents.id_type, plan.questions.document_id_type])
    return flat(REJECT, document_ids, answers.field("question_id").type)


def flatten_settings(plan: Plan, output: OutputFolder, exports: Iterable[str]) -> FlattenSettings:
    """What the tasks of a commit need of plan and output."""
    return FlattenSettings(
        storage=plan.config.storage.model_dump(),
        parts=output.parts,
        output=output.uri,
        attempt=output.attempt,
        formats=answer_formats(exports),
        id_column=plan.documents.id_column,
        answers=answers_schema(plan),
        rejects=rejects_schema(plan),
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


def _unknown_documents(plan: Plan, finished: np.ndarray, schema: pa.Schema) -> Iterator[pa.Table]:
    """The rejects of the bound questions whose document does not exist; ``finished`` are all documents' id hashes."""
    rows = []
    for document_id, question_id in plan.questions.bound(~has_document(plan, finished)):
        rows.append(unknown_document(document_id, question_id))
        if len(rows) == ROWS_PER_GROUP:
            yield with_schema(pa.Table.from_pylist(rows, REJECTS), schema)
            rows = []
    yield with_schema(pa.Table.from_pylist(rows, REJECTS), schema)


def has_document(plan: Plan, finished: np.ndarray) -> np.ndarray:
    """Whether the document of each bound question exists, [num_bound] bool."""
    ids = plan.questions.bound_ids.dictionary_encode()
    unique = ids_of_type(ids.dictionary, plan.documents.id_type)
    is_id = unique.is_valid().to_numpy(zero_copy_only=False)
    is_known = np.zeros(len(unique), dtype=bool)
    is_known[is_id] = is_in(hash_ids(unique.drop_null(), plan.documents.hash_key), finished) if is_id.any() else []
    return is_known[ids.indices.to_numpy()]


def _verify_counts(counts: Counter[str], num_documents: int, num_pairs: int) -> None:
    if counts["documents"] != num_documents or counts["answers"] + counts["rejects"] != num_pairs:
        raise JobError(
            f"{num_documents} documents and {num_pairs} questions went in, {counts['documents']} documents came "
            f"out with {counts['answers']} answers and {counts['rejects']} rejects; nothing was committed: run the "
            "same command again, and if this repeats, remove the output folder and report it"
        )


def _check_rejects(output: OutputFolder, flattened: Flattened, plan: Plan) -> None:
    limit, num_rejects = plan.config.limits.max_rejected_fraction, flattened.counts["rejects"]
    num_questions = flattened.counts["answers"] + num_rejects
    if num_rejects <= plan.max_rejects:
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
