"""Reading and pairing gold answers and predictions; unusable tables are refused with an error."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gold_tables import Folder, answer, golds, question

from qa_ray.errors import InputError
from qa_ray.evaluation.evaluate import evaluate
from qa_ray.schemas import ANSWERS


def test_without_documents_on_one_side_rows_are_paired_by_question(folder: Folder):
    questions = folder.questions(question("q1", golds("Paris"), None), question("q2", golds("Rome"), "italy"))
    answers = folder.answers(answer("q1", "Paris", document_id="x"), answer("q2", "Rome", document_id="italy"))
    assert evaluate(answers, questions).overall.exact_match == 100
    assert evaluate(folder.predictions({"q1": "Paris", "q2": "Rome"}), questions).overall.exact_match == 100


def test_ids_may_be_numbers_and_optional_columns_may_be_absent(folder: Folder):
    questions = folder.table("questions", [{"question_id": 7, "answers": golds("Paris")}])
    answers = folder.table("predicted", [{"question_id": "7", "answer": "Paris"}])
    assert evaluate(answers, questions).overall.exact_match == 100


def test_files_of_a_lake_are_read_as_by_the_job(folder: Folder, caplog: pytest.LogCaptureFixture):
    """With folders that give columns, an empty first file, integer ids, and files that are no tables."""
    for lang, number in (("de", 1), ("en", 2)):
        row = {"question_id": number, "document_id": number, "answers": golds("Paris")}
        folder.table(f"questions/lang={lang}", [row])
    pq.write_table(pa.table({}), folder.path / "questions" / "a.parquet")
    (folder.path / "questions" / "notes.pdf").touch()
    answers = folder.table("predicted", [{"question_id": n, "document_id": n, "answer": "Paris"} for n in (1, 2)])
    with caplog.at_level("INFO", "qa_ray"):
        scores = evaluate(answers, str(folder.path / "questions"), by=["lang"])
    assert {lang: group.count for lang, group in scores.groups["lang"].items()} == {"de": 1, "en": 1}
    assert caplog.messages == ["questions: 3 files; not read: 1 .pdf"]


def test_a_finished_job_is_read_from_its_output_folder(folder: Folder):
    questions = folder.questions(question("q", golds("Paris")))
    folder.table("job/answers", [answer("q", "Paris")], ANSWERS)
    folder.text("job/_SUCCESS", "")
    assert evaluate(str(folder.path / "job"), questions).overall.exact_match == 100


@pytest.mark.parametrize("written", ["answers", "_run/parts"])
def test_a_job_that_has_not_finished_is_refused(folder: Folder, written: str):
    questions = folder.questions(question("q", golds("Paris")))
    folder.table(f"job/{written}", [answer("q", "Paris")], ANSWERS)
    with pytest.raises(
        InputError, match=r"no _SUCCESS in '.*job', so the job has not finished; run the same answer command again"
    ):
        evaluate(str(folder.path / "job"), questions)


def refusal(answers: str, questions: str, by: Sequence[str] = ()) -> str:
    with pytest.raises(InputError) as caught:
        evaluate(answers, questions, by=by)
    return str(caught.value)


def test_paths_that_do_not_exist_are_named(folder: Folder):
    questions = folder.questions(question("q", golds("Paris")))
    assert refusal("gone", questions).startswith("answers: no such file or folder: 'gone'; give")
    assert refusal("gone.json", questions).startswith("answers: no such file: 'gone.json'; give a job's output folder,")
    assert refusal(folder.predictions({}), "lost").startswith("questions: no such file or folder: 'lost'; give")


def test_a_malformed_predictions_file_is_refused_with_its_content(folder: Folder):
    questions = folder.questions(question("q", golds("Paris")))
    broken = folder.text("broken.json", '{"q": ')
    assert refusal(broken, questions).startswith(f"answers: {broken!r} is not JSON: Expecting value: line 1")
    latin = folder.path / "latin.json"
    latin.write_bytes('{"q": "où"}'.encode("latin-1"))
    assert "is not JSON: 'utf-8' codec can't decode" in refusal(str(latin), questions)
    assert "contains a list, not an object; write {question_id: text}" in refusal(
        folder.predictions(["Paris"]), questions
    )
    message = refusal(folder.predictions({"q": {"text": "Paris"}}), questions)
    assert message.endswith("""has {'text': 'Paris'} for question 'q'; write a string, "" for no answer""")


def test_a_predictions_file_with_a_byte_order_mark_is_read(folder: Folder):
    questions = folder.questions(question("q", golds("Paris")))
    assert evaluate(folder.text("marked.json", '\ufeff{"q": "Paris"}'), questions).overall.exact_match == 100


def test_of_two_predictions_with_one_id_and_two_columns_with_one_name_none_is_taken_silently(folder: Folder):
    questions = folder.questions(question("q", golds("Paris")))
    twice = folder.text("twice.json", '{"p": "", "q": "Paris", "q": "Rome"}')
    assert refusal(twice, questions) == f"answers: {twice!r}: an object has the key 'q' twice; keep one of them"
    (folder.path / "columns").mkdir()
    table = pa.table([["q"], ["Paris"], ["Rome"]], ["question_id", "answer", "answer"])
    pq.write_table(table, folder.path / "columns" / "a.parquet")
    message = refusal(str(folder.path / "columns"), questions)
    assert message.endswith("a.parquet' has two columns 'answer'; drop or rename one of them")


def test_a_table_without_any_gold_answer_is_refused(folder: Folder):
    questions = folder.questions(question("q1", None), question("q2", None))
    message = refusal(folder.predictions({"q1": "Paris"}), questions)
    assert message == f"questions: no gold answers in the 2 rows of {questions!r}; fill the column 'answers'"


def test_gold_answers_in_another_layout_are_refused(folder: Folder):
    row = {"question_id": "q", "answers": {"text": ["Paris"], "answer_start": [0]}}
    message = refusal(folder.predictions({"q": "Paris"}), folder.table("questions", [row]))
    assert "question 'q' in " in message
    assert message.endswith("has gold {'text': ['Paris'], 'answer_start': [0]}; give a list of {text, …}")


def test_a_missing_column_is_named_with_those_that_exist(folder: Folder):
    questions = folder.table("questions", [{"id": "q", "answers": golds("Paris")}])
    message = refusal(folder.predictions({"q": "Paris"}), questions)
    assert message.startswith("questions: no column 'question_id' in ")
    assert message.endswith("part-0.parquet', which has id, answers; rename or add it")


def test_an_unknown_group_column_is_refused_with_a_suggestion(folder: Folder):
    questions = folder.questions(question("q", golds("Paris")))
    answers = folder.table("predicted", [{"question_id": "q", "answer": "Paris", "title": "France"}])
    assert refusal(answers, questions, by=["titel"]) == (
        "evaluate: no column 'titel': the questions have question_id, question, document_id, answers; "
        "the answers have question_id, answer, title; did you mean 'title'?"
    )
    message = refusal(folder.predictions({"q": "Paris"}), questions, by=["kind"])
    assert message.endswith(
        "the questions have question_id, question, document_id, answers; name one of them with by=…"
    )


def test_answers_to_other_questions_are_refused_with_an_id_of_each_table(folder: Folder):
    questions = folder.questions(question("q1", golds("Paris"), "france"))
    answers = folder.answers(answer("q1", "Rome", document_id="italy"))
    assert refusal(answers, questions) == (
        "evaluate: no answer has the id of a gold answer: the first answer is to question 'q1' of document 'italy', "
        "the first gold answer is to question 'q1' of document 'france'; give the questions that were answered"
    )
    assert "gold answer: no answers, the first gold answer is to question 'q1'" in refusal(
        folder.predictions({}), questions
    )


def test_an_id_with_two_rows_is_refused(folder: Folder):
    questions = folder.questions(question("q", golds("Paris"), "france"), question("q", golds("Rome"), "italy"))
    remedy = "keep one, or distinguish them by document_id in both questions and answers"
    assert refusal(folder.predictions({"q": "Paris"}), questions) == f"questions: question 'q' has 2 rows; {remedy}"
    answers = folder.answers(answer("q", "Paris", document_id="france"), answer("q", "Nice", document_id="france"))
    assert refusal(answers, questions) == f"answers: question 'q' of document 'france' has 2 rows; {remedy}"
