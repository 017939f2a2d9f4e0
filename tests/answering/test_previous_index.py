"""The index of earlier answers: keys, what is known of documents, rows by their positions."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_ray.answering import previous
from qa_ray.answering.previous import (
    KEY,
    AnswersFile,
    ReusedAnswers,
    make_index,
    pair_key,
    read_rows_at,
    take_known,
)
from qa_ray.config.sections import StorageSettings
from qa_ray.io.row_checks import CheckedDocument
from qa_ray.schemas import ANSWERS, Question

STORAGE = StorageSettings().model_dump()


def test_keys_are_unambiguous_and_depend_on_every_part():
    parts = [("a", "bc", "d", "e" * 64), ("ab", "c", "d", "e" * 64), ("a", "b", "cd", "e" * 64)]
    parts += [("a", "bc", "d", "f" * 64), ("a", "bc", "", "e" * 64), ("1", "1bc", "d", "e" * 64)]
    assert len({pair_key(*part) for part in parts}) == len(parts)
    assert {len(pair_key(*part)) for part in parts} == {16}


@given(st.lists(st.sampled_from([b"\0" * 16, b"a" + b"\0" * 15, b"a\0" + b"b" * 14, b"\xff" * 16])), st.data())
def test_the_index_finds_the_first_position_of_a_key_with_zeros_too(all_keys: list[bytes], data: st.DataObject):
    keys = np.frombuffer(b"".join(all_keys), KEY)
    index = make_index(keys)
    asked = [*{*all_keys}, b"\0" * 15 + b"a", b"zz" + b"\0" * 14]
    expected = [all_keys.index(key) if key in all_keys else -1 for key in asked]
    assert index.find(np.frombuffer(b"".join(asked), KEY)).tolist() == expected
    assert index.find(np.empty(0, KEY)).tolist() == []


def test_documents_keep_their_new_questions_and_rejects_and_a_text_only_if_they_have_a_question():
    documents = [
        CheckedDocument("one", [Question("p", "P?"), Question("q", "Q?")], [{"reason": "blank_question"}]),
        CheckedDocument("", [], [{"reason": "null_text"}]),
        CheckedDocument("two", [Question("q", "Q?")], []),
        CheckedDocument("three", [Question("q", "Q?"), Question("r", "R?")], []),
    ]
    ids = ["a", "b", "c", "d"]
    one, two, three = (previous.hashlib.sha256(text.encode()).hexdigest() for text in ("one", "two", "three"))
    pairs = [("a", "q", "Q?", one), ("c", "q", "Q?", one), ("c", "q", "Q?", two), ("d", "r", "R?", three)]
    pairs += [("d", "q", "Q", three), ("c", "d", "Q?", three)]
    keys = np.frombuffer(b"".join(pair_key(*pair) for pair in pairs), KEY)
    index = make_index(keys)
    left, positions = take_known(index, ids, documents)
    assert positions.to_pylist() == [[0], [], [2], [3]]
    assert left == [
        documents[0]._replace(questions=[Question("p", "P?")]),
        documents[1],
        CheckedDocument("", [], []),
        documents[3]._replace(questions=[Question("q", "Q?")]),
    ]
    assert take_known(index, [], []) == ([], pa.array([], pa.list_(pa.int64())))
    left, positions = take_known(make_index(keys[:0]), ids, documents)
    assert (left, positions.to_pylist()) == (documents, [[]] * 4)


SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=4)


@given(SIZES, st.sampled_from([1, 3, 9]), st.sampled_from([0, 10**9]), st.data())
def test_rows_come_back_by_their_positions_whatever_file_row_group_and_batch_they_are_in(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], row_group_size: int, combined: int, data: st.DataObject
):
    folder, starts = tmp_path_factory.mktemp("files"), np.cumsum([0, *sizes])
    files = []
    for number, size in enumerate(sizes):
        rows = [{"document_id": f"d{starts[number] + i}", "question_id": "q", "n_best": []} for i in range(size)]
        table = pa.Table.from_pylist(rows, ANSWERS).append_column("title", pa.array(["old"] * size))
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=row_group_size)
        files.append(AnswersFile(str(folder / f"{number}.parquet"), size, ""))
    wanted = np.array(sorted(data.draw(st.sets(st.integers(0, sum(sizes) - 1), min_size=1))))
    tables = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(previous, "COMBINED_BYTES", combined)
        for file, start, stop in zip(files, starts, starts[1:]):
            rows = wanted[(wanted >= start) & (wanted < stop)] - start
            if len(rows):
                first, second = read_rows_at(STORAGE, file, int(start), [rows, rows[:1]])  # for two groups
                assert second.num_rows == 1
                assert first == read_rows_at(STORAGE, file, int(start), [rows])
                tables.append(first)
    asked = np.array(sorted(data.draw(st.lists(st.sampled_from(wanted.tolist()), min_size=1))))
    found = ReusedAnswers(tables).at(asked)
    assert found["document_id"].to_pylist() == [f"d{position}" for position in asked]
    assert found.schema.names == ANSWERS.names
