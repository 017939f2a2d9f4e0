"""The config of an answer job -> a checked plan with an estimate of the work, before Ray starts."""

import glob
import json
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from qa_ray.answering.previous import NO_ANSWERS, PreviousAnswers
from qa_ray.config import AnswerConfig
from qa_ray.config.answer import AnswerColumns
from qa_ray.errors import InputError
from qa_ray.gate.files import open_selector
from qa_ray.gate.selector import WindowSelector
from qa_ray.inference.settings import InferenceSettings, resolve_settings
from qa_ray.inference.windows import windows
from qa_ray.io.document_table import DocumentTable, open_documents, sample
from qa_ray.io.parquet_listing import FileCounts
from qa_ray.io.question_table import QuestionTable, no_questions, open_questions
from qa_ray.io.row_checks import check
from qa_ray.io.storage import absolute_uri
from qa_ray.io.table_files import check_name
from qa_ray.log import LOG
from qa_ray.model.checkpoint import Checkpoint, model_anywhere, open_checkpoint
from qa_ray.model.proof import Proof, prove
from qa_ray.model.tokenizer import Tokenizer
from qa_ray.output.sinks import check_formats
from qa_ray.schemas import Layout, Tokens
from qa_ray.version import VERSION

SAMPLE_DOCUMENTS = 64
SAMPLE_BYTES = 4_000_000
SAMPLE_QUESTIONS = 100  # of a document
MANY_UNKNOWN = 0.05  # of the tokens; a text in the model's language has hardly any
BYTES_PER_TOKEN, QUESTION_TOKENS = 4, 12  # typical: bytes of UTF-8, tokens of a question
# Of 60 characters each they take 1 GB in the object store of each node, and 5 GB of the driver while it checks them.
MANY_BOUND_QUESTIONS = 10_000_000
# The windows of a block, which is the work that is lost when a worker dies: seconds to a minute of an actor's time.
BLOCK_WINDOWS = {"cpu": 512, "cuda": 8_192}


@dataclass(frozen=True)
class Plan:
    """A checked job, ready to run."""

    config: AnswerConfig
    model: str
    output: str
    documents: DocumentTable
    questions: QuestionTable  # the separate table; the documents' own lists are not in it
    checkpoint: Checkpoint
    proof: Proof  # of the checkpoint, for the actors
    settings: InferenceSettings
    identity: dict[str, Any]
    num_pairs: int  # (document, question) pairs, each of which becomes an answer or a reject
    num_tokens: int  # of all documents, estimated from a sample
    num_windows: int  # of all pairs, likewise
    num_windows_read: int  # those that windows.read leaves, likewise
    gate: str | None  # that chooses them, besides the model's own
    previous: PreviousAnswers = NO_ANSWERS  # that are taken over
    only: QuestionTable | None = None  # the pairs to ask, for a retry; their texts are not needed. None: all

    @property
    def inputs(self) -> dict[str, FileCounts]:
        """The files of each table, and those beside them."""
        questions = {"questions": self.questions.files} if self.config.questions else {}
        return {"documents": self.documents.files, **questions}

    @property
    def max_rejects(self) -> int:
        """How many rejects the job may have."""
        return max_rejects(self.config.limits.max_rejected_fraction, self.num_pairs, self.documents.num_documents)

    def rows_per_block(self, device: str, num_actors: int) -> int:
        """Documents per block, such that a block has at most about BLOCK_WINDOWS and each actor gets at least four."""
        windows_per_document = max(self.num_windows_read / self.documents.num_documents, 1e-6)
        by_windows = BLOCK_WINDOWS[device] / windows_per_document
        by_actors = self.documents.num_documents / (4 * num_actors)
        return max(1, int(min(by_windows, by_actors, 4096)))


