"""The logits of (document, question) pairs -> answers: rank, boost, search spans, merge, and decide on no answer.

Shapes: P pairs; T tokens and W windows of one pair, or of all pairs, concatenated.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from qa_ray.inference.answers import answer, candidates
from qa_ray.inference.batching import Logits, Pair
from qa_ray.inference.lexical_boost import lexical_match
from qa_ray.inference.no_answer import has_answer, no_answer_score
from qa_ray.inference.settings import InferenceSettings
from qa_ray.inference.spans import log_normalizers, rank_logits, spans
from qa_ray.schemas import ReadPart


def answer_pairs(
    parts: Sequence[ReadPart], pairs: Sequence[Pair], logits: Logits, settings: InferenceSettings
) -> list[dict[str, Any]]:
    """The fields of schemas.ANSWER that the model decides, for each pair; ``parts`` has what is read of the document.

    Raises:
        FloatingPointError: logits that are not finite.
    """
    device = logits.start_T.device
    num_tokens_P = [len(pair.document_ids_T) for pair in pairs]
    num_owned_W = np.concatenate([pair.windows.own_stop_W - pair.windows.own_start_W for pair in pairs])
    num_owned_W = torch.from_numpy(num_owned_W).to(device)
    start_T = rank_logits(logits.start_T, logits.null_start_W, num_owned_W, settings.ranking)
    end_T = rank_logits(logits.end_T, logits.null_end_W, num_owned_W, settings.ranking)
    boosts = [_boost(part, pair.question_ids, settings.lexical_weight) for part, pair in zip(parts, pairs, strict=True)]
    boost_T = torch.from_numpy(np.concatenate(boosts)).to(device)
    start_T, end_T = start_T + boost_T, end_T + boost_T
    reach_T = torch.from_numpy(np.concatenate([pair.windows.reach_T() for pair in pairs])).to(device)
    normalizer_P = log_normalizers(start_T, num_tokens_P) + log_normalizers(end_T, num_tokens_P)
    if not np.isfinite(normalizer_P).all():
        raise FloatingPointError("the model's logits are not finite; try runner.dtype=float32")
    first_windows = np.cumsum([len(pair.windows) for pair in pairs])[:-1]
    answers = []
    for part, pair, boost, best_spans, normalizer, null_start_W, null_end_W in zip(
        parts,
        pairs,
        boosts,
        spans(start_T, end_T, reach_T, num_tokens_P, settings.max_answer_tokens),
        normalizer_P.tolist(),
        np.split(logits.null_start_W.cpu().numpy(), first_windows),
        np.split(logits.null_end_W.cpu().numpy(), first_windows),
        strict=True,
    ):
        best = candidates(best_spans, part.tokens, part.document.text, settings.n_best)
        best_span = best[0].span if best else None
        score = no_answer_score(best_span, pair.windows, null_start_W, null_end_W, boost, settings.ranking)
        answers.append(
            answer(
                part.document.text,
                best,
                log_normalizer=normalizer,
                no_answer_score=score,
                has_answer=has_answer(score, settings.no_answer_threshold),
                score_slope=settings.score_slope,
                score_intercept=settings.score_intercept,
                snippet_chars=settings.snippet_chars,
            )
        )
    return answers


def _boost(part: ReadPart, question_ids: np.ndarray, weight: float) -> np.ndarray:
    """What is added to the start and to the end logit of each token that is read, [T] in float32.

    How rare a word is, the whole document says.
    """
    if not weight:
        return np.zeros(len(part.tokens), dtype=np.float32)
    match = lexical_match(part.document.tokens.ids_T, question_ids)
    return np.float32(weight) * (match if part.token_T is None else match[part.token_T])
