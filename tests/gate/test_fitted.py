"""A gate learns the words of an answer's window, knows what it keeps on held-out documents, and refuses bad files."""

import io
import json
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_ray.errors import ConfigError
from qa_ray.gate.choice import num_read
from qa_ray.gate.fit import NUM_FOLDS, LabeledPair, fit_gate
from qa_ray.gate.fitted import FORMAT, KEY, MIN_ANSWERS, FittedGate, HeldOut, QuestionWeights, no_answers, read_gate
from qa_ray.gate.lexical import bm25
from qa_ray.gate.selector import WindowSelector
from qa_ray.inference.windows import windows
from qa_ray.model.settings import ReadRule

WHO, WHEN = np.array([1, 2, 3], np.int32), np.array([4, 5], np.int32)
CLAUSE = 50  # the word in windows with an answer
VOCABULARY = 60


def pairs(num_documents: int = 60, question: np.ndarray = WHO, clause: int = CLAUSE) -> list[LabeledPair]:
    """Documents of 200 tokens with an answer somewhere and, beside it, the word of its clause; one in six has none."""
    random = np.random.default_rng(0)
    labeled = []
    for d in range(num_documents):
        ids = random.integers(6, 40, 200).astype(np.int32)
        cut = windows(len(ids), 20, 5)
        answer = int(random.integers(10, 190))
        has_answer = (cut.start_W <= answer) & (answer < cut.stop_W) & (d % 6 > 0)
        if d % 6:
            ids[answer] = clause
        labeled.append(LabeledPair(ids, "?", question, cut, has_answer, np.zeros(len(cut), bool), d % NUM_FOLDS))
    return labeled


@pytest.fixture(scope="module")
def gate() -> FittedGate:
    return fit_gate(pairs(), "tokenizer", VOCABULARY).gate


def test_a_gate_learns_the_words_beside_an_answer(gate: FittedGate):
    (question,) = gate.questions
    assert question.term_V[question.weight_V.argmax()] == CLAUSE
    for pair in pairs():
        if pair.has_answer_W.any():
            best = question.scores(pair.document_ids_T, pair.windows).argmax()
            assert pair.has_answer_W[best]


def test_ranks_are_of_documents_that_the_weights_were_not_fitted_on():
    only_word_of_each = [  # a word of its own for each answer: nothing can be learned for another document
        pair._replace(document_ids_T=np.where(pair.document_ids_T == CLAUSE, 60 + d, pair.document_ids_T))
        for d, pair in enumerate(pairs())
    ]
    held_out = fit_gate(only_word_of_each, "tokenizer", 200).gate.held_out
    assert len(held_out) == 50
    assert held_out.rank_A.mean() > 4  # of 14 windows; on its own documents, such a gate could rank each first


def test_a_question_with_answers_in_few_documents_is_left_to_its_words():
    fit = fit_gate(pairs() + pairs(9, WHEN), "tokenizer", VOCABULARY)
    assert fit.lexical.rank_A.mean() > fit.gate.held_out.rank_A.mean()  # no word of the question is in the documents
    assert [question.question_ids.tolist() for question in fit.gate.questions] == [WHO.tolist()]
    assert len(fit.gate.others) == sum(pair.has_answer_W.any() for pair in pairs(9))
    assert len(fit.lexical) == len(fit.gate.held_out)


def test_an_answer_that_no_window_has_whole_and_a_document_without_one_are_no_matter_of_recall(gate: FittedGate):
    assert len(gate.held_out) == sum(pair.has_answer_W.any() for pair in pairs()) == 50


def test_a_window_that_cuts_an_answer_is_no_example_of_one_without():
    cut = [pair._replace(has_answer_W=pair.has_answer_W & False, is_cut_W=pair.has_answer_W) for pair in pairs(30)]
    fitted = fit_gate(pairs() + cut, "tokenizer", VOCABULARY).gate.questions[0]
    negatives = [pair._replace(has_answer_W=pair.has_answer_W & False) for pair in pairs(30)]
    taught = fit_gate(pairs() + negatives, "tokenizer", VOCABULARY).gate.questions[0]
    assert fitted.weight_V.max() > taught.weight_V.max()


token_ids = st.lists(st.integers(0, 12), min_size=1, max_size=80).map(lambda ids: np.array(ids, np.int32))
weights = st.dictionaries(st.integers(0, 12), st.floats(0.125, 4, width=32), max_size=8)


@given(token_ids, weights, st.integers(3, 20))
def test_the_score_of_a_window_is_the_sum_of_the_weights_of_its_distinct_terms(ids, weights, room):
    terms = sorted(weights)
    question = QuestionWeights(
        "?", WHO, np.array(terms, np.int32), np.array([weights[term] for term in terms], np.float32)
    )
    cut = windows(len(ids), room, room // 3)
    expected = [
        sum(weights.get(term, 0) for term in set(ids[start:stop].tolist()))
        for start, stop in zip(cut.start_W, cut.stop_W)
    ]
    assert question.scores(ids, cut) == pytest.approx(expected)


ranks = st.lists(
    st.integers(1, 40).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))), min_size=MIN_ANSWERS, max_size=60
)


