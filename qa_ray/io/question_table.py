"""Reads and checks the questions of a job, and finds those of a document.

Questions are the small side of the join: one Arrow table, sorted by document id, that all processes of a machine share
without copying it. The questions of a document are found by binary search. A question of 60 characters takes 105 bytes,
and 500 while the driver checks them: hundreds of millions come as lists of the documents instead
(``question_lists.py``).
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_ray.errors import InputError
from qa_ray.io.id_types import common_id_type
from qa_ray.io.parquet_listing import FileCounts
from qa_ray.io.question_lists import QuestionLists, id_types, list_field, question_lists
from qa_ray.io.row_checks import FAULTS, text_fault
from qa_ray.io.storage import open_filesystem, open_parquet
from qa_ray.io.storage_errors import reading
from qa_ray.io.table_columns import TableColumns
from qa_ray.io.table_files import Footer, TableFiles, check_name, check_type, open_table
from qa_ray.io.typed_rows import with_type
from qa_ray.schemas import GOLD, Question

# Text of more than 2 GiB, as of 35 million questions, has no room in a column of type string.
TYPES = {
    "document_id": pa.large_string(),
    "question_id": pa.large_string(),
    "question": pa.large_string(),
    "answers": pa.list_(GOLD),
}


class QuestionTable:
    """All questions of a job, by document: bound questions name their document, others are asked about every document.

    ``table`` has the string columns ``document_id`` (null: not bound), ``question_id`` and ``question``, and optionally
    ``answers``.

    The other attributes say where the questions came from: in the processes of a run, they are as for no table.

    Raises:
        InputError: duplicate ids within a document, or a question to every document without a text.
    """

    files = FileCounts()
    notes: tuple[str, ...] = ()  # what a person should know about how the table was read
    document_id_type: pa.DataType | None = None  # of the ids in the files; None: no question names a document
    question_id_type: pa.DataType | None = None

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
        """The questions bound to the document, then those asked about every document; both in table order."""
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

    def bound_texts(self, mask: np.ndarray) -> Iterator[str | None]:
        """The texts of the bound questions that ``mask``, [num_bound] bool, selects."""
        for batch in self._bound.filter(pa.array(mask)).to_batches(max_chunksize=10_000):
            yield from batch["question"].to_pylist()

    def _check_ids(self) -> None:
        ids_to_all = [question.question_id for question in self.to_all]
        for question in self.to_all:
            if reason := text_fault(question.question):
                raise InputError(
                    f"questions: question {question.question_id!r}, asked about every document, has {FAULTS[reason]}; "
                    "write the question or drop the row"
                )
        question_id, count = next(iter(Counter(ids_to_all).most_common(1)), ("", 0))
        if count > 1:
            raise InputError(
                f"questions: question_id {question_id!r} occurs {count} times among those asked about every document; "
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
                f"questions: question_id {row['question_id']!r} is asked about every document and also of "
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


def open_questions(uri: str, columns: Mapping[str, Any]) -> tuple[QuestionTable, str]:
    """The questions at ``uri`` and a fingerprint of their files (sha256 over names, sizes and footers).

    ``columns`` maps ``document_id``, ``question_id``, ``question`` and, if needed, ``answers`` to the table's names.
    Without a ``document_id`` column every question is asked about every document. A table of documents whose column
    ``questions`` holds lists of them may take the place of a table of questions: each entry is bound to its document.

    Raises:
        InputError: no such path, not Parquet, a column missing or of the wrong type, null ids, invalid UTF-8, no rows,
            or any reason of ``QuestionTable``.
    """
    files = open_table(uri, "questions")
    lists = question_lists(columns)
    notes: list[str] = []
    if lists and lists.column in files.names and columns["question_id"] not in files.names:
        names = {"document_id": columns["document_id"]}
        _check_columns(files, names)
        question_id_types = id_types(files, lists)
        tables = [_listed_questions(uri, footer, files.root, columns["document_id"], lists) for footer in files.footers]
    else:
        names = {name: columns[name] for name in ("question_id", "question", "answers") if name in columns}
        _check_columns(files, names)
        if column := _document_column(files.names, columns, notes):
            names["document_id"] = column
            _check_columns(files, {"document_id": column})
        question_id_types = _types(files, names["question_id"])
        tables = [_questions(uri, footer, files.root, names) for footer in files.footers if footer.metadata.num_rows]
    if not sum(table.num_rows for table in tables):
        raise InputError(f"questions: {uri!r} has {files.counts.words} and no row; nothing to ask")
    table = pa.concat_tables(tables)
    if "document_id" not in table.schema.names:
        table = table.append_column("document_id", pa.nulls(table.num_rows, TYPES["document_id"]))
    questions = QuestionTable(table)
    questions.files, questions.notes = files.counts, (*notes, *files.notes([*names.values()]))
    questions.question_id_type = common_id_type(question_id_types)
    if "document_id" in names and questions.num_bound:
        questions.document_id_type = common_id_type(_types(files, names["document_id"]))
    return questions, files.fingerprint


def _types(files: TableFiles, column: str) -> list[pa.DataType]:
    types = [schema.field(column).type for schema, _ in files.layouts if column in schema.names]
    return types or [files.partitions[column]]


def _check_columns(files: TableFiles, names: Mapping[str, str]) -> None:
    """Checks that all files have these columns, with types that ours may have; ``names`` maps ours to the table's.

    Raises:
        InputError: they do not.
    """
    for name, column in names.items():
        check_name(files.names, name, column, "questions")
        files.check_in_all(column)
        for column_type in _types(files, column):
            check_type(column_type, name, column, "questions")


def _document_column(names: Sequence[str], columns: Mapping[str, str | None], notes: list[str]) -> str | None:
    """The column with the document that each question is about; None: each is asked about every document.

    A name that the config gives must be there, unless the table has no column that could be meant. Adds to ``notes``
    what it may be called otherwise.

    Raises:
        InputError: the config names a column that is missing.
    """
    own_name = columns.get("question_document_id")
    name = own_name or columns["document_id"] or "document_id"
    if name in names:
        return name
    mapped = {columns.get(key) for key in ("question_id", "question", "answers", "questions")}
    others = [other for other in names if other not in mapped and other != "answers"]
    close = [*get_close_matches("document_id", others, n=1), *get_close_matches(name, others, n=1)]
    if own_name or (name != "document_id" and others):
        setting = "question_document_id" if own_name else "document_id"
        own = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(
            f"questions: no column {name!r}, which columns.{setting} names; there are {', '.join(names)}; {own}name "
            "the questions' own with columns.question_document_id=…; if all are asked about every document, add a "
            f"column {name!r} of nulls"
        )
    if close:
        notes.append(
            f"questions: there is no column {name!r}, so each is asked about every document; if {close[0]!r} names its "
            f"document, set columns.question_document_id={close[0]}"
        )
    return None


def _questions(uri: str, footer: Footer, root: str, names: Mapping[str, str]) -> pa.Table:
    """The columns that ``names`` maps to ours, checked."""
    filesystem, _ = open_filesystem(uri)
    own = [column for column in names.values() if column in footer.schema.names]
    types = {column: footer.schema.field(column).type for column in own}
    schema = pa.schema([(column, types.get(column, pa.string())) for column in dict.fromkeys(names.values())])
    with reading(footer.path, "questions"):
        table = open_parquet(filesystem, footer.path, "questions").read(columns=list(dict.fromkeys(own)))
    arrays = dict(zip(schema.names, TableColumns("questions", root, schema).of(table, footer.path), strict=True))
    if nulls := arrays[names["question_id"]].null_count:
        raise InputError(
            f"questions: {nulls} rows of {footer.path!r} have null as {names['question_id']!r}; "
            "give every question an id"
        )
    typed = {name: with_type(arrays[column], TYPES[name], column, footer.path) for name, column in names.items()}
    return pa.table(typed)


def _listed_questions(uri: str, footer: Footer, root: str, id_column: str, lists: QuestionLists) -> pa.Table:
    """The entries of the documents' lists, each with the id of its document, checked."""
    names = {name: field for name, field in lists._asdict().items() if name != "column" and field is not None}
    filesystem, _ = open_filesystem(uri)
    tables = [pa.table({name: pa.array([], TYPES[name]) for name in ("document_id", *names)})]
    if lists.column not in footer.schema.names or not footer.metadata.num_rows:
        return tables[0]
    id_type = footer.schema.field(id_column).type if id_column in footer.schema.names else pa.string()
    ids = TableColumns("questions", root, pa.schema([(id_column, id_type)]))
    read_columns = [*ids.stored_in(footer.schema), lists.column]
    with reading(footer.path, "questions"):
        for batch in open_parquet(filesystem, footer.path, "questions").iter_batches(columns=read_columns):
            if pa.types.is_null(batch[lists.column].type):
                continue
            entries, parents = batch[lists.column].flatten(), batch[lists.column].value_parent_indices()
            (document_ids,) = ids.of(batch, footer.path)
            arrays = {"document_id": document_ids.take(parents)}
            arrays |= {name: list_field(entries, field) for name, field in names.items()}
            places = {"document_id": id_column} | {name: f"{lists.column}.{field}" for name, field in names.items()}
            for name in ("document_id", "question_id"):
                if nulls := arrays[name].null_count:
                    raise InputError(
                        f"questions: {nulls} questions of {footer.path!r} have null as {places[name]!r}; give every "
                        "question and its document an id"
                    )
            typed = {name: with_type(array, TYPES[name], places[name], footer.path) for name, array in arrays.items()}
            tables.append(pa.table(typed))
    return pa.concat_tables(tables)
