"""The rows at every step, and their Arrow schemas.

Offsets are Unicode code points, half open: ``text[start_char:stop_char] == answer``, always.
"""

from typing import Literal

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
"""A (document, question) that could not be answered: the stage that gave it up, a reason to count by, a detail to read."""


def flat(struct: pa.StructType) -> pa.Schema:
    """The table of ``document_id`` and the fields of ``struct``: what a part's lists become in the end."""
    return pa.schema([pa.field("document_id", pa.string()), *struct])


ANSWERS = flat(ANSWER).append(pa.field("model_fingerprint", pa.string()))
REJECTS = flat(REJECT)

TOKENISED_QUESTION = pa.struct(
    [("question_id", pa.string()), ("question", pa.string()), ("token_ids", pa.list_(pa.int32()))]
)

TOKENISED = pa.schema(
    [
        pa.field("text", pa.string()),
        pa.field("token_ids", pa.list_(pa.int32())),
        pa.field("start_char", pa.list_(pa.int32())),
        pa.field("stop_char", pa.list_(pa.int32())),
        pa.field("questions", pa.list_(TOKENISED_QUESTION)),
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
