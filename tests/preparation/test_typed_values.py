"""Values that went through CSV, pandas or a spreadsheet are read by their type, or are an error with their place."""

import csv
import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_files import article, paragraph, qa, rows, squad, write_json

from qa_ray.errors import InputError
from qa_ray.preparation.job import prepare

GOLD = [{"text": "Ada", "answer_start": 0}]
WRITTEN = [{"text": "Ada", "start_char": 0}]
NAN = float("nan")


def prepare_squad(tmp_path: Path, *qas: object, text: str = "Ada was here.") -> list[dict[str, Any]]:
    source = write_json(tmp_path / "dev.json", squad(article("T", paragraph(text, *qas))))
    return rows(tmp_path / "out", "questions") if prepare(source, f"{tmp_path}/out").questions else []


@pytest.mark.parametrize("value", ["False", "false", " FALSE ", "0", "no", 0, 0.0, False])
def test_a_false_is_impossible_keeps_the_gold(tmp_path: Path, value: object):
    (row,) = prepare_squad(tmp_path, qa("1", answers=GOLD, is_impossible=value))
    assert (row["answers"], row["is_impossible"]) == (WRITTEN, False)


@pytest.mark.parametrize("value", ["True", "true", "1", "yes", 1, 1.0, True])
def test_a_true_is_impossible_means_no_answer(tmp_path: Path, value: object):
    (row,) = prepare_squad(tmp_path, qa("1", answers=[], is_impossible=value))
    assert (row["answers"], row["is_impossible"]) == ([], True)


@pytest.mark.parametrize("value", [None, NAN, "", "nan", "None", "null"])
def test_a_missing_is_impossible_keeps_the_gold(tmp_path: Path, value: object):
    (row,) = prepare_squad(tmp_path, qa("1", answers=GOLD, is_impossible=value))
    assert (row["answers"], row["is_impossible"]) == (WRITTEN, None)


@pytest.mark.parametrize("value", ["maybe", 2, 0.5, [], {}, [False]])
def test_any_other_is_impossible_is_an_error_with_its_place(tmp_path: Path, value: object):
    expected = f"data[0].paragraphs[0].qas[0]: 'is_impossible' is {value!r}, neither true nor false; write true, false"
    with pytest.raises(InputError, match=re.escape(expected)):
        prepare_squad(tmp_path, qa("1", answers=GOLD, is_impossible=value))


def test_gold_that_contradicts_is_impossible_is_counted(tmp_path: Path):
    qas = [qa("1", answers=GOLD, is_impossible=True), qa("2", answers=[], is_impossible=False), qa("3", answers=[])]
    source = write_json(tmp_path / "dev.json", squad(article("T", paragraph("Ada was here.", *qas))))
    printed = str(prepare(source, f"{tmp_path}/out"))
    assert [row["answers"] for row in rows(tmp_path / "out", "questions")] == [[], None, []]
    assert "gold: 1 answer left out, because is_impossible is true" in printed
    assert "gold: 1 answer missing though is_impossible is false, read as unknown" in printed


@pytest.mark.parametrize(
    ("value", "expected"),
    [(4.0, 4), ("4", 4), (" 4 ", 4), ("4.0", 4), (None, None), (NAN, None), ("", None), (-1, None)],
)
def test_positions_are_read_as_whole_numbers(tmp_path: Path, value: object, expected: int | None):
    (row,) = prepare_squad(tmp_path, qa("1", answers=[{"text": "was", "answer_start": value}]))
    assert row["answers"] == [{"text": "was", "start_char": expected}]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (29.5, "answer_start is 29.5, which has a fraction; give the number of characters before the answer, or leave"),
        ("29.5", "answer_start is '29.5', which has a fraction; give"),
        ("four", "answer_start is 'four', not a whole number; give"),
        (True, "answer_start is True, not a whole number; give"),
        ([4], "answer_start is [4], not a whole number; give"),
        (float("inf"), "answer_start is inf, not a whole number; give"),
        (1 << 63, "answer_start is 9223372036854775808, not a whole number; give"),
    ],
)
def test_a_position_that_is_not_a_whole_number_is_an_error_with_its_place(tmp_path: Path, value: object, expected: str):
    with pytest.raises(InputError, match=re.escape(f"paragraphs[0].qas[1]: answers[1]: {expected}")):
        prepare_squad(tmp_path, qa("1"), qa("2", answers=[*GOLD, {"text": "was", "answer_start": value}]))


