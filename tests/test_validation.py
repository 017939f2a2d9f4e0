"""What a model is measured and calibrated by: known values by hand, and the law that the figures come true."""

from pathlib import Path

import pytest
from models import TEXT, save_model

from qa_ray import Reader
from qa_ray.evaluate import evaluate_pairs
from qa_ray.predictions import Gold, Prediction
from qa_ray.reader import ReadableDocument
from qa_ray.validation import (
    TEMPERATURES,
    Summary,
    Validated,
    ValidationDocument,
    answer_validation,
    summarise,
)


def row(i: int, gold: list[str], n_best: list[str], score_T: list[float], no_answer_T: list[float] | None = None):
    scores_T = [[score, 0.0, 0.0][: len(n_best)] for score in score_T]
    return Validated(Gold("d", f"q{i}", gold), "Who?", n_best, scores_T, no_answer_T or [0.0] * len(score_T))


def flat(score: float) -> list[float]:
    return [score] * len(TEMPERATURES)


def test_the_temperature_is_that_whose_scores_are_nearest_to_the_frequencies():
    scores = flat(1.0)
    scores[3] = 0.5
    half_right = [row(0, ["Ada"], ["Ada"], scores), row(1, ["Bob"], ["Ada"], scores)]
    summary = summarise(half_right, "squad")
    assert summary.temperature == TEMPERATURES[3]
    assert summary.figures["expected_calibration_error"] == 0
    assert summary.n_best == [[("Ada", 0.5)]] * 2


def test_the_rank_of_the_gold_and_the_scores_of_right_and_wrong_answers_are_told():
    rows = [
        row(0, ["Ada"], ["Ada", "Bob"], flat(0.9)),
        row(1, ["Ada"], ["Bob", "Ada"], flat(0.4)),
        row(2, ["Ada"], ["Bob", "Eve"], flat(0.2)),
        row(3, ["Ada"], [], flat(0.0)),
    ]
    figures = summarise(rows, "squad").figures
    assert figures["exact_match"] == 25
    assert figures["gold_among_n_best"] == pytest.approx(100 * 2 / 3)
    assert figures["mean_rank_of_gold"] == 1.5
    assert figures["mean_score_when_right"] == pytest.approx(0.9)
    assert figures["mean_score_when_wrong"] == pytest.approx(0.3)


def test_the_threshold_is_that_of_the_chosen_temperature():
    # At the temperature that fits, unanswerable questions lie above 0.6; at 1 they lie below all others.
    fits = 5
    answerable_T, unanswerable_T = flat(0.5), flat(0.1)
    answerable_T[fits], unanswerable_T[fits] = 0.3, 0.7
    right_T = flat(0.2)
    right_T[fits] = 1.0
    rows = [row(i, ["Ada"], ["Ada"], right_T, answerable_T) for i in range(3)]
    rows += [row(i + 3, [], ["Ada"], right_T, unanswerable_T) for i in range(3)]
    summary = summarise(rows, "squad")
    assert summary.temperature == TEMPERATURES[fits]
    assert 0.3 <= summary.no_answer_threshold < 0.7
    assert summary.figures["f1"] == 100


def test_a_model_without_unanswerable_questions_always_answers():
    assert summarise([row(0, ["Ada"], ["Ada"], flat(0.9), flat(0.8))], "squad").no_answer_threshold == 1


def test_no_question_with_a_gold_answer_leaves_the_temperature_alone():
    summary = summarise([row(0, [], ["Ada"], flat(0.9), flat(0.8))], "squad")
    assert summary.temperature == 1
    assert summary.figures["f1"] == 100


@pytest.mark.parametrize("family", ["longformer", "bert"])
def test_a_reader_with_the_chosen_settings_answers_as_the_summary_says(tmp_path: Path, family: str):
    folder = save_model(family, tmp_path, settings={"max_tokens": 48, "overlap_tokens": 8, "max_question_tokens": 16})
    reader = Reader(folder, dtype="float32")
    questions = [f"Who {verb} the {thing}?" for verb in ("built", "signed") for thing in ("dog", "fox", "cost", "Cape")]
    document = ReadableDocument(TEXT, reader.tokeniser(TEXT), [reader.tokeniser.question(q) for q in questions])
    found = reader.read([document])[0]
    # Half of the questions have no answer, those of which the model thinks so; of the others it finds every second one.
    by_score = sorted(range(len(found)), key=lambda q: found[q]["no_answer_score"])
    golds = [Gold("d", str(q), []) for q in range(len(found))]
    for rank, q in enumerate(by_score[: len(found) // 2]):
        golds[q] = Gold("d", str(q), ["nothing of it", found[q]["n_best"][0]["answer"]][: 1 + rank % 2])
    summary = summarise(answer_validation(reader, [ValidationDocument(document, golds, questions)]), "squad")
    assert answered(folder, summary, questions, golds) == (summary.figures["exact_match"], summary.figures["f1"])
    assert 50 < summary.figures["f1"] <= 100  # better than to answer never


def answered(folder: str, summary: Summary, questions: list[str], golds: list[Gold]) -> tuple[float, float]:
    """Exact match and F1 of a reader with these settings."""
    threshold = summary.no_answer_threshold
    reader = Reader(folder, dtype="float32", temperature=summary.temperature, no_answer_threshold=threshold)
    answers = reader.answer(questions, TEXT)
    predictions = [
        Prediction("d", gold.question_id, answer["answer"], [(answer["answer"], answer["score"])], None)
        for gold, answer in zip(golds, answers, strict=True)
    ]
    overall = evaluate_pairs(golds, predictions, "squad").overall
    return overall.exact_match, overall.f1
