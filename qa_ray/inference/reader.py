"""The answer path on one machine, without Ray: tokens -> windows -> logits -> spans -> answers.

``Reader`` is the Python interface; the same object answers each block of documents inside a Ray actor.
"""

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from qa_ray.errors import ConfigError, InputError
from qa_ray.gate.choice import only
from qa_ray.gate.files import open_selector
from qa_ray.inference.batching import Pair, logits
from qa_ray.inference.decoding import answer_pairs
from qa_ray.inference.settings import InferenceSettings, check_names, resolve_settings
from qa_ray.inference.windows import windows
from qa_ray.io.row_checks import FAULTS, text_fault
from qa_ray.model.checkpoint import open_checkpoint
from qa_ray.model.device import (
    default_threads,
    is_out_of_memory,
    release_unused_memory,
    resolve_device,
    using_threads,
)
from qa_ray.model.proof import prove
from qa_ray.model.runner import Model
from qa_ray.model.tokenizer import Tokenizer
from qa_ray.schemas import BatchSize, ReadableDocument, ReadPart, Tokens
from qa_ray.wording import shown

# Documents are answered in groups of this many (token, question) pairs, or fewer where memory is short, however long
# they are. Logits, ranked logits, boosts and reaches take 32 bytes for each, 130 MB in all; the answer to a pair takes
# as much as about 100 tokens.
MAX_GROUP_TOKENS, TOKENS_PER_PAIR = 4_000_000, 100

Group = list[tuple[int, np.ndarray]]  # (index of the document, question)