@pytest.mark.parametrize(("value", "expected"), [(7, "7"), (7.0, "7"), ("007", "007"), (-1, "-1"), ("", "")])
def test_ids_are_text_as_they_are_or_whole_numbers(tmp_path: Path, value: object, expected: str):
    (row,) = prepare_squad(tmp_path, qa(value))
    assert row["question_id"] == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.5, "'id' is 1.5, not text or a whole number; write the ids of the source as text"),
        (1e300, "(a float of this size has lost digits); write the ids of the source as text"),
        (True, "'id' is True, not text or a whole number"),
        (["a"], "'id' is ['a'], not text or a whole number"),
        (NAN, "'id' is nan, not text or a whole number; fix the source"),
    ],
)
def test_an_id_of_another_type_is_an_error_with_its_place(tmp_path: Path, value: object, expected: str):
    with pytest.raises(InputError, match=re.escape("qas[0]: ") + ".*" + re.escape(expected)):
        prepare_squad(tmp_path, qa(value))


@pytest.mark.parametrize(
    "answers",
    [
        GOLD,
        {"text": ["Ada"], "answer_start": [0]},
        {"text": ["Ada"], "start_char": [0]},
        {"text": "Ada", "answer_start": 0},
        {"text": ["Ada"], "answer_start": ["0"]},
        [{"text": "Ada", "start_char": None, "answer_start": 0}],
        json.dumps(GOLD),
        '{"text": ["Ada"], "answer_start": [0]}',
        "{'text': ['Ada'], 'answer_start': [0]}",
        "[{'text': 'Ada', 'answer_start': 0.0}]",
        "{'text': array(['Ada'], dtype=object), 'answer_start': array([0], dtype=int32)}",
    ],
)
def test_gold_is_read_from_all_forms_that_tools_write(tmp_path: Path, answers: object):
    (row,) = prepare_squad(tmp_path, qa("1", answers=answers))
    assert row["answers"] == WRITTEN


@pytest.mark.parametrize("answers", [["Ada"], {"text": ["Ada"]}, {"text": ["Ada"], "answer_start": None}])
def test_gold_without_positions_has_unknown_ones(tmp_path: Path, answers: object):
    (row,) = prepare_squad(tmp_path, qa("1", answers=answers))
    assert row["answers"] == [{"text": "Ada", "start_char": None}]


@pytest.mark.parametrize(("answers", "expected"), [("", None), ("nan", None), (NAN, None), ("[]", []), ("null", None)])
def test_missing_gold_is_unknown_and_an_empty_list_is_no_answer(tmp_path: Path, answers: object, expected: Any):
    (row,) = prepare_squad(tmp_path, qa("1", answers=answers))
    assert row["answers"] == expected


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("Ada", "'answers' is the text 'Ada', which is not JSON; write it as [{\"text\": …, \"answer_start\": …}]"),
        ("__import__('os').getcwd()", "which is not JSON"),
        ("(" * 5000, "which is not JSON"),
        ("{[1]: 2}", "which is not JSON"),
        ('{"text": ["a"], "text": ["b"]}', "an object has the key 'text' twice; keep one of them"),
        ("[{'text': 'a', 'text': 'b', 'answer_start': nan}]", "an object has the key 'text' twice; keep one"),
        (7, "'answers' is 7, not a list; fix the source"),
        ([{"text": NAN}], "answers[0]: 'text' is nan, not text; fix the source"),
        ([["Ada"]], "answers[0]: ['Ada'] is not an object with 'text' (text); fix the source"),
    ],
)
def test_gold_of_another_form_is_an_error_with_its_place(tmp_path: Path, answers: object, expected: str):
    with pytest.raises(InputError, match=r"qas\[0\]: .*" + re.escape(expected)):
        prepare_squad(tmp_path, qa("1", answers=answers))


@pytest.mark.parametrize("value", [None, NAN])
def test_a_missing_question_is_kept_for_the_answer_job_to_reject(tmp_path: Path, value: Any):
    (row,) = prepare_squad(tmp_path, qa("1", value))
    assert row["question"] is None


