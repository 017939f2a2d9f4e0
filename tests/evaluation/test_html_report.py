from gold_tables import Folder, golds, question, scored

from qa_ray.evaluation.evaluate import evaluate
from qa_ray.evaluation.html_report import page


def test_the_page_shows_everything_and_escapes_texts_of_documents(folder: Folder):
    evil = "<script>alert(1)</script>"
    questions = folder.questions(question("q1", golds("Paris"), evil, kind=evil), others=("kind",))
    row = {"question_id": "q1", "document_id": evil, "question": evil} | scored((evil, 0.5))
    evaluation = evaluate(folder.answers(row), questions, "cuad", by=["kind"])
    html = page(evaluation, evil, evil)
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 6  # question, document, answer, group, both places
    for heading in ("By kind", "Most confident mistakes", "Precision-recall curve", "Reliability diagram"):
        assert heading in html


def test_a_page_of_predictions_without_scores_has_no_charts(folder: Folder):
    questions = folder.questions(question("q1", golds("Paris")), question("q2", []))
    html = page(evaluate(folder.predictions({"q1": "Paris"}), questions), "a", "q")
    assert "<svg" not in html
    assert "By answerability" in html
