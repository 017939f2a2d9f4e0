import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import TEST_FAMILIES, TEXT
from transformers import AutoModelForQuestionAnswering
from window_reference import DOCUMENT, QUESTIONS, RARE_WORDS, brute_force, each_window_alone, float32_reader, readable

from qa_ray import Reader
from qa_ray.errors import ConfigError, InputError, ModelError
from qa_ray.inference.batching import Logits, Pair, logits
from qa_ray.inference.lexical_boost import lexical_match
from qa_ray.inference.settings import InferenceSettings
from qa_ray.schemas import Ranking


def split(concatenated: Logits, pairs: list[Pair]) -> list[Logits]:
    """The logits of each pair."""
    lengths = [len(pair.document_ids_T) for pair in pairs], [len(pair.windows) for pair in pairs]
    columns = [logits.split(lengths[name.endswith("_W")]) for name, logits in concatenated._asdict().items()]
    return [Logits(*row) for row in zip(*columns, strict=True)]


@pytest.mark.parametrize("family", TEST_FAMILIES)
@pytest.mark.parametrize("forward", ["auto", "transformers"])
def test_logits_equal_transformers_on_each_window_alone(models: dict[str, str], family: str, forward):
    reader = float32_reader(models[family], forward=forward, batch_tokens=700)
    document = readable(reader, *QUESTIONS)
    pairs = [reader.pair(document, question, reader.settings) for question in document.questions]
    all_logits = logits(reader.model, reader.layout, pairs)
    for question, pair, ours in zip(QUESTIONS, pairs, split(all_logits, pairs), strict=True):
        reference = each_window_alone(models[family], question, 64, 16)
        assert len(reference) == len(pair.windows) > 5
        for w, theirs in enumerate(reference):
            own = slice(int(pair.windows.own_start_W[w]), int(pair.windows.own_stop_W[w]))
            inside = slice(own.start - theirs["first_token"], own.stop - theirs["first_token"])
            scale = max(1.0, float(theirs["start"].abs().max()), float(theirs["end"].abs().max()))
            torch.testing.assert_close(ours.start_T[own], theirs["start"][inside], rtol=0, atol=1e-5 * scale)
            torch.testing.assert_close(ours.end_T[own], theirs["end"][inside], rtol=0, atol=1e-5 * scale)
            assert float(ours.null_start_W[w]) == pytest.approx(float(theirs["null"][0]), abs=1e-5 * scale)
            assert float(ours.null_end_W[w]) == pytest.approx(float(theirs["null"][1]), abs=1e-5 * scale)


@pytest.mark.parametrize("family", TEST_FAMILIES)
@pytest.mark.parametrize(("ranking", "lexical_weight"), [("logit", 0), ("logit_minus_null", 0), ("logit", 0.5)])
def test_the_n_best_equal_a_brute_force_search_over_all_spans_of_all_windows(
    models: dict[str, str], family: str, ranking: Ranking, lexical_weight: float
):
    reader = float32_reader(models[family], max_answer_tokens=9, ranking=ranking, lexical_weight=lexical_weight)
    for question in [RARE_WORDS] if lexical_weight else QUESTIONS:
        answers = reader.answer(question, DOCUMENT, top_k=30)
        ids = reader.tokenizer(DOCUMENT).ids_T, reader.tokenizer.question(question)
        lexical_T = lexical_weight * lexical_match(*ids)
        assert lexical_T.any() == (lexical_weight > 0)
        expected = brute_force(each_window_alone(models[family], question, 64, 16), 9, ranking, lexical_T)
        by_logit = sorted(expected.values(), reverse=True)
        for rank, span in enumerate(answers):
            assert expected[span["start"], span["end"]] == pytest.approx(by_logit[rank], abs=1e-4)
            assert DOCUMENT[span["start"] : span["end"]] == span["answer"]
        assert len({(span["start"], span["end"]) for span in answers}) == 30
        assert sum(span["score"] for span in answers) <= 1


