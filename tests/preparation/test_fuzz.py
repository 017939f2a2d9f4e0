"""Whatever a source holds: questions in are questions out and rejects, or an error of the user with its place.

``FUZZ_EXAMPLES=100000 pytest tests/preparation/test_fuzz.py`` looks for longer.
"""

import csv
import io
import itertools
import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qa_ray.errors import UserError
from qa_ray.preparation.job import PreparedTables, prepare
from qa_ray.preparation.values import identifier

MEMORY = fsspec.filesystem("memory")
FOLDERS = itertools.count()
fuzz = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "50")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

words = st.text(st.one_of(st.characters(), st.sampled_from("aA1 \r\n🦊é,;\"'\0\ufeff\ud800")), max_size=12)
numbers = st.one_of(
    st.integers(), st.integers(0, 20), st.floats(), st.sampled_from([1 << 63, 10**400, 29.5, -1, 1e300])
)
odd_words = st.sampled_from(
    ["False", "true", "0", "", "nan", "None", "29.5", "29.0", "[]", "{'text': array([])}", "[1"]
)
scalars = st.one_of(st.none(), st.booleans(), numbers, words, odd_words)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=6,
)


def mostly(good: st.SearchStrategy[Any], bad: st.SearchStrategy[Any] = anything) -> st.SearchStrategy[Any]:
    """``good``, and in one of 32 cases ``bad``, so that many examples get far."""
    return st.integers(0, 31).flatmap(lambda number: bad if number == 13 else good)


