"""The answer path on one machine, without Ray: tokens -> windows -> logits -> spans -> answers.

``Reader`` is the Python interface, and the same object answers each block of documents inside a Ray actor.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from qa_ray.errors import InputError
from qa_ray.inference.batching import Pair, logits
from qa_ray.inference.decoding import answer_pairs
from qa_ray.inference.settings import InferenceSettings, resolve_settings
from qa_ray.inference.windows import windows
from qa_ray.io.row_checks import FAULTS, text_fault
from qa_ray.model.checkpoint import open_checkpoint
from qa_ray.model.device import resolve_device
from qa_ray.model.runner import Forward, Model
from qa_ray.model.tokenizer import Tokenizer
from qa_ray.schemas import BatchSize, Ranking, ReadableDocument, Tokens

# Of this many (token, question) pairs the logits, those ranked, boosts, and reaches are held at a time: 32
# bytes each, 130 MB, however long the document. What is found of a pair takes about as much as 100 tokens.
MAX_HELD_TOKENS, TOKENS_PER_PAIR = 4_000_000, 100


class Reader:
    """Answers questions out of documents of any length.

    ``model`` is ``default``, a folder, a URI or a hub id; what is left None is the model's own (InferenceSettings).

        >>> qa_ray.Reader("default").answer("Who built it?", "The lighthouse was built by Ada Vane in 1871.")
        {'score': 0.97…, 'start': 28, 'end': 36, 'answer': 'Ada Vane'}
    """

    def __init__(
        self,
        model: str = "default",
        *,
        device: str = "auto",
        dtype: str = "auto",
        forward: Forward = "auto",
        batch_tokens: int | None = None,
        max_tokens: int | None = None,
        overlap_tokens: int | None = None,
        max_question_tokens: int | None = None,
        max_answer_tokens: int | None = None,
        ranking: Ranking | None = None,
        lexical_weight: float | None = None,
        no_answer_threshold: float | None = None,
        score_slope: float | None = None,
        score_intercept: float | None = None,
    ):
        checkpoint = open_checkpoint(model)
        self.tokenizer = Tokenizer(checkpoint.folder)
        self.layout = self.tokenizer.layout()
        self.settings = resolve_settings(
            checkpoint,
            self.layout,
            self.tokenizer.model_max_tokens,
            max_tokens=max_tokens,
            overlap_tokens=overlap_tokens,
            max_question_tokens=max_question_tokens,
            max_answer_tokens=max_answer_tokens,
            ranking=ranking,
            lexical_weight=lexical_weight,
            no_answer_threshold=no_answer_threshold,
            score_slope=score_slope,
            score_intercept=score_intercept,
        )
        self.model = Model(
            checkpoint.folder,
            document_type_id=self.layout.document_type_id,
            device=resolve_device(device),
            dtype=dtype,
            forward=forward,
            batch_tokens=batch_tokens,
        )

    def answer(self, question: str | Sequence[str], document: str | Sequence[str], top_k: int = 1) -> Any:
        """The best answer as ``{"score", "start", "end", "answer"}``; with ``top_k`` > 1 a list of them, best first.

        Lists of questions and documents (one of them may be a single string) give a list of results, one a pair. No
        answer is ``{"answer": "", "start": 0, "end": 0}`` with the no-answer score. This is what transformers'
        ``pipeline("question-answering")`` gave; scores are those of answers.answer.

        Raises:
            InputError: an empty or too long question, an empty document, lists of different lengths, ``top_k`` below 1.
        """
        if top_k < 1:
            raise InputError(f"top_k={top_k}: there is no such number of answers; give 1 or more")
        questions, documents = _as_list("question", question), _as_list("document", document)
        if len(questions) != len(documents) and 1 not in (len(questions), len(documents)):
            raise InputError(
                f"{len(questions)} questions and {len(documents)} documents: "
                "give as many of one as of the other, or a single one"
            )
        num_pairs = max(len(questions), len(documents)) if questions and documents else 0
        questions, documents = (texts * num_pairs if len(texts) == 1 else texts for texts in (questions, documents))
        tokens = {text: self._tokens(text) for text in dict.fromkeys(documents)}  # a document is tokenized once
        readable = [
            ReadableDocument(text, tokens[text], [self._question(asked)])
            for asked, text in zip(questions, documents, strict=True)
        ]
        settings = self.settings.model_copy(update={"n_best": top_k})
        results = [_as_pipeline(found, top_k) for (found,) in self.read(readable, settings)]
        return results[0] if isinstance(question, str) and isinstance(document, str) else results

    def read(
        self,
        documents: Sequence[ReadableDocument],
        settings: InferenceSettings | None = None,
        on_batch: Callable[[BatchSize], object] = lambda size: None,
    ) -> list[list[dict[str, Any]]]:
        """For each document, for each of its questions, the fields of schemas.ANSWER that the model decides.

        ``on_batch`` is told the size of each batch that is done.
        """
        settings = settings or self.settings
        results: list[list[dict[str, Any]]] = [[] for _ in documents]
        for group in _groups(documents):
            with self.model.stopwatch.stage("assemble"):
                pairs = [self.pair(documents[d], question, settings) for d, question in group]
                found = logits(self.model, self.layout, pairs, on_batch)
            with self.model.stopwatch.stage("decode"):
                answers = answer_pairs([documents[d] for d, _ in group], pairs, found, settings)
            for (d, _), pair, fields in zip(group, pairs, answers, strict=True):
                results[d].append(fields | {"num_windows": len(pair.windows)})
        return results

    def pair(self, document: ReadableDocument, question: np.ndarray, settings: InferenceSettings) -> Pair:
        room = settings.max_tokens - self.layout.num_special_tokens - len(question)
        return Pair(document.tokens.ids_T, question, windows(len(document.tokens), room, settings.overlap_tokens))

    def _tokens(self, text: str) -> Tokens:
        _check_text("document", text)
        if not len(tokens := self.tokenizer(text)):
            raise InputError(f"document {text[:40]!r} has no token the model knows of; give it some text")
        return tokens

    def _question(self, text: str) -> np.ndarray:
        _check_text("question", text)
        ids = self.tokenizer.question(text)
        if len(ids) > self.settings.max_question_tokens:
            raise InputError(
                f"question {text[:40]!r}… has {len(ids)} tokens, more than max_question_tokens="
                f"{self.settings.max_question_tokens}; shorten it or raise that setting"
            )
        return ids


def _as_list(what: str, given: str | Sequence[str]) -> list[str]:
    if not isinstance(given, str | Sequence):
        raise InputError(f"{what} is {type(given).__name__}, not str or a list of str")
    return [given] if isinstance(given, str) else list(given)


def _check_text(what: str, text: str) -> None:
    if not isinstance(text, str):
        raise InputError(f"{what} {text!r} is {type(text).__name__}, not str")
    if fault := text_fault(text):
        raise InputError(f"the {what} has {FAULTS[fault]}; give it some words")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the {what} has a lone surrogate at character {error.start}; decode its source with the right encoding"
        ) from error


def _groups(documents: Sequence[ReadableDocument]) -> Iterator[list[tuple[int, np.ndarray]]]:
    """(document, question) pairs in order, cut into groups whose logits fit in memory."""
    group: list[tuple[int, np.ndarray]] = []
    held_tokens = 0
    for d, document in enumerate(documents):
        for question in document.questions:
            num_tokens = len(document.tokens) + TOKENS_PER_PAIR
            if group and held_tokens + num_tokens > MAX_HELD_TOKENS:
                yield group
                group, held_tokens = [], 0
            group.append((d, question))
            held_tokens += num_tokens
    if group:
        yield group


def _as_pipeline(found: dict[str, Any], top_k: int) -> Any:
    if found["answer"] is None:
        best = [{"score": found["no_answer_score"], "start": 0, "end": 0, "answer": ""}]
    else:
        best = [
            {"score": span["score"], "start": span["start_char"], "end": span["stop_char"], "answer": span["answer"]}
            for span in found["n_best"]
        ]
    return best[0] if top_k == 1 else best
