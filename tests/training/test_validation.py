"""What a model is measured and calibrated by: known values by hand, and the law that the figures come true."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import TEXT, save_model

from qa_ray import Reader
from qa_ray.evaluation.calibration import calibration
from qa_ray.evaluation.evaluate import evaluate_pairs
from qa_ray.evaluation.predictions import Gold, Prediction
from qa_ray.inference.answers import calibrated
from qa_ray.schemas import ReadableDocument
from qa_ray.training.calibrate import fit_scores
from qa_ray.training.validation import Summary, Validated, ValidationDocument, answer_validation, summarize


def row(i: int, gold: list[str], n_best: list[str], score: float, no_answer_score: float = 0.0):
    """The best of ``n_best`` has this score, each other one a tenth of the one before."""
    spans = [(text, score / 10**rank) for rank, text in enumerate(n_best)]
    return Validated(Gold("d", f"q{i}", gold), "Who?", spans, no_answer_score)


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, 0.0), (0.65, 0.2), (2.0, -1.0)])
def test_fitted_scores_come_true(slope: float, intercept: float):
    random = np.random.default_rng(0)
    score_R = 1 / (1 + np.exp(-3 * random.standard_normal(20_000)))
    true_R = np.array([calibrated(score, slope, intercept) for score in score_R])
    is_right_R = random.random(len(true_R)) < true_R
    found = fit_scores(score_R, is_right_R)
    assert found == pytest.approx((slope, intercept), abs=0.1)
    assert calibration([calibrated(score, *found) for score in score_R], is_right_R).expected_error < 0.015


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=30))
def test_the_order_of_scores_stays_whatever_they_are_fitted_to(rows: list[tuple[float, bool]]):
    scores, is_right = (np.array(column, dtype=float) for column in (zip(*rows) if rows else ([], [])))
    slope, intercept = fit_scores(scores, is_right)
    assert slope > 0
    fitted = [calibrated(score, slope, intercept) for score in sorted(scores)]
    assert fitted == sorted(fitted)
    assert all(0 <= score <= 1 for score in fitted)


def test_scores_that_are_right_half_of_the_time_become_a_half():
    rows = [row(i, ["Ada"] if i % 2 else ["Bob"], ["Ada"], 0.9) for i in range(1000)]
    summary = summarize(rows, "squad")
    assert summary.figures["expected_calibration_error"] < 0.01
    assert summary.n_best[0] == [("Ada", pytest.approx(0.5, abs=0.01))]


def test_the_rank_of_the_gold_and_the_scores_of_right_and_wrong_answers_are_told():
    rows = [
        row(0, ["Ada"], ["Ada", "Bob"], 0.9),
        row(1, ["Ada"], ["Bob", "Ada"], 0.4),
        row(2, ["Ada"], ["Bob", "Eve"], 0.2),
        row(3, ["Ada"], [], 0.0),
    ]
    summary = summarize(rows, "squad")
    figures, scores = summary.figures, [spans[0][1] for spans in summary.n_best[:3]]
    assert figures["exact_match"] == 25
    assert figures["gold_among_n_best"] == pytest.approx(100 * 2 / 3)
    assert figures["mean_rank_of_gold"] == 1.5
    assert figures["mean_score_when_right"] == pytest.approx(scores[0])
    assert figures["mean_score_when_wrong"] == pytest.approx((scores[1] + scores[2]) / 2)


def test_the_threshold_is_that_with_the_best_f1():
    rows = [row(i, ["Ada"], ["Ada"], 0.9, 0.3) for i in range(3)]
    rows += [row(i + 3, [], ["Ada"], 0.9, 0.7) for i in range(3)]
    summary = summarize(rows, "squad")
    assert 0.3 <= summary.settings["no_answer_threshold"] < 0.7
    assert summary.figures["f1"] == 100


def test_a_model_without_unanswerable_questions_always_answers():
    assert summarize([row(0, ["Ada"], ["Ada"], 0.9, 0.8)], "squad").settings["no_answer_threshold"] == 1


def test_no_question_with_a_gold_answer_leaves_the_scores_alone():
    summary = summarize([row(0, [], ["Ada"], 0.9, 0.8)], "squad")
    assert (summary.settings["score_slope"], summary.settings["score_intercept"]) == (1, 0)
    assert summary.figures["f1"] == 100


@pytest.mark.parametrize("family", ["longformer", "bert"])
def test_a_reader_with_the_chosen_settings_answers_as_the_summary_says(tmp_path: Path, family: str):
    folder = save_model(family, tmp_path, settings={"max_tokens": 48, "overlap_tokens": 8, "max_question_tokens": 16})
    reader = Reader(folder, dtype="float32")
    questions = [f"Who {verb} the {thing}?" for verb in ("built", "signed") for thing in ("dog", "fox", "cost", "Cape")]
    document = ReadableDocument(TEXT, reader.tokenizer(TEXT), [reader.tokenizer.question(q) for q in questions])
    found = reader.read([document])[0]
    # Half of the questions have no answer, those of which the model thinks so; of the others it finds every second one.
    by_score = sorted(range(len(found)), key=lambda q: found[q]["no_answer_score"])
    golds = [Gold("d", str(q), []) for q in range(len(found))]
    for rank, q in enumerate(by_score[: len(found) // 2]):
        golds[q] = Gold("d", str(q), ["nothing of it", found[q]["n_best"][0]["answer"]][: 1 + rank % 2])
    summary = summarize(answer_validation(reader, [ValidationDocument(document, golds, questions)]), "squad")
    assert answered(folder, summary, questions, golds) == (summary.figures["exact_match"], summary.figures["f1"])
    assert summary.settings["score_slope"] != 1
    n_best = [answer["n_best"] for answer in Reader(folder, dtype="float32", **summary.settings).read([document])[0]]
    scores = [score for spans in summary.n_best for _, score in spans]
    assert [span["score"] for spans in n_best for span in spans] == pytest.approx(scores)
    assert 50 < summary.figures["f1"] <= 100  # better than to answer never


def answered(folder: str, summary: Summary, questions: list[str], golds: list[Gold]) -> tuple[float, float]:
    """Exact match and F1 of a reader with these settings."""
    reader = Reader(folder, dtype="float32", **summary.settings)
    answers = reader.answer(questions, TEXT)
    predictions = [
        Prediction("d", gold.question_id, answer["answer"], [(answer["answer"], answer["score"])], None)
        for gold, answer in zip(golds, answers, strict=True)
    ]
    overall = evaluate_pairs(golds, predictions, "squad").overall
    return overall.exact_match, overall.f1
