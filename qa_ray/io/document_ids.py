"""The ids of all documents: checked, hashed, and with the number of questions in their lists, files side by side."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from qa_ray.errors import InputError
from qa_ray.io.id_hashes import HASH_KEYS, hash_ids, is_in
from qa_ray.io.question_lists import VALUES_PER_BATCH, QuestionLists, list_leaves, num_listed, rows_per_batch
from qa_ray.io.storage import open_filesystem, open_parquet
from qa_ray.io.storage_errors import reading
from qa_ray.io.table_columns import TableColumns
from qa_ray.io.table_files import LISTING_THREADS

STREAMED_BYTES = 16_000_000  # a larger part of a file is not read at once


class IdBatch(NamedTuple):
    """Ids of documents, valid and not null, and the number of questions in their lists."""

    ids: pa.Array
    num_listed: int


def check_ids(uri: str, paths: Sequence[str], ids: TableColumns, lists: QuestionLists | None) -> tuple[str, int]:
    """The first of HASH_KEYS under which all ids have hashes of their own, and the number of questions in all lists.

    ``ids`` is the column of ids alone.

    Raises:
        InputError: a null or duplicate id.
    """
    for key in HASH_KEYS:
        scanned = _scan(uri, paths, ids, key, lists)
        hashes = np.sort(np.concatenate([hashes for hashes, _ in scanned]))
        candidates = hashes[1:][hashes[1:] == hashes[:-1]]
        if not len(candidates):
            return key, sum(num_questions for _, num_questions in scanned)
        paths_with = [path for path, (hashes, _) in zip(paths, scanned) if is_in(hashes, candidates).any()]
        _check_candidates(uri, paths_with, ids, key, candidates)
    raise AssertionError(f"the ids of {uri!r} collide under each of {len(HASH_KEYS)} keys")


def hashes_by_file(uri: str, paths: Sequence[str], ids: TableColumns, key: str) -> list[np.ndarray]:
    """The hashes of the ids of each file, in the order of its rows."""
    return [hashes for hashes, _ in _scan(uri, paths, ids, key)]


def _check_candidates(uri: str, paths: Sequence[str], columns: TableColumns, key: str, candidates: np.ndarray) -> None:
    """Raises an InputError if two ids with one of these hashes are equal."""
    seen: dict[Any, str] = {}
    for path in paths:
        for ids, _ in _id_batches(uri, path, columns):
            for id_ in ids.filter(pa.array(is_in(hash_ids(ids, key), candidates))).to_pylist():
                if id_ in seen:
                    raise InputError(
                        f"documents: document_id {id_!r} occurs twice, in {seen[id_]!r} and in {path!r}; "
                        "ids must be unique: drop or rename one of them"
                    )
                seen[id_] = path


def _scan(
    uri: str, paths: Sequence[str], columns: TableColumns, key: str, lists: QuestionLists | None = None
) -> list[tuple[np.ndarray, int]]:
    """For each file, the hashes of its ids and the number of questions in its lists."""

    def scan(path: str) -> tuple[np.ndarray, int]:
        hashes, num_questions = [np.empty(0, np.uint64)], 0
        for batch in _id_batches(uri, path, columns, lists):
            hashes.append(hash_ids(batch.ids, key))
            num_questions += batch.num_listed
        return np.concatenate(hashes), num_questions

    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        return list(pool.map(scan, paths))


def _id_batches(uri: str, path: str, columns: TableColumns, lists: QuestionLists | None = None) -> Iterator[IdBatch]:
    filesystem, _ = open_filesystem(uri)
    (column,) = columns.schema.names
    with reading(path, "documents"):
        file = open_parquet(filesystem, path, "documents")
        lists = lists if lists and lists.column in file.schema_arrow.names else None
        batch_rows, stored = VALUES_PER_BATCH, columns.stored_in(file.schema_arrow)
        if lists:  # footers count an empty list as one value: only the ids tell the number of questions
            leaves = list_leaves(file.metadata, lists, [lists.question_id])
            batch_rows, stored = rows_per_batch(leaves, file.metadata.num_rows), [*stored, *leaves.names]
            if leaves.max_bytes > STREAMED_BYTES:
                file = open_parquet(filesystem, path, "documents", stream=True)
        for batch in file.iter_batches(batch_rows, columns=stored):
            (ids,) = columns.of(batch, path)
            if ids.null_count:
                raise InputError(
                    f"documents: {ids.null_count} rows of {path!r} have null as {column!r}; give every document an id"
                )
            try:
                ids.validate(full=True)
            except pa.ArrowInvalid as error:
                raise InputError(
                    f"documents: {column!r} in {path!r} is not valid UTF-8 ({error}); fix the ids"
                ) from error
            yield IdBatch(ids, num_listed(batch[lists.column]) if lists else 0)