def test_a_csv_file_keeps_ids_dates_and_words_for_nothing_as_they_are(tmp_path: Path):
    table = [
        ["id", "context", "question", "answers", "is_impossible", "seen", ""],
        ["007", "Ada was here.", "Who?", json.dumps(GOLD), "False", "2024-05-01", "0"],
        ["7", "Ada was here.", "None", "", "", "", "1"],
        ["NA", 'Bob,\r\n"the" 🦊', "Who?", "[]", "1", "NaN", "2"],
        ["8", "x" * 200_000, "Who?", "{'text': array([], dtype=object)}", "false", "", "3"],
    ]
    for name, delimiter in (("a.csv", ","), ("b.csv", ";"), ("c.tsv", "\t")):
        with (tmp_path / name).open("w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file, delimiter=delimiter).writerows(table)
        prepare(f"{tmp_path}/{name}", f"{tmp_path}/{name}.out")
        assert [row["text"] for row in rows(f"{tmp_path}/{name}.out", "documents")] == [
            "Ada was here.",
            'Bob,\r\n"the" 🦊',
            "x" * 200_000,
        ]
        questions = rows(f"{tmp_path}/{name}.out", "questions")
        keys = ("question_id", "question", "answers", "is_impossible", "seen", "Unnamed: 6")
        assert [tuple(row[key] for key in keys) for row in questions] == [
            ("007", "Who?", WRITTEN, False, "2024-05-01", "0"),
            ("7", "None", None, None, None, "1"),
            ("NA", "Who?", [], True, "NaN", "2"),
            ("8", "Who?", None, False, None, "3"),
        ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "id,context,question\n1,a\n",
            "line 2: 2 fields, but the header has 3; quote fields that have ',' or a line end",
        ),
        ('id,context,question\n1,"a', "line 2: unexpected end of data; fix the quotes or leave the file out"),
        ("id,id,question\n", "has two columns 'id'; drop or rename one of them"),
        ("", "no column 'context' for 'text', only none"),
        ("id,context,question,is_impossible\n1,a,b,perhaps\n", "line 2: 'is_impossible' is 'perhaps', neither true"),
        ("id,context,question,answers\n1,a,b,c\n", "line 2: 'answers' is the text 'c', which is not JSON"),
    ],
)
def test_the_error_for_a_broken_csv_file_gives_the_line(tmp_path: Path, content: str, expected: str):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(InputError, match=re.escape(expected)):
        prepare(f"{tmp_path}/a.csv", f"{tmp_path}/out")


BLANK_GOLD = {
    "blank": ([{"text": "", "answer_start": -1}, {"text": " \n", "answer_start": 3}], None, []),
    "blank and impossible": ({"text": [""], "answer_start": [-1]}, True, []),
    "blank, yet possible": ([""], False, None),
    "beside another": (["\u3000", "Ada"], None, [{"text": "Ada", "start_char": None}]),
}


@pytest.mark.parametrize("name", ["dev.json", "a.jsonl", "a.csv", "a.parquet", "questions.jsonl"])
def test_a_blank_text_is_no_gold_answer_in_any_source(tmp_path: Path, letters: Path, name: str):
    table = [
        {"id": id_, "context": "Ada was here.", "question": "Who?", "answers": json.dumps(gold), "is_impossible": flag}
        for id_, (gold, flag, _) in BLANK_GOLD.items()
    ]
    source, questions = str(tmp_path / name), None
    if name == "dev.json":
        qas = [qa(id_, answers=gold, is_impossible=flag) for id_, (gold, flag, _) in BLANK_GOLD.items()]
        write_json(tmp_path / name, squad(article("T", paragraph("Ada was here.", *qas))))
    elif name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(table), source)
    elif name == "a.csv":
        with open(source, "w", newline="") as file:
            writer = csv.DictWriter(file, [*table[0]])
            writer.writeheader()
            writer.writerows(table)
    else:
        (tmp_path / name).write_text("\n".join(json.dumps(row | {"question_id": row["id"]}) for row in table))
    if name == "questions.jsonl":
        source, questions = str(letters), source
    result = prepare(source, f"{tmp_path}/out", questions=questions)
    found = {row["question_id"]: row["answers"] for row in rows(tmp_path / "out", "questions")}
    assert found == {id_: gold for id_, (_, _, gold) in BLANK_GOLD.items()}
    assert "gold: 5 answers with a blank text, left out" in str(result)
    assert "because is_impossible is true" not in str(result)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_lines_of_all_systems_are_read_as_csv_and_as_json(tmp_path: Path, line_end: str):
    csv_lines = ["", "id;context;question", '1;"Ada\nwas";Who?', "", "2;Bob;Who?", ""]
    json_lines = [json.dumps(line) for line in LINES]
    lines = {"a.csv": csv_lines, "a.jsonl": ["", json_lines[0], "", json_lines[1], ""]}
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        for name, each in lines.items():
            (tmp_path / encoding).mkdir(exist_ok=True)
            (tmp_path / encoding / name).write_bytes(line_end.join(each).encode(encoding))
            output = f"{tmp_path}/out/{encoding}/{name}"
            result = prepare(f"{tmp_path}/{encoding}/{name}", output)
            assert (result.questions, result.rejects) == (2, 0)
            assert rows(output, "documents")[0]["text"] == ("Ada\nwas" if name == "a.csv" else LINES[0]["context"])