@given(ranks, st.floats(0.05, 0.99))
def test_the_rule_for_a_recall_keeps_it_and_reads_no_more_than_any_other_rule_that_does(ranks, recall):
    held_out = HeldOut(*np.array(ranks, np.int32).T)
    rule = held_out.rule_for(recall)
    assert held_out.recall(rule) >= recall - 1e-9
    for floor in (1, 4, 16):
        for fraction in np.linspace(0.01, 1, 25):
            other = ReadRule(fraction=float(fraction), at_least=floor)
            if held_out.recall(other) >= recall:
                assert held_out.share_read(rule) <= held_out.share_read(other) + 1e-12


def test_of_too_few_answers_no_recall_is_known_and_all_windows_are_read():
    few = HeldOut(np.ones(MIN_ANSWERS - 1, np.int32), np.full(MIN_ANSWERS - 1, 9, np.int32))
    assert num_read(few.rule_for(0.5), 100) == num_read(no_answers().rule_for(0.5), 100) == 100


def test_a_gate_is_read_as_it_was_written(gate: FittedGate):
    again = read_gate(gate.to_bytes(), "gate", "tokenizer")
    assert again.to_bytes() == gate.to_bytes()
    assert len(again.fingerprint) == 64
    pair = pairs()[1]
    ours, theirs = (g.weights_of(WHO) for g in (again, gate))
    assert ours is not None
    assert theirs is not None
    assert (ours.scores(pair.document_ids_T, pair.windows) == theirs.scores(pair.document_ids_T, pair.windows)).all()


def rewritten(content: bytes, change: Any = lambda table: table, **about: Any) -> bytes:
    """The gate with another table or description."""
    table = pq.read_table(io.BytesIO(content))
    about = json.loads(table.schema.metadata[KEY]) | about
    buffer = io.BytesIO()
    pq.write_table(change(table).replace_schema_metadata({KEY: json.dumps(about)}), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda gate: b"", "not a gate of qa-ray, or damaged"),
        (lambda gate: gate[: len(gate) // 2], "not a gate of qa-ray, or damaged"),
        (lambda gate: b"PAR1" + gate[4:-8] + b"\xff" * 8, "not a gate of qa-ray, or damaged"),
        (lambda gate: rewritten(gate, format=FORMAT + 1), "has format 2, and this version of qa-ray reads 1; fit it"),
        (lambda gate: rewritten(gate, tokenizer="x"), "was fitted for another tokenizer than that of the model; fit"),
        (lambda gate: rewritten(gate, lambda table: table.slice(0, 1)), "is damaged"),
        (lambda gate: rewritten(gate, lambda table: table.drop_columns(["ranks"])), "is damaged"),
    ],
)
def test_a_bad_gate_is_refused(gate: FittedGate, content: Any, message: str):
    with pytest.raises(ConfigError, match=message) as raised:
        read_gate(content(gate.to_bytes()), "out/gate", "tokenizer")
    assert str(raised.value).startswith("windows.gate='out/gate': ")


def test_a_table_that_is_no_gate_is_refused():
    buffer = io.BytesIO()
    pq.write_table(
        pq.read_table(io.BytesIO(fit_gate(pairs(), "t", 60).gate.to_bytes())).replace_schema_metadata({}), buffer
    )
    with pytest.raises(ConfigError, match="not a gate of qa-ray"):
        read_gate(buffer.getvalue(), "gate", "t")


def test_a_known_question_is_chosen_by_its_weights_and_any_other_by_its_words(gate: FittedGate):
    selector = WindowSelector(ReadRule(most=3), gate)
    for pair in pairs(6)[1:]:
        chosen = selector.choose(pair.document_ids_T, WHO, pair.windows)
        assert chosen is not None
        assert pair.has_answer_W[chosen].any()
        other = np.array([7, 8], np.int32)
        by_words = np.argsort(-bm25(pair.document_ids_T, other, pair.windows), kind="stable")[:3]
        by_selector = selector.choose(pair.document_ids_T, other, pair.windows)
        assert by_selector is not None
        assert by_selector.tolist() == sorted(by_words.tolist())


def test_a_recall_reads_few_windows_of_a_known_question_and_all_of_one_whose_recall_is_unknown(gate: FittedGate):
    selector = WindowSelector(ReadRule(recall=0.9), gate)
    assert selector.num_read(WHO, 100) < 30
    assert selector.num_read(WHEN, 100) == 100


def test_a_recall_without_a_fitted_gate_is_refused_with_the_remedy():
    with pytest.raises(
        ConfigError, match=r"windows.read=\{recall: 0.95\}: only a fitted gate .*windows.gate=…, or say"
    ):
        WindowSelector(ReadRule(recall=0.95))


def test_a_document_that_has_no_more_windows_than_are_read_is_read_whole():
    cut = windows(100, 20, 5)
    selector = WindowSelector(ReadRule(most=len(cut)))
    assert selector.choose(np.arange(100, dtype=np.int32), WHO, cut) is None
    assert WindowSelector("all").choose(np.arange(100, dtype=np.int32), WHO, cut) is None