class Reader:
    """Answers questions about documents of any length.

    ``model`` is ``default``, a folder, a URI or a hub id. ``settings`` are those of inference.settings
    (``max_tokens=512``, ``n_best=3``, …); one that is None or absent is the model's own. ``gate`` is a fitted gate
    (``qa-ray gate``) that chooses windows where ``read`` is not all. ``threads`` are those of the
    forward pass on a CPU: all that torch and the container allow; but 1 if torch was loaded before ``qa_ray.Reader``,
    because its threads then spin while they wait for each other, which is slow beside other processes.

        >>> qa_ray.Reader("default").answer("Who built it?", "The lighthouse was built by Ada Vane in 1871.")
        {'score': 0.97…, 'start': 28, 'end': 36, 'answer': 'Ada Vane'}

    Raises:
        ConfigError: a setting is unknown, out of bounds, or does not fit the model; no GPU for ``device="cuda"``.
        ModelError: the model cannot be found or loaded, or does not answer as transformers does (model.proof).
    """

    def __init__(
        self,
        model: str = "default",
        *,
        device: str = "auto",
        dtype: str = "auto",
        forward: str = "auto",
        batch_tokens: int | None = None,
        threads: int | None = None,
        gate: str | None = None,
        **settings: Any,
    ):
        self._arguments = {"model": model, "device": device, "dtype": dtype, "forward": forward, "gate": gate}
        self._arguments |= {"batch_tokens": batch_tokens, "threads": threads, **settings}
        check_names(settings, [*inspect.getfullargspec(Reader).kwonlyargs, *InferenceSettings.model_fields])
        self.threads = default_threads() if threads is None else _checked_threads(threads)
        self._process = os.getpid()
        checkpoint = open_checkpoint(model)
        self.tokenizer = Tokenizer(checkpoint.folder)
        self.layout = self.tokenizer.layout()
        proof = prove(checkpoint, self.tokenizer)
        self.settings = resolve_settings(checkpoint, self.layout, proof.max_tokens, **settings)
        self.selector = open_selector(self.settings.read, gate, checkpoint, self.tokenizer)
        self.model = Model(
            checkpoint.folder,
            document_type_id=self.layout.document_type_id,
            device=resolve_device(device),
            dtype=dtype,
            forward=forward,
            batch_tokens=batch_tokens,
        )
        self.group_tokens = MAX_GROUP_TOKENS

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process the model is loaded again."""
        return partial(Reader, **self._arguments), ()

    def answer(self, question: str | Sequence[str], document: str | Sequence[str], top_k: int = 1) -> Any:
        """The best answer as ``{"score", "start", "end", "answer"}``; with ``top_k`` > 1 a list of them, best first.

        ``start`` and ``end`` are characters: ``document[start:end] == answer``. No answer is ``{"answer": "", "start":
        0, "end": 0}`` with the no-answer score as its score. Lists of questions and documents (one of them may be a
        single string) give a list of results, one per pair. These are the results of transformers' removed
        ``pipeline("question-answering")``, with the scores of inference.answers.

        Raises:
            InputError: an empty or too long question, an empty document, lists of different lengths, ``top_k`` below 1.
        """
        if top_k < 1:
            raise InputError(f"top_k={top_k}: not a number of answers; give 1 or more")
        questions, documents = _as_list("question", question), _as_list("document", document)
        for text in documents:
            _check_text("document", text)
        if len(questions) != len(documents) and 1 not in (len(questions), len(documents)):
            raise InputError(
                f"{len(questions)} questions and {len(documents)} documents: "
                "give as many of one as of the other, or a single one"
            )
        num_pairs = max(len(questions), len(documents)) if questions and documents else 0
        questions, documents = (texts * num_pairs if len(texts) == 1 else texts for texts in (questions, documents))
        tokens = {text: self._tokens(text) for text in dict.fromkeys(documents)}  # a document is tokenized once
        readable = [
            ReadableDocument(text, tokens[text], [self._question(question_text)])
            for question_text, text in zip(questions, documents, strict=True)
        ]
        settings = self.settings.model_copy(update={"n_best": top_k})
        results = [_as_pipeline(fields, top_k) for (fields,) in self.read(readable, settings)]
        return results[0] if isinstance(question, str) and isinstance(document, str) else results

    def read(
        self,
        documents: Sequence[ReadableDocument],
        settings: InferenceSettings | None = None,
        on_batch: Callable[[BatchSize], object] = lambda size: None,
    ) -> list[list[dict[str, Any]]]:
        """For each document, for each of its questions, the fields of schemas.ANSWER that the model decides.

        ``on_batch`` is called with the size of each finished batch. Batches and groups of pairs that do not fit into
        memory are halved permanently.

        Raises:
            FloatingPointError: logits that are not finite.
            torch.OutOfMemoryError: a single window, or the logits of a single pair, do not fit into memory.
        """
        settings = settings or self.settings
        results: list[list[dict[str, Any]]] = [[] for _ in documents]
        # A forked process has none of its parent's threads, and OpenMP would wait for them for ever.
        threads = self.threads if os.getpid() == self._process else 1
        with using_threads(threads):
            for group in self._groups(documents):
                for (d, _), fields in zip(group, self._answer(documents, group, settings, on_batch), strict=True):
                    results[d].append(fields)
        return results

    def _groups(self, documents: Sequence[ReadableDocument]) -> Iterator[Group]:
        """All pairs in order, in groups whose logits fit in memory."""
        group: Group = []
        group_tokens = 0
        for d, document in enumerate(documents):
            num_tokens = len(document.tokens) + TOKENS_PER_PAIR
            for question in document.questions:
                if group and group_tokens + num_tokens > self.group_tokens:
                    yield group
                    group, group_tokens = [], 0
                group.append((d, question))
                group_tokens += num_tokens
        if group:
            yield group

    def _answer(
        self,
        documents: Sequence[ReadableDocument],
        group: Group,
        settings: InferenceSettings,
        on_batch: Callable[[BatchSize], object],
    ) -> list[dict[str, Any]]:
        """The fields of each pair; of one half of the group after the other if they do not fit into memory at once."""
        try:
            with self.model.stopwatch.stage("assemble"):
                parts, pairs = zip(*(self._part(documents[d], q, settings) for d, q in group), strict=True)
                pair_logits = logits(self.model, self.layout, pairs, on_batch)
            with self.model.stopwatch.stage("decode"):
                answers = answer_pairs(parts, pairs, pair_logits, settings)
            return [
                fields | {"num_windows": part.num_windows, "num_windows_read": len(pair.windows)}
                for fields, part, pair in zip(answers, parts, pairs, strict=True)
            ]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(group) == 1:
                raise _too_large(documents[group[0][0]], settings, error) from error
        release_unused_memory()  # here, because in the except clause the error still holds the group's tensors
        middle = len(group) // 2
        halves = [self._answer(documents, half, settings, on_batch) for half in (group[:middle], group[middle:])]
        # Only now, when it is known to help: a single pair that is too large makes no other group smaller.
        num_tokens = sum(len(documents[d].tokens) + TOKENS_PER_PAIR for d, _ in group)
        self.group_tokens = min(self.group_tokens, num_tokens // 2)
        return [fields for half in halves for fields in half]

    def pair(self, document: ReadableDocument, question: np.ndarray, settings: InferenceSettings) -> Pair:
        """The document with this question (token ids), cut into all of its windows."""
        room = settings.max_tokens - self.layout.num_special_tokens - len(question)
        return Pair(document.tokens.ids_T, question, windows(len(document.tokens), room, settings.overlap_tokens))

    def num_read(self, document: ReadableDocument, question: np.ndarray) -> int:
        """How many windows of the document are read for this question (token ids)."""
        return self.selector.num_read(question, len(self.pair(document, question, self.settings).windows))

    def _part(
        self, document: ReadableDocument, question: np.ndarray, settings: InferenceSettings
    ) -> tuple[ReadPart, Pair]:
        """What is read of the document for this question, and the same as a pair."""
        pair = self.pair(document, question, settings)
        chosen = self.selector.choose(pair.document_ids_T, question, pair.windows)
        if chosen is None:
            return ReadPart(document, document.tokens, len(pair.windows)), pair
        read, token_T = only(pair.windows, chosen)
        tokens = Tokens(*(column[token_T] for column in document.tokens))
        return ReadPart(document, tokens, len(pair.windows), token_T), Pair(tokens.ids_T, question, read)

    def _tokens(self, text: str) -> Tokens:
        tokens = self.tokenizer(text)
        if fault := self.tokenizer.document_fault(tokens):
            raise InputError(f"document {text[:40]!r}: {fault.detail}")
        return tokens

    def _question(self, text: str) -> np.ndarray:
        _check_text("question", text)
        ids = self.tokenizer.question(text)
        if fault := self.tokenizer.question_fault(ids):
            raise InputError(f"question {text[:40]!r}: {fault.detail}")
        if len(ids) > self.settings.max_question_tokens:
            raise InputError(
                f"question {text[:40]!r}… has {len(ids)} tokens, more than max_question_tokens="
                f"{self.settings.max_question_tokens}; shorten it or raise that setting"
            )
        return ids


def _checked_threads(threads: int) -> int:
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ConfigError(f"threads={threads!r}: not a number of threads; give 1 or more")
    return threads


def _as_list(name: str, texts: str | Sequence[str]) -> list[str]:
    if not isinstance(texts, str | Sequence):
        raise InputError(f"{name} is {type(texts).__name__}, not str or a list of str")
    return [texts] if isinstance(texts, str) else list(texts)


def _check_text(name: str, text: str) -> None:
    if not isinstance(text, str):
        raise InputError(f"{name} {shown(text)} is {type(text).__name__}, not str")
    if fault := text_fault(text):
        raise InputError(f"the {name} has {FAULTS[fault]}; give it some words")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the {name} has a lone surrogate at character {error.start}; decode its source with the right encoding"
        ) from error


def _too_large(document: ReadableDocument, settings: InferenceSettings, error: Exception) -> torch.OutOfMemoryError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return torch.OutOfMemoryError(
        f"a document of {len(document.tokens)} tokens, in windows of up to {settings.max_tokens} tokens, does not fit "
        f"into memory; lower windows.max_tokens, or use a machine with more memory ({reason})"
    )


def _as_pipeline(fields: dict[str, Any], top_k: int) -> Any:
    """The fields of schemas.ANSWER in the form of transformers' removed pipeline."""
    if fields["answer"] is None:
        best = [{"score": fields["no_answer_score"], "start": 0, "end": 0, "answer": ""}]
    else:
        best = [
            {"score": span["score"], "start": span["start_char"], "end": span["stop_char"], "answer": span["answer"]}
            for span in fields["n_best"]
        ]
    return best[0] if top_k == 1 else best
