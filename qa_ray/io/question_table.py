"""Reads and checks the questions of a job, and finds those of a document.

Questions are the small side of the join: one Arrow table, sorted by document id, that all processes of a machine share
without copying it. The questions of a document are found by binary search. A question of 60 characters takes 105 bytes,
and 500 while the driver checks them: hundreds of millions come as lists of the documents instead
(``question_lists.py``).
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_ray.errors import InputError
from qa_ray.io.question_lists import QuestionLists, check_lists, list_field, question_lists
from qa_ray.io.row_checks import FAULTS, text_fault
from qa_ray.io.storage import open_filesystem, open_parquet
from qa_ray.io.storage_errors import reading
from qa_ray.io.table_files import Footer, check_column, common_schema, fingerprint_of, read_footers
from qa_ray.schemas import GOLD, Question

# Text of more than 2 GiB, as of 35 million questions, has no room in a column of type string.
TYPES = {
    "document_id": pa.large_string(),
    "question_id": pa.large_string(),
    "question": pa.large_string(),
    "answers": pa.list_(GOLD),
}


class QuestionTable:
    """All questions of a job, by document: bound questions name their document, others are asked of every document.

    ``table`` has the string columns ``document_id`` (null: not bound), ``question_id`` and ``question``, and optionally
    ``answers``.

    Raises:
        InputError: duplicate ids within a document, or a question to every document without a text.
    """

    def __init__(self, table: pa.Table):
        document_ids = table["document_id"]
        self.to_all = _rows(table.filter(document_ids.is_null()))
        # Sorting is stable: the questions of one document keep their order.
        self._bound = table.filter(document_ids.is_valid()).sort_by("document_id").combine_chunks()
        self._check_ids()

    def __reduce__(self) -> tuple:
        return _restore, (self.to_all, self._bound)

    def __len__(self) -> int:
        """The number of rows: each bound question, and each question to every document, counts once."""
        return self.num_bound + len(self.to_all)

    @property
    def num_bound(self) -> int:
        """The number of questions that name their document."""
        return self._bound.num_rows

    def of(self, document_id: str) -> list[Question]:
        """The questions bound to the document, then those asked of every document; both in table order."""
        rows = self.rows_of(document_id)
        return _rows(self._bound.slice(rows.start, rows.stop - rows.start)) + self.to_all

    def rows_of(self, document_id: str) -> slice:
        """The positions of this document's questions among all bound questions, in [0, num_bound)."""
        ids = _Column(self._bound["document_id"])
        start = bisect_left(ids, document_id)
        return slice(start, bisect_right(ids, document_id, lo=start))

    @property
    def bound_ids(self) -> pa.Array:
        """The document ids of the bound questions, [num_bound] string, sorted."""
        ids = self._bound["document_id"]
        return ids.combine_chunks() if ids.num_chunks != 1 else ids.chunk(0)

    def bound(self, mask: np.ndarray) -> Iterator[tuple[str, str]]:
        """(document_id, question_id) of the bound questions that ``mask``, [num_bound] bool, selects."""
        for batch in self._bound.filter(pa.array(mask)).to_batches(max_chunksize=10_000):
            yield from zip(batch["document_id"].to_pylist(), batch["question_id"].to_pylist(), strict=True)

    def _check_ids(self) -> None:
        ids_to_all = [question.question_id for question in self.to_all]
        for question in self.to_all:
            if reason := text_fault(question.question):
                raise InputError(
                    f"questions: question {question.question_id!r}, asked of every document, has {FAULTS[reason]}; "
                    "write the question or drop the row"
                )
        question_id, count = next(iter(Counter(ids_to_all).most_common(1)), ("", 0))
        if count > 1:
            raise InputError(
                f"questions: question_id {question_id!r} occurs {count} times among those asked of every document; "
                "give each its own id"
            )
        ids = self._bound.select(["document_id", "question_id"])
        counts = ids.group_by(["document_id", "question_id"]).aggregate([([], "count_all")])
        for row in counts.filter(pc.field("count_all") > 1).slice(0, 1).to_pylist():
            raise InputError(
                f"questions: question_id {row['question_id']!r} occurs {row['count_all']} times for document "
                f"{row['document_id']!r}; ids must be unique within a document"
            )
        is_to_all = pc.field("question_id").isin(pa.array(ids_to_all, ids.schema.field("question_id").type))
        for row in ids.filter(is_to_all).slice(0, 1).to_pylist():
            raise InputError(
                f"questions: question_id {row['question_id']!r} is asked of every document and also of "
                f"{row['document_id']!r}; give one of them another id"
            )


class _Column:
    """A string column that ``bisect`` can search without converting it to a list."""

    def __init__(self, column: pa.ChunkedArray):
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, index: int) -> str:
        return self._column[index].as_py()


