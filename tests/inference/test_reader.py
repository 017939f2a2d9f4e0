import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import TEST_FAMILIES, TEXT
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from qa_ray import Reader
from qa_ray.errors import ConfigError, InputError, ModelError
from qa_ray.gate.choice import best_windows
from qa_ray.gate.lexical import bm25
from qa_ray.inference.answers import answer_range
from qa_ray.inference.batching import Logits, Pair, logits
from qa_ray.inference.lexical_boost import lexical_match
from qa_ray.inference.settings import InferenceSettings
from qa_ray.schemas import Ranking, ReadableDocument

DOCUMENT = (TEXT + "A literal </s> [SEP] <mask> is here 😀. ") * 2
DOCUMENT += "The keeper of Ushant was Ada Vane. " + DOCUMENT
QUESTIONS = ["Who built the lighthouse?", "它在哪里？", "When was the agreement signed, and by whom, and why?"]
RARE_WORDS = "Who was the keeper of Ushant?"


def float32_reader(folder: str, **settings: Any) -> Reader:
    return Reader(folder, dtype="float32", **settings)


def each_window_alone(folder: str, question: str, max_tokens: int, overlap: int) -> list[dict]:
    """transformers' own windows and logits, one window at a time: the reference for everything here."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    encoded = tokenizer(
        question, DOCUMENT, truncation="only_second", max_length=max_tokens, stride=overlap,
        return_overflowing_tokens=True, return_offsets_mapping=True, split_special_tokens=True,
    )  # fmt: skip
    reference, start_token = [], 0
    for w, ids in enumerate(encoded["input_ids"]):
        inputs = {name: torch.tensor([encoded[name][w]]) for name in tokenizer.model_input_names}
        if model.config.model_type == "longformer":
            first_separator = ids.index(tokenizer.sep_token_id)
            inputs["global_attention_mask"] = (torch.arange(len(ids)) < first_separator).long()[None]
        with torch.inference_mode():
            output = model(**inputs)
        tokens = [i for i, part in enumerate(encoded.sequence_ids(w)) if part == 1]
        reference.append({
            "first_token": start_token,
            "offsets": [encoded["offset_mapping"][w][i] for i in tokens],
            "start": output.start_logits[0, tokens],
            "end": output.end_logits[0, tokens],
            "null": (output.start_logits[0, 0], output.end_logits[0, 0]),
        })  # fmt: skip
        start_token += len(tokens) - overlap
    return reference


def readable(reader: Reader, *questions: str, document: str = DOCUMENT) -> ReadableDocument:
    return ReadableDocument(document, reader.tokenizer(document), [reader.tokenizer.question(q) for q in questions])


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


def brute_force(
    reference: list[dict], longest: int, ranking: Ranking, lexical_T: np.ndarray
) -> dict[tuple[int, int], float]:
    """Every span of every window; each token's logit comes from the window that gives it the most context."""
    last = max(w["first_token"] + len(w["start"]) for w in reference)
    best: dict[int, tuple[float, float, float, tuple]] = {}
    for window in reference:
        first, length = window["first_token"], len(window["start"])
        shift = window["null"] if ranking == "logit_minus_null" else (0.0, 0.0)
        for t in range(length):
            left = np.inf if first == 0 else t
            right = np.inf if first + length == last else length - 1 - t
            entry = (
                min(left, right),
                float(window["start"][t] - shift[0]),
                float(window["end"][t] - shift[1]),
                window["offsets"][t],
            )
            if first + t not in best or entry[0] > best[first + t][0]:
                best[first + t] = entry
    logit_by_span: dict[tuple[int, int], float] = {}
    for window in reference:
        tokens = range(window["first_token"], window["first_token"] + len(window["start"]))
        for i in tokens:
            for j in range(i, min(i + longest, tokens.stop)):
                span = answer_range(DOCUMENT, best[i][3][0], best[j][3][1])
                if span[0] < span[1]:
                    logit = best[i][1] + best[j][2] + float(lexical_T[i] + lexical_T[j])
                    logit_by_span[span] = max(logit_by_span.get(span, -np.inf), logit)
    return logit_by_span


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


def test_a_pickled_reader_answers_the_same(models: dict[str, str]):
    reader = float32_reader(models["bert"], read={"most": 2}, n_best=3)
    again = pickle.loads(pickle.dumps(reader))
    assert again.settings == reader.settings
    assert again.answer(QUESTIONS, DOCUMENT) == reader.answer(QUESTIONS, DOCUMENT)


def test_a_forked_process_answers_with_the_reader_of_its_parent(models: dict[str, str]):
    """In a process of its own, because a fork of one with many threads may hang for other reasons."""
    code = f"""
import os, sys, qa_ray
reader = qa_ray.Reader({models["bert"]!r}, dtype="float32", threads=2)
document = {DOCUMENT!r}
before = reader.answer("Who built it?", document)
if not (child := os.fork()):
    os._exit(0 if abs(reader.answer("Who built it?", document)["score"] - before["score"]) < 1e-5 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=600, check=False).returncode == 0