def max_rejects(limit: float, num_pairs: int, num_documents: int) -> int:
    """How many of ``num_pairs`` questions may be rejected, at a largest share of ``limit``.

    Always as many as one document has on average, so that an empty file among nine fails no job, but not all of them;
    none if ``limit`` is 0.
    """
    if not limit:
        return 0
    of_one_document = max(1, num_pairs // max(2, num_documents))
    return max(int(limit * num_pairs + 1e-9), min(of_one_document, num_pairs - 1))


def make_plan(config: AnswerConfig) -> Plan:
    """Checks the config, model, documents and questions, and estimates the work.

    Raises:
        UserError: the first mistake found, with its remedy.
    """
    check_formats(config.export)
    model = model_anywhere(config.model)
    checkpoint = open_checkpoint(model)
    tokenizer = Tokenizer(checkpoint.folder)
    layout = tokenizer.layout()
    proof = prove(checkpoint, tokenizer)
    settings = resolve_settings(
        checkpoint,
        layout,
        proof.max_tokens,
        **config.windows.model_dump(exclude={"long_questions", "gate"}),
        **config.answers.model_dump(),
    )
    gate = absolute_uri(config.windows.gate) if config.windows.gate else None
    selector = open_selector(settings.read, gate, checkpoint, tokenizer)
    columns = config.columns.model_dump()
    documents = open_documents(absolute_uri(config.documents), columns, config.columns.keep, with_lists=True)
    questions, questions_fingerprint = _open_questions(config, documents)
    for note in (*documents.notes, *questions.notes):
        LOG.warning("%s", note)
    num_pairs = questions.num_bound + len(questions.to_all) * documents.num_documents + documents.num_listed
    work = _estimate(documents, questions, num_pairs, tokenizer, layout, settings, selector)
    if work.unknown_share >= MANY_UNKNOWN:
        LOG.warning(
            "documents: %.0f %% of the tokens are unknown to the model's tokenizer, and the model reads nothing there; "
            "take a model for the language of the documents",
            100 * work.unknown_share,
        )
    identity = {
        "documents": documents.fingerprint,
        "questions": questions_fingerprint,
        "model": checkpoint.fingerprint,
        "qa_ray": VERSION,
        **{f"columns.{name}": value for name, value in columns.items()},
        **{_setting_name(config, name): value for name, value in settings.model_dump().items()},
        "windows.long_questions": config.windows.long_questions,
        "windows.gate": selector.gate and selector.gate.fingerprint,
        "runner.dtype": config.runner.dtype,
        "runner.forward": config.runner.forward,
    }
    return Plan(
        config=config,
        model=model,
        output=absolute_uri(config.output),
        documents=documents,
        questions=questions,
        checkpoint=checkpoint,
        proof=proof,
        settings=settings,
        identity=json.loads(json.dumps(identity)),
        num_pairs=num_pairs,
        num_tokens=work.tokens,
        num_windows=work.windows,
        num_windows_read=work.windows_read,
        gate=gate,
    )


def _setting_name(config: AnswerConfig, name: str) -> str:
    return f"windows.{name}" if name in type(config.windows).model_fields else f"answers.{name}"


def _open_questions(config: AnswerConfig, documents: DocumentTable) -> tuple[QuestionTable, str | None]:
    """The separate table of questions and its fingerprint; empty and None if all questions are lists of documents.

    Raises:
        InputError: a reason of ``open_questions``; no questions at all; a column of lists that does not exist.
    """
    column = config.columns.questions
    if config.questions is None:
        if not documents.lists:
            raise InputError(
                f"questions: no table is given, and columns.questions={column!r} is none of the documents' columns "
                f"{', '.join(documents.all_columns)}; give questions=…, or name the column with lists of questions"
            )
        if not documents.num_listed:
            raise InputError(f"documents: no question in the lists of the column {column!r}; nothing to ask")
        return no_questions(), None
    if not documents.lists and column not in (None, type(config.columns).model_fields["questions"].default):
        check_name(documents.all_columns, "questions", column, "documents")
    questions, fingerprint = open_questions(absolute_uri(config.questions), config.columns.model_dump())
    if documents.lists and fingerprint == documents.fingerprint:
        raise InputError(
            f"questions: {config.questions!r} are the documents, and the questions in their column {column!r} are "
            "asked anyway; leave questions=… out"
        )
    if questions.num_bound > MANY_BOUND_QUESTIONS:
        LOG.warning(
            "questions: %d are about one document each, and the driver and every node hold them in memory; above %d, "
            "rather make them a column of the documents, which is streamed, and keep only those asked about every "
            "document in the table. In DuckDB: %s",
            questions.num_bound,
            MANY_BOUND_QUESTIONS,
            join_statement(config.documents, config.questions, config.columns),
        )
    return questions, fingerprint


def join_statement(documents: str, questions: str, columns: AnswerColumns) -> str:
    """The statement of DuckDB that adds the bound questions to the documents as a column of lists."""
    names = (columns.document_id, columns.question_id, columns.question, columns.questions or "questions")
    document_id, question_id, question, lists = ('"' + name.replace('"', '""') + '"' for name in names)
    return (
        f"copy (select * from {_duckdb_files(documents)} left join (select {document_id}, list(struct_pack("
        f"{question_id} := {question_id}, {question} := {question})) as {lists} from {_duckdb_files(questions)} where "
        f"{document_id} is not null group by {document_id}) using ({document_id})) to 'documents-with-questions' "
        "(format parquet, per_thread_output true, row_group_size 4096);"
    )


def _duckdb_files(uri: str) -> str:
    is_files = uri.endswith((".parquet", ".pq")) or glob.has_magic(uri)
    files = uri if is_files else f"{uri.rstrip('/')}/**/*.parquet"
    return "'" + files.replace("'", "''") + "'"


class _Work(NamedTuple):
    """The size of a job."""

    tokens: int
    windows: int
    windows_read: int
    unknown_share: float = 0.0  # of the sampled tokens, those that the vocabulary lacks


def _estimate(
    documents: DocumentTable,
    questions: QuestionTable,
    num_pairs: int,
    tokenizer: Tokenizer,
    layout: Layout,
    settings: InferenceSettings,
    selector: WindowSelector,
) -> _Work:
    """The work of the whole job: that of a sample, scaled by the bytes of text."""

    def num_windows_of(document_tokens: int, question_ids: np.ndarray) -> np.ndarray:
        """All windows, and those that are read."""
        question_tokens = min(len(question_ids), settings.max_question_tokens)
        room = settings.max_tokens - layout.num_special_tokens - question_tokens
        num_windows = len(windows(document_tokens, room, settings.overlap_tokens))
        return np.array([num_windows, selector.num_read(question_ids, num_windows)])

    num_sampled = num_bytes = num_tokens = num_unknown = 0
    num_windows_2 = np.zeros(2)
    for document_id, text, listed in sample(documents, SAMPLE_DOCUMENTS):
        checked = check(document_id, text, questions.of(document_id), listed)
        document = tokenizer(checked.text) if checked.text else ()
        num_sampled += 1
        num_bytes += len(text.as_buffer() or b"")
        num_tokens += len(document)
        num_unknown += tokenizer.num_unknown(document.ids_T) if isinstance(document, Tokens) else 0
        weight = max(1.0, len(checked.questions) / SAMPLE_QUESTIONS)
        for question in checked.questions[:SAMPLE_QUESTIONS] if len(document) else ():
            num_windows_2 += weight * num_windows_of(len(document), tokenizer.question(question.question or ""))
        if num_bytes > SAMPLE_BYTES:
            break
    if not num_bytes:  # no document is small enough to be sampled: assume that all have the same length
        num_tokens = documents.text_bytes // BYTES_PER_TOKEN
        mean_tokens = max(1, num_tokens // documents.num_documents)
        num_windows_2 = num_pairs * num_windows_of(mean_tokens, np.zeros(QUESTION_TOKENS, np.int32))
        return _Work(num_tokens, *map(int, num_windows_2))
    # The size of all texts is that in the files, with what compression and encoding add: much, for a few texts.
    scale = 1.0 if num_sampled == documents.num_documents else documents.text_bytes / num_bytes
    num_windows, num_read = (round(number * scale) for number in num_windows_2.tolist())
    return _Work(round(num_tokens * scale), num_windows, num_read, num_unknown / max(1, num_tokens))
