"""Part files: what a run has written so far, one row per document. They also record which documents are finished.

An actor writes the part file of a block before it takes the next block. A part file appears complete or not at all
(io/storage.NewFile). So the results and the record of finished documents cannot disagree, whatever is killed when. A
document that two workers wrote (one of them presumed dead) is recognized by its id and counted once.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qa_ray.errors import OutputError
from qa_ray.io.id_hashes import hash_ids
from qa_ray.io.storage import NewFile, is_local, join, list_sizes, open_filesystem
from qa_ray.io.storage_errors import explain, is_storage_error

READ_THREADS = 32  # opening a file on an object store is mostly waiting
# Files of up to this size are fetched from object storage in one request, larger ones in parts as they are needed.
FETCHED_WHOLE = {"index": 1_000_000, "rows": 64_000_000}
# What was fetched whole is kept up to this size in all: the commit need not ask for many small files again.
KEPT_BYTES = 200_000_000
AHEAD_FILES, AHEAD_BYTES = 32, 64_000_000  # opened before their rows are wanted
REUSED = "reused.list.element"  # the column's path in Parquet
BATCH_ROWS, BATCH_BYTES = 4_096, 32_000_000  # of a part file, in memory at a time


class PartFile(NamedTuple):
    """A part file, without its answers."""

    name: str
    num_bytes: int
    first_id: Any  # the smallest document id
    hashes: np.ndarray  # of the documents' ids, in the order of its rows
    num_answers: int  # with the earlier ones; a document without any counts as one
    reused: np.ndarray  # the positions of the earlier answers that its documents take over (previous.py), int64
    content: bytes | None  # of the whole file, if it was kept


class PartRows(NamedTuple):
    """The rows of a part file that count: one for each document."""

    name: str
    num_bytes: int
    mask: np.ndarray | None  # None: all
    content: bytes | None = None  # of the whole file, if it was kept


def write_part(uri: str, table: pa.Table) -> None:
    """Adds a part file to the folder ``uri``.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with NewFile(join(uri, f"{uuid4().hex}.parquet")) as file:
            pq.write_table(table, file, compression="zstd")
    except Exception as error:
        if not is_storage_error(error):
            raise
        raise OutputError(
            f"output: cannot write {uri!r}: {explain(error)}; fix that and run the same command again: finished "
            "documents are kept"
        ) from error


def list_parts(uri: str, id_column: str, hash_key: str, known: Sequence[PartFile] = ()) -> list[PartFile]:
    """All part files at ``uri``, in the order of their smallest ids; those that are ``known`` are not read again."""
    parts = {part.name: part for part in known}
    sizes = list_sizes(uri)
    new = [name for name in sizes if name not in parts]
    room = KEPT_BYTES - sum(len(part.content) for part in known if part.content)
    is_kept = np.cumsum([sizes[name] for name in new]) <= room

    def read(name: str, is_kept: bool) -> PartFile | None:
        part = _read_part(uri, name, sizes[name], id_column, hash_key)
        return part if part is None or is_kept else part._replace(content=None)

    with ThreadPoolExecutor(READ_THREADS) as pool:
        parts |= {part.name: part for part in pool.map(read, new, is_kept) if part}
    return sorted(parts.values(), key=lambda part: (part.first_id is None, part.first_id))


def finished_documents(parts: Sequence[PartFile]) -> np.ndarray:
    """The hashes, sorted, of the ids of all documents in the part files."""
    return np.unique(np.concatenate([np.empty(0, np.uint64), *(part.hashes for part in parts)]))


def rows_to_count(parts: Sequence[PartFile]) -> list[PartRows]:
    """The rows of all part files that count: of a document that is in two files, the first."""
    hashes = np.concatenate([np.empty(0, np.uint64), *(part.hashes for part in parts)])
    is_first = np.zeros(len(hashes), dtype=bool)
    is_first[np.unique(hashes, return_index=True)[1]] = True
    masks = np.split(is_first, np.cumsum([len(part.hashes) for part in parts]))
    return [
        PartRows(part.name, part.num_bytes, None if mask.all() else mask, part.content)
        for part, mask in zip(parts, masks[: len(parts)], strict=True)
    ]


