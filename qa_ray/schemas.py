"""The data of every step: Arrow schemas between processes, tuples of NumPy arrays within one.

Character offsets count Unicode code points; ranges are half open: ``text[start_char:stop_char] == answer``, always.
``TABLES`` describes every column that users write or read.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

Ranking = Literal["logit", "logit_minus_null"]
"""How spans of different windows are compared: see ``inference.spans.rank_logits``."""


# ---- Tables that users write and read


class Column(NamedTuple):
    """A column with its description for the reference."""

    name: str
    type: pa.DataType
    description: str
    nullable: bool = True


def _struct(columns: Iterable[Column]) -> pa.StructType:
    return pa.struct([(column.name, column.type) for column in columns])


def _schema(columns: Iterable[Column]) -> pa.Schema:
    return pa.schema([pa.field(column.name, column.type, column.nullable) for column in columns])


_DOCUMENT = (
    Column("document_id", pa.string(), "Unique id of the document: string or integer, never null.", nullable=False),
    Column("text", pa.string(), "Text of the document; if it is null or blank, its questions become rejects."),
)

_GOLD = (
    Column("text", pa.string(), "Text of the gold answer."),
    Column("start_char", pa.int64(), "Code point of the document at which it starts; null: unknown."),
)
GOLD = _struct(_GOLD)
"""One gold answer."""

_QUESTION = (
    Column("question_id", pa.string(), "Id: string or integer, unique within a document, never null.", nullable=False),
    Column("question", pa.string(), "Text of the question; null or blank: a reject, or an error if asked about all."),
    Column("document_id", pa.string(), "Document that the question is about; null: it is asked about every document."),
    Column(
        "answers",
        pa.list_(GOLD),
        "Gold answers, for evaluation and training; empty: the document does not answer the question; null: unknown.",
    ),
)

_SPAN = (
    Column("answer", pa.string(), "Text of the span."),
    Column("start_char", pa.int64(), "Its first code point in the document."),
    Column("stop_char", pa.int64(), "The code point after its last: text[start_char:stop_char] == answer."),
    Column(
        "score",
        pa.float64(),
        "In [0, 1]: how likely the span is right if the document answers the question; a probability if the model is "
        "calibrated. Comparable across windows and documents.",
    ),
)
SPAN = _struct(_SPAN)
"""A candidate answer."""

_ANSWER = (
    Column("question_id", pa.string(), "Id of the question, with its type; unique within a document."),
    Column("question", pa.string(), "Text of the question."),
    Column("answer", pa.string(), "Text of the best span; null: no answer, and so are the next three and snippet."),
    *_SPAN[1:],
    Column(
        "no_answer_score",
        pa.float64(),
        "No-answer score in [0, 1]; uncalibrated: use it for ranking and thresholds only. Above "
        "answers.no_answer_threshold the answer is null.",
    ),
    Column("n_best", pa.list_(SPAN), "The best spans in descending order, also where the answer is null."),
    Column(
        "snippet", pa.string(), "The answer with the text around it, about answers.snippet_chars long; … marks cuts."
    ),
    Column("num_windows", pa.int32(), "Number of windows that the document was cut into for this question."),
    Column("num_windows_read", pa.int32(), "Number of those that were read; all, unless windows.read says less."),
)
ANSWER = _struct(_ANSWER)
"""The answer to one question in one document; ``document_id`` precedes it in the answers table."""

_REJECT = (
    Column("question_id", pa.string(), "Id of the question; null: it has none, or a document without any (prepare)."),
    Column("stage", pa.string(), "Stage that rejected it: prepare, documents, tokens, logits or labels."),
    Column("reason", pa.string(), "Reason to count by, such as empty_text or question_too_long, or an error's class."),
    Column("detail", pa.string(), "What exactly is wrong, and often the remedy."),
)
REJECT = _struct(_REJECT)
"""A (document, question) pair that could not be answered or trained on."""

TABLES: dict[str, tuple[Column, ...]] = {
    "documents": _DOCUMENT,
    "questions": _QUESTION,
    "questions.answers": _GOLD,
    "answers": (
        Column("document_id", pa.string(), "Id of the document, with the type that it has there."),
        *_ANSWER,
        Column("model_fingerprint", pa.string(), "SHA-256 of the model that answered."),
        Column("run_id", pa.string(), "Id of the run that answered: its start, and a random part."),
        Column("text_sha256", pa.string(), "SHA-256 of the document's text as UTF-8, which the characters are of."),
    ),
    "answers.n_best": _SPAN,
    "rejects": (Column("document_id", pa.string(), "Id of the document; null: every document (prepare)."), *_REJECT),
}
"""Columns by table, or by column of structs. Documents and questions may have further columns of any type."""

DOCUMENTS = _schema(TABLES["documents"])
QUESTIONS = _schema(TABLES["questions"])
ANSWERS = _schema(TABLES["answers"])
REJECTS = _schema(TABLES["rejects"])


def flat(struct: pa.StructType, document_id: pa.DataType, question_id: pa.DataType) -> pa.Schema:
    """The schema of ``document_id`` followed by the fields of ``struct``: a list column of part files as a table.

    In part files ids of questions are strings; here, both ids have the types that they have in the input.
    """
    fields = [field.with_type(question_id) if field.name == "question_id" else field for field in struct]
    return pa.schema([pa.field("document_id", document_id), *fields])


# ---- Tables between the stages


TOKENIZED_QUESTION = pa.struct(
    [("question_id", pa.string()), ("question", pa.string()), ("token_ids", pa.list_(pa.int32()))]
)

TOKENIZED = pa.schema(
    [
        pa.field("text", pa.string()),
        pa.field("text_sha256", pa.string()),  # null: it was rejected
        pa.field("token_ids", pa.list_(pa.int32())),
        pa.field("start_char", pa.list_(pa.int32())),
        pa.field("stop_char", pa.list_(pa.int32())),
        pa.field("questions", pa.list_(TOKENIZED_QUESTION)),
        pa.field("rejects", pa.list_(REJECT)),
        pa.field("reused", pa.list_(pa.int64())),  # positions of answers of earlier outputs (answering/previous.py)
    ]
)
"""A document's tokens with their character ranges, and its tokenized questions: from the CPU workers to the model."""

