"""Validation: figures against values by hand, calibrated scores against frequencies, and the reader's answers."""

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
from qa_ray.model.settings import ModelSettings
from qa_ray.schemas import ReadableDocument
from qa_ray.training.calibrate import fit_scores
from qa_ray.training.fit import MIN_QUESTIONS, describe_fit
from qa_ray.training.validation import (
    Summary,
    ValidationAnswer,
    ValidationDocument,
    answer_validation,
    published_settings,
    summarize,
)


def row(i: int, gold: list[str], n_best: list[str], score: float, no_answer_score: float = 0.0):
    """An answer whose best span has this score, and each further span a tenth of the one before."""
    spans = [(text, score / 10**rank) for rank, text in enumerate(n_best)]
    return ValidationAnswer(Gold("d", f"q{i}", gold), "Who?", spans, no_answer_score)


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, 0.0), (0.65, 0.2), (2.0, -1.0)])
def test_fitted_scores_are_the_frequencies_of_right_answers(slope: float, intercept: float):
    random = np.random.default_rng(0)
    score_R = 1 / (1 + np.exp(-3 * random.standard_normal(20_000)))
    true_R = np.array([calibrated(score, slope, intercept) for score in score_R])
    is_right_R = random.random(len(true_R)) < true_R
    fitted = fit_scores(score_R, is_right_R)
    assert fitted == pytest.approx((slope, intercept), abs=0.1)
    assert calibration([calibrated(score, *fitted) for score in score_R], is_right_R).expected_error < 0.015


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=30))
def test_fitting_never_changes_the_order_of_scores(rows: list[tuple[float, bool]]):
    scores, is_right = (np.array(column, dtype=float) for column in (zip(*rows) if rows else ([], [])))
    slope, intercept = fit_scores(scores, is_right)
    assert slope > 0
    fitted = [calibrated(score, slope, intercept) for score in sorted(scores)]
    assert fitted == sorted(fitted)
    assert all(0 <= score <= 1 for score in fitted)


def test_scores_of_answers_that_are_right_half_of_the_time_become_one_half():
    rows = [row(i, ["Ada"] if i % 2 else ["Bob"], ["Ada"], 0.9) for i in range(1000)]
    summary = summarize(rows, "squad")
    assert summary.figures["expected_calibration_error"] < 0.01
    assert summary.n_best[0] == [("Ada", pytest.approx(0.5, abs=0.01))]


def test_the_figures_have_the_rank_of_the_gold_answer_and_the_scores_of_right_and_wrong_answers():
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


def test_the_threshold_is_the_one_with_the_best_f1():
    rows = [row(i, ["Ada"], ["Ada"], 0.9, 0.3) for i in range(50)]
    rows += [row(i + 50, [], ["Ada"], 0.9, 0.7) for i in range(50)]
    summary = summarize(rows, "squad")
    assert 0.3 <= summary.settings["no_answer_threshold"] < 0.7
    assert summary.figures["f1"] == 100


def test_the_threshold_is_1_if_every_question_has_an_answer():
    assert summarize([row(0, ["Ada"], ["Ada"], 0.9, 0.8)], "squad").settings["no_answer_threshold"] == 1


def test_without_gold_answers_the_scores_are_left_unchanged():
    summary = summarize([row(i, [], ["Ada"], 0.9, 0.8) for i in range(200)], "squad")
    assert (summary.settings["score_slope"], summary.settings["score_intercept"]) == (1, 0)
    assert summary.settings["no_answer_threshold"] == 1
    assert summary.figures["f1"] == 0


BASE = ModelSettings(score_slope=0.5, score_intercept=-0.25, no_answer_threshold=0.75)


def test_too_few_questions_keep_the_settings_of_the_model_that_training_started_from():
    rows = [row(i, ["Ada"], ["Ada"], 0.9, 0.8) for i in range(MIN_QUESTIONS - 2)]
    rows.append(row(MIN_QUESTIONS, [], ["Ada"], 0.9, 0.7))
    summary = summarize(rows, "squad", BASE)
    assert summary.settings == {"score_slope": 0.5, "score_intercept": -0.25, "no_answer_threshold": 0.75}
    assert summary.n_best[0] == [("Ada", calibrated(0.9, 0.5, -0.25))]
    assert summary.figures["f1"] == pytest.approx(0), "answers above the threshold that was kept are null"
    assert describe_fit(summary.fit) == [
        "warning: not fitted, kept: score_slope 0.5, score_intercept -0.25 (98 questions with an answer, too few for a "
        "fit: it takes 100)",
        "warning: not fitted, kept: no_answer_threshold 0.75 (99 questions, too few for a fit: it takes 100)",
    ]


