"""A fine-tuning config -> a checked plan: model, windows, tables and the run's identity; nothing is written."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from qa_ray.config import FinetuneConfig
from qa_ray.errors import ConfigError
from qa_ray.gate.files import open_selector
from qa_ray.inference.settings import InferenceSettings, resolve_settings
from qa_ray.io.document_ids import hashes_by_file
from qa_ray.io.document_table import DocumentTable, open_documents
from qa_ray.io.id_hashes import HASH_KEYS, hash_ids, is_in
from qa_ray.io.id_types import ids_of_type
from qa_ray.io.parquet_listing import FileCounts
from qa_ray.io.question_table import QuestionTable, open_questions
from qa_ray.io.storage import absolute_uri
from qa_ray.log import LOG
from qa_ray.model.checkpoint import model_anywhere, open_checkpoint
from qa_ray.model.proof import Proof, prove
from qa_ray.model.settings import WindowSettings
from qa_ray.model.tokenizer import Tokenizer
from qa_ray.training.trainer import check_averageable, check_gradient_checkpointing
from qa_ray.version import VERSION
from qa_ray.wording import counted

MIN_DOCUMENT_TOKENS = 16  # in a window, besides question and special tokens


@dataclass(frozen=True)
class FinetunePlan:
    """A checked job; ``output`` is an absolute URI."""

    config: FinetuneConfig
    model: str
    averaged_with: tuple[str, ...]
    proof: Proof  # of the model
    output: str
    settings: InferenceSettings
    gate: str | None  # besides the model's own
    window_tokens: tuple[int, ...]
    training_tables: tuple[DocumentTable, QuestionTable]
    validation_tables: tuple[DocumentTable, QuestionTable] | None  # None: some training documents are held out
    identity: dict[str, Any]

    @property
    def inputs(self) -> dict[str, FileCounts]:
        """The files of each table, and those beside them."""
        tables = {"": self.training_tables, "validation.": self.validation_tables}
        return {
            f"{purpose}{name}": table.files
            for purpose, pair in tables.items()
            for name, table in zip(("documents", "questions"), pair or ())
        }


def make_plan(config: FinetuneConfig) -> FinetunePlan:
    """Checks config, model and tables, and plans the run.

    Raises:
        UserError: the first mistake that was found, with its remedy.
    """
    model = model_anywhere(config.model)
    checkpoint = open_checkpoint(model, needs_head=False)
    tokenizer = Tokenizer(checkpoint.folder)
    layout = tokenizer.layout()
    proof = prove(checkpoint, tokenizer)
    settings = resolve_settings(
        checkpoint, layout, proof.max_tokens, **config.windows.model_dump(exclude={"long_questions", "gate"})
    )
    gate = absolute_uri(config.windows.gate) if config.windows.gate else None
    selector = open_selector(settings.read, gate, checkpoint, tokenizer)
    window_tokens = tuple(config.training.window_tokens or [settings.max_tokens])
    shortest = settings.max_question_tokens + layout.num_special_tokens + MIN_DOCUMENT_TOKENS
    longest = proof.max_tokens
    for length in window_tokens:
        if not shortest <= length <= longest:
            raise ConfigError(
                f"training.window_tokens: {length} is not between {shortest} (windows.max_question_tokens, special "
                f"tokens and {MIN_DOCUMENT_TOKENS} of a document) and {longest}, the most that {model!r} reads; "
                "choose others"
            )
    if not (checkpoint.has_head or config.training.epochs):
        raise ConfigError(
            f"training.epochs=0: {config.model!r} has no question-answering head whose scores could be calibrated; set "
            "it to 1 or more, or give a model that was fine-tuned for question answering"
        )
    training_tables, fingerprints = _open_tables(config, config.documents, config.questions)
    validation_tables = None
    if config.validation.documents and config.validation.questions:
        validation_tables, validation_fingerprints = _open_tables(
            config, config.validation.documents, config.validation.questions
        )
        fingerprints |= {f"validation.{name}": value for name, value in validation_fingerprints.items()}
    elif config.training.epochs:
        _check_held_out(config, *training_tables)
    averaged_with = tuple(model_anywhere(name) for name in config.training.averaged_with)
    averaged_checkpoints = [open_checkpoint(name) for name in averaged_with]
    for other in averaged_checkpoints:
        check_averageable(checkpoint, other)
    if config.training.gradient_checkpointing:
        check_gradient_checkpointing(checkpoint, layout.document_type_id)
    training = config.training.model_dump(exclude={"batch_tokens", "averaged_with"})
    identity = {
        "job": "finetune",
        "qa_ray": VERSION,
        **fingerprints,
        **{f"columns.{name}": value for name, value in config.columns.model_dump().items()},
        "model": checkpoint.fingerprint,
        "window_tokens": list(window_tokens),
        "windows": settings.model_dump(include=set(WindowSettings.model_fields)),
        "windows.gate": selector.gate and selector.gate.fingerprint,
        "long_questions": config.windows.long_questions,
        **{f"training.{name}": value for name, value in training.items()},
        "training.averaged_with": [other.fingerprint for other in averaged_checkpoints],
        "validation.held_out": config.validation.held_out,
        "validation.metric": config.validation.metric,
    }
    return FinetunePlan(
        config=config,
        model=model,
        averaged_with=averaged_with,
        proof=proof,
        output=absolute_uri(config.output),
        settings=settings,
        gate=gate,
        window_tokens=window_tokens,
        training_tables=training_tables,
        validation_tables=validation_tables,
        identity=json.loads(json.dumps(identity)),
    )


def _check_held_out(config: FinetuneConfig, documents: DocumentTable, questions: QuestionTable) -> None:
    """Raises a ConfigError if training or validation would be left without a document that has questions.

    Which documents are held out is known from their ids (label_stage.py).
    """
    share = config.validation.held_out
    ids = documents.columns.select([documents.id_column])
    hashes = np.concatenate(hashes_by_file(documents.uri, documents.paths, ids, HASH_KEYS[0]))
    if not questions.to_all:
        asked = ids_of_type(questions.bound_ids.unique(), documents.id_type).drop_null()
        hashes = hashes[is_in(hashes, np.sort(hash_ids(asked, HASH_KEYS[0])))]
    num_held_out = int(np.count_nonzero(hashes < share * 2.0**64))
    if not len(hashes) or 0 < num_held_out < len(hashes):
        return  # no document at all is an error once all rejects are known
    what, change = ("none", "raise it") if not num_held_out else ("every one", "lower it")
    num_documents = counted(len(hashes), "document")
    raise ConfigError(
        f"validation.held_out={share:g}: of {num_documents} with questions, {what} is held out for validation; "
        f"{change}, or give validation.documents and validation.questions"
    )


def _open_tables(
    config: FinetuneConfig, documents: str, questions: str
) -> tuple[tuple[DocumentTable, QuestionTable], dict[str, str]]:
    columns = config.columns.model_dump()
    document_table = open_documents(absolute_uri(documents), columns, [])
    question_table, fingerprint = open_questions(absolute_uri(questions), columns)
    for note in (*document_table.notes, *question_table.notes):
        LOG.warning("%s", note)
    return (document_table, question_table), {"documents": document_table.fingerprint, "questions": fingerprint}