PART = pa.schema(
    [
        pa.field("answers", pa.list_(ANSWER)),
        pa.field("rejects", pa.list_(REJECT)),
        pa.field("num_tokens", pa.int64()),
        pa.field("num_windows", pa.int64()),
        pa.field("num_windows_read", pa.int64()),
        pa.field("text_sha256", pa.string()),
        pa.field("reused", pa.list_(pa.int64())),  # as in TOKENIZED
    ]
)
"""What a run writes to part files for each document, besides its ``document_id`` and passed-through columns."""

LABELED_QUESTION = pa.struct(
    [
        ("question_id", pa.string()),
        ("question", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("answers", pa.list_(pa.struct([("start_token", pa.int32()), ("stop_token", pa.int32())]))),
        ("gold", pa.list_(pa.string())),  # the texts of all gold answers, also of those that could not be located
    ]
)

LABELED = pa.schema(
    [
        pa.field("document_id", pa.string()),
        pa.field("is_held_out", pa.bool_()),
        *(field for field in TOKENIZED if field.name not in ("text_sha256", "questions", "rejects", "reused")),
        pa.field("questions", pa.list_(LABELED_QUESTION)),
        pa.field("rejects", pa.list_(REJECT)),
        pa.field("gold_outcomes", pa.list_(pa.string())),  # for each gold answer, how it was located, or why not
    ]
)
"""A document for training: its tokens, its questions, and the token ranges of their answers."""


# ---- Arrays within a process


class BatchSize(NamedTuple):
    """The size of one batch of the model."""

    num_windows: int
    num_tokens: int
    num_computed: int  # tokens, with padding
    batch_tokens: int  # the limit for a batch
    oom_retries: int = 0  # larger batches that ran out of memory before this one


class Tokens(NamedTuple):
    """T tokens of one text: their vocabulary ids and half-open character ranges, [T] int32 each."""

    ids_T: np.ndarray
    start_char_T: np.ndarray
    stop_char_T: np.ndarray

    def __len__(self) -> int:
        """T, where a NamedTuple would return its number of fields."""
        return len(self.ids_T)


@dataclass(frozen=True)
class Layout:
    """The special tokens around question and document, and the token type of the document.

    ``prefix question middle document suffix``: ``<s> question </s></s> document </s>`` for RoBERTa and Longformer,
    ``[CLS] question [SEP] document [SEP]`` for BERT and DistilBERT. Taken from the tokenizer's output, not its name.
    """

    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    suffix: tuple[int, ...]
    pad_id: int
    document_type_id: int | None  # None if the tokenizer gives no token types

    @property
    def num_special_tokens(self) -> int:
        """The number of special tokens in every window."""
        return len(self.prefix) + len(self.middle) + len(self.suffix)


class Windows(NamedTuple):
    """W windows over one document, in order: half-open ranges of its tokens, [W] each.

    ``[start, stop)`` are the tokens of a window and ``[own_start, own_stop)`` those that it owns: every token of the
    document is owned by exactly one window.
    """

    start_W: np.ndarray
    stop_W: np.ndarray
    own_start_W: np.ndarray
    own_stop_W: np.ndarray

    def __len__(self) -> int:
        """W, where a NamedTuple would return its number of fields."""
        return len(self.start_W)

    def reach_T(self) -> np.ndarray:
        """For each token, the number of tokens from it to the end of the last window that has it: no span is longer."""
        num_tokens = int(self.stop_W[-1])
        num_until_next_W = np.diff(np.append(self.start_W, num_tokens))
        return np.repeat(self.stop_W, num_until_next_W) - np.arange(num_tokens)


class Span(NamedTuple):
    """Tokens ``[start_token, stop_token)`` of the document, and the sum of their start and end logit."""

    start_token: int
    stop_token: int
    logit: float


class ReadableDocument(NamedTuple):
    """The input of the reader: a document's text, its tokens, and the token ids of each question."""

    text: str
    tokens: Tokens
    questions: list[np.ndarray]


class ReadPart(NamedTuple):
    """What is read of a document for one question: the tokens of the chosen windows, in order."""

    document: ReadableDocument
    tokens: Tokens
    num_windows: int  # of the whole document
    token_T: np.ndarray | None = None  # which of the document's tokens they are; None: all


class Question(NamedTuple):
    """A question; its text is not checked yet and may be null or empty."""

    question_id: str
    question: str | None
    answers: list[dict[str, Any]] | None = None  # rows of GOLD; None: unknown
