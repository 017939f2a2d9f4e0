import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from qa_ray.cli.console import show_answers, show_finetuning
from qa_ray.config import AnswerConfig, FinetuneConfig, check_config
from qa_ray.schemas import ANSWERS

ROW = {
    "document_id": "[a]",
    "question_id": "q",
    "question": "Who built it?",
    "answer": "Ada Vane",
    "start_char": 0,
    "stop_char": 8,
    "score": 0.974,
    "no_answer_score": 0.1,
    "n_best": [],
    "snippet": "Ada Vane built\nthe lighthouse.",
    "num_windows": 1,
    "num_windows_read": 1,
    "model_fingerprint": "f",
}
COUNTS = {"answers": 2, "documents": 1, "windows": 2, "windows_read": 2, "tokens": 1000}


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=80)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_answers_are_shown_with_counts_reasons_and_paths(tmp_path: Path, console: Console):
    no_answer = {"question_id": "r", "answer": None, "score": None, "snippet": None, "no_answer_score": 0.75}
    (tmp_path / "answers").mkdir()
    pq.write_table(pa.Table.from_pylist([ROW, ROW | no_answer], ANSWERS), tmp_path / "answers" / "part-00000.parquet")
    config = check_config(AnswerConfig, {"documents": "d", "questions": "q", "output": str(tmp_path)}, "test")
    manifest = {
        "counts": COUNTS | {"rejects": 3, "rejects_by_reason": {"empty_text": 3}},
        "files": {"answers": [{"name": "part-00000.parquet"}], "exports/jsonl": []},
        "seconds": 12.3,
    }
    show_answers(manifest, config, console)
    text = printed(console).replace("\n", " ")
    for part in (
        "[a]  Who built it?",
        "Ada Vane  score 0.97, characters 0–8",
        "Ada Vane built the lighthouse.",
        "no answer (0.75)",
        "2 answers and 3 rejects for 1 document (2 windows, 1,000 tokens) in 12 s",
        "rejects: empty_text 3; see",
        f"answers: {tmp_path}/answers/*.parquet",
        f"exports/jsonl: {tmp_path}/exports/jsonl",
    ):
        assert part in text


def test_windows_that_were_left_out_are_no_sign_of_an_interrupted_run(tmp_path: Path, console: Console):
    config = check_config(
        AnswerConfig, {"documents": "d", "questions": "q", "output": str(tmp_path), "preview": 0}, "test"
    )
    counts = COUNTS | {"windows": 200, "windows_read": 16, "rejects": 0, "rejects_by_reason": {}}
    show_answers({"counts": counts, "windows_this_run": 16, "files": {}, "seconds": 2.0}, config, console)
    text = " ".join(printed(console).split())
    assert "(200 windows, 16 of them read, 1,000 tokens)" in text
    assert "interrupted" not in text


FIT = {
    "questions_with_answer": 300,
    "questions_without_answer": 40,
    "before": {"score_slope": 1.0, "score_intercept": 0.0, "no_answer_threshold": 1.0},
    "after": {"score_slope": 0.5, "score_intercept": 0.25, "no_answer_threshold": 1.0},
    "expected_calibration_error": {"before": 0.2, "after": 0.05},
    "kept": {"no_answer_threshold": "some reason"},
}


def test_every_epoch_is_shown_and_the_best_is_marked(tmp_path: Path, console: Console):
    epochs = [
        {
            "epoch": number,
            "exact_match": f1,
            "f1": f1,
            "gold_among_n_best": 100.0,
            "mean_rank_of_gold": 1.5,
            "expected_calibration_error": 0.05,
        }
        for number, f1 in ((0, 50.0), (1, 60.0), (2, 70.0))
    ]
    config = check_config(FinetuneConfig, {"documents": "d", "questions": "q", "output": str(tmp_path)}, "test")
    manifest = {
        "counts": {"training_documents": 1000, "rejects": 1},
        "epochs": epochs,
        "best": epochs[2],
        "fitted": FIT,
    }
    show_finetuning(manifest, config, console)
    text = printed(console)
    assert "1,000 training documents, 1 reject\n" in text
    assert "2 (best) │ 70.00" in text
    assert "1 (best)" not in text
    assert "0 (start) │ 50.00" in text
    lines = " ".join(text.split())
    assert "fitted to 300 questions with and 40 without an answer: score_slope 1 → 0.5, score_intercept 0 → " in lines
    assert "calibration error on these questions: 0.200 → 0.050 not fitted, kept: no_answer_threshold 1 (some " in lines
    assert "did not help" not in lines
    assert "model: " in text
    assert "rejects: " in text


def test_training_that_made_the_model_worse_is_said(tmp_path: Path, console: Console):
    figures = dict.fromkeys(("exact_match", "gold_among_n_best", "mean_rank_of_gold", "expected_calibration_error"), 0)
    epochs = [{"epoch": number, "f1": f1, **figures} for number, f1 in ((0, 70.0), (1, 60.0))]
    config = check_config(FinetuneConfig, {"documents": "d", "questions": "q", "output": str(tmp_path)}, "test")
    manifest = {"counts": {"gold_as_given": 3, "rejects": 0}, "epochs": epochs, "best": epochs[1], "fitted": FIT}
    show_finetuning(manifest, config, console)
    lines = " ".join(printed(console).split())
    assert "training did not help: the published model has F1 60.00, the one that training started from 70.00" in lines
    assert "3 gold as given" in lines
