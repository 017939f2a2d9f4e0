"""Documents and questions with gold answers -> labeled training and validation datasets, and rejects.

DocumentDatasource    the documents, in read tasks
LabelDocuments        CPU actors: attach questions, check, tokenize, find the gold answers
label_data            splits the result into training and validation, counts it, and writes the rejects
"""

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset

from qa_ray.errors import InputError
from qa_ray.io.document_table import DocumentTable
from qa_ray.io.parquet_writer import ParquetFolderWriter
from qa_ray.io.question_table import QuestionTable
from qa_ray.io.row_checks import unknown_document
from qa_ray.io.storage import join
from qa_ray.log import LOG
from qa_ray.output.folder import OutputFolder
from qa_ray.runtime.datasource import DocumentDatasource
from qa_ray.runtime.nodes import live_nodes, num_cpus
from qa_ray.runtime.resources import SPARE_CPUS
from qa_ray.schemas import REJECT, REJECTS
from qa_ray.training.label_stage import LabelDocuments, LabelSettings, training_documents, validation_documents
from qa_ray.training.plan import FinetunePlan


@dataclass
class LabeledData:
    """Labeled documents, with counts of documents, questions and answers, and of rejects by reason."""

    train: Dataset
    validation: Dataset
    counts: dict[str, int] = field(default_factory=dict)
    rejects: Counter[str] = field(default_factory=Counter)
    reject_files: list[dict[str, Any]] = field(default_factory=list)  # as the manifest lists them


def label_data(plan: FinetunePlan, output: OutputFolder) -> LabeledData:
    """Tokenizes and labels all documents; questions that cannot be used are written to the output's ``rejects``.

    Raises:
        InputError: no question is left for training, or none for validation.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_consecutive_actor_init_deaths = 3
    # Without training, all documents are for validation.
    held_out = plan.config.validation.held_out if plan.config.training.epochs else 1.0
    held_out = 0.0 if plan.validation_tables else held_out
    training = _label_tables(plan, *plan.training_tables, held_out)
    validation = _label_tables(plan, *plan.validation_tables, 1.0) if plan.validation_tables else training
    data = LabeledData(
        train=_map_tables(training, training_documents), validation=_map_tables(validation, validation_documents)
    )
    rejects = ParquetFolderWriter(
        join(output.uri, "rejects"), REJECTS, suffix=f"-{output.attempt}", max_group_rows=10_000
    )
    with closing(rejects):
        _count(training, plan.training_tables[1], data, rejects)
        if plan.validation_tables:
            _count(validation, plan.validation_tables[1], data, rejects)
    data.reject_files = rejects.files
    LOG.info("%s", ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in data.counts.items()))
    if data.rejects:
        LOG.info("rejected: %s", ", ".join(f"{reason} {count:,}" for reason, count in data.rejects.most_common()))
    _check_not_empty(plan, output, data)
    return data


def _label_tables(plan: FinetunePlan, documents: DocumentTable, questions: QuestionTable, held_out: float) -> Dataset:
    """The documents as schemas.LABELED; the share ``held_out`` of them is marked for validation."""
    settings = LabelSettings(
        storage=plan.config.storage.model_dump(),
        model=plan.model,
        questions=ray.put(questions),
        id_column=documents.id_column,
        text_column=documents.text_column,
        max_question_tokens=plan.settings.max_question_tokens,
        long_questions=plan.config.windows.long_questions,
        held_out=held_out,
    )
    source = DocumentDatasource(documents, list(documents.row_groups), settings.storage)
    num_actors = max(1, min(num_cpus(live_nodes()) - SPARE_CPUS, len(source.tasks)))
    return (
        ray.data.read_datasource(source, override_num_blocks=len(source.tasks))
        .map_batches(
            LabelDocuments,
            batch_format="pyarrow",
            batch_size=None,
            compute=ActorPoolStrategy(min_size=1, max_size=num_actors),
            num_cpus=1,
            fn_constructor_kwargs={"settings": settings},
        )
        .materialize()
    )


def _map_tables(dataset: Dataset, function: Callable[[pa.Table], pa.Table]) -> Dataset:
    return dataset.map_batches(function, batch_format="pyarrow", batch_size=None, num_cpus=1).materialize()


def _count(dataset: Dataset, questions: QuestionTable, data: LabeledData, rejects: ParquetFolderWriter) -> None:
    """Adds the counts of schemas.LABELED to ``data`` and writes its rejects.

    Every question ends as one or the other: those of a document that does not exist become rejects here.
    """
    is_reached = np.zeros(questions.num_bound, dtype=bool)
    columns = ["document_id", "is_held_out", "questions", "rejects", "gold_outcomes"]
    counts: Counter[str] = Counter()
    tables: Any = dataset.select_columns(columns).iter_batches(batch_size=None, batch_format="pyarrow")
    for table in tables:
        for is_held_out, document_questions in zip(table["is_held_out"].to_pylist(), table["questions"], strict=True):
            purpose = "validation" if is_held_out else "training"
            counts[f"{purpose}_documents"] += 1
            counts[f"{purpose}_questions"] += len(document_questions)
        counts.update(f"gold_{outcome}" for outcomes in table["gold_outcomes"].to_pylist() for outcome in outcomes)
        for document_id, document_rejects in zip(
            table["document_id"].to_pylist(), table["rejects"].to_pylist(), strict=True
        ):
            is_reached[questions.rows_of(document_id)] = True
            for reject in document_rejects:
                rejects.add({"document_id": document_id} | {column.name: reject[column.name] for column in REJECT})
                data.rejects[reject["reason"]] += 1
    for document_id, question_id in questions.bound(~is_reached):
        rejects.add(reject := unknown_document(document_id, question_id))
        data.rejects[reject["reason"]] += 1
    for name, count in counts.items():
        data.counts[name] = data.counts.get(name, 0) + count


def _check_not_empty(plan: FinetunePlan, output: OutputFolder, data: LabeledData) -> None:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in data.rejects.most_common())
    rejected = f"rejected are {reasons}; see {join(output.uri, 'rejects')!r}" if reasons else "none is rejected"
    if plan.config.training.epochs and not data.counts.get("training_questions"):
        place = f"of {plan.config.questions!r} can be used for training"
        if data.counts.get("validation_questions") and not plan.validation_tables:
            place += ": all that can be used are held out for validation"
        raise InputError(f"questions: no question {place}; {rejected}")
    if not data.counts.get("validation_questions"):
        remedy = "fix them" if plan.validation_tables else "raise validation.held_out"
        raise InputError(
            f"validation: no question can be used; {rejected}; {remedy}, or give other validation.documents and "
            "validation.questions"
        )
