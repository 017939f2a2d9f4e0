"""Whatever a source holds: questions in are questions out and rejects, or an error of the user with its place.

``FUZZ_EXAMPLES=100000 pytest tests/preparation/test_fuzz.py`` looks for longer.
"""

import csv
import io
import itertools
import json
import os
import re
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
sentences = st.sampled_from(["", "7", "Ada was here.", "🦊 é"])
repeated = mostly(sentences, texts)
paragraphs = objects(context=repeated, qas=mostly(st.lists(mostly(questions), max_size=4)))
articles = objects(
    title=mostly(st.one_of(st.none(), repeated)), paragraphs=mostly(st.lists(mostly(paragraphs), max_size=3))
)
squad_files = objects(data=mostly(st.lists(mostly(articles), max_size=5)))
table_rows = objects(
    id=identifiers, context=repeated, question=texts, answers=answers, is_impossible=flags, more=scalars
)


line_ends = st.sampled_from(["\n", "\r\n", "\r"])
encodings = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"])


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
        assert answer["text"].strip()
        assert answer["start_char"] is None or answer["start_char"] >= 0
    assert len({row["document_id"] for row in tables[0]}) == len(tables[0])
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
@given(lines=st.lists(lines_of(table_rows), max_size=6), as_list=st.booleans(), line_end=line_ends, encoding=encodings)
def test_no_row_of_a_json_table_is_lost(lines: list[Any], as_list: bool, line_end: str, encoding: str):
    content = json.dumps(lines) if as_list else line_end.join(map(json.dumps, lines))
    if found := prepared("a.json", {"a.json": content.encode(encoding)}, layout="dataset"):
        assert found.num_questions == len(lines)


@fuzz
@given(
    content=st.one_of(squad_files, st.lists(table_rows, max_size=2), table_rows).map(json.dumps),
    cuts=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 60), st.integers(0, 400)), max_size=3),
    name=st.sampled_from(["a.json", "a.jsonl"]),
)
def test_json_with_parts_moved_twice_or_lost_is_read_or_an_error_of_the_user(
    content: str, cuts: list[tuple[int, int, int]], name: str
):
    for start, length, place in cuts:
        content = content[:place] + content[start : start + length] + content[place + length // 2 :]
    prepared(name, {name: content.encode()})


@fuzz
@given(
    lines=st.lists(st.tuples(words, words, words, cells_of_gold, cells_of_flags), max_size=6),
    delimiter=st.sampled_from(",;\t"),
    line_end=line_ends,
    blank_lines=st.integers(0, 2),
    encoding=encodings,
)
def test_no_row_of_a_csv_file_is_lost(
    lines: list[tuple[str, ...]], delimiter: str, line_end: str, blank_lines: int, encoding: str
):
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator=line_end)
    writer.writerows([["id", "context", "question", "answers", "is_impossible"], *lines])
    text = blank_lines * line_end + file.getvalue().encode("utf-8", "replace").decode()
    content = text.encode(encoding)
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
    last_name=mostly(st.just("more"), st.sampled_from(["is_impossible", "document_id", "title", "id", ""])),
    num_rows=st.integers(0, 3),
    file_format=st.sampled_from(["parquet", "arrow stream", "arrow file"]),
    as_questions=st.booleans(),
)
def test_no_row_of_a_parquet_or_arrow_table_is_lost(
    columns: tuple[pa.Array, ...], last_name: str, num_rows: int, file_format: str, as_questions: bool
):
    names = ["question_id" if as_questions else "id", "context", "question", "answers", last_name]
    content = table_bytes(pa.table([*columns], names).slice(0, num_rows), file_format)
    if content is None:
        return
    name = f"a.{file_format.split()[0]}"
    if as_questions:
        found = prepared("in", {"in/0.txt": b"Ada was here.", name: content}, questions=name)
    else:
        found = prepared(name, {name: content})
    if found:
        assert found.num_questions == num_rows


def table_bytes(table: pa.Table, file_format: str) -> bytes | None:
    """None if the format cannot store the table."""
    sink = io.BytesIO()
    if file_format == "parquet":
        try:
            pq.write_table(table, sink)
        except pa.ArrowException:
            return None
        return sink.getvalue()
    new_writer = pa.ipc.new_stream if file_format == "arrow stream" else pa.ipc.new_file
    with new_writer(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


@fuzz
@given(
    rows=st.lists(
        st.fixed_dictionaries({"id": st.uuids().map(str), "context": sentences, "question": words}),
        min_size=1,
        max_size=8,
    ),
    parts=st.lists(st.sampled_from(["a.jsonl", "b.json", "c=1/c.csv", "c=é/d.parquet", "e.arrow"]), min_size=8),
)
def test_no_row_of_a_folder_of_tables_is_lost(rows: list[dict[str, Any]], parts: list[str]):
    rows = [row | {"question": row["question"].encode(errors="replace").decode()} for row in rows]
    by_file: dict[str, list[dict[str, Any]]] = {}
    for row, part in zip(rows, parts):
        by_file.setdefault(part, []).append(row)
    files = {}
    for name, part in by_file.items():
        if name.endswith((".parquet", ".arrow")):
            files[f"in/{name}"] = table_bytes(
                pa.Table.from_pylist(part), name.split(".")[1].replace("arrow", "arrow file")
            )
        elif name.endswith(".csv"):
            file = io.StringIO(newline="")
            writer = csv.DictWriter(file, [*part[0]], quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(part)
            files[f"in/{name}"] = file.getvalue().encode()
        else:
            files[f"in/{name}"] = json.dumps(part).encode()
    if found := prepared("in", files, layout="dataset"):
        assert found.num_questions == len(rows)


@fuzz
@given(
    contents=st.lists(
        st.one_of(st.binary(max_size=20), words.map(lambda text: text.encode(errors="replace"))), max_size=4
    ),
    stems=st.lists(st.sampled_from(["caf\xe9", "cafe\u0301", "a", "a.txt", "b/a", "한"]), min_size=4, max_size=4),
    suffixes=st.lists(st.sampled_from([".txt", ".TXT", ".md", ".pdf", "", ".docx"]), min_size=4, max_size=4),
    hidden=st.lists(mostly(st.just(False), st.just(True)), min_size=4, max_size=4),
    encoding=st.sampled_from([None, "cp1252", "utf-16-le"]),
)
def test_no_file_of_a_folder_is_lost(
    contents: list[bytes], stems: list[str], suffixes: list[str], hidden: list[bool], encoding: Any
):
    names = [f"in/{'_' * is_hidden}{stem}{suffix}" for stem, suffix, is_hidden in zip(stems, suffixes, hidden)]
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


@fuzz
@given(lines=st.lists(words, max_size=6), line_end=line_ends, encoding=encodings)
def test_each_line_of_a_file_of_questions_is_a_question(lines: list[str], line_end: str, encoding: str):
    lines = [line.encode(errors="replace").decode() for line in lines]
    content = line_end.join(lines).encode(encoding)
    expected = [line.strip() for line in re.split(r"[\r\n]", line_end.join(lines)) if line.strip()]
    if found := prepared("in", {"in/0.txt": b"Ada was here.", "q.txt": content}, questions="q.txt"):
        assert [row["question"] for row in found.questions] == expected
