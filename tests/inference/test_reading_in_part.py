"""Of a document that is read in part, the answers are those of the windows read, and of nothing else."""

from typing import Any

import pytest
from models import TEST_FAMILIES
from window_reference import DOCUMENT, QUESTIONS, RARE_WORDS, brute_force, each_window_alone, float32_reader, readable

from qa_ray.errors import ConfigError
from qa_ray.gate.choice import best_windows
from qa_ray.gate.lexical import bm25
from qa_ray.inference.lexical_boost import lexical_match
from qa_ray.schemas import Ranking


@pytest.mark.parametrize("family", TEST_FAMILIES)
@pytest.mark.parametrize(("ranking", "lexical_weight"), [("logit", 0), ("logit_minus_null", 0.5)])
@pytest.mark.parametrize("most", [1, 4])
def test_of_a_document_read_in_part_the_n_best_equal_a_brute_force_search_over_the_windows_read(
    models: dict[str, str], family: str, ranking: Ranking, lexical_weight: float, most: int
):
    settings = {"max_answer_tokens": 9, "ranking": ranking, "lexical_weight": lexical_weight}
    reader = float32_reader(models[family], **settings, read={"most": most})
    document = readable(reader, RARE_WORDS)
    pair = reader.pair(document, document.questions[0], reader.settings)
    chosen = best_windows(bm25(pair.document_ids_T, pair.question_ids, pair.windows), most)
    reference = [each_window_alone(models[family], RARE_WORDS, 64, 16)[w] for w in chosen]
    lexical_T = lexical_weight * lexical_match(pair.document_ids_T, pair.question_ids)
    expected = brute_force(reference, 9, ranking, lexical_T)
    by_logit = sorted(expected.values(), reverse=True)
    answers = reader.answer(RARE_WORDS, DOCUMENT, top_k=20)
    for rank, span in enumerate(answers):
        assert expected[span["start"], span["end"]] == pytest.approx(by_logit[rank], abs=1e-4)
        assert DOCUMENT[span["start"] : span["end"]] == span["answer"]
    assert sum(span["score"] for span in answers) <= 1
    ((fields,),) = reader.read([document])
    assert (fields["num_windows"], fields["num_windows_read"]) == (len(pair.windows), most)


def test_a_document_read_in_part_whose_windows_are_all_read_has_the_same_answers_bit_for_bit(models: dict[str, str]):
    whole = float32_reader(models["longformer"])
    document = readable(whole, *QUESTIONS)
    for read in ({"most": 1000}, {"fraction": 1.0}):
        assert float32_reader(models["longformer"], read=read).read([document]) == whole.read([document])


def test_what_is_read_in_part_does_not_depend_on_the_other_documents_or_questions(models: dict[str, str]):
    reader = float32_reader(models["bert"], read={"most": 2})
    documents = [readable(reader, *QUESTIONS), readable(reader, RARE_WORDS, document=DOCUMENT[500:])]
    together = reader.read(documents)
    for document, answers in zip(documents, together, strict=True):
        for question, answer in zip(document.questions, answers, strict=True):
            ((alone,),) = reader.read([document._replace(questions=[question])])
            assert (alone["start_char"], alone["num_windows_read"]) == (answer["start_char"], 2)
            assert alone["score"] == pytest.approx(answer["score"], rel=1e-3)


@pytest.mark.parametrize(
    "read",
    [
        {"most": 0},
        {"fraction": 0},
        {"fraction": 1.5},
        {"recall": 1},
        {"most": 2, "recall": 0.5},
        {"at_least": 3},
        {},
        "some",
        3,
        True,
    ],
)
def test_a_rule_that_says_no_number_of_windows_is_refused(models: dict[str, str], read: Any):
    with pytest.raises(
        ConfigError, match=r"^read=.*: Input should be all, or how many windows: \{most: 8\}, \{fraction: 0"
    ):
        float32_reader(models["bert"], read=read)
