"""What a run will be: everything checked and counted before a model is loaded or a GPU asked for."""

import json
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from qa_ray.config import AnswerConfig
from qa_ray.inference.settings import InferenceSettings, resolve_settings
from qa_ray.inference.windows import windows
from qa_ray.io.document_table import DocumentTable, open_documents, sample
from qa_ray.io.question_table import QuestionTable, open_questions
from qa_ray.io.row_checks import check
from qa_ray.io.storage import absolute_uri
from qa_ray.model.checkpoint import Checkpoint, model_anywhere, open_checkpoint
from qa_ray.model.tokenizer import Tokenizer
from qa_ray.schemas import Layout
from qa_ray.version import VERSION

SAMPLE_DOCUMENTS = 64


SAMPLE_BYTES = 4_000_000


BYTES_PER_TOKEN, TYPICAL_QUESTION = 4, 12  # of text in UTF-8; tokens


# A block is the unit that is lost when a worker dies, and that keeps an actor busy: seconds to a minute of work.
BLOCK_WINDOWS = {"cpu": 512, "cuda": 8_192}


@dataclass(frozen=True)
class Plan:
    """A checked job, ready to run."""

    config: AnswerConfig
    model: str
    output: str
    documents: DocumentTable
    questions: QuestionTable
    checkpoint: Checkpoint
    settings: InferenceSettings
    identity: dict[str, Any]
    num_pairs: int  # answers and rejects that must come out
    num_tokens: int  # of documents; estimated from a sample, like the windows
    num_windows: int

    def rows_per_block(self, device: str, num_actors: int) -> int:
        """Documents a block, so that blocks are about BLOCK_WINDOWS and every actor gets several."""
        windows_per_document = max(self.num_windows / self.documents.num_documents, 1e-6)
        by_windows = BLOCK_WINDOWS[device] / windows_per_document
        by_actors = self.documents.num_documents / (4 * num_actors)
        return max(1, int(min(by_windows, by_actors, 4096)))

    def to_table(self) -> Table:
        """The plan for a person to read."""
        table = Table(title="Plan", show_header=False, title_justify="left")
        documents, settings = self.documents, self.settings
        rows = {
            "documents": f"{documents.num_documents:,} in {len(documents.paths):,} files, "
            f"{documents.text_bytes / 1e6:,.1f} MB of text",
            "questions": f"{self.questions.num_bound:,} bound to a document, "
            f"{len(self.questions.to_all):,} asked of all: {self.num_pairs:,} answers",
            "model": f"{self.checkpoint.name} ({self.checkpoint.fingerprint[:12]})",
            "windows": f"about {self.num_windows:,} of at most {settings.max_tokens:,} tokens, "
            f"overlap {settings.overlap_tokens}",
            "output": self.output,
        }
        for name, value in rows.items():
            table.add_row(name, value)
        return table


def make_plan(config: AnswerConfig) -> Plan:
    """Checks config, model, documents and questions, and estimates the work.

    Raises:
        UserError: the first thing that is wrong, with its remedy.
    """
    model = model_anywhere(config.model)
    checkpoint = open_checkpoint(model)
    tokenizer = Tokenizer(checkpoint.folder)
    layout = tokenizer.layout()
    settings = resolve_settings(
        checkpoint,
        layout,
        tokenizer.model_max_tokens,
        **config.windows.model_dump(exclude={"long_questions"}),
        **config.answers.model_dump(),
    )
    columns = config.columns.model_dump()
    documents = open_documents(absolute_uri(config.documents), columns, config.columns.keep)
    questions, questions_fingerprint = open_questions(absolute_uri(config.questions), columns)
    num_tokens, num_windows = _estimate(documents, questions, tokenizer, layout, settings)
    identity = {
        "documents": documents.fingerprint,
        "questions": questions_fingerprint,
        "model": checkpoint.fingerprint,
        "qa_ray": VERSION,
        **{f"columns.{name}": value for name, value in columns.items()},
        **{_setting_name(config, name): value for name, value in settings.model_dump().items()},
        "windows.long_questions": config.windows.long_questions,
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
        settings=settings,
        identity=json.loads(json.dumps(identity)),
        num_pairs=questions.num_bound + len(questions.to_all) * documents.num_documents,
        num_tokens=num_tokens,
        num_windows=num_windows,
    )


def _setting_name(config: AnswerConfig, name: str) -> str:
    return f"windows.{name}" if name in type(config.windows).model_fields else f"answers.{name}"


def _estimate(
    documents: DocumentTable,
    questions: QuestionTable,
    tokenizer: Tokenizer,
    layout: Layout,
    settings: InferenceSettings,
) -> tuple[int, int]:
    """Tokens and windows of the whole job, from a sample's per byte of text.

    Where no document can be had as a sample, all are taken to be of one length.
    """
    sampled_bytes = num_tokens = num_windows = 0
    for document_id, text in sample(documents, SAMPLE_DOCUMENTS):
        checked = check(document_id, text, questions.of(document_id))
        document = tokenizer(checked.text) if checked.text else ()
        sampled_bytes += len(text.as_buffer() or b"")
        num_tokens += len(document)
        for question in checked.questions[:100] if len(document) else ():
            length = min(len(tokenizer.question(question.question or "")), settings.max_question_tokens)
            room = settings.max_tokens - layout.num_special_tokens - length
            share = max(1.0, len(checked.questions) / 100)
            num_windows += share * len(windows(len(document), room, settings.overlap_tokens))
        if sampled_bytes > SAMPLE_BYTES:
            break
    if not sampled_bytes:
        num_tokens = documents.text_bytes // BYTES_PER_TOKEN
        pairs = questions.num_bound + len(questions.to_all) * documents.num_documents
        room = settings.max_tokens - layout.num_special_tokens - min(TYPICAL_QUESTION, settings.max_question_tokens)
        per_document = windows(max(1, num_tokens // documents.num_documents), room, settings.overlap_tokens)
        return num_tokens, pairs * len(per_document)
    scale = documents.text_bytes / sampled_bytes
    return round(num_tokens * scale), round(num_windows * scale)
