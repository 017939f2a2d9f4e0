"""Row groups of the documents' files -> blocks of documents, in Ray's read tasks.

Small row groups are packed into one task up to TASK_BYTES, TASK_ROWS and TASK_GROUPS; a large one is a task of its own.

This replaces ray.data.read_parquet, which in Ray 2.60 reads small files in a single task: of 10,000 files with one row
each, no row arrived within nine minutes (test_faults.test_ten_thousand_small_files measures this datasource).
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import groupby
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
from ray.data import DataContext, Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from qa_ray.errors import InputError
from qa_ray.io.document_table import DocumentTable, RowGroup, read_row_groups
from qa_ray.io.question_lists import QuestionLists
from qa_ray.io.storage import configure_s3
from qa_ray.io.table_columns import TableColumns

TASK_BYTES, TASK_ROWS, TASK_GROUPS = 16_000_000, 16_384, 128
READ_THREADS = 8  # opening a file on an object store is mostly waiting


class DocumentDatasource(Datasource):
    """The ids, texts, passed-through columns and lists of questions of the documents in ``row_groups``.

    ``storage`` holds the arguments of configure_s3. A read task that reads nothing for ``timeout_s`` (None: it waits)
    reports the place to the RunStats actor ``stats`` and ends without the rest of its rows; without such an actor it
    raises an InputError.
    """

    def __init__(
        self,
        documents: DocumentTable,
        row_groups: Sequence[RowGroup],
        storage: dict[str, Any],
        timeout_s: float | None = None,
        stats: Any = None,
    ):
        super().__init__()
        self._documents, self._storage, self._timeout_s, self._stats = documents, storage, timeout_s, stats
        # Longest documents first, as far as footers tell, so that no actor is left alone with one at the end.
        self.tasks = sorted(pack_row_groups(row_groups), key=_length_class, reverse=True)

    def get_name(self) -> str:
        """The name in Ray's dashboard, after "Read"."""
        return "Documents"

    def estimate_inmemory_data_size(self) -> int:
        """Bytes, from the files' footers."""
        return sum(group.num_bytes for groups in self.tasks for group in groups)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """One read task for each element of ``tasks``; ``parallelism`` is ignored."""
        documents = self._documents
        options = documents.lists, self._storage, self._timeout_s, self._stats
        return [
            ReadTask(
                partial(_read, documents.uri, groups, documents.columns, *options),
                BlockMetadata(
                    num_rows=sum(group.num_rows for group in groups),
                    size_bytes=sum(group.num_bytes for group in groups),
                    input_files=None,
                    exec_stats=None,
                ),
                per_task_row_limit=per_task_row_limit,
            )
            for groups in self.tasks
        ]


def pack_row_groups(row_groups: Sequence[RowGroup]) -> list[list[RowGroup]]:
    """Runs of neighboring row groups, in order, each within TASK_BYTES, TASK_ROWS and TASK_GROUPS or a single group."""
    tasks: list[list[RowGroup]] = []
    num_bytes = num_rows = 0
    for group in row_groups:
        num_bytes, num_rows = num_bytes + group.num_bytes, num_rows + group.num_rows
        is_full = tasks and (num_bytes > TASK_BYTES or num_rows > TASK_ROWS or len(tasks[-1]) == TASK_GROUPS)
        if not tasks or is_full:
            tasks.append([])
            num_bytes, num_rows = group.num_bytes, group.num_rows
        tasks[-1].append(group)
    return tasks


def _length_class(row_groups: Sequence[RowGroup]) -> int:
    """Floor of log2 of the mean bytes of a document, plus 1: lengths within a factor of two keep their order."""
    return (sum(group.text_bytes for group in row_groups) // sum(group.num_rows for group in row_groups)).bit_length()


def _read(
    uri: str,
    row_groups: list[RowGroup],
    columns: TableColumns,
    lists: QuestionLists | None,
    storage: dict[str, Any],
    timeout_s: float | None,
    stats: Any,
) -> Iterator[pa.Table]:
    configure_s3(**storage)
    files = [list(groups) for _, groups in groupby(row_groups, key=lambda group: group.path)]
    batches = _read_files(uri, files, columns, lists)
    if timeout_s is not None:
        batches = _in_time(batches, row_groups, timeout_s, stats)
    if len(files) == 1:
        for batch in batches:
            yield pa.Table.from_batches([batch])
    elif all_batches := list(batches):
        yield pa.Table.from_batches(all_batches)


def _read_files(
    uri: str, files: list[list[RowGroup]], columns: TableColumns, lists: QuestionLists | None
) -> Iterator[pa.RecordBatch]:
    if len(files) == 1:
        yield from read_row_groups(uri, files[0], columns, lists)
        return
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for batches in pool.map(lambda groups: list(read_row_groups(uri, groups, columns, lists)), files):
            yield from batches


def _in_time(
    batches: Iterator[pa.RecordBatch], row_groups: list[RowGroup], timeout_s: float, stats: Any
) -> Iterator[pa.RecordBatch]:
    """The batches of these row groups, read in other threads: one that a file system never answers is left behind.

    The process goes on, so that the place can be named, and it need not end: often it could not, since the kernel waits
    for some file systems even when a process is killed.

    Raises:
        InputError: no batch came for ``timeout_s``, and there is no ``stats`` actor to report it to.
    """
    stops = np.cumsum([group.num_rows for group in row_groups])
    num_rows = 0
    while True:
        result: Future[pa.RecordBatch | None] = Future()
        thread = Thread(target=_read_next, args=(batches, result), daemon=True)
        thread.start()
        thread.join(timeout_s)
        if thread.is_alive():
            group = row_groups[min(int(np.searchsorted(stops, num_rows, side="right")), len(row_groups) - 1)]
            if stats is None:
                raise stuck_read(group.place, timeout_s)
            stats.add_stuck_read.remote(group.place)
            return
        if (batch := result.result()) is None:
            return
        yield batch
        num_rows += batch.num_rows


def stuck_read(place: str, timeout_s: float | None) -> InputError:
    """The error for reads that gave no row in time; ``place`` names them."""
    return InputError(
        f"documents: {place} gave no row for limits.block_timeout_s={timeout_s or 0:g} seconds; check its file system, "
        "or raise the limit, and run the same command again: all documents that could be read are answered"
    )


def _read_next(batches: Iterator[pa.RecordBatch], result: Future[pa.RecordBatch | None]) -> None:
    try:
        result.set_result(next(batches, None))
    except BaseException as error:
        result.set_exception(error)