def _rows(table: pa.Table) -> list[Question]:
    columns = [name for name in Question._fields if name in table.column_names]
    return [Question(*row) for row in zip(*(table[name].to_pylist() for name in columns), strict=True)]


def _restore(to_all: list[Question], bound: pa.Table) -> QuestionTable:
    questions = QuestionTable.__new__(QuestionTable)
    questions.to_all, questions._bound = to_all, bound
    return questions


def no_questions() -> QuestionTable:
    """A table without a row: all questions are in lists of the documents."""
    return QuestionTable(
        pa.table({name: pa.array([], TYPES[name]) for name in ("document_id", "question_id", "question")})
    )


def open_questions(uri: str, columns: Mapping[str, str]) -> tuple[QuestionTable, str]:
    """The questions at ``uri`` and a fingerprint of their files (sha256 over names, sizes and footers).

    ``columns`` maps ``document_id``, ``question_id``, ``question`` and, if needed, ``answers`` to the table's names.
    Without a ``document_id`` column every question is asked of every document. A table of documents whose column
    ``questions`` holds lists of them may take the place of a table of questions: each entry is bound to its document.

    Raises:
        InputError: no such path, not Parquet, a column missing or of the wrong type, null ids, invalid UTF-8, no rows,
            or any reason of ``QuestionTable``.
    """
    footers = read_footers(uri, "questions")
    schema = common_schema(footers, "questions")
    lists = question_lists(columns)
    if lists and lists.column in schema.names and columns["question_id"] not in schema.names:
        tables = [_listed_questions(uri, footer, columns["document_id"], lists) for footer in footers]
    else:
        names = {name: columns[name] for name in ("question_id", "question", "answers") if name in columns}
        if columns["document_id"] in schema.names:
            names["document_id"] = columns["document_id"]
        tables = [_questions(uri, footer, names) for footer in footers]
    table = pa.concat_tables(tables)
    if not table.num_rows:
        raise InputError(f"questions: {uri!r} has {len(footers)} Parquet files and no row; nothing to ask")
    if "document_id" not in table.schema.names:
        table = table.append_column("document_id", pa.nulls(table.num_rows, TYPES["document_id"]))
    return QuestionTable(table), fingerprint_of(footers)


def _questions(uri: str, footer: Footer, names: Mapping[str, str]) -> pa.Table:
    """The columns that ``names`` maps to ours, checked."""
    for name, column in names.items():
        check_column(footer.schema, name, column, "questions")
    filesystem, _ = open_filesystem(uri)
    with reading(footer.path, "questions"):
        table = open_parquet(filesystem, footer.path, "questions").read(columns=list(names.values()))
    if nulls := table[names["question_id"]].null_count:
        raise InputError(
            f"questions: {nulls} rows of {footer.path!r} have null as {names['question_id']!r}; "
            "give every question an id"
        )
    return _cast(pa.table({name: table[column] for name, column in names.items()}), footer.path)


def _listed_questions(uri: str, footer: Footer, id_column: str, lists: QuestionLists) -> pa.Table:
    """The entries of the documents' lists, each with the id of its document, checked."""
    check_column(footer.schema, "document_id", id_column, "questions")
    check_lists(footer.schema, lists, "questions")
    names = {name: field for name, field in lists._asdict().items() if name != "column" and field is not None}
    filesystem, _ = open_filesystem(uri)
    tables = [pa.table({name: pa.array([], TYPES[name]) for name in ("document_id", *names)})]
    with reading(footer.path, "questions"):
        for batch in open_parquet(filesystem, footer.path, "questions").iter_batches(columns=[id_column, lists.column]):
            if pa.types.is_null(batch[lists.column].type):
                continue
            entries, parents = batch[lists.column].flatten(), batch[lists.column].value_parent_indices()
            table = pa.table(
                {"document_id": batch[id_column].take(parents)}
                | {name: list_field(entries, field) for name, field in names.items()}
            )
            for name, column in (("document_id", id_column), ("question_id", f"{lists.column}.{lists.question_id}")):
                if nulls := table[name].null_count:
                    raise InputError(
                        f"questions: {nulls} questions of {footer.path!r} have null as {column!r}; give every "
                        "question and its document an id"
                    )
            tables.append(_cast(table, footer.path))
    return pa.concat_tables(tables)


def _cast(table: pa.Table, path: str) -> pa.Table:
    """The table with our types.

    Raises:
        InputError: invalid UTF-8.
    """
    try:
        cast = pa.table({name: table[name].cast(TYPES[name]) for name in table.schema.names})
        cast.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"questions: {path!r} has text that is not valid UTF-8 ({error}); fix it or drop the row"
        ) from error
    return cast
