"""The rejects of an answer job that are certain before it runs: of questions, and of documents without a text."""

from collections import Counter

import numpy as np

from qa_ray.answering.commit import has_document
from qa_ray.answering.plan import Plan
from qa_ray.errors import InputError
from qa_ray.io.document_table import document_hashes
from qa_ray.io.row_checks import text_fault, too_long
from qa_ray.io.storage import open_filesystem, open_parquet
from qa_ray.model.tokenizer import Tokenizer

MAX_QUESTIONS = 20_000  # to tokenize, a second
MAX_FILES = 1_000  # whose footers are read once more


def check_questions_to_all(plan: Plan) -> None:
    """Raises an InputError for a question to every document that would be a reject of each: too long, or unknown."""
    rejects_long = plan.config.windows.long_questions == "reject"
    tokenizer, limit = Tokenizer(plan.checkpoint.folder), plan.settings.max_question_tokens
    for question in plan.questions.to_all:
        ids = tokenizer.question(question.question or "")
        if fault := tokenizer.question_fault(ids):
            raise InputError(
                f"questions: question {question.question_id!r}, asked about every document: {fault.detail}"
            )
        if rejects_long and (num_tokens := len(ids)) > limit:
            raise InputError(
                f"questions: question {question.question_id!r}, asked about every document, has "
                f"{too_long(num_tokens, limit)} it with windows.long_questions=truncate"
            )


def known_rejects(plan: Plan) -> Counter[str]:
    """How many rejects are certain, by reason; there may be more.

    Not looked at are questions in lists of documents, and of a large input all beyond MAX_QUESTIONS and MAX_FILES.
    """
    counts: Counter[str] = Counter()
    if plan.questions.num_bound:
        is_known = has_document(plan, np.sort(document_hashes(plan.documents)))
        counts["unknown_document"] = int(np.count_nonzero(~is_known))
        counts.update(_question_faults(plan, is_known))
    counts["null_text"] = _num_null_texts(plan) * len(plan.questions.to_all)
    return +counts


def check_known_rejects(plan: Plan) -> Counter[str]:
    """The known rejects.

    Raises:
        InputError: they are more than the job may have.
    """
    counts = known_rejects(plan)
    if counts.total() > plan.max_rejects:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common(5))
        raise InputError(
            f"{counts.total():,} of {plan.num_pairs:,} questions are certain to be rejected ({reasons}), more than "
            f"limits.max_rejected_fraction={plan.config.limits.max_rejected_fraction} allows; fix the input or raise "
            "the limit"
        )
    return counts


def _question_faults(plan: Plan, is_known: np.ndarray) -> Counter[str]:
    """Of the bound questions whose document ``is_known``, [num_bound] bool, if they are not too many."""
    if plan.questions.num_bound > MAX_QUESTIONS:
        return Counter()
    counts: Counter[str] = Counter()
    tokenizer, limit = Tokenizer(plan.checkpoint.folder), plan.settings.max_question_tokens
    rejects_long = plan.config.windows.long_questions == "reject"
    for text in plan.questions.bound_texts(is_known):
        if fault := text_fault(text):
            counts[fault.replace("text", "question")] += 1
            continue
        ids = tokenizer.question(text or "")
        if token_fault := tokenizer.question_fault(ids):
            counts[token_fault.reason] += 1
        elif rejects_long and len(ids) > limit:
            counts["question_too_long"] += 1
    return counts


def _num_null_texts(plan: Plan) -> int:
    """As far as the statistics of the first files tell."""
    filesystem, _ = open_filesystem(plan.documents.uri)
    num_nulls = 0
    for path in plan.documents.paths[:MAX_FILES]:
        metadata = open_parquet(filesystem, path, "documents").metadata
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            columns = [group.column(i) for i in range(group.num_columns)]
            text = next((column for column in columns if column.path_in_schema == plan.documents.text_column), None)
            if text is not None and text.statistics is not None and text.statistics.has_null_count:
                num_nulls += text.statistics.null_count
    return num_nulls
