"""Gold that was counted in other units, or before line ends were changed, is moved where it is certain, and counted."""

import json
from pathlib import Path
from typing import Any

import pytest
from source_files import article, paragraph, qa, rows, squad, write_json

from qa_ray.preparation.job import prepare

EMOJI = "🙂🙂🙂 Oslo lies north of Bergen. The ferry to Oslo leaves at nine."
LINES = "".join(f"Clause {i}. The tenant pays rent number {i}.\n" for i in range(30))


def utf16_start(text: str, start: int) -> int:
    return len(text[:start].encode("utf-16-le")) // 2


def byte_start(text: str, start: int) -> int:
    return len(text[:start].encode())


def starts(output: Path) -> list[int]:
    return [answer["start_char"] for row in rows(output, "questions") for answer in row["answers"]]


def prepare_gold(tmp_path: Path, text: str, *gold: tuple[str, int], **options: Any) -> str:
    qas = [qa(str(i), answers=[{"text": part, "answer_start": start}]) for i, (part, start) in enumerate(gold)]
    source = write_json(tmp_path / "dev.json", squad(article("T", paragraph("🙂"), paragraph(text, *qas))))
    return str(prepare(source, f"{tmp_path}/out", **options))


@pytest.mark.parametrize("join", [False, True])
@pytest.mark.parametrize(
    ("text", "part", "count", "name"),
    [
        (EMOJI, "Oslo", utf16_start, "counted in UTF-16 units"),
        (EMOJI, "Oslo", byte_start, "counted in bytes of UTF-8"),
        (EMOJI, "Oslo", lambda text, start: start + 1, "counted from 1"),
        (LINES, "rent number 25", lambda text, start: start + text.count("\n", 0, start), r"counted in \n as two"),
        (
            LINES.replace("\n", "\r\n"),
            "rent number 25",
            lambda text, start: start - text.count("\n", 0, start),
            r"counted in \r\n as one",
        ),
        (
            EMOJI + LINES,
            "rent number 25",
            lambda text, start: utf16_start(text, start) + text.count("\n", 0, start),
            r"counted in UTF-16 units and \n as two",
        ),
    ],
)
def test_a_count_that_fits_all_gold_of_a_document_is_taken(
    tmp_path: Path, join: bool, text: str, part: str, count: Any, name: str
):
    first, last = text.index(part), text.rindex(part)
    gold = [(part, count(text, first)), (part, count(text, last)), (text[:3], count(text, 0))]
    printed = prepare_gold(tmp_path, text, *gold, join=join)
    shift = len("🙂\n\n") if join else 0
    assert starts(tmp_path / "out") == [first + shift, last + shift, shift]
    moved = sum(given != place for (_, given), place in zip(gold, (first, last, 0)))
    assert f"gold: {moved} answer{'s'[: moved != 1]} {name}" in printed
    assert "0 of them misplaced" in printed


def test_gold_that_no_count_fits_is_kept_as_it_is(tmp_path: Path):
    place = EMOJI.rindex("Oslo")
    printed = prepare_gold(tmp_path, EMOJI, ("Oslo", utf16_start(EMOJI, place)), ("Bergen", 3))
    assert starts(tmp_path / "out") == [utf16_start(EMOJI, place), 3]
    assert "2 answers, 2 of them misplaced" in printed


def test_gold_that_two_counts_fit_at_different_places_is_kept_as_it_is(tmp_path: Path):
    # There is an x at 3, which is 6 in bytes, and at 5, which is 6 in UTF-16 units.
    printed = prepare_gold(tmp_path, "🙂x x x x x x", ("x", 6))
    assert "1 answer, 1 of them misplaced" in printed


def test_right_gold_is_never_moved(tmp_path: Path):
    place = EMOJI.rindex("Oslo")
    printed = prepare_gold(tmp_path, EMOJI, ("Oslo", place), ("Oslo", EMOJI.index("Oslo")))
    assert starts(tmp_path / "out") == [place, EMOJI.index("Oslo")]
    assert "counted" not in printed


def test_rows_of_a_table_about_one_document_are_counted_together(tmp_path: Path):
    places = [EMOJI.index("Oslo"), EMOJI.rindex("Oslo"), EMOJI.index("ferry")]
    lines = [
        {"id": i, "context": EMOJI, "question": "?", "answers": {"text": [part], "answer_start": [start]}}
        for i, (part, start) in enumerate(
            [("Oslo", utf16_start(EMOJI, places[0])), ("Oslo", utf16_start(EMOJI, places[1])), ("ferry", 3)]
        )
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert prepare(f"{tmp_path}/a.jsonl", f"{tmp_path}/out").misplaced_answers == 3
    lines[2]["answers"]["answer_start"] = [utf16_start(EMOJI, places[2])]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert prepare(f"{tmp_path}/a.jsonl", f"{tmp_path}/out").gold_changes == {"counted in UTF-16 units": 3}
    assert starts(tmp_path / "out") == places
