"""Raw rows -> checked documents with their questions; bad rows become rejects, and their neighbours go on.

The questions are the small side: one sorted Arrow table that every process of a machine shares without a copy. A
document finds its questions by binary search.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from qa_ray.errors import InputError
from qa_ray.io.row_checks import FAULTS, text_fault
from qa_ray.io.storage import open_filesystem, open_parquet, reading
from qa_ray.io.table_files import Footer, check_column, common_schema, fingerprint_of, read_footers
from qa_ray.schemas import GOLD, Question


def hash_ids(ids: pa.Array) -> np.ndarray:
    """Eight bytes for each document id, uint64: what millions of ids are compared and remembered by."""
    return pd.util.hash_array(ids.to_numpy(zero_copy_only=False), categorize=False)  # pyright: ignore[reportAttributeAccessIssue]


class QuestionTable:
    """All questions of a job, by document.

    ``table`` has the string columns ``document_id`` (null: asked of every document), ``question_id`` and ``question``,
    and may have ``answers``.
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
        """Bound questions and questions to all, each once."""
        return self.num_bound + len(self.to_all)

    @property
    def num_bound(self) -> int:
        """Questions that name their document."""
        return self._bound.num_rows

    def of(self, document_id: str) -> list[Question]:
        """The questions bound to the document, then those asked of all; each in the order of its table."""
        rows = self.rows_of(document_id)
        return _rows(self._bound.slice(rows.start, rows.stop - rows.start)) + self.to_all

    def rows_of(self, document_id: str) -> slice:
        """Where the questions bound to this document stand among all bound ones."""
        ids = _Column(self._bound["document_id"])
        start = bisect_left(ids, document_id)
        return slice(start, bisect_right(ids, document_id, lo=start))

    def bound(self, mask: np.ndarray) -> Iterator[tuple[str, str]]:
        """(document_id, question_id) of the bound questions that ``mask`` [num_bound] selects."""
        for batch in self._bound.filter(pa.array(mask)).to_batches(max_chunksize=10_000):
            yield from zip(batch["document_id"].to_pylist(), batch["question_id"].to_pylist(), strict=True)

    def _check_ids(self) -> None:
        to_all = [question.question_id for question in self.to_all]
        for question in self.to_all:
            if reason := text_fault(question.question):
                raise InputError(
                    f"questions: question {question.question_id!r}, asked of every document, has {FAULTS[reason]}; "
                    "write the question or drop the row"
                )
        if len(set(to_all)) < len(to_all):
            twice = next(id_ for id_ in to_all if to_all.count(id_) > 1)
            raise InputError(
                f"questions: question_id {twice!r} occurs {to_all.count(twice)} times among those asked of every "
                "document; give each its own id"
            )
        ids = self._bound.select(["document_id", "question_id"])
        counts = ids.group_by(["document_id", "question_id"]).aggregate([([], "count_all")])
        if twice := counts.filter(pc.field("count_all") > 1).slice(0, 1).to_pylist():
            raise InputError(
                f"questions: question_id {twice[0]['question_id']!r} occurs {twice[0]['count_all']} times for document "
                f"{twice[0]['document_id']!r}; ids must be unique within a document"
            )
        both = ids.filter(pc.field("question_id").isin(pa.array(to_all, pa.string()))).slice(0, 1).to_pylist()
        if both:
            raise InputError(
                f"questions: question_id {both[0]['question_id']!r} is asked of every document and of "
                f"{both[0]['document_id']!r} by name too; give one of them another id"
            )


class _Column(Sequence):
    """A string column that ``bisect`` can look into, without turning it into a list."""

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


def open_questions(uri: str, columns: Mapping[str, str]) -> tuple[QuestionTable, str]:
    """The questions at ``uri``, and a fingerprint of their files; with gold answers if ``columns`` names ``answers``.

    Without a ``document_id`` column every question is asked of every document.

    Raises:
        InputError: as open_documents; and duplicate ids within a document, or a bad text in a question to all.
    """
    footers = read_footers(uri, "questions")
    schema = common_schema(footers, "questions")
    names = {name: columns[name] for name in ("question_id", "question", "answers") if name in columns}
    if columns["document_id"] in schema.names:
        names["document_id"] = columns["document_id"]
    table = pa.concat_tables(_questions(uri, footer, names) for footer in footers)
    if not table.num_rows:
        raise InputError(f"questions: {uri!r} has {len(footers)} Parquet files and no row; nothing to ask")
    if "document_id" not in names:
        table = table.append_column("document_id", pa.nulls(table.num_rows, pa.string()))
    return QuestionTable(table), fingerprint_of(footers)


def _questions(uri: str, footer: Footer, names: Mapping[str, str]) -> pa.Table:
    """The columns of a file of questions that ``names`` maps to ours, checked; strings, but for the gold answers."""
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
    try:
        kinds = {name: pa.list_(GOLD) if name == "answers" else pa.string() for name in names}
        mapped = pa.table({name: table[column].cast(kinds[name]) for name, column in names.items()})
        mapped.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"questions: {footer.path!r} has text that is not valid UTF-8 ({error}); mend it or drop the row"
        ) from error
    return mapped
