"""Row groups of the documents' files -> blocks of documents, in Ray's read tasks.

Small row groups are packed into one task up to TASK_BYTES, TASK_ROWS and TASK_GROUPS; a large one is a task of its own.

This replaces ray.data.read_parquet, which in Ray 2.60 reads small files in a single task: of 10,000 files with one row
each, no row arrived within nine minutes (test_faults.test_ten_thousand_small_files measures this datasource).
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from typing import Any

import pyarrow as pa
from ray.data import DataContext, Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from qa_ray.io.document_table import DocumentTable, RowGroup, read_row_groups
from qa_ray.io.storage import configure_s3

TASK_BYTES, TASK_ROWS, TASK_GROUPS = 16_000_000, 16_384, 128
READ_THREADS = 8  # opening a file on an object store is mostly waiting


class DocumentDatasource(Datasource):
    """The ids, texts and passed-through columns of the documents in ``row_groups``.

    ``storage`` holds the arguments of configure_s3.
    """

    def __init__(self, documents: DocumentTable, row_groups: Sequence[RowGroup], storage: dict[str, Any]):
        super().__init__()
        self._documents, self._storage = documents, storage
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
        columns = [documents.id_column, documents.text_column, *documents.passed_through]
        return [
            ReadTask(
                partial(_read, documents.uri, groups, columns, self._storage),
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


def _read(uri: str, row_groups: list[RowGroup], columns: list[str], storage: dict[str, Any]) -> Iterator[pa.Table]:
    configure_s3(**storage)
    files = [list(groups) for _, groups in groupby(row_groups, key=lambda group: group.path)]
    if len(files) == 1:
        for batch in read_row_groups(uri, files[0], columns):
            yield pa.Table.from_batches([batch])
        return
    with ThreadPoolExecutor(READ_THREADS) as pool:
        batches_by_file = pool.map(lambda groups: list(read_row_groups(uri, groups, columns)), files)
        yield pa.Table.from_batches([batch for batches in batches_by_file for batch in batches])
