"""The gate job: documents and questions with gold answers -> a gate (qa_ray.gate), in one process, without Ray.

Reading takes longer than fitting: a thousand contracts with 41 questions each are a few minutes.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qa_ray.config import GateConfig
from qa_ray.errors import InputError
from qa_ray.gate.fit import MIN_DOCUMENTS, NUM_FOLDS, Fit, LabeledPair, fit_gate
from qa_ray.inference.settings import InferenceSettings, resolve_settings
from qa_ray.inference.windows import windows
from qa_ray.io.document_table import DocumentTable, open_documents, read_row_groups
from qa_ray.io.id_hashes import HASH_KEYS, hash_ids
from qa_ray.io.question_table import QuestionTable, open_questions
from qa_ray.io.row_checks import check
from qa_ray.io.storage import absolute_uri, configure_s3, join, new_folder
from qa_ray.log import LOG
from qa_ray.model.checkpoint import GATE_FILE, model_anywhere, open_checkpoint
from qa_ray.model.proof import prove
from qa_ray.model.tokenizer import Tokenizer
from qa_ray.schemas import Layout, Question, Tokens
from qa_ray.training.labels import labels, locate_gold
from qa_ray.wording import counted


@dataclass
class FittedJob:
    """The gate that was fitted, and from what."""

    place: str
    fit: Fit
    counts: Counter[str] = field(default_factory=Counter)  # documents, questions, and those left out, by reason


def fit_job(config: GateConfig) -> FittedJob:
    """Fits a gate and writes it to the output folder.

    Raises:
        UserError: something in config, input, model or output must be fixed first.
    """
    configure_s3(**config.storage.model_dump())
    checkpoint = open_checkpoint(model_anywhere(config.model), needs_head=False)
    tokenizer = Tokenizer(checkpoint.folder)
    layout = tokenizer.layout()
    settings = resolve_settings(
        checkpoint, layout, prove(checkpoint, tokenizer).max_tokens, **config.windows.model_dump(), read="all"
    )
    columns = config.columns.model_dump()
    documents = open_documents(absolute_uri(config.documents), columns, [])
    questions, _ = open_questions(absolute_uri(config.questions), columns)
    for note in (*documents.notes, *questions.notes):
        LOG.warning("%s", note)
    LOG.info("reading %s", counted(documents.num_documents, "document"))
    with new_folder(absolute_uri(config.output)) as place:
        counts: Counter[str] = Counter()
        pairs = list(_Labels(questions, tokenizer, layout, settings, counts).pairs(documents))
        LOG.info("fitting the gate to %s", counted(len(pairs), "question"))
        fit = fit_gate(pairs, tokenizer.fingerprint, max(tokenizer.vocabulary.values()) + 1)
        if not fit.gate.questions:
            raise InputError(
                f"questions: none is asked about {MIN_DOCUMENTS} documents with an answer ({_words(counts)}), so there "
                "is nothing to fit; without a gate, windows.read={most: 8} chooses by the words of the question"
            )
        Path(place, GATE_FILE).write_bytes(fit.gate.to_bytes())
    return FittedJob(join(absolute_uri(config.output), GATE_FILE), fit, counts)


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')}: {count:,}" for name, count in counts.items())


@dataclass
class _Labels:
    """Documents with gold answers -> labeled pairs."""

    questions: QuestionTable
    tokenizer: Tokenizer
    layout: Layout
    settings: InferenceSettings
    counts: Counter[str]

    def pairs(self, documents: DocumentTable) -> Iterator[LabeledPair]:
        columns = documents.columns.select([documents.id_column, documents.text_column])
        for group in documents.row_groups:
            for batch in read_row_groups(documents.uri, [group], columns):
                ids, texts = batch.columns
                folds = hash_ids(ids, HASH_KEYS[0]) % np.uint64(NUM_FOLDS)
                for id_, text, fold in zip(ids.to_pylist(), texts, folds.tolist(), strict=True):
                    checked = check(str(id_), text, self.questions.of(str(id_)))
                    self.counts["documents"] += 1
                    self.counts.update(row["reason"] for row in checked.rejects)
                    tokens = self.tokenizer(checked.text)
                    for question in checked.questions if len(tokens) else ():
                        if pair := self._pair(question, checked.text, tokens, fold):
                            self.counts["questions"] += 1
                            yield pair

    def _pair(self, question: Question, text: str, tokens: Tokens, fold: int) -> LabeledPair | None:
        """None if its gold answers are unknown, or none of them is found in the text."""
        if question.answers is None:
            self.counts["no_gold"] += 1
            return None
        answers, _, fault = locate_gold(text, tokens, question.answers)
        if fault:
            self.counts[fault.reason] += 1
            return None
        question_ids = self.tokenizer.question(question.question or "")[: self.settings.max_question_tokens]
        if fault := self.tokenizer.question_fault(question_ids):
            self.counts[fault.reason] += 1
            return None
        room = self.settings.max_tokens - self.layout.num_special_tokens - len(question_ids)
        document_windows = windows(len(tokens), room, self.settings.overlap_tokens)
        is_inside_WA, is_cut_W = labels(document_windows, sorted(answers))
        return LabeledPair(
            tokens.ids_T,
            question.question or "",
            question_ids,
            document_windows,
            np.any(is_inside_WA, axis=1, keepdims=True)[:, 0],
            is_cut_W,
            fold,
        )
