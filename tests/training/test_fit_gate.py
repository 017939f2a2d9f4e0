"""From contracts with gold answers to a gate, and from there to answers that read a part of them."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from models import TEXT
from running import changed, raises_error, read_rows, write_job

from qa_ray.answering.job import answer_documents, check_job
from qa_ray.answering.plan import make_plan
from qa_ray.cli.main import main
from qa_ray.config import AnswerConfig, FinetuneConfig, GateConfig, check_config
from qa_ray.errors import ConfigError, InputError, OutputError
from qa_ray.training.fit_gate import FittedJob, fit_job
from qa_ray.training.plan import make_plan as make_finetune_plan

CLAUSE = "Ada Vane built the lighthouse"
LAW, WHO = "Which law governs the agreement?", "Who built it?"


def contracts(number: int = 40) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Long documents of the same sentences, with a clause somewhere, and its answer; one in ten has none."""
    documents, questions = [], []
    for d in range(number):
        sentences = [TEXT.replace(CLAUSE, "Nobody built it")] * 6
        answers = []
        if d % 10:
            sentences.insert(d % 6, f"{CLAUSE} lantern {d}. ")
        text = "".join(sentences)
        if d % 10:
            answers = [{"text": "Ada Vane", "start_char": text.index("Ada Vane")}]
        documents.append({"document_id": f"d{d:02}", "text": text})
        questions.append({"question_id": f"q{d}", "question": LAW, "document_id": f"d{d:02}", "answers": answers})
    return documents, questions


