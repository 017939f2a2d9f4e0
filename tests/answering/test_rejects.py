"""Bad rows become rejects, and their neighbors are answered."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from models import TEXT, save_model
from running import assert_nothing_lost, changed, not_utf8, raises_error, read_rows, write_job
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from qa_ray.answering.job import answer_documents
from qa_ray.errors import JobError, OutputError
from qa_ray.inference.reader import Reader

TRICKY = {
    "special tokens": "Ada </s> [SEP] <mask> built [CLS] [PAD] [UNK] it <s> in 1871.",
    "emoji": "👩‍👩‍👧‍👦 built 😀 the 🇩🇪 lighthouse 👍🏽 in 1871",
    "combining marks": "Å̈ngstro\u0308m e\u0301 a\u0308\u0301 built it \u0301",
    "right to left": "Ada بنت آدا فان المنارة في ١٨٧١ \u200fשלום\u200f עולם",
    "cjk": "北京大学在哪里？它在海淀区。カタカナ한국어",
    "nul": "Ada\0Vane built\0it in\0001871\0",
    "separators": "Ada\u200bVane\ufeff built\u00ad it\u2028in\x851871\r\n\tat\u3000Ørsted",
    "astral": "𝔸𝕕𝕒 𝒱𝒶𝓃ℯ built 𠀀𠀁 ﬁ ﷺ İ ß ẞ",
    "one long word": "x" * 5000 + " Ada " + "y" * 200,
}


@pytest.mark.parametrize("family", ["bert", "longformer"])
def test_an_answer_is_the_text_at_its_offsets_in_any_script(models: dict[str, str], family: str):
    reader = Reader(models[family], dtype="float32", max_question_tokens=40)
    of_marks_alone = ["\u0301\u200b"] if family == "longformer" else []  # BERT drops them: no token is left
    for name, text in TRICKY.items():
        for question in ("Who built it?", "Wo </s> [SEP] 😀 \u0301 שלום 北?", *of_marks_alone):
            for answer in reader.answer(question, text, top_k=20):
                assert text[answer["start"] : answer["end"]] == answer["answer"] != "", (name, question)


@pytest.fixture(scope="module")
def large_windows(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small BERT with windows of 512 tokens that fails on one word, 'zzz', whose embedding is not a number."""
    folder = tmp_path_factory.mktemp("large") / "model"
    settings = {"max_tokens": 512, "overlap_tokens": 64, "max_question_tokens": 30}
    save_model("bert", folder, positions=514, settings=settings)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["zzz"])
    tokenizer.save_pretrained(folder)
    model = AutoModelForQuestionAnswering.from_pretrained(folder, dtype="float32")
    model.resize_token_embeddings(len(tokenizer))
    model.get_input_embeddings().weight.data[-1] = torch.nan
    model.save_pretrained(folder)
    return str(folder)


# name: text, and the stage, reason and part of the detail of its reject
BAD = {
    "null": (None, "documents", "null_text", "document 'null' has null as its text"),
    "empty": (b"", "documents", "empty_text", "document 'empty' has an empty text"),
    "blank": (" \n\t\u3000".encode(), "documents", "blank_text", "document 'blank' has a text of white space only"),
    "surrogate": (
        b"Ada \xed\xa0\x80",
        "documents",
        "invalid_unicode",
        "'surrogate' has text that is not valid UTF-8: ",
    ),
    "latin": ("Café".encode("latin-1"), "documents", "invalid_unicode", "can't decode byte 0xe9 in position 3"),
    "invisible": ("\u200b\ufeff".encode(), "tokens", "no_tokens", "the tokenizer finds no token in the document"),
    "unknown": (
        "بنت آدا".encode(),
        "tokens",
        "unknown_words",
        "the document has no word that the model's tokenizer knows; take a model for its language",
    ),
    "zzz": (b"Ada zzz Vane", "logits", "FloatingPointError", "logits are not finite"),
}
BAD_QUESTIONS = {
    "null": (None, "documents", "null_question", "question 'null' has null as its text"),
    "empty": ("", "documents", "empty_question", "question 'empty' has an empty text"),
    "blank": (" \n", "documents", "blank_question", "question 'blank' has a text of white space only"),
    "marks": ("\u0301\u200b", "tokens", "question_no_tokens", "the tokenizer finds no token in the question; write"),
    "foreign": ("بنت آدا؟", "tokens", "question_unknown_words", "the question has no word that the model's tokenizer "),
    "long": (
        "who " * 31,
        "tokens",
        "question_too_long",
        "31 tokens, more than windows.max_question_tokens=30; raise it",
    ),
}
OTHERS = {
    "good": "Ada Vane built the lighthouse in 1871.",
    "large": (TEXT * 20_000)[:2_000_000],
    "many questions": "Ada Vane built the lighthouse in 1871.",
    "no question": "Nobody wants to know.",
}
NUM_MANY_QUESTIONS = 10_000