@pytest.mark.parametrize("ranking", ["logit", "logit_minus_null"])
def test_the_lexical_boost_does_not_change_the_no_answer_score(models: dict[str, str], ranking: Ranking):
    reader = float32_reader(models["bert"], ranking=ranking, lexical_weight=20.0)
    document = readable(reader, RARE_WORDS)
    pair = reader.pair(document, document.questions[0], reader.settings)
    pair_logits = logits(reader.model, reader.layout, [pair])
    ((answer,),) = reader.read([document])
    (first,), (last,) = (
        np.flatnonzero(chars == answer[name])
        for chars, name in ((document.tokens.start_char_T, "start_char"), (document.tokens.stop_char_T, "stop_char"))
    )
    match_T = lexical_match(pair.document_ids_T, pair.question_ids)
    assert match_T[first] == match_T[last] == match_T.max() > 0
    start_window, end_window = np.searchsorted(pair.windows.own_stop_W, [first, last], side="right")
    if ranking == "logit":  # one null logit for the span; else each logit is compared with that of its own window
        end_window = start_window
    null = pair_logits.null_start_W[start_window] + pair_logits.null_end_W[end_window]
    logit = pair_logits.start_T[first] + pair_logits.end_T[last]
    assert answer["no_answer_score"] == pytest.approx(float(torch.sigmoid(null - logit)), rel=1e-3)


@pytest.mark.parametrize("family", TEST_FAMILIES)
def test_for_one_window_the_score_is_the_usual_softmax_product(models: dict[str, str], family: str):
    reader = float32_reader(models[family], max_tokens=128)
    document = "In 1871 Ada Vane built it."
    best = reader.answer("Who?", document)
    document_tokens = readable(reader, "Who?", document=document)
    pair = reader.pair(document_tokens, document_tokens.questions[0], reader.settings)
    pair_logits = logits(reader.model, reader.layout, [pair])
    product = torch.softmax(pair_logits.start_T, 0)[:, None] * torch.softmax(pair_logits.end_T, 0)[None].double()
    assert best["score"] == pytest.approx(float(product.triu().max()), rel=1e-5)