def objects(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with all keys, or in one of 32 cases with only some of them."""
    return mostly(st.fixed_dictionaries(values), st.fixed_dictionaries({}, optional=values))


positions = mostly(
    st.one_of(st.integers(-1, 12), st.integers(0, 12).map(float), st.integers(0, 12).map(str), st.none())
)
texts = mostly(words)
answers = mostly(
    st.one_of(
        st.none(),
        st.lists(mostly(objects(text=texts, answer_start=positions)), max_size=2),
        objects(text=mostly(st.lists(texts, max_size=2)), answer_start=mostly(st.lists(positions, max_size=2))),
        st.lists(objects(text=words, answer_start=st.integers(-1, 12)), max_size=2).map(json.dumps),
        st.lists(objects(text=words, answer_start=st.integers(-1, 12)), max_size=2).map(repr),
        odd_words,
    )
)
flags = mostly(st.one_of(st.none(), st.booleans(), st.sampled_from(["False", "true", "0", "", "nan", 0, 1.0])))
cells_of_gold = mostly(
    st.one_of(
        st.lists(st.fixed_dictionaries({"text": words, "answer_start": st.integers(-1, 12)}), max_size=2).map(
            json.dumps
        ),
        st.lists(st.fixed_dictionaries({"text": words, "answer_start": st.integers(-1, 12)}), max_size=2).map(repr),
        st.sampled_from(["", "[]", "nan"]),
    ),
    words,
)
cells_of_flags = mostly(st.sampled_from(["", "True", "false", "0", "nan"]), words)
identifiers = mostly(st.one_of(st.uuids().map(str), st.integers(), st.integers(0, 1 << 50).map(float), words))
questions = objects(id=identifiers, question=texts, answers=answers, is_impossible=flags)
paragraphs = objects(context=texts, qas=mostly(st.lists(mostly(questions), max_size=4)))
articles = objects(
    title=mostly(st.one_of(st.none(), words)), paragraphs=mostly(st.lists(mostly(paragraphs), max_size=3))
)
squad_files = objects(data=mostly(st.lists(mostly(articles), max_size=3)))
table_rows = objects(id=identifiers, context=texts, question=texts, answers=answers, is_impossible=flags, more=scalars)


def lines_of(rows: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Lines of a JSON file that are mostly rows, but no lists: a file that is one list has all rows in it."""
    return mostly(rows).filter(lambda row: not isinstance(row, list))


@pytest.fixture(autouse=True)
def clean_memory() -> Iterator[None]:
    yield
    if MEMORY.exists("/fuzz"):
        MEMORY.rm("/fuzz", recursive=True)


class Prepared(NamedTuple):
    result: PreparedTables
    documents: list[dict[str, Any]]
    questions: list[dict[str, Any]]
    rejects: list[dict[str, Any]]

    @property
    def num_questions(self) -> int:
        """Questions that came out, as rows or as rejects."""
        return len(self.questions) + sum(row["question_id"] is not None for row in self.rejects)


def prepared(source: str, files: dict[str, bytes], questions: str | None = None, **options: Any) -> Prepared | None:
    """The result for these files and the rows of the tables; None after an error of the user with its place."""
    folder = f"/fuzz/{next(FOLDERS)}"
    MEMORY.pipe({f"{folder}/{name}": content for name, content in files.items()})
    try:
        result = prepare(
            f"memory:/{folder}/{source}",
            f"memory:/{folder}/out",
            questions=f"memory:/{folder}/{questions}" if questions else None,
            **options,
        )
    except UserError as error:
        if folder in str(error) or "question_id" in str(error):
            return None
        raise AssertionError("an error without its place") from error
    tables = []
    for name in ("documents", "questions", "rejects"):
        paths = sorted(MEMORY.find(f"{folder}/out/{name}")) if MEMORY.exists(f"{folder}/out/{name}") else []
        tables.append([row for path in paths for row in pq.read_table(MEMORY.open(path)).to_pylist()])
        assert len(tables[-1]) == getattr(result, name)
    MEMORY.rm(folder, recursive=True)
    assert str(result)
    for answer in (answer for row in tables[1] for answer in row["answers"] or []):
        assert answer["start_char"] is None or answer["start_char"] >= 0
    return Prepared(result, *tables)


def squad_documents(content: Any, join: bool) -> set[tuple[str | None, str]]:
    """The title and the text of each document."""
    titles = [identifier(each, "title", "") or None for each in content["data"]]
    texts = [[part["context"] for part in each["paragraphs"]] for each in content["data"]]
    texts = [["\n\n".join(each)] for each in texts] if join else texts
    return {(title, text) for title, each in zip(titles, texts) for text in each}


@fuzz
@given(content=squad_files, join=st.booleans())
def test_no_question_of_squad_json_is_lost(content: Any, join: bool):
    if found := prepared("dev.json", {"dev.json": json.dumps(content).encode()}, layout="squad", join=join):
        parts = [part for each in content["data"] for part in each["paragraphs"]]
        assert found.num_questions == sum(len(part["qas"]) for part in parts)
        rejected = {row["document_id"] for row in found.rejects} - {row["document_id"] for row in found.documents}
        assert len(found.documents) + len(rejected) == len(squad_documents(content, join))


@fuzz
@given(lines=st.lists(lines_of(table_rows), max_size=6), as_list=st.booleans())
def test_no_row_of_a_json_table_is_lost(lines: list[Any], as_list: bool):
    content = json.dumps(lines) if as_list else "\n".join(map(json.dumps, lines))
    if found := prepared("a.json", {"a.json": content.encode()}, layout="dataset"):
        assert found.num_questions == len(lines)


@fuzz
@given(
    lines=st.lists(st.tuples(words, words, words, cells_of_gold, cells_of_flags), max_size=6),
    delimiter=st.sampled_from(",;\t"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-8-unmarked"]),
)
def test_no_row_of_a_csv_file_is_lost(lines: list[tuple[str, ...]], delimiter: str, encoding: str):
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([["id", "context", "question", "answers", "is_impossible"], *lines])
    text = file.getvalue().encode("utf-8", "replace").decode()
    content = text.encode(encoding.removesuffix("-unmarked"))
    if found := prepared("a.csv", {"a.csv": content}, layout="dataset", columns={"answers": "answers"}):
        assert found.num_questions == len(lines)


GOLD_COLUMNS = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.float32()))])
GOLD_ROWS = pa.list_(pa.struct([("text", pa.string()), ("answer_start", pa.int32())]))
COLUMNS = [
    *(pa.array(["0", None, "x"], type_) for type_ in (pa.string(), pa.large_string(), pa.string_view(), pa.binary())),
    *(
        pa.array([0, None, 2], type_)
        for type_ in (pa.int8(), pa.uint64(), pa.float64(), pa.duration("ns"), pa.date32())
    ),
    *(pa.array([0, None, 2], type_) for type_ in (pa.timestamp("ns"), pa.decimal128(20, 2), pa.time64("us"))),
    pa.array([None, None, None]),
    pa.array([True, None, False]),
    pa.array([float("nan"), 1.5, float("inf")]),
    pa.array(["0", None, "x"]).dictionary_encode(),
    pa.array([["x"], None, []], pa.list_(pa.string())),
    pa.array([{"text": ["x"], "answer_start": [0.0]}, None, {"text": [], "answer_start": []}], GOLD_COLUMNS),
    pa.array([[{"text": "x", "answer_start": 0}], None, []], GOLD_ROWS),
    pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int64())),
    pa.array([b"\xff", b"x", b""]).view(pa.string()),  # not UTF-8
]


