"""A fitted gate: for each question that it knows by its text, the weight of terms; and what recall it had when it was
fitted, on documents held out.

It is one Parquet file, with a row for each question: readable by anything, and no code. The row without a question is
that of all others, for which the lexical gate chooses. ``fit.py`` makes it.

Shapes: T tokens of a document, W windows, V terms with a weight, A answers held out.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qa_ray.errors import ConfigError
from qa_ray.gate.choice import num_read
from qa_ray.gate.occurrences import distinct_pairs, windows_with
from qa_ray.model.settings import ReadRule
from qa_ray.schemas import Windows

FORMAT = 1
KEY = b"qa_ray.gate"
SCHEMA = pa.schema(
    [
        pa.field("question", pa.string()),  # null: all others
        pa.field("question_ids", pa.list_(pa.int32())),
        pa.field("terms", pa.list_(pa.int32())),
        pa.field("weights", pa.list_(pa.float32())),
        # Of each answer held out: the rank of the best window that has it, from 1, and the document's windows.
        pa.field("ranks", pa.list_(pa.int32())),
        pa.field("num_windows", pa.list_(pa.int32())),
    ]
)
MIN_ANSWERS = 30  # held out, for a recall that is more than a guess
FLOORS = (1, 2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True)
class HeldOut:
    """How the gate ranked answers that it was not fitted on: the best window of each, and its document's windows."""

    rank_A: np.ndarray
    num_windows_A: np.ndarray

    def __len__(self) -> int:
        return len(self.rank_A)

    def recall(self, rule: ReadRule) -> float:
        """The share of answers in the windows that ``rule`` reads."""
        return float(np.mean(self.rank_A <= self._num_read_A(rule))) if len(self) else 0.0

    def share_read(self, rule: ReadRule) -> float:
        """The share of windows that ``rule`` reads of these documents."""
        return float(self._num_read_A(rule).sum() / max(1, self.num_windows_A.sum()))

    def rule_for(self, recall: float) -> ReadRule:
        """The rule that reads the fewest windows of those that keep this share of answers; all, if too few were seen.

        For each floor, the fraction is the smallest that is enough.
        """
        if len(self) < MIN_ANSWERS:
            return ReadRule(fraction=1.0, at_least=1)
        needed_A = (self.rank_A - 1) / self.num_windows_A + 1e-6  # the next window beyond it is read (num_read)
        rules = []
        for floor in FLOORS:
            # The answers that the floor does not find anyway decide the fraction.
            sorted_A = np.sort(np.where(self.rank_A <= floor, 0.0, needed_A))
            fraction = float(sorted_A[max(0, int(np.ceil(recall * len(self) - 1e-9)) - 1)])
            rules.append(ReadRule(fraction=min(1.0, max(1e-6, fraction)), at_least=floor))
        return min(rules, key=self.share_read)

    def _num_read_A(self, rule: ReadRule) -> np.ndarray:
        numbers, index_A = np.unique(self.num_windows_A, return_inverse=True)
        return np.array([num_read(rule, int(number)) for number in numbers], dtype=np.int64)[index_A]


def no_answers() -> HeldOut:
    """No answer was held out."""
    return HeldOut(np.empty(0, np.int32), np.empty(0, np.int32))


def pooled(parts: Sequence[HeldOut]) -> HeldOut:
    """The answers of all parts."""
    parts = [no_answers(), *parts]
    return HeldOut(np.concatenate([p.rank_A for p in parts]), np.concatenate([p.num_windows_A for p in parts]))


@dataclass(frozen=True)
class QuestionWeights:
    """What the windows with an answer to one question have more often than others; terms ascending, [V] each."""

    question: str
    question_ids: np.ndarray
    term_V: np.ndarray
    weight_V: np.ndarray
    held_out: HeldOut = field(default_factory=no_answers)

    def scores(self, document_ids_T: np.ndarray, windows: Windows) -> np.ndarray:
        """The sum of the weights of the distinct terms of each window, [W] in float64."""
        num_windows = len(windows)
        if not len(self.term_V):
            return np.zeros(num_windows)
        index_T = np.minimum(np.searchsorted(self.term_V, document_ids_T), len(self.term_V) - 1)
        position_P = np.flatnonzero(self.term_V[index_T] == document_ids_T)
        index_N, window_N = windows_with(position_P, windows)
        window_N, term_N = distinct_pairs(window_N, index_T[position_P[index_N]])
        return np.bincount(window_N, self.weight_V[term_N].astype(np.float64), minlength=num_windows)


