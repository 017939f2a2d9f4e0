"""Whatever documents and questions hold: exact answers that do not depend on the batch, or an error of the user.

``FUZZ_EXAMPLES=100000 pytest tests/inference/test_fuzz.py`` looks for longer.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import TEXT

from qa_ray import Reader
from qa_ray.errors import InputError
from qa_ray.inference.borders import is_border
from qa_ray.inference.settings import InferenceSettings
from qa_ray.schemas import ReadableDocument

FAMILIES = ("bert", "roberta")  # WordPiece, byte-level BPE
N_BEST, MAX_QUESTION_TOKENS = 20, 30
fuzz = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "25")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

PIECES = [
    *("👩‍💻", "👍🏽", "🇫🇷🇩🇪🇮", "🦊", "❤️", "1️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "\U0010ffff", "𝟘𝟙𝟚", "𠀀"),
    *("e\u0301", "\u0301", "a" + "\u0301" * 100, "क्षि", "ก็", "한국", "\u1112\u1161\u11ab", "ﷺ", "ﬁ", "İ", "ẞ", "ǅ"),
    *("\u200b", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u034f", "\ufe0f", "\u202e", "\u200f", "\u2066"),
    *("שלום", "مرحبا", "١٢٣", "٬", "北京大学", "七百万", "。", "你好，", "ไทย"),
    *("\0", "\x01", "\x1b[0m", "\x7f", "\x85", "\ufffd", "\ufffe", "\u2028", "\r\n", "\r", "\n\n", "\t", "\u00a0"),
    *("[SEP]", "[CLS]", "[PAD]", "[UNK]", "[MASK]", "</s>", "<s>", "<pad>", "<mask>", "<unk>", "##", "Ġ", "▁", "Ċ"),
    *("x" * 150, "é" * 90, "7" * 90, "ab-" * 60, "🦊" * 40, " " * 80, "\u3000", "Ã©", "5 °C "),
    *("7,000,000 ", "$5.50", "2024-11-25", "§ 8.2"),
    *(" ", " ", " ", "Ada Vane ", "lighthouse ", "1871 ", *TEXT.split(". ")),
]  # fmt: skip
texts = st.lists(
    st.one_of(st.sampled_from(PIECES), st.sampled_from(PIECES), st.text(st.characters(), max_size=8)), max_size=12
).map("".join)
documents = st.one_of(texts, st.tuples(texts, st.integers(1, 30)).map(lambda pair: pair[0] * pair[1]))
questions = st.one_of(texts, texts.map(lambda text: text[:20]), st.sampled_from(["Who built it?", "在哪里？", "?"]))
chosen_settings = st.fixed_dictionaries(
    {
        "max_tokens": st.integers(48, 128),
        "overlap_tokens": st.integers(0, 12),
        "ranking": st.sampled_from(["logit", "logit_minus_null"]),
        "lexical_weight": st.sampled_from([0.0, 0.5]),
        "max_answer_tokens": st.integers(1, 40),
        "no_answer_threshold": st.sampled_from([0.5, 1.0]),
        "snippet_chars": st.integers(0, 100),
    }
)


@pytest.fixture(scope="module", params=FAMILIES)
def reader(models: dict[str, str], request: pytest.FixtureRequest) -> Reader:
    return Reader(models[request.param], device="cpu", dtype="float32", threads=1)


def has_lone_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def readable(reader: Reader, document: str, asked: Sequence[str]) -> ReadableDocument:
    """The document with these questions, truncated as the answer job can do it."""
    ids = [reader.tokenizer.question(text)[:MAX_QUESTION_TOKENS] for text in asked if not has_lone_surrogate(text)]
    return ReadableDocument(document, reader.tokenizer(document), ids)


def check_answer(fields: dict[str, Any], document: str) -> None:
    """The laws of one answer and its n best."""
    spans = fields["n_best"]
    for span in spans:
        start, stop = span["start_char"], span["stop_char"]
        assert 0 <= start < stop <= len(document)
        assert document[start:stop] == span["answer"]
        assert is_border(document, start)
        assert is_border(document, stop)
        assert not span["answer"].isspace()
    scores = [span["score"] for span in spans]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in (*scores, fields["no_answer_score"]))
    assert sum(scores) <= 1 + 1e-6
    assert len({(span["start_char"], span["stop_char"]) for span in spans}) == len(spans)
    if fields["answer"] is not None:
        assert {name: fields[name] for name in spans[0]} == spans[0]
        assert fields["answer"] in fields["snippet"]


def check_windows(reader: Reader, document: ReadableDocument, chosen: InferenceSettings) -> None:
    """Windows cover all tokens, each token is owned once, none is too long for the model."""
    for question in document.questions:
        pair = reader.pair(document, question, chosen)
        covered = np.zeros(len(document.tokens), dtype=np.int64)
        owned = covered.copy()
        for start, stop, own_start, own_stop in zip(*pair.windows, strict=True):
            assert stop - start + len(question) + reader.layout.num_special_tokens <= chosen.max_tokens
            assert start <= own_start <= own_stop <= stop
            covered[start:stop] += 1
            owned[own_start:own_stop] += 1
        assert covered.all()
        assert (owned == 1).all()


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """The same spans with the same scores; of equal scores, which is first, or last of the n best, may differ."""
    first, second = ({(s["start_char"], s["stop_char"]): s["score"] for s in each["n_best"]} for each in (one, other))
    assert len(first) == len(second)
    assert [*first.values()] == pytest.approx([*second.values()], rel=1e-3, abs=1e-9)
    for here, there in ((first, second), (second, first)):
        lowest = min(there.values(), default=0)
        for span, score in here.items():
            assert there.get(span, lowest) == pytest.approx(score, rel=1e-3, abs=1e-9)
    assert one["no_answer_score"] == pytest.approx(other["no_answer_score"], rel=1e-3, abs=1e-6)
    assert one["num_windows"] == other["num_windows"]


@fuzz
@given(document=documents, question=questions)
def test_any_text_is_answered_exactly_or_an_error_of_the_user(reader: Reader, document: str, question: str):
    faults = [text for text in (document, question) if not text or text.isspace() or has_lone_surrogate(text)]
    tokenizer = reader.tokenizer
    if not faults:
        ids = tokenizer.question(question)
        faults = [tokenizer.document_fault(tokenizer(document)), tokenizer.question_fault(ids)]
        faults = [fault for fault in faults if fault] or ids[MAX_QUESTION_TOKENS:].tolist()
    if faults:
        with pytest.raises(InputError) as error:
            reader.answer(question, document, top_k=N_BEST)
        assert 20 < len(str(error.value)) < 300
        return
    for answer in reader.answer(question, document, top_k=N_BEST):
        start, stop = answer["start"], answer["end"]
        assert document[start:stop] == answer["answer"]
        assert is_border(document, start)
        assert is_border(document, stop)


@fuzz
@given(
    asked=st.lists(st.tuples(documents, st.lists(questions, min_size=1, max_size=2)), min_size=1, max_size=3),
    chosen=chosen_settings,
    batch_tokens=st.sampled_from([1, 100, 1_000]),
    group_tokens=st.sampled_from([1, 500, 4_000_000]),
)
def test_answers_obey_all_laws_and_do_not_depend_on_what_is_answered_beside_them(
    reader: Reader, asked: list[tuple[str, list[str]]], chosen: dict[str, Any], batch_tokens: int, group_tokens: int
):
    settings = reader.settings.model_copy(update=chosen | {"n_best": N_BEST})
    readables = [readable(reader, document, texts) for document, texts in asked if not has_lone_surrogate(document)]
    readables = [document for document in readables if len(document.tokens)]
    for document in readables:
        check_windows(reader, document, settings)
    reader.model.batch_tokens, reader.group_tokens = batch_tokens, group_tokens
    together = reader.read(readables, settings)
    reader.model.batch_tokens, reader.group_tokens = 2_048, 4_000_000
    for document, answers in zip(readables, together, strict=True):
        alone = [
            fields
            for question in document.questions
            for fields in reader.read([document._replace(questions=[question])], settings)[0]
        ]
        for fields, other in zip(answers, alone, strict=True):
            check_answer(fields, document.text)
            assert_same(fields, other)
