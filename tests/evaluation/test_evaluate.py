import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gold_tables import Folder, answer, golds, question, scored
from rich.console import Console

from qa_ray.cli.evaluation_table import evaluation_table
from qa_ray.errors import ConfigError, InputError
from qa_ray.evaluation.evaluate import evaluate
from qa_ray.evaluation.metrics import METRICS
from qa_ray.evaluation.outcomes import Figures
from qa_ray.evaluation.report import Evaluation
from qa_ray.evaluation.threshold import Threshold
from qa_ray.schemas import ANSWERS, QUESTIONS

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"

# EM and F1 by the official scripts.
LEADERBOARD = {
    "v1.1-bert-ensemble": (86.2062, 92.1956),
    "v1.1-r-net-ensemble": (82.4693, 88.4779),
    "v1.1-slqa-ensemble": (81.9489, 88.3839),
    "v1.1-electra-small-third-party": (77.3415, 85.4152),
    "v1.1-match-lstm-ensemble": (67.6348, 76.7556),
    "v1.1-logistic-regression": (40.1419, 50.9815),
    "v2.0-bert-single": (78.7417, 81.7753),
    "v2.0-nlnet-single": (75.8275, 78.7778),
    "v2.0-bidaf-elmo": (65.7037, 67.8765),
}