@dataclass(frozen=True)
class FittedGate:
    """The questions that a gate was fitted for, and how the lexical gate ranked the answers to the others."""

    tokenizer: str  # its fingerprint
    questions: tuple[QuestionWeights, ...]
    others: HeldOut
    fingerprint: str = ""  # sha256 of its file
    by_ids: dict[bytes, QuestionWeights] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        by_ids = {question.question_ids.astype(np.int32).tobytes(): question for question in self.questions}
        object.__setattr__(self, "by_ids", by_ids)

    @property
    def held_out(self) -> HeldOut:
        """The answers to all questions that it was fitted for."""
        return pooled([question.held_out for question in self.questions])

    def weights_of(self, question_ids: np.ndarray) -> QuestionWeights | None:
        """Those of the question with these token ids; None if the gate does not know it."""
        return self.by_ids.get(question_ids.astype(np.int32).tobytes())

    def to_bytes(self) -> bytes:
        """The gate as a Parquet file."""
        rows = [_row(q.question, q.question_ids, q.term_V, q.weight_V, q.held_out) for q in self.questions]
        rows.append(_row(None, [], [], [], self.others))
        metadata = {KEY: json.dumps({"format": FORMAT, "tokenizer": self.tokenizer})}
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA.with_metadata(metadata)), buffer)
        return buffer.getvalue()


def read_gate(content: bytes, place: str, tokenizer: str) -> FittedGate:
    """The gate in this Parquet file; ``place`` is named in errors, ``tokenizer`` is the model's fingerprint.

    Raises:
        ConfigError: it is none, damaged, of another format, or fitted for another tokenizer.
    """
    try:
        table = pq.read_table(pa.BufferReader(content))
        about: Any = json.loads((table.schema.metadata or {})[KEY])
        number, fingerprint = about["format"], about["tokenizer"]
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"windows.gate={place!r}: not a gate of qa-ray, or damaged ({' '.join(str(error).split())[:200]}); give "
            "the output of `qa-ray gate`"
        ) from error
    if number != FORMAT:
        raise ConfigError(
            f"windows.gate={place!r}: has format {number!r}, and this version of qa-ray reads {FORMAT}; fit it again "
            "with `qa-ray gate`"
        )
    if fingerprint != tokenizer:
        raise ConfigError(
            f"windows.gate={place!r}: was fitted for another tokenizer than that of the model; fit it again with "
            "`qa-ray gate` and this model"
        )
    return _parse(table, place, fingerprint, hashlib.sha256(content).hexdigest())


def _parse(table: pa.Table, place: str, tokenizer: str, fingerprint: str) -> FittedGate:
    try:
        rows = table.cast(SCHEMA).to_pylist()
        questions = [row for row in rows if row["question"] is not None]
        (others,) = [row for row in rows if row["question"] is None]
        gate = FittedGate(tokenizer, tuple(map(_question, questions)), _held_out(others), fingerprint)
        if all(len(q.term_V) == len(q.weight_V) and (np.diff(q.term_V) > 0).all() for q in gate.questions):
            return gate
        reason = "the terms of a question are not in order"
    except (pa.ArrowException, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
    raise ConfigError(f"windows.gate={place!r}: is damaged ({reason}); fit it again with `qa-ray gate`")


def _row(question: str | None, question_ids: Any, terms: Any, weights: Any, held_out: HeldOut) -> dict[str, Any]:
    return {
        "question": question,
        "question_ids": question_ids,
        "terms": terms,
        "weights": weights,
        "ranks": held_out.rank_A,
        "num_windows": held_out.num_windows_A,
    }


def _question(row: dict[str, Any]) -> QuestionWeights:
    return QuestionWeights(
        row["question"],
        np.array(row["question_ids"], np.int32),
        np.array(row["terms"], np.int32),
        np.array(row["weights"], np.float32),
        _held_out(row),
    )


def _held_out(row: dict[str, Any]) -> HeldOut:
    held_out = HeldOut(np.array(row["ranks"], np.int32), np.array(row["num_windows"], np.int32))
    if len(held_out.rank_A) != len(held_out.num_windows_A) or (held_out.rank_A > held_out.num_windows_A).any():
        raise ValueError("ranks and numbers of windows do not fit together")
    return held_out
