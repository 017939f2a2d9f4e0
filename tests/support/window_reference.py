"""The reference of the answer path: transformers on each window alone, and a search over all spans of these windows."""

from typing import Any

import numpy as np
import torch
from models import TEXT
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from qa_ray import Reader
from qa_ray.inference.answers import answer_range
from qa_ray.schemas import Ranking, ReadableDocument

DOCUMENT = (TEXT + "A literal </s> [SEP] <mask> is here 😀. ") * 2
DOCUMENT += "The keeper of Ushant was Ada Vane. " + DOCUMENT
QUESTIONS = ["Who built the lighthouse?", "它在哪里？", "When was the agreement signed, and by whom, and why?"]
RARE_WORDS = "Who was the keeper of Ushant?"


def float32_reader(folder: str, **settings: Any) -> Reader:
    return Reader(folder, dtype="float32", **settings)


def each_window_alone(folder: str, question: str, max_tokens: int, overlap: int) -> list[dict]:
    """transformers' own windows and logits, one window at a time: the reference for everything here."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    encoded = tokenizer(
        question, DOCUMENT, truncation="only_second", max_length=max_tokens, stride=overlap,
        return_overflowing_tokens=True, return_offsets_mapping=True, split_special_tokens=True,
    )  # fmt: skip
    reference, start_token = [], 0
    for w, ids in enumerate(encoded["input_ids"]):
        inputs = {name: torch.tensor([encoded[name][w]]) for name in tokenizer.model_input_names}
        if model.config.model_type == "longformer":
            first_separator = ids.index(tokenizer.sep_token_id)
            inputs["global_attention_mask"] = (torch.arange(len(ids)) < first_separator).long()[None]
        with torch.inference_mode():
            output = model(**inputs)
        tokens = [i for i, part in enumerate(encoded.sequence_ids(w)) if part == 1]
        reference.append({
            "first_token": start_token,
            "offsets": [encoded["offset_mapping"][w][i] for i in tokens],
            "start": output.start_logits[0, tokens],
            "end": output.end_logits[0, tokens],
            "null": (output.start_logits[0, 0], output.end_logits[0, 0]),
        })  # fmt: skip
        start_token += len(tokens) - overlap
    return reference


def readable(reader: Reader, *questions: str, document: str = DOCUMENT) -> ReadableDocument:
    return ReadableDocument(document, reader.tokenizer(document), [reader.tokenizer.question(q) for q in questions])


def brute_force(
    reference: list[dict], longest: int, ranking: Ranking, lexical_T: np.ndarray
) -> dict[tuple[int, int], float]:
    """Every span of every window; each token's logit comes from the window that gives it the most context."""
    last = max(w["first_token"] + len(w["start"]) for w in reference)
    best: dict[int, tuple[float, float, float, tuple]] = {}
    for window in reference:
        first, length = window["first_token"], len(window["start"])
        shift = window["null"] if ranking == "logit_minus_null" else (0.0, 0.0)
        for t in range(length):
            left = np.inf if first == 0 else t
            right = np.inf if first + length == last else length - 1 - t
            entry = (
                min(left, right),
                float(window["start"][t] - shift[0]),
                float(window["end"][t] - shift[1]),
                window["offsets"][t],
            )
            if first + t not in best or entry[0] > best[first + t][0]:
                best[first + t] = entry
    logit_by_span: dict[tuple[int, int], float] = {}
    for window in reference:
        tokens = range(window["first_token"], window["first_token"] + len(window["start"]))
        for i in tokens:
            for j in range(i, min(i + longest, tokens.stop)):
                span = answer_range(DOCUMENT, best[i][3][0], best[j][3][1])
                if span[0] < span[1]:
                    logit = best[i][1] + best[j][2] + float(lexical_T[i] + lexical_T[j])
                    logit_by_span[span] = max(logit_by_span.get(span, -np.inf), logit)
    return logit_by_span
