"""Gold answers are located in their documents and windows; also on real datasets where they are available."""

import json
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qa_ray.inference.answers import answer_range
from qa_ray.inference.windows import windows
from qa_ray.io.row_checks import Fault
from qa_ray.model.checkpoint import open_checkpoint
from qa_ray.model.tokenizer import Tokenizer
from qa_ray.training.labels import REACH_CHARS, Located, answer_tokens, labels, locate

DATA = Path(__file__).parents[3] / "shared" / "data"
DOCUMENT = "Ada Vane built it. Ada Vane sold it. " + "-" * 2 * REACH_CHARS + " Ida Crow bought it."


@pytest.mark.parametrize(
    ("answer", "start_char", "expected"),
    [
        ("Ada Vane", 0, Located(0, 8, "as_given")),
        ("Ada Vane", 19, Located(19, 27, "as_given")),
        (" Ada Vane ", 18, Located(19, 27, "as_given")),
        ("sold", 20, Located(28, 32, "relocated")),
        ("built", -1, Located(9, 14, "relocated")),
        ("Ida Crow", None, Located(DOCUMENT.index("Ida"), DOCUMENT.index("Ida") + 8, "found")),
    ],
)
def test_an_answer_is_located_at_the_given_character_or_at_its_only_occurrence(answer, start_char, expected):
    assert locate(DOCUMENT, answer, start_char) == expected


@pytest.mark.parametrize(
    ("answer", "start_char", "reason", "detail"),
    [
        ("Ada Vane", 5, "answer_ambiguous", "'Ada Vane' occurs 2 times within 200 characters of 5"),
        ("Ada Vane", None, "answer_ambiguous", "'Ada Vane' occurs 2 times within the document"),
        ("Ida Crow", 0, "answer_not_found", "'Ida Crow' occurs 0 times within 200 characters of 0"),
        ("Eve Holm", None, "answer_not_found", "'Eve Holm' occurs 0 times within the document"),
    ],
)
def test_an_answer_that_occurs_never_or_more_than_once_is_a_fault(answer, start_char, reason, detail):
    assert locate(DOCUMENT, answer, start_char) == Fault(reason, detail)


@given(st.text(max_size=80), st.data())
def test_a_correct_start_character_is_always_accepted(text: str, data: st.DataObject):
    start = data.draw(st.integers(0, len(text)))
    answer = text[start : data.draw(st.integers(start, len(text)))]
    assume(answer.strip())
    located = locate(text, answer, start)
    assert isinstance(located, Located)
    assert text[located.start_char : located.stop_char] == answer.strip()
    assert located.how == "as_given"


@given(st.integers(1, 60), st.integers(1, 25), st.data())
def test_each_window_contains_an_answer_cuts_it_or_has_no_part_of_it(num_tokens: int, room: int, data: st.DataObject):
    document_windows = windows(num_tokens, room, data.draw(st.integers(0, room - 1)))
    spans = st.integers(0, num_tokens - 1).flatmap(lambda a: st.tuples(st.just(a), st.integers(a + 1, num_tokens)))
    answers = data.draw(st.lists(spans, max_size=3))
    is_inside_WA, is_cut_W = labels(document_windows, answers)
    assert is_inside_WA.shape == (len(document_windows), len(answers))
    for w in range(len(document_windows)):
        window = set(range(document_windows.start_W[w], document_windows.stop_W[w]))
        fractions = [len(window & {*range(*answer)}) / (answer[1] - answer[0]) for answer in answers]
        assert is_inside_WA[w].tolist() == [fraction == 1 for fraction in fractions]
        assert is_cut_W[w] == (any(0 < fraction < 1 for fraction in fractions) and 1 not in fractions)


@pytest.mark.parametrize(
    ("gold", "text"),
    [("7,000", "7,000,000"), ("000", "7,000,000"), ("7,000,000",) * 2, ("paid 7", "paid 7,000,000"), ("a", "á")],
)
def test_a_gold_answer_that_cuts_a_number_or_a_letter_is_labeled_as_it_would_be_answered(gold: str, text: str):
    document = "They paid 7,000,000 for the a\u0301 of it"
    tokens = Tokenizer(open_checkpoint("default").folder)(document)
    start_char = document.index("a\u0301") if gold == "a" else document.index(gold)
    start, stop = answer_tokens(document, tokens, Located(start_char, start_char + len(gold), "as_given"))
    first, last = answer_range(document, int(tokens.start_char_T[start]), int(tokens.stop_char_T[stop - 1]))
    assert unicodedata.normalize("NFC", document[first:last]) == text
    assert (start, stop) == answer_tokens(document, tokens, Located(first, last, "as_given"))


FILES = {
    "squad/dev-v1.1.json": {"as_given": 34_726, "widened": 85},
    "squad/dev-v2.0.json": {"as_given": 20_302, "widened": 30},
    "train/friendsqa-dev.json": {"as_given": 1_942},
    "train/nq-open-oracle.json": {"as_given": 3_981, "widened": 21},
    "train/qed-dev.json": {"as_given": 1_774, "widened": 1},
    "train/squad2-train-first-10-articles.json": {"as_given": 4_371, "widened": 36},
    "train/squadshifts-amazon.json": {"as_given": 27_318, "widened": 54},
    "train/squadshifts-new-wiki.json": {"as_given": 22_794, "widened": 46},
    "train/squadshifts-reddit.json": {"as_given": 27_692, "widened": 57},
    "long/cuad-v1.json": {"as_given": 13_831, "widened": 136},
    "long/timeqa-train.json": {"as_given": 1_080},
    "zh/cmrc2018_dev.json": {"as_given": 9_457, "relocated": 7, "answer_not_found": 193, "widened": 7},
    "zh/cmrc2018_trial.json": {"as_given": 997, "relocated": 5, "widened": 1},
    "zh/stories-train.json": {"as_given": 90},
    "zh/stories-validation.json": {"as_given": 30},
}


@pytest.mark.parametrize("name", FILES)
def test_the_tokens_of_real_gold_answers_decode_to_their_texts(name: str):
    """Where a gold answer starts or ends within a token or a number, the tokens cover more than the answer."""
    if not (DATA / name).is_file():
        pytest.skip(f"{name} is not available")
    tokenizer = Tokenizer(open_checkpoint("default").folder)
    counts: Counter[str] = Counter()
    for article in json.loads((DATA / name).read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            text = paragraph["context"]
            tokens = tokenizer(text)
            for answer in (answer for qa in paragraph["qas"] for answer in qa["answers"]):
                located = locate(text, answer["text"], answer["answer_start"])
                counts[located.how if isinstance(located, Located) else located.reason] += 1
                if isinstance(located, Located):
                    start, stop = answer_tokens(text, tokens, located)
                    first, last = answer_range(text, int(tokens.start_char_T[start]), int(tokens.stop_char_T[stop - 1]))
                    assert first <= located.start_char < located.stop_char <= last
                    counts["widened"] += (first, last) != (located.start_char, located.stop_char)
    assert +counts == FILES[name]