def every_kind_of_row() -> tuple[pa.Table, list[dict[str, Any]]]:
    texts = {name: text for name, (text, *_) in BAD.items()}
    texts |= {name: text.encode() for name, text in (TRICKY | OTHERS).items()}
    documents = pa.table(
        {
            "document_id": list(texts),
            "text": not_utf8(*texts.values()),
            "name": list(texts),
            "lists": [[name] * (len(name) % 3) for name in texts],
            "kinds": pa.array(["one", "other"] * len(texts))[: len(texts)].dictionary_encode(),
            "nothing": pa.nulls(len(texts)),
            "bytes": [b"\xff"] * len(texts),
            "latin": not_utf8(*[b"\xe9"] * len(texts)),
        }
    )
    questions = [(name, "who", "Who built it?") for name in texts if name != "no question"]
    questions += [("good", name, text) for name, (text, *_) in BAD_QUESTIONS.items()]
    questions += [("many questions", f"{i:05}", f"Who built {i}?") for i in range(NUM_MANY_QUESTIONS)]
    questions += [("nowhere", "who", "Who built it?")]
    return documents, [dict(zip(("document_id", "question_id", "question"), row, strict=True)) for row in questions]


@pytest.mark.usefixtures("ray_session")
def test_bad_rows_become_rejects_and_all_others_are_answered(tmp_path: Path, large_windows: str):
    documents, questions = every_kind_of_row()
    config = write_job(tmp_path, large_windows, documents, questions, answers={"n_best": 3})
    manifest = answer_documents(config)
    assert_nothing_lost(config, [(q["document_id"], q["question_id"]) for q in questions], manifest)

    expected = {(name, "who"): row[1:] for name, row in BAD.items()}
    expected |= {("good", name): row[1:] for name, row in BAD_QUESTIONS.items()}
    detail = "question 'who' is bound to document 'nowhere', which is not among the documents"
    expected["nowhere", "who"] = ("documents", "unknown_document", detail)
    rejects = read_rows(config, "rejects")
    assert {(row["document_id"], row["question_id"]) for row in rejects} == expected.keys()
    for row in rejects:
        stage, reason, detail = expected[row["document_id"], row["question_id"]]
        assert (row["stage"], row["reason"]) == (stage, reason)
        assert detail in row["detail"]
    assert manifest["counts"]["rejects_by_reason"] == Counter(reason for _, reason, _ in expected.values())

    texts = TRICKY | OTHERS
    spans = ["answer", "start_char", "stop_char", "n_best"]
    answers = read_rows(config, "answers", ["document_id", "question_id", *spans, "name", "lists", "nothing", "bytes"])
    assert {row["document_id"] for row in answers} == texts.keys() - {"no question"}
    for row in answers:
        name = row["document_id"]
        assert (row["name"], row["lists"]) == (name, [name] * (len(name) % 3))
        assert (row["nothing"], row["bytes"]) == (None, b"\xff")
        assert row["n_best"]
        for span in (row, *row["n_best"]):
            assert texts[name][span["start_char"] : span["stop_char"]] == span["answer"] != ""


@pytest.mark.usefixtures("ray_session")
def test_too_many_rejects_fail_the_job_and_a_higher_limit_commits_what_is_there(tmp_path: Path, models):
    """With integer ids, renamed columns, a question asked about all documents, and a truncated question."""
    documents = [
        {"nr": i, "body": "Ada Vane built it. " * i, "answer": "not ours", "title": f"no {i}"} for i in range(4)
    ]
    questions = [
        {"number": 7, "ask": "Who built it?", "nr": None},
        {"number": 8, "ask": "who " * 40, "nr": 3},
        {"number": 8, "ask": "Who?", "nr": 12},
    ]
    names = {"document_id": "nr", "text": "body", "question_id": "number", "question": "ask", "keep": ["title"]}
    truncated, low = {"long_questions": "truncate"}, {"max_rejected_fraction": 0.3}
    config = write_job(tmp_path, models["bert"], documents, questions, columns=names, windows=truncated, limits=low)
    with raises_error(
        JobError,
        "2 of 6 questions (33.3%) were rejected (empty_text 1, unknown_document 1), more than "
        "limits.max_rejected_fraction=0.3; see ",
        "; raise the limit and run the same command again, which computes nothing twice; or fix the input and give "
        "another output, because another input is another run",
    ):
        answer_documents(config)
    assert not (Path(config.output) / "_SUCCESS").exists()
    assert [row["reason"] for row in read_rows(config, "rejects")] == ["empty_text", "unknown_document"]
    with raises_error(
        OutputError, "holds another run, which differs in windows.long_questions ('truncate' there, 'reject' now)"
    ):
        answer_documents(changed(config, windows={"long_questions": "reject"}))

    config = changed(config, limits={"max_rejected_fraction": 0.4})
    manifest = answer_documents(config)
    assert manifest["windows_this_run"] == 0
    pairs: Any = [*((i, 7) for i in range(4)), (3, 8), (12, 8)]  # ids keep their type
    assert_nothing_lost(config, pairs, manifest)
    answers = read_rows(config, "answers")
    assert [row["title"] for row in answers] == ["no 1", "no 2", "no 3", "no 3"]
    assert all(row["answer"] and "nr" not in row for row in answers)

    before = {path: path.stat().st_mtime_ns for path in Path(config.output).rglob("*")}
    assert answer_documents(config) == manifest  # a finished job does nothing
    assert {path: path.stat().st_mtime_ns for path in Path(config.output).rglob("*")} == before