def read_rows(uri: str, parts: Sequence[PartRows]) -> Iterator[pa.Table]:
    """These rows of the part files in the folder ``uri``, a batch at a time."""
    for (_, _, mask, _), file in zip(parts, _open_ahead(uri, parts), strict=True):
        size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        batch_rows = max(1, min(BATCH_ROWS, file.metadata.num_rows * BATCH_BYTES // max(1, size)))
        row = 0
        for batch in file.iter_batches(batch_rows):
            table = pa.Table.from_batches([batch])
            yield table if mask is None else table.filter(pa.array(mask[row : row + batch.num_rows]))
            row += batch.num_rows


def _read_part(uri: str, name: str, num_bytes: int, id_column: str, hash_key: str) -> PartFile | None:
    try:
        file, content = _open(join(uri, name), num_bytes, FETCHED_WHOLE["index"])
        ids = file.read(columns=[id_column])[id_column]
        reused = _read_reused(file)
    except pa.ArrowInvalid:  # damaged, as by a power failure: its documents are answered again
        return None
    footer = file.metadata
    paths = [footer.schema.column(i).path for i in range(footer.num_columns)]
    answer = next(i for i, path in enumerate(paths) if path.startswith("answers.") and path.endswith(".question_id"))
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    statistics = groups[0].column(paths.index(id_column)).statistics if groups else None
    answers = [group.column(answer) for group in groups]
    num_values = sum(chunk.num_values for chunk in answers)
    num_new = num_values - sum(chunk.statistics.null_count for chunk in answers if chunk.statistics)
    return PartFile(
        name,
        num_bytes,
        first_id=statistics.min if statistics and statistics.has_min_max else None,
        hashes=hash_ids(ids, hash_key),
        num_answers=max(num_values, num_new + len(reused)),
        reused=reused,
        content=content,
    )


def _read_reused(file: pq.ParquetFile) -> np.ndarray:
    column = next(i for i in range(file.metadata.num_columns) if file.metadata.schema.column(i).path == REUSED)
    chunks = [file.metadata.row_group(i).column(column) for i in range(file.num_row_groups)]
    if all(chunk.statistics and chunk.statistics.null_count == chunk.num_values for chunk in chunks):
        return np.empty(0, np.int64)  # all lists are empty: that needs no request
    return file.read(columns=["reused"])["reused"].combine_chunks().flatten().to_numpy()


def _open_ahead(uri: str, parts: Sequence[PartRows]) -> Iterator[pq.ParquetFile]:
    """The files of ``parts``, in order; the next ones are opened, or fetched, meanwhile."""
    ahead: deque[tuple[int, Future[pq.ParquetFile]]] = deque()
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for part in parts:
            while ahead and (len(ahead) == AHEAD_FILES or sum(size for size, _ in ahead) > AHEAD_BYTES):
                yield ahead.popleft()[1].result()
            ahead.append((part.num_bytes, pool.submit(_open_rows, uri, part)))
        for _, file in ahead:
            yield file.result()


def _open_rows(uri: str, part: PartRows) -> pq.ParquetFile:
    if part.content is not None:
        return pq.ParquetFile(pa.BufferReader(part.content))
    return _open(join(uri, part.name), part.num_bytes, FETCHED_WHOLE["rows"])[0]


def _open(uri: str, num_bytes: int, fetched_whole: int) -> tuple[pq.ParquetFile, bytes | None]:
    """The file, and its content if it was fetched whole."""
    filesystem, path = open_filesystem(uri)
    if num_bytes > fetched_whole or is_local(uri):
        return pq.ParquetFile(filesystem.open(path, "rb")), None
    content: Any = filesystem.cat_file(path, start=0)  # s3fs would ask for its size first
    return pq.ParquetFile(pa.BufferReader(content)), content
