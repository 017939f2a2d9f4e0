"""The rows at every step: Arrow schemas between processes, tuples of arrays within one.

Offsets are Unicode code points, half open: ``text[start_char:stop_char] == answer``, always.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

Ranking = Literal["logit", "logit_minus_null"]
"""How spans of different windows are ranked against each other: see spans.rank_logits."""


GOLD = pa.struct([("text", pa.string()), ("start_char", pa.int64())])
"""One gold answer. An empty list of them means: the document does not answer the question."""


DOCUMENTS = pa.schema(
    [
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("text", pa.string()),
    ]
)
"""A document; any other column of the user's table is passed through to the answers."""


QUESTIONS = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("question", pa.string()),
        pa.field("document_id", pa.string()),  # null: asked of every document
        pa.field("answers", pa.list_(GOLD)),  # null: no gold known
    ]
)
"""A question, bound to a document by ``document_id`` or asked of all. Other columns may follow (types, titles, …)."""


SPAN = pa.struct(
    [
        ("answer", pa.string()),
        ("start_char", pa.int64()),
        ("stop_char", pa.int64()),
        ("score", pa.float64()),
    ]
)


ANSWER = pa.struct(
    [
        ("question_id", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),  # null: no answer, and so are the next three
        ("start_char", pa.int64()),
        ("stop_char", pa.int64()),
        ("score", pa.float64()),
        ("no_answer_score", pa.float64()),
        ("n_best", pa.list_(SPAN)),
        ("snippet", pa.string()),
        ("num_windows", pa.int32()),
    ]
)
"""The answer to one question in one document; in the answers table ``document_id`` stands before it."""


REJECT = pa.struct(
    [
        ("question_id", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
"""A (document, question) that could not be answered: the stage that gave up, a reason to count by, a detail to read."""


def flat(struct: pa.StructType) -> pa.Schema:
    """The table of ``document_id`` and the fields of ``struct``: what a part's lists become in the end."""
    return pa.schema([pa.field("document_id", pa.string()), *struct])


ANSWERS = flat(ANSWER).append(pa.field("model_fingerprint", pa.string()))


REJECTS = flat(REJECT)


TOKENIZED_QUESTION = pa.struct(
    [("question_id", pa.string()), ("question", pa.string()), ("token_ids", pa.list_(pa.int32()))]
)


TOKENIZED = pa.schema(
    [
        pa.field("text", pa.string()),
        pa.field("token_ids", pa.list_(pa.int32())),
        pa.field("start_char", pa.list_(pa.int32())),
        pa.field("stop_char", pa.list_(pa.int32())),
        pa.field("questions", pa.list_(TOKENIZED_QUESTION)),
        pa.field("rejects", pa.list_(REJECT)),
    ]
)
"""A document with the questions that can be asked of it, on its way from the CPU workers to the model."""


PART = pa.schema(
    [
        pa.field("answers", pa.list_(ANSWER)),
        pa.field("rejects", pa.list_(REJECT)),
        pa.field("num_tokens", pa.int64()),
        pa.field("num_windows", pa.int64()),
    ]
)
"""What the run writes for one document, before its ``document_id`` and its passed-through columns."""


LABELED_QUESTION = pa.struct(
    [
        ("question_id", pa.string()),
        ("question", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("answers", pa.list_(pa.struct([("start_token", pa.int32()), ("stop_token", pa.int32())]))),
        ("gold", pa.list_(pa.string())),  # the texts of the answers
    ]
)


LABELED = pa.schema(
    [
        pa.field("document_id", pa.string()),
        pa.field("is_held_out", pa.bool_()),
        *(field for field in TOKENIZED if field.name not in ("questions", "rejects")),
        pa.field("questions", pa.list_(LABELED_QUESTION)),
        pa.field("rejects", pa.list_(REJECT)),
        pa.field("found", pa.list_(pa.string())),  # of each gold answer: how it was found, or why not
    ]
)
"""A document to learn from: what is asked of it, and the tokens of the answers."""


class BatchSize(NamedTuple):
    """What went through the model at once, and how many tokens might have."""

    num_windows: int
    num_tokens: int
    num_computed: int  # tokens, with padding
    batch_tokens: int
    oom_retries: int = 0  # batches before it that did not fit into memory


class Tokens(NamedTuple):
    """T tokens of one text: vocabulary ids and the half-open character range of each; all int32."""

    ids_T: np.ndarray
    start_char_T: np.ndarray
    stop_char_T: np.ndarray

    def __len__(self) -> int:
        """T. (A NamedTuple would say 3, the number of its fields.)"""
        return len(self.ids_T)


@dataclass(frozen=True)
class Layout:
    """The special tokens round question and document, and the token type of the document's part.

    ``prefix question middle document suffix``: ``<s> question </s></s> document </s>`` for RoBERTa and Longformer,
    ``[CLS] question [SEP] document [SEP]`` for BERT and DistilBERT. Read off the tokenizer itself, not off its name.
    """

    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    suffix: tuple[int, ...]
    pad_id: int
    document_type_id: int  # 0 where the model knows no token types

    @property
    def num_special_tokens(self) -> int:
        """Special tokens in every window."""
        return len(self.prefix) + len(self.middle) + len(self.suffix)


class Windows(NamedTuple):
    """W windows over the tokens of one document, in order; all ranges half open, in tokens of the document.

    ``[own_start, own_stop)`` are the tokens that a window owns: these ranges follow each other without gap or overlap.
    """

    start_W: np.ndarray
    stop_W: np.ndarray
    own_start_W: np.ndarray
    own_stop_W: np.ndarray

    def __len__(self) -> int:
        """W. (A NamedTuple would say 4, the number of its fields.)"""
        return len(self.start_W)

    def reach_T(self) -> np.ndarray:
        """For each token, how many tokens the last window that holds it has from there on: no span is longer."""
        num_tokens = int(self.stop_W[-1])
        num_until_next_W = np.diff(np.append(self.start_W, num_tokens))
        return np.repeat(self.stop_W, num_until_next_W) - np.arange(num_tokens)


class Span(NamedTuple):
    """Tokens ``[start_token, stop_token)`` of the document, and start + end logit."""

    start_token: int
    stop_token: int
    logit: float


class ReadableDocument(NamedTuple):
    """A document as the reader wants it: text, its tokens, and the token ids of each question."""

    text: str
    tokens: Tokens
    questions: list[np.ndarray]


class Question(NamedTuple):
    """A question's id and its text, which may still be null or empty; its gold answers where the table has them."""

    question_id: str
    question: str | None
    answers: list[dict[str, Any]] | None = None  # the fields of schemas.GOLD