@pytest.mark.parametrize("family", TEST_FAMILIES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_cpu_computes_in_every_dtype_even_without_instructions_for_it(
    models: dict[str, str], family: str, dtype: str
):
    answers = [
        Reader(models[family], device="cpu", dtype=name).answer("Who built it?", TEXT)["score"]
        for name in ("float32", dtype)
    ]
    assert answers[1] == pytest.approx(answers[0], rel=0.2)


@pytest.mark.parametrize("family", TEST_FAMILIES)
def test_results_do_not_depend_on_the_batch_budget(models: dict[str, str], family: str):
    results = [
        float32_reader(models[family], batch_tokens=budget).answer(QUESTIONS, DOCUMENT, top_k=10)
        for budget in (1, 200, 5_000)
    ]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert [(x["start"], x["end"]) for x in a] == [(x["start"], x["end"]) for x in b]
            assert [x["score"] for x in a] == pytest.approx([x["score"] for x in b], rel=1e-3, abs=1e-9)


def test_logits_that_are_not_finite_are_an_error(models: dict[str, str], tmp_path: Path):
    model = AutoModelForQuestionAnswering.from_pretrained(models["bert"])
    model.qa_outputs.bias.data[0] = torch.nan
    model.save_pretrained(shutil.copytree(models["bert"], tmp_path / "model"))
    with pytest.raises(ModelError, match="its logits are not finite in float32; its weights are damaged, or its "):
        float32_reader(str(tmp_path / "model"))
    reader = float32_reader(models["bert"])
    backend: Any = reader.model._backend
    backend.model.qa_outputs.bias.data[0] = torch.nan  # as in a type with too small a range
    with pytest.raises(FloatingPointError, match="the model's logits are not finite; try "):
        reader.answer(QUESTIONS, DOCUMENT)


def test_groups_do_not_change_the_answers(models: dict[str, str]):
    reader = float32_reader(models["bert"])
    whole = reader.answer(QUESTIONS, DOCUMENT, top_k=5)
    reader.group_tokens = 1
    for a, b in zip(whole, reader.answer(QUESTIONS, DOCUMENT, top_k=5), strict=True):
        assert [(x["start"], x["end"]) for x in a] == [(x["start"], x["end"]) for x in b]


def test_one_question_and_one_document_give_a_dict_and_top_k_a_list(models: dict[str, str]):
    reader = float32_reader(models["distilbert"])
    best = reader.answer("Who?", DOCUMENT)
    assert list(best) == ["score", "start", "end", "answer"]
    assert reader.answer("Who?", DOCUMENT, top_k=3)[0]["start"] == best["start"]


def test_lists_of_questions_and_documents_are_paired(models: dict[str, str]):
    reader = float32_reader(models["distilbert"])
    questions, documents = ["Who?", "Where?"], ["Ada Vane built it.", "It stands at Cape Ørsted."]
    paired = reader.answer(questions, documents)
    assert [best["answer"] in text for best, text in zip(paired, documents, strict=True)] == [True, True]
    one_question, one_document = reader.answer("Who?", documents), reader.answer(["Who?", "Who?"], documents[0])
    assert [best["answer"] in text for best, text in zip(one_question, documents, strict=True)] == [True, True]
    assert one_question[0]["start"] == one_document[0]["start"] == one_document[1]["start"]
    assert reader.answer([], []) == []
    with pytest.raises(ValueError, match="2 questions and 3 documents: give as many of one as of the other"):
        reader.answer(questions, [*documents, "x"])


def test_no_answer_is_an_empty_string_as_the_removed_pipeline_gave_it(models: dict[str, str]):
    best = float32_reader(models["bert"], no_answer_threshold=0.0).answer("Who?", "Nobody.")
    assert (best["answer"], best["start"], best["end"]) == ("", 0, 0)


@pytest.mark.parametrize(
    ("question", "document", "message"),
    [
        ("", "text", "the question has an empty text; give it some words"),
        ("Who?", " \n", "the document has a text of white space only"),
        ("Who?", "a\ud83d b", "the document has a lone surrogate at character 1; decode its source"),
        ("Who " * 99, "text", "tokens, more than max_question_tokens=30; shorten it or raise that setting"),
        (None, "text", "question is NoneType, not str or a list of str"),
        (["Who?"], [3], "document 3 is int, not str"),
        ("Who?", [["text"] * 1_000], r"document \['text', 'text'.{40,60}… is list, not str"),
    ],
)
def test_unreadable_questions_and_documents_are_reported(
    models: dict[str, str], question: str, document: str, message: str
):
    with pytest.raises(InputError, match=message):
        float32_reader(models["bert"]).answer(question, document)


def test_top_k_below_1_is_an_error(models: dict[str, str]):
    with pytest.raises(InputError, match="top_k=0: not a number of answers; give 1 or more"):
        float32_reader(models["bert"]).answer("Who?", DOCUMENT, top_k=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"score_slope": -1.0}, "score_slope=-1.0: Input should be greater than 0"),
        ({"score_intercept": float("nan")}, "score_intercept=nan: Input should be a finite number"),
        ({"no_answer_threshold": 2}, "no_answer_threshold=2: Input should be less than or equal to 1"),
        ({"overlap_tokens": -1}, "overlap_tokens=-1: Input should be greater than or equal to 0"),
        ({"lexical_weight": -0.1}, "lexical_weight=-0.1: Input should be greater than or equal to 0"),
        ({"lexical_weight": 1e300}, "lexical_weight=1e.300: Input should be less than or equal to 100"),
        ({"max_answer_tokens": 0}, "max_answer_tokens=0: Input should be greater than 0"),
        ({"ranking": "loud" * 1_000}, "ranking='loudloud.{40,60}…: Input should be 'logit' or 'logit_minus_null'"),
        ({"ranking": "loudest"}, "ranking='loudest': Input should be 'logit' or 'logit_minus_null'"),
        ({"device": "tpu"}, "device='tpu': unknown; use one of auto, cpu, cuda"),
        ({"forward": "fast"}, "forward='fast': unknown; use one of auto, transformers"),
    ],
)
def test_a_setting_out_of_bounds_is_an_error(models: dict[str, str], setting: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        float32_reader(models["bert"], **setting)


def test_an_unknown_dtype_is_an_error(models: dict[str, str]):
    with pytest.raises(ConfigError, match="dtype='half': unknown; use one of auto, float32, bfloat16, float16, int8"):
        Reader(models["bert"], dtype="half")


@pytest.mark.parametrize(
    ("name", "closest"),
    [("max_token", "max_tokens"), ("nbest", "n_best"), ("devise", "device"), ("batch_token", "batch_tokens")],
)
def test_an_unknown_setting_is_an_error_that_names_the_closest_and_the_known_ones(name: str, closest: str):
    known = (
        "device, dtype, forward, batch_tokens, threads, gate, max_tokens, overlap_tokens, max_question_tokens, read, "
    )
    with pytest.raises(ConfigError, match=f"unknown setting '{name}'; did you mean '{closest}'. known are {known}"):
        Reader(**{name: 1})  # pyright: ignore[reportArgumentType]


def test_every_setting_can_be_given_to_the_reader(models: dict[str, str]):
    settings = {name: field.default for name, field in InferenceSettings.model_fields.items()} | {
        "max_tokens": 100, "overlap_tokens": 9, "n_best": 2, "snippet_chars": 20, "no_answer_threshold": 0.5,
    }  # fmt: skip
    reader = float32_reader(models["bert"], **settings)
    assert reader.settings.model_dump() == settings
    ((fields,),) = reader.read([readable(reader, "Who?")])
    assert len(fields["n_best"]) == 2


def test_every_setting_has_a_default_and_a_description_of_one_sentence():
    for name, field in InferenceSettings.model_fields.items():
        assert field.default is not None, name
        assert (field.description or "").endswith("."), name


def test_the_example_in_the_docstring_is_true():
    best = float32_reader("default").answer("Who built it?", "The lighthouse was built by Ada Vane in 1871.")
    assert best == {"score": pytest.approx(0.975, abs=0.005), "start": 28, "end": 36, "answer": "Ada Vane"}
    assert "{'score': 0.97…, 'start': 28, 'end': 36, 'answer': 'Ada Vane'}" in str(Reader.__doc__)


def test_blanks_around_a_question_are_no_part_of_it(models: dict[str, str]):
    for family in ("bert", "longformer"):
        reader = float32_reader(models[family])
        assert reader.answer(f" \n\t{QUESTIONS[0]}\u3000\r\n", DOCUMENT) == reader.answer(QUESTIONS[0], DOCUMENT)


@pytest.mark.parametrize(
    ("question", "document", "message"),
    [
        ("Who?", "ⵣⴰⵔ", "document 'ⵣⴰⵔ': the document has no word that the model's tokenizer knows; take a model for"),
        ("ⵣⴰⵔ", "Ada Vane", "question 'ⵣⴰⵔ': the question has no word that the model's tokenizer knows; take a model"),
        ("\u0301\u200b", "Ada Vane", "the tokenizer finds no token in the question; write it in words"),
        ("Who?", "\u200b", "the tokenizer finds no token in the document"),
    ],
)
def test_a_text_without_a_known_word_is_refused(models: dict[str, str], question: str, document: str, message: str):
    with pytest.raises(InputError, match=message):
        float32_reader(models["bert"]).answer(question, document)