@pytest.fixture(scope="module")
def job(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AnswerConfig:
    return write_job(tmp_path_factory.mktemp("contracts"), models["bert"], *contracts())


def gate_config(job: AnswerConfig, output: Path, **settings: Any) -> GateConfig:
    values = {"documents": job.documents, "questions": job.questions, "output": str(output), "model": job.model}
    return check_config(GateConfig, values | settings, "test")


@pytest.fixture(scope="module")
def gate(job: AnswerConfig, tmp_path_factory: pytest.TempPathFactory) -> FittedJob:
    return fit_job(gate_config(job, tmp_path_factory.mktemp("gates") / "gate"))


def test_a_gate_for_a_question_that_recurs_finds_its_clause_in_documents_held_out(gate: FittedJob):
    (question,) = gate.fit.gate.questions
    assert question.question == LAW
    assert len(gate.fit.gate.held_out) == 36
    assert (gate.counts["documents"], gate.counts["questions"]) == (40, 40)
    held_out = gate.fit.gate.held_out
    assert held_out.share_read(held_out.rule_for(0.9)) < 0.3
    table = pq.read_table(gate.place)
    assert table["question"].to_pylist() == [LAW, None]  # readable by anything


def test_the_command_prints_what_a_recall_costs_and_the_setting_for_it(
    job: AnswerConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = tmp_path / "gate.yaml"
    config.write_text(f"documents: {job.documents}\nquestions: {job.questions}\nmodel: {job.model}\n")
    assert main(["gate", str(config), f"output={tmp_path / 'gate'}"]) == 0
    printed = capsys.readouterr().out
    assert "1 question in 40 documents, 36 answers held out" in printed
    assert "{recall: 0.95}" in printed
    assert f"gate: {tmp_path / 'gate' / 'gate.parquet'}" in printed.replace("\n", "")
    assert main(["gate", str(config), f"output={tmp_path / 'gate'}"]) == 2  # it is not overwritten
    assert "is not empty" in capsys.readouterr().err


def test_a_gate_needs_a_question_with_answers_in_ten_documents(job: AnswerConfig, tmp_path: Path):
    few = write_job(tmp_path, job.model, *contracts(9))
    with raises_error(
        InputError, "questions: none is asked about 10 documents with an answer (documents: 9", "{most: 8}"
    ):
        fit_job(gate_config(few, tmp_path / "gate"))
    assert not (tmp_path / "gate").exists()


def test_gold_and_texts_that_cannot_be_used_are_left_out_and_counted(job: AnswerConfig, tmp_path: Path):
    documents, questions = contracts()
    documents[1]["text"] = None
    questions[2]["answers"] = [{"text": " ", "start_char": 0}]  # no answer
    questions[3]["answers"] = [{"text": "nowhere", "start_char": 0}]
    questions[4]["answers"] = None
    questions[5]["question"] = "ⵣⴰⵔ"
    bad = write_job(tmp_path, job.model, documents, questions)
    fitted = fit_job(gate_config(bad, tmp_path / "gate"))
    assert fitted.counts == {
        "documents": 40, "questions": 36, "null_text": 1, "answer_not_found": 1, "no_gold": 1,
        "question_unknown_words": 1,
    }  # fmt: skip
    assert len(fitted.fit.gate.held_out) == 36 - 5


def test_a_file_in_the_way_of_the_gate_is_kept(job: AnswerConfig, tmp_path: Path):
    (tmp_path / "gate").write_text("mine")
    with pytest.raises(OutputError, match="is not empty"):
        fit_job(gate_config(job, tmp_path / "gate"))
    assert (tmp_path / "gate").read_text() == "mine"


@pytest.mark.usefixtures("ray_session")
def test_a_job_reads_what_the_gate_chooses_says_so_and_is_another_run_with_another_gate(
    job: AnswerConfig, gate: FittedJob, tmp_path: Path
):
    folder = str(Path(gate.place).parent)
    windows = job.windows.model_dump() | {"read": {"most": 3}, "gate": folder}
    read = changed(job, windows=windows, output=str(tmp_path / "out"))
    plan, *_ = check_job(read)
    assert plan.num_windows_read == 40 * 3 < plan.num_windows
    manifest = answer_documents(read)
    counts = manifest["counts"]
    assert (counts["windows_read"], counts["answers"]) == (120, 40)
    assert counts["windows"] == plan.num_windows == manifest["windows_left_out"] + manifest["windows_this_run"]
    answers = read_rows(read, "answers")
    assert {row["num_windows_read"] for row in answers} == {3}
    texts = {row["document_id"]: row["text"] for row in contracts()[0]}
    for row in answers:
        assert texts[row["document_id"]][row["start_char"] : row["stop_char"]] == row["answer"]

    assert answer_documents(read) == manifest  # finished: nothing is run
    for name, other in (("windows.read", {"read": {"most": 4}}), ("windows.gate", {"gate": None})):
        with pytest.raises(ValueError, match=name):
            answer_documents(changed(read, windows=windows | other))


def test_a_gate_in_a_models_folder_is_the_models_own(job: AnswerConfig, gate: FittedJob, tmp_path: Path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in Path(job.model).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    before = make_plan(changed(job, model=str(folder)))
    (folder / "gate.parquet").write_bytes(Path(gate.place).read_bytes())
    after = make_plan(changed(job, model=str(folder), windows=job.windows.model_dump() | {"read": {"recall": 0.9}}))
    assert after.num_windows_read < after.num_windows == before.num_windows_read
    assert after.identity["model"] != before.identity["model"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gate": "nowhere", "read": {"most": 3}}, "windows.gate='{folder}/nowhere': no such file, nor a folder with"),
        ({"gate": "gate.txt", "read": {"most": 3}}, "windows.gate='{folder}/gate.txt': not a gate of qa-ray, or"),
        ({"gate": "gate.txt"}, "windows.gate='{folder}/gate.txt': windows.read is all, so that no gate has anything"),
        ({"read": {"recall": 0.9}}, "windows.read={{recall: 0.9}}: only a fitted gate knows how many windows keep a"),
    ],
)
def test_a_gate_that_cannot_be_used_is_refused_by_the_plan_of_either_job(
    job: AnswerConfig, tmp_path: Path, settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("gate.txt").write_text("no Parquet")
    message = message.format(folder=tmp_path)
    with raises_error(ConfigError, message):
        make_plan(changed(job, windows=job.windows.model_dump() | settings))
    tables = {"documents": job.documents, "questions": job.questions, "output": str(tmp_path / "out")}
    with raises_error(ConfigError, message):
        make_finetune_plan(check_config(FinetuneConfig, tables | {"model": job.model, "windows": settings}, "test"))


def test_a_gate_of_another_tokenizer_is_refused(job: AnswerConfig, gate: FittedJob, models: dict[str, str]):
    windows = job.windows.model_dump() | {"gate": gate.place, "read": {"most": 3}}
    with raises_error(ConfigError, "was fitted for another tokenizer than that of the model; fit it again with"):
        make_plan(changed(job, model=models["roberta"], windows=windows))