def one_of_columns(*good: int) -> st.SearchStrategy[pa.Array]:
    return mostly(st.sampled_from([COLUMNS[i] for i in good]), st.sampled_from(COLUMNS))


@fuzz
@given(
    columns=st.tuples(
        one_of_columns(0, 1, 2, 4, 5, 6, 10, 15),
        one_of_columns(0, 1, 2, 12, 15),
        one_of_columns(0, 1, 2, 12, 15),
        one_of_columns(12, 16, 17, 18),
        st.sampled_from(COLUMNS),
    ),
    num_rows=st.integers(0, 3),
)
def test_no_row_of_a_parquet_table_is_lost(columns: tuple[pa.Array, ...], num_rows: int):
    table = pa.table([*columns], ["id", "context", "question", "answers", "more"])
    sink = io.BytesIO()
    pq.write_table(table.slice(0, num_rows), sink)
    if found := prepared("a.parquet", {"a.parquet": sink.getvalue()}):
        assert found.num_questions == num_rows


@fuzz
@given(
    contents=st.lists(
        st.one_of(st.binary(max_size=20), words.map(lambda text: text.encode(errors="replace"))), max_size=4
    ),
    suffixes=st.lists(st.sampled_from([".txt", ".TXT", ".md", ".pdf", "", ".docx"]), min_size=4, max_size=4),
    hidden=st.lists(mostly(st.just(False), st.just(True)), min_size=4, max_size=4),
    encoding=st.sampled_from([None, "cp1252", "utf-16-le"]),
)
def test_no_file_of_a_folder_is_lost(contents: list[bytes], suffixes: list[str], hidden: list[bool], encoding: Any):
    names = [f"in/{'_' * is_hidden}{i}{suffix}" for i, (suffix, is_hidden) in enumerate(zip(suffixes, hidden))]
    files = dict(zip(names, contents))
    if found := prepared("in", files, encoding=encoding):
        num_read = len(found.documents) + len(found.rejects)
        assert found.result.files_read == num_read
        assert num_read + sum(kind["files"] for kind in found.result.files_not_read.values()) == len(files)


@fuzz
@given(
    name=st.sampled_from(["a.json", "a.jsonl", "a.csv", "a.tsv", "a.parquet", "a.arrow", "a.txt"]),
    start=st.sampled_from(
        [b"", b'{"data": [', b'{"id": 1, "context": ', b"id,context,question\n", b"PAR1", b"\xff\xfe"]
    ),
    content=st.binary(max_size=40),
    layout=st.sampled_from(["auto", "squad", "dataset", "text"]),
)
def test_any_bytes_are_read_or_an_error_of_the_user(name: str, start: bytes, content: bytes, layout: str):
    prepared(name, {name: start + content}, layout=layout)


@fuzz
@given(name=st.sampled_from(["q.txt", "q.jsonl", "q.csv"]), content=st.binary(max_size=40))
def test_any_bytes_as_questions_are_read_or_an_error_of_the_user(name: str, content: bytes):
    prepared("in", {"in/0.txt": b"Ada was here.", name: content}, questions=name)


@fuzz
@given(lines=st.lists(lines_of(objects(question=texts, answers=answers, document_id=identifiers, more=scalars))))
def test_no_question_of_a_file_of_questions_is_lost(lines: list[Any]):
    content = "\n".join(map(json.dumps, lines)).encode()
    if found := prepared("in", {"in/0.txt": b"Ada was here.", "q.jsonl": content}, questions="q.jsonl"):
        assert found.num_questions == len(lines)