@pytest.fixture(scope="module")
def squad(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The questions of SQuAD's dev sets in Parquet, by version."""
    if not DATA.is_dir():
        pytest.skip(f"no published predictions in {DATA.resolve()}")
    folder = tmp_path_factory.mktemp("squad")
    for version in ("v1.1", "v2.0"):
        pq.write_table(squad_questions(DATA / "squad" / f"dev-{version}.json"), folder / f"{version}.parquet")
    return {version: str(folder / f"{version}.parquet") for version in ("v1.1", "v2.0")}


def squad_questions(path: Path) -> pa.Table:
    rows = [
        {
            "document_id": f"{article['title']}/{i}",
            "question_id": qa["id"],
            "answers": [{"text": gold["text"], "start_char": gold["answer_start"]} for gold in qa["answers"]],
            "title": article["title"],
        }
        for article in json.loads(path.read_text(encoding="utf-8"))["data"]
        for i, paragraph in enumerate(article["paragraphs"])
        for qa in paragraph["qas"]
    ]
    return pa.Table.from_pylist(rows, QUESTIONS.append(pa.field("title", pa.string())))


@pytest.mark.parametrize("name", LEADERBOARD)
def test_scores_of_published_systems_equal_those_of_the_official_scripts(name: str, squad: dict[str, str]):
    evaluation = evaluate(str(DATA / "squad" / "leaderboard" / f"{name}.json"), squad[name[:4]])
    assert evaluation.rules == f"SQuAD {name[1:4]}"
    assert (round(evaluation.overall.exact_match, 4), round(evaluation.overall.f1, 4)) == LEADERBOARD[name]


def test_the_counts_of_groups_add_up_to_the_total(squad: dict[str, str]):
    evaluation = evaluate(str(DATA / "squad" / "leaderboard" / "v2.0-bert-single.json"), squad["v2.0"], by=["title"])
    counts = [figures.count for figures in evaluation.groups["title"].values()]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == evaluation.overall.count == 11_873
    for parts in (evaluation.groups["title"], evaluation.answerable):
        total = sum(figures.f1 * figures.count for figures in parts.values())
        assert total / evaluation.overall.count == pytest.approx(evaluation.overall.f1)


# Small tables.


def test_questions_without_gold_answers_are_counted_but_not_scored(folder: Folder):
    questions = folder.questions(question("q1", golds("Paris")), question("q2", None))
    evaluation = evaluate(folder.answers(answer("q1", "Paris"), answer("q2", "Rome")), questions)
    assert (evaluation.rules, evaluation.no_gold) == ("SQuAD 1.1", 1)
    assert evaluation.overall == Figures(exact_match=100, f1=100, average=100, count=1, missing=0)


def test_a_blank_text_is_no_gold_answer(folder: Folder, caplog: pytest.LogCaptureFixture):
    questions = folder.questions(question("q1", golds("", "Paris")), question("q2", golds(" \n", "")))
    with caplog.at_level("INFO", "qa_ray"):
        evaluation = evaluate(folder.answers(answer("q1", None), answer("q2", None)), questions)
    assert evaluation.rules == "SQuAD 2.0"
    assert {name: figures.f1 for name, figures in evaluation.answerable.items()} == {"has_answer": 0, "no_answer": 100}
    assert caplog.messages == ["questions: 3 gold answers with a blank text, left out"]


def test_a_missing_answer_scores_0_by_squad_1_even_if_the_gold_normalizes_to_nothing(folder: Folder):
    questions = folder.questions(question("q1", golds("Paris")), question("q2", golds(".")))
    evaluation = evaluate(folder.answers(answer("q1", "Paris")), questions)
    assert evaluation.overall == Figures(exact_match=50, f1=50, average=50, count=2, missing=1)


def test_a_missing_answer_counts_as_no_answer_by_squad_2(folder: Folder):
    questions = folder.questions(question("q1", golds("Paris")), question("q2", []), question("q3", golds("Rome")))
    evaluation = evaluate(folder.answers(answer("q1", "Paris")), questions)
    assert evaluation.rules == "SQuAD 2.0"
    assert evaluation.answerable["no_answer"] == Figures(exact_match=100, f1=100, average=100, count=1, missing=1)
    assert evaluation.answerable["has_answer"] == Figures(exact_match=50, f1=50, average=50, count=2, missing=1)
    assert evaluation.thresholds == {}


def test_cmrc_scores_a_skipped_question_0_and_keeps_it_in_the_total(folder: Folder):
    # EM: 1 of 3 (punctuation does not count). F1: 1, and 光荣 in 光荣公司: P = 1, R = 2/4, F1 = 2/3. Skipped: 0.
    questions = folder.questions(
        question("q1", golds("《三国志》")), question("q2", golds("光荣公司")), question("q3", golds("任天堂"))
    )
    evaluation = evaluate(folder.predictions({"q1": "三国志。", "q2": "光荣"}), questions, metric="cmrc")
    f1 = 100 * (1 + 2 / 3) / 3
    assert evaluation.rules == "CMRC 2018"
    assert evaluation.overall.exact_match == pytest.approx(100 / 3)
    assert evaluation.overall.f1 == pytest.approx(f1)
    assert evaluation.overall.average == pytest.approx((100 / 3 + f1) / 2)
    assert (evaluation.overall.count, evaluation.overall.missing) == (3, 1)
    assert f"average of EM and F1: {evaluation.overall.average:.4f}" in shown(evaluation)


def test_answers_are_paired_with_questions_by_document_and_question(folder: Folder):
    questions = folder.questions(question("q", golds("Paris"), "france"), question("q", golds("Rome"), "italy"))
    answers = folder.answers(answer("q", "Rome", document_id="italy"), answer("q", "Paris", document_id="france"))
    assert evaluate(answers, questions).overall.exact_match == 100


# The case of test_metrics: answering nothing scores 2 of 5; EM is best at 0.1 (3 of 5), F1 at 0.4 (3.5 of 5).
HAND_WORKED = {
    "q1": (golds("Paris"), "Paris", 0.1),
    "q2": ([], "Rome", 0.2),
    "q3": (golds("one two three"), "one", 0.3),  # P = 1, R = 1/3, F1 = 1/2
    "q4": (golds("Rome"), "Rome", 0.4),
    "q5": ([], "Rome", 0.9),
}


@pytest.mark.parametrize(("run_threshold", "f1"), [(0.0, 40), (0.25, 40), (1.0, 50)])
def test_best_thresholds_do_not_depend_on_the_threshold_of_the_run(folder: Folder, run_threshold: float, f1: float):
    questions = folder.questions(*(question(name, gold) for name, (gold, _, _) in HAND_WORKED.items()))
    rows = [
        answer(name, best if no_answer <= run_threshold else None, no_answer, best=best)
        for name, (_, best, no_answer) in HAND_WORKED.items()
    ]
    evaluation = evaluate(folder.answers(*rows), questions)
    assert (evaluation.overall.exact_match, evaluation.overall.f1) == pytest.approx((40, f1))
    assert evaluation.thresholds == {"exact_match": Threshold(0.1, 60), "f1": Threshold(0.4, 70)}


def test_questions_without_a_no_answer_score_keep_their_score_at_any_threshold(folder: Folder):
    rows = [question("q1", golds("Paris")), question("q2", []), question("q3", []), question("q4", golds("Rome"))]
    # q1 is worth answering at 0.3; q2 has no row (right), q3 an answer without a score (wrong), q4 as well (right).
    answers = folder.answers(answer("q1", None, 0.3, best="Paris"), answer("q3", "Oslo"), answer("q4", "Rome"))
    evaluation = evaluate(answers, folder.questions(*rows))
    assert evaluation.overall.exact_match == 50
    assert evaluation.thresholds == {"exact_match": Threshold(0.3, 75), "f1": Threshold(0.3, 75)}


def test_groups_by_a_column_of_the_questions(folder: Folder):
    rows = [("q1", "Paris", "place"), ("q2", "1889", "date"), ("q3", "Rome", "place"), ("q4", "Oslo", None)]
    questions = folder.questions(*(question(i, golds(text), kind=kind) for i, text, kind in rows), others=("kind",))
    evaluation = evaluate(folder.answers(answer("q1", "Paris"), answer("q2", "1789")), questions, by=["kind"])
    assert list(evaluation.groups["kind"]) == ["place", "date", "null"]
    assert evaluation.groups["kind"]["place"] == Figures(exact_match=50, f1=50, average=50, count=2, missing=1)


def test_groups_by_a_column_passed_through_to_the_answers(folder: Folder):
    questions = folder.questions(*(question(f"q{i}", golds("Paris")) for i in range(4)))
    titles = ["[bold]France", "[bold]France", "Italy"]
    rows = [answer(f"q{i}", "Paris") | {"title": title} for i, title in enumerate(titles)]
    evaluation = evaluate(folder.answers(*rows, others=("title",)), questions, by=["title"])
    assert {name: figures.count for name, figures in evaluation.groups["title"].items()} == {
        "[bold]France": 2,
        "Italy": 1,
        "null": 1,  # no answer row, no title
    }
    assert "[bold]France" in shown(evaluation)


def shown(evaluation: Evaluation) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(evaluation_table(evaluation))
    return capture.get()


def test_the_table_shows_what_was_counted(folder: Folder):
    questions = folder.questions(
        *(question(name, gold, kind=name) for name, (gold, _, _) in HAND_WORKED.items()),
        question("q6", None),
        others=("kind",),
    )
    answers = folder.answers(*(answer(name, best, score) for name, (_, best, score) in HAND_WORKED.items()))
    text = shown(evaluate(answers, questions, by=["kind"]))
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert lines[:5] == [
        ["all", "40.0000", "50.0000", "5", "0"],
        ["has answer", "66.6667", "83.3333", "3", "0"],
        ["no answer", "0.0000", "0.0000", "2", "0"],
        ["best at no_answer_score ≤ 0.1", "60.0000", "", "", ""],
        ["best at no_answer_score ≤ 0.4", "", "70.0000", "", ""],
    ]
    assert ["kind", "", "", "", ""] in lines
    assert lines[8] == ["q3", "0.00", "50.00", "1", "0"]
    assert "SQuAD 2.0" in text
    assert "questions without gold answers, not scored: 1" in text


def test_the_json_has_all_fields_of_the_evaluation(folder: Folder):
    questions = folder.questions(question("q1", golds("Paris"), kind="où"), question("q2", []), others=("kind",))
    evaluation = evaluate(folder.answers(answer("q1", "Paris", 0.25)), questions, by=["kind"])
    assert '"où"' in evaluation.to_json()
    fields = json.loads(evaluation.to_json())
    assert fields["overall"] == {"exact_match": 100, "f1": 100, "average": 100, "count": 2, "missing": 1, "aupr": None}
    assert fields["thresholds"]["f1"] == {"threshold": 0.25, "score": 100}
    assert set(fields) == {field.name for field in dataclasses.fields(evaluation)}


def numbered(folder: Folder, count: int, **others: Any) -> Evaluation:
    """One question in each of ``count`` documents, every third answered wrong."""
    rows = [question(f"q{i}", golds("Paris"), f"d{i}") for i in range(count)]
    answers = [answer(f"q{i}", "Rome" if i % 3 == 0 else "Paris", 0.5, f"d{i}") | {"length": i} for i in range(count)]
    table = folder.table("predicted", answers, ANSWERS.append(pa.field("length", pa.int64())))
    return evaluate(table, folder.questions(*rows), **others)


def test_confidence_intervals_contain_the_figure(folder: Folder):
    evaluation = numbered(folder, 90)
    low, high = evaluation.intervals["exact_match"]
    assert low < 100 * 60 / 90 < high
    # The standard error of a share p of n is √(p (1 - p) / n); 95 % lie within 1.96 of them.
    assert (high - low) / 2 == pytest.approx(100 * 1.96 * (2 / 9 / 90) ** 0.5, rel=0.1)
    assert "95 % confidence interval" in shown(evaluation)


def test_without_ten_documents_or_resamples_there_are_no_confidence_intervals(folder: Folder):
    (folder.path / "few").mkdir()
    assert numbered(Folder(folder.path / "few"), 9).intervals == {}
    assert numbered(folder, 90, resamples=0).intervals == {}


def test_a_column_of_many_numbers_is_grouped_by_quartile(folder: Folder):
    groups = numbered(folder, 100, by=["length"]).groups["length"]
    assert set(groups) == {"0 to 24", "25 to 49", "50 to 74", "75 to 99"}
    assert {figures.count for figures in groups.values()} == {25}


def test_the_recommended_threshold_is_a_setting_of_the_answer_job(folder: Folder):
    few = list(HAND_WORKED.items())
    many = [(f"{name} {i}", row) for i in range(30) for name, row in few]
    evaluation, of_few = [
        evaluate(
            Folder(folder.path / str(len(rows))).answers(
                *(answer(name, best, score) for name, (_, best, score) in rows)
            ),
            Folder(folder.path / str(len(rows))).questions(*(question(name, gold) for name, (gold, _, _) in rows)),
        )
        for rows in (many, few)
    ]
    assert of_few.thresholds["f1"].threshold == evaluation.thresholds["f1"].threshold
    assert of_few.settings == {}
    assert f"no setting recommended: {len(few)} questions, too few for a threshold: it takes 100" in shown(of_few)
    assert evaluation.settings == {"answers.no_answer_threshold": 0.4}
    assert "recommended setting: answers.no_answer_threshold=0.4" in shown(evaluation)


def test_calibration_is_of_the_best_spans_of_questions_with_an_answer(folder: Folder):
    gold = {"q1": golds("Paris"), "q2": golds("Rome"), "q3": []}
    spans = {"q1": scored(("Paris", 0.75), ("Nice", 0.2)), "q2": scored(("Oslo", 0.75)), "q3": scored(("Oslo", 0.9))}
    questions = folder.questions(*(question(name, texts) for name, texts in gold.items()))
    evaluation = evaluate(
        folder.answers(*({"question_id": name, "document_id": "d"} | row for name, row in spans.items())), questions
    )
    assert evaluation.calibration
    (single_bin,) = evaluation.calibration.bins
    assert (single_bin.count, single_bin.mean_score, single_bin.accuracy) == (2, 0.75, 0.5)
    assert evaluation.calibration.expected_error == 0.25
    assert [(mistake.question_id, mistake.score) for mistake in evaluation.mistakes] == [("q3", 0.9), ("q2", 0.75)]


def cuad(folder: Folder, gold: dict[str, list[str]], spans: dict[str, dict[str, Any]], **others: Any) -> Evaluation:
    questions = folder.questions(*(question(name, golds(*texts)) for name, texts in gold.items()))
    rows = [{"question_id": name, "document_id": "d"} | row for name, row in spans.items()]
    return evaluate(folder.answers(*rows), questions, "cuad", **others)


def test_cuad_expects_every_gold_answer_among_the_n_best(folder: Folder):
    # By score: q1's first (recall 1/3, precision 1), q2's wrong one (1/3, 1/2), q1's second (2/3, 2/3); q4 is missing.
    evaluation = cuad(
        folder,
        {"q1": ["one year", "two years"], "q2": [], "q4": ["three years"]},
        {"q1": scored(("one year", 0.6), ("two years", 0.3)), "q2": scored(("ten years", 0.8), no_answer_score=0.5)},
    )
    assert evaluation.curve
    assert evaluation.overall.aupr == evaluation.curve.aupr
    # Precision at a recall or more: 1 up to 1/3, then 2/3 up to 2/3.
    assert evaluation.curve.aupr == pytest.approx(100 * (1 / 3 + 1 / 3 * 2 / 3))
    assert (evaluation.curve.precision_at_80, evaluation.curve.precision_at_90) == (0, 0)
    assert evaluation.overall.missing == 1
    assert "AUPR" in shown(evaluation)


def test_cuad_needs_scores(folder: Folder):
    questions = folder.questions(question("q", golds("Paris")))
    with pytest.raises(InputError, match="metric=cuad needs the scores of n_best; give an answer job's output"):
        evaluate(folder.predictions({"q": "Paris"}), questions, "cuad")


def test_an_unknown_metric_is_refused_with_the_known_names(folder: Folder):
    questions = folder.questions(question("q", golds("Paris")))
    with pytest.raises(ConfigError, match=f"metric: unknown name 'no-such'; use one of {', '.join(METRICS)}"):
        evaluate(folder.predictions({"q": "Paris"}), questions, "no-such")
