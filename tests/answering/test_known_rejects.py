"""What is certain before a run: questions that are rejected whatever happens, and how many rejects a job may have."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from running import QUESTION, changed, raises_error, write_job

from qa_ray.answering import job
from qa_ray.answering import plan as plan_module
from qa_ray.answering.job import check_job, checked_plan
from qa_ray.answering.known_rejects import check_known_rejects, known_rejects
from qa_ray.answering.plan import make_plan, max_rejects
from qa_ray.errors import InputError

LONG = "who " * 31  # the models' limit is 30 tokens
TO_ALL = [{"question_id": "q", "question": "Who built it?"}]


def documents(*texts: str | None) -> list[dict[str, Any]]:
    return [{"document_id": f"d{i}", "text": text} for i, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("limit", "num_pairs", "num_documents", "expected"),
    [
        (0.05, 1000, 100, 50),
        (0.05, 9, 9, 1),  # one empty file of nine
        (0.05, 45, 9, 5),  # asked five questions
        (0.05, 5, 9, 1),  # fewer questions than documents
        (0.05, 3, 3, 1),  # not two of three
        (0.05, 2, 2, 1),
        (0.05, 10, 1, 5),  # half of the questions about a single document
        (0.05, 1, 1, 0),  # never all
        (0.05, 400, 400, 20),
        (0.001, 200, 200, 1),
        (0.29, 100, 100, 29),
        (0, 45, 9, 0),
        (1, 45, 9, 45),
    ],
)
def test_few_documents_may_have_the_rejects_of_one_of_them(
    limit: float, num_pairs: int, num_documents: int, expected: int
):
    assert max_rejects(limit, num_pairs, num_documents) == expected


def test_a_question_to_all_that_is_too_long_is_an_error_before_the_run(tmp_path: Path, models):
    config = write_job(tmp_path, models["bert"], questions=[*TO_ALL, {"question_id": "long", "question": LONG}])
    for start in (check_job, job.answer_documents):
        with raises_error(
            InputError,
            "questions: question 'long', asked about every document, has 31 tokens, more than "
            "windows.max_question_tokens=30; raise it or truncate it with windows.long_questions=truncate",
        ):
            start(config)
    assert not Path(config.output).exists()
    assert checked_plan(changed(config, windows={"long_questions": "truncate"})).num_pairs == 2


def test_rejects_that_are_certain_are_counted_by_reason(tmp_path: Path, models):
    bound = [
        ("d0", "fine", "Who?"),
        ("d0", "null", None),
        ("d1", "blank", " "),
        ("d3", "long", LONG),
        ("no", "x", "Who?"),
    ]
    rows = [dict(zip(("document_id", "question_id", "question"), row, strict=True)) for row in bound]
    rows += [{"document_id": None, **TO_ALL[0]}]
    config = write_job(tmp_path, models["bert"], documents("Ada.", None, "", "Ada.", None), rows)
    expected = Counter(unknown_document=1, null_question=1, blank_question=1, question_too_long=1, null_text=2)
    assert known_rejects(checked_plan(config)) == expected
    with raises_error(
        InputError,
        "6 of 10 questions are certain to be rejected (null_text 2, unknown_document 1, ",
        "), more than limits.max_rejected_fraction=0.05 allows; fix the input or raise the limit",
    ):
        check_job(config)
    allowed = changed(config, limits={"max_rejected_fraction": 0.6})
    assert check_known_rejects(checked_plan(allowed)) == expected
    truncated = changed(config, windows={"long_questions": "truncate"})
    assert known_rejects(checked_plan(truncated)) == expected - Counter(question_too_long=1)


def test_a_sound_input_has_no_certain_rejects(tmp_path: Path, models):
    assert known_rejects(checked_plan(write_job(tmp_path, models["bert"]))) == Counter()


FOREIGN = "ⵣⴰⵔ ⵏⵜⵜⴰ"


def test_questions_without_a_known_word_are_certain_rejects(tmp_path: Path, models):
    rows = [QUESTION | {"question_id": text, "question": text} for text in ("Who?", FOREIGN, "\u0301\u200b")]
    plan = checked_plan(write_job(tmp_path, models["bert"], questions=rows))
    assert known_rejects(plan) == {"question_unknown_words": 1, "question_no_tokens": 1}


def test_a_question_to_all_without_a_known_word_is_an_error_before_the_run(tmp_path: Path, models):
    config = write_job(tmp_path, models["bert"], questions=[{"question_id": "q", "question": FOREIGN}])
    with raises_error(InputError, "questions: question 'q', asked about every document: the question has no word that"):
        check_job(config)


@pytest.mark.parametrize(("text", "warns"), [("Ada Vane built it.", False), (f"Ada Vane built it. {FOREIGN}", True)])
def test_the_plan_warns_of_documents_with_many_unknown_words(
    tmp_path: Path, models, monkeypatch: pytest.MonkeyPatch, text: str, warns: bool
):
    warnings: list[str] = []
    monkeypatch.setattr(plan_module.LOG, "warning", lambda message, *values: warnings.append(message % values))
    make_plan(write_job(tmp_path, models["bert"], documents(text), TO_ALL))
    assert [("% of the tokens are unknown to the model's tokenizer" in line) for line in warnings] == [True] * warns