def test_enough_questions_are_fitted_and_the_change_is_described():
    rows = [row(i, ["Ada"], ["Ada"] if i % 2 else ["Bob"], 0.9, 0.3) for i in range(MIN_QUESTIONS)]
    rows += [row(i + 1000, [], ["Ada"], 0.9, 0.7) for i in range(20)]
    summary = summarize(rows, "squad", BASE)
    after = summary.settings
    assert after["score_slope"] != 0.5
    assert 0.3 <= after["no_answer_threshold"] < 0.7
    assert summary.fit["before"] == BASE.model_dump(include=set(after))
    assert summary.fit["kept"] == {}
    assert summary.figures["expected_calibration_error"] < 0.02
    assert describe_fit(summary.fit) == [
        "fitted to 100 questions with and 20 without an answer: "
        + ", ".join(f"{name} {summary.fit['before'][name]:.4g} → {after[name]:.4g}" for name in after),
        f"calibration error on these questions: 0.200 → {summary.figures['expected_calibration_error']:.3f}",
    ]


def test_without_a_question_that_has_no_answer_the_threshold_is_kept_and_that_is_said():
    summary = summarize([row(i, ["Ada"], ["Ada"], 0.9, 0.3) for i in range(MIN_QUESTIONS)], "squad", BASE)
    assert summary.settings["no_answer_threshold"] == 0.75
    assert describe_fit(summary.fit)[-1] == "not fitted, kept: no_answer_threshold 0.75 (no question without an answer)"


@pytest.mark.parametrize("family", ["longformer", "bert"])
def test_a_reader_with_the_fitted_settings_reaches_the_figures_of_the_summary(tmp_path: Path, family: str):
    folder = save_model(family, tmp_path, settings={"max_tokens": 48, "overlap_tokens": 8, "max_question_tokens": 16})
    reader = Reader(folder, dtype="float32")
    things = ("dog", "fox", "cost", "Cape")
    questions = [f"Who {verb} the {thing}?" for verb in ("built", "signed") for thing in things] * (MIN_QUESTIONS // 4)
    document = ReadableDocument(TEXT, reader.tokenizer(TEXT), [reader.tokenizer.question(q) for q in questions])
    answers = reader.read([document])[0]
    # The half of the questions with the highest no-answer scores have no answer; of the others, every second is right.
    by_score = sorted(range(len(answers)), key=lambda q: answers[q]["no_answer_score"])
    golds = [Gold("d", str(q), []) for q in range(len(answers))]
    for rank, q in enumerate(by_score[: len(answers) // 2]):
        golds[q] = Gold("d", str(q), ["nothing of it", answers[q]["n_best"][0]["answer"]][: 1 + rank % 2])
    summary = summarize(answer_validation(reader, [ValidationDocument(document, golds, questions)]), "squad")
    assert reader_figures(folder, summary, questions, golds) == (summary.figures["exact_match"], summary.figures["f1"])
    assert summary.settings["score_slope"] != 1
    n_best = [answer["n_best"] for answer in Reader(folder, dtype="float32", **summary.settings).read([document])[0]]
    scores = [score for spans in summary.n_best for _, score in spans]
    assert [span["score"] for spans in n_best for span in spans] == pytest.approx(scores)
    assert 50 < summary.figures["f1"] <= 100  # 50: never answering


def test_a_trained_model_keeps_every_setting_of_its_base_that_is_not_fitted_or_of_the_job():
    class NewSettings(ModelSettings):
        new_setting: int = 1

    base = NewSettings.model_validate(
        {
            "new_setting": 7,
            "ranking": "logit",
            "lexical_weight": 0.5,
            "max_tokens": 100,
            "score_slope": 3.0,
            "data": "x",
        }
    )
    windows = {"max_tokens": 48, "overlap_tokens": 8, "max_question_tokens": 16, "read": {"most": 8}}
    fitted = {"score_slope": 2.0, "score_intercept": 0.5, "no_answer_threshold": 0.75}
    expected = {"new_setting": 7, "ranking": "logit", "lexical_weight": 0.5, **windows, **fitted}
    assert published_settings(base, windows, fitted) == expected


def reader_figures(folder: str, summary: Summary, questions: list[str], golds: list[Gold]) -> tuple[float, float]:
    """Exact match and F1 of a reader with the settings of the summary."""
    reader = Reader(folder, dtype="float32", **summary.settings)
    answers = reader.answer(questions, TEXT)
    predictions = [
        Prediction("d", gold.question_id, answer["answer"], [(answer["answer"], answer["score"])], None)
        for gold, answer in zip(golds, answers, strict=True)
    ]
    overall = evaluate_pairs(golds, predictions, "squad").overall
    return overall.exact_match, overall.f1
