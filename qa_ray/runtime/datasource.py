"""Row groups of the documents' files -> blocks of documents, in Ray's read tasks.

Not ray.data.read_parquet of Ray 2.60, which reads small files all in one task: of 10,000 files with one row each no row
came in nine minutes (test_faults.test_ten_thousand_small_files shows what comes now).
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

# Small row groups are read together, up to so many.
TASK_BYTES, TASK_ROWS, TASK_GROUPS = 16_000_000, 16_384, 128
READ_THREADS = 8  # opening a file of an object store is mostly waiting


class Scan(Datasource):
    """The ids, texts and passed-through columns of the documents in these row groups.

    ``storage`` holds the arguments of configure_s3.
    """

    def __init__(self, documents: DocumentTable, row_groups: Sequence[RowGroup], storage: dict[str, Any]):
        super().__init__()
        self._documents, self._storage = documents, storage
        # Where documents are long, as far as footers tell, first: the last minutes are not one actor's alone.
        self.tasks = sorted(gathered(row_groups), key=_how_long, reverse=True)

    def get_name(self) -> str:
        """What the dashboard calls it, after "Read"."""
        return "Documents"

    def estimate_inmemory_data_size(self) -> int:
        """In bytes, as the files' footers say."""
        return sum(group.num_bytes for groups in self.tasks for group in groups)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """One task for every few small row groups or one large one; ``parallelism`` is not heeded."""
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


def gathered(row_groups: Sequence[RowGroup]) -> list[list[RowGroup]]:
    """Neighbours together, up to TASK_BYTES, TASK_ROWS and TASK_GROUPS; a larger one alone."""
    gathered: list[list[RowGroup]] = []
    num_bytes = num_rows = 0
    for group in row_groups:
        num_bytes, num_rows = num_bytes + group.num_bytes, num_rows + group.num_rows
        is_full = gathered and (num_bytes > TASK_BYTES or num_rows > TASK_ROWS or len(gathered[-1]) == TASK_GROUPS)
        if not gathered or is_full:
            gathered.append([])
            num_bytes, num_rows = group.num_bytes, group.num_rows
        gathered[-1].append(group)
    return gathered


def _how_long(row_groups: Sequence[RowGroup]) -> int:
    """The binary logarithm of a document's mean bytes: those within a factor of two stay in their order."""
    return (sum(group.text_bytes for group in row_groups) // sum(group.num_rows for group in row_groups)).bit_length()


def _read(uri: str, row_groups: list[RowGroup], columns: list[str], storage: dict[str, Any]) -> Iterator[pa.Table]:
    configure_s3(**storage)
    files = [list(groups) for _, groups in groupby(row_groups, key=lambda group: group.path)]
    if len(files) == 1:
        for batch in read_row_groups(uri, files[0], columns):
            yield pa.Table.from_batches([batch])
        return
    with ThreadPoolExecutor(READ_THREADS) as pool:
        batches = pool.map(lambda groups: list(read_row_groups(uri, groups, columns)), files)
        yield pa.Table.from_batches([batch for each in batches for batch in each])