def test_a_csv_file_with_the_line_ends_of_old_macs_is_read(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes(b"id;context;question\r1;Ada;Who?\r2;Bob;Who?\r")
    prepare(f"{tmp_path}/a.csv", f"{tmp_path}/out")
    assert [row["text"] for row in rows(tmp_path / "out", "documents")] == ["Ada", "Bob"]


def test_the_error_for_a_broken_arrow_file_gives_its_name(tmp_path: Path):
    (tmp_path / "a.arrow").write_bytes(b"\xff" * 20)
    with pytest.raises(InputError, match=r"a.arrow' cannot be read as Arrow \(.*\); write it again or move it"):
        prepare(f"{tmp_path}/a.arrow", f"{tmp_path}/out")


LINES = [
    {"id": 1, "context": "Ada was here.", "question": "Who?", "answers": {"text": ["Ada"], "answer_start": [0]}},
    {"id": "2024-05-01", "context": "Ada was here.", "question": "When?", "answers": None, "n": 1},
]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", "\n".join(map(json.dumps, LINES))),
        ("a.json", "\n\n".join(map(json.dumps, LINES)) + "\r\n"),
        ("a.json", json.dumps(LINES)),
        ("a.json", json.dumps(LINES, indent=1)),
        ("a.json", json.dumps({"version": "0.1", "data": LINES})),
        ("a.jsonl", "\ufeff" + "\n".join(map(json.dumps, LINES))),
        ("a.JSONL", json.dumps(LINES)),
        ("a.ndjson", "\n".join(map(json.dumps, LINES))),
    ],
)
def test_json_is_read_as_rows_whatever_it_is_called(tmp_path: Path, name: str, content: str):
    (tmp_path / name).write_text(content)
    assert prepare(f"{tmp_path}/{name}", f"{tmp_path}/out").layout == "dataset"
    assert [(row["question_id"], row["answers"], row["n"]) for row in rows(tmp_path / "out", "questions")] == [
        ("1", WRITTEN, None),
        ("2024-05-01", None, 1),
    ]


def test_the_error_for_json_lines_read_as_squad_gives_the_layout(tmp_path: Path):
    (tmp_path / "a.json").write_text("\n".join(map(json.dumps, LINES)))
    with pytest.raises(
        InputError, match=r"is not JSON: Extra data: line 2.*; for a file with an object per line, give"
    ):
        prepare(f"{tmp_path}/a.json", f"{tmp_path}/out", layout="squad")


def test_a_column_of_empty_objects_is_an_error_with_its_name(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(line | {"meta": {"tags": [{}]}}) for line in LINES))
    expected = r"a.jsonl': column 'meta' has only objects without keys, which Parquet cannot store; drop it"
    with pytest.raises(InputError, match=expected):
        prepare(f"{tmp_path}/a.jsonl", f"{tmp_path}/out")


def test_the_error_for_a_broken_line_gives_its_number(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text(json.dumps(LINES[0]) + "\n\n{,}\n")
    with pytest.raises(InputError, match=r"a.jsonl', line 3 is not JSON: Expecting property name"):
        prepare(f"{tmp_path}/a.jsonl", f"{tmp_path}/out")
    (tmp_path / "a.jsonl").write_text(json.dumps(LINES[0]) + "\n" + json.dumps({**LINES[1], "context": 7}))
    with pytest.raises(InputError, match=r"a.jsonl', line 2: 'context' is 7, not text or null; fix the source"):
        prepare(f"{tmp_path}/a.jsonl", f"{tmp_path}/out")


def test_ids_of_databases_are_text(tmp_path: Path):
    ids = [Decimal("123456789012345678901"), Decimal("7.00")]
    table = pa.table({"id": pa.array(ids, pa.decimal128(38, 2)), "context": ["a", "b"], "question": ["?", "?"]})
    pq.write_table(table, tmp_path / "a.parquet")
    prepare(f"{tmp_path}/a.parquet", f"{tmp_path}/out")
    assert [row["question_id"] for row in rows(tmp_path / "out", "questions")] == ["123456789012345678901", "7"]


def test_a_key_that_occurs_twice_is_an_error_not_a_loss(tmp_path: Path):
    (tmp_path / "dev.json").write_text('{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": 1}], "qas": []}]}]}')
    with pytest.raises(InputError, match=r"dev.json': an object has the key 'qas' twice; keep one of them"):
        prepare(f"{tmp_path}/dev.json", f"{tmp_path}/out")


def test_text_that_is_not_valid_in_a_table_is_an_error_with_its_row(tmp_path: Path):
    text = pa.array([b"x", b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"context": text, "question": ["?", "?"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a.parquet', row 2: 'utf-8' codec can't decode .*; fix or drop the row"):
        prepare(f"{tmp_path}/a.parquet", f"{tmp_path}/out")
