"""Part files: what a run has written so far, one row per document. They also record which documents are finished.

An actor writes the part file of a block before it takes the next block. A part file is complete or unreadable: S3 shows
a file only once all of it was uploaded, and on a disk Parquet's footer comes last. So the results and the record of
finished documents cannot disagree, whatever is killed when. A document that two workers wrote (one of them presumed
dead) is recognized by its id and counted once.
"""

from collections.abc import Iterator
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qa_ray.errors import OutputError
from qa_ray.io.question_table import hash_ids
from qa_ray.io.storage import join, list_names, make_folder, open_filesystem, remove_file
from qa_ray.io.storage_errors import explain, is_storage_error

DOCUMENTS_PER_BATCH = 64


def write_part(uri: str, table: pa.Table) -> None:
    """Adds a part file to the folder ``uri``.

    Raises:
        OutputError: it cannot be written.
    """
    filesystem, path = open_filesystem(join(uri, f"{uuid4().hex}.parquet"))
    try:
        make_folder(uri)
        with filesystem.open(path, "wb") as file:
            pq.write_table(table, file, compression="zstd")
    except Exception as error:
        if not is_storage_error(error):
            raise
        raise OutputError(
            f"output: cannot write {uri!r}: {explain(error)}; fix that and run the same command again: finished "
            "documents are kept"
        ) from error


def finished_ids(uri: str, id_column: str) -> np.ndarray:
    """The hashes, sorted, of the ids of all documents in the part files at ``uri``; removes incomplete part files."""
    return np.unique(np.concatenate([np.empty(0, np.uint64), *_ids_by_name(uri, id_column).values()]))


def read_parts(uri: str, id_column: str) -> Iterator[pa.Table]:
    """The rows of all part files, up to DOCUMENTS_PER_BATCH at a time, each document once."""
    ids = _ids_by_name(uri, id_column)
    is_first = np.zeros(sum(map(len, ids.values())), dtype=bool)
    is_first[np.unique(np.concatenate([np.empty(0, np.uint64), *ids.values()]), return_index=True)[1]] = True
    row = 0
    for name in ids:
        for batch in _batches(join(uri, name)):
            mask = is_first[row : row + batch.num_rows]
            row += batch.num_rows
            yield pa.Table.from_batches([batch if mask.all() else batch.filter(pa.array(mask))])


def _ids_by_name(uri: str, id_column: str) -> dict[str, np.ndarray]:
    """The hashes of the ids in each part file, in the order of its rows."""
    ids = {}
    for name in list_names(uri):
        try:
            batches = [hash_ids(batch[id_column]) for batch in _batches(join(uri, name), [id_column])]
        except pa.ArrowInvalid:  # no footer: its writer was killed, or is presumed dead and its documents are redone
            remove_file(join(uri, name))
        else:
            ids[name] = np.concatenate([np.empty(0, np.uint64), *batches])
    return ids


def _batches(uri: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    filesystem, path = open_filesystem(uri)
    with filesystem.open(path, "rb") as file:
        yield from pq.ParquetFile(file).iter_batches(DOCUMENTS_PER_BATCH, columns=columns)
