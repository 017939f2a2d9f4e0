"""The logits of (document, question) pairs -> answers: rank, boost, search spans, merge, and decide on no answer.

Shapes: T tokens and W windows of all pairs, concatenated.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from qa_ray.inference.answers import answer, candidates
from qa_ray.inference.batching import Logits, Pair
from qa_ray.inference.lexical_boost import lexical_match
from qa_ray.inference.settings import InferenceSettings
from qa_ray.inference.spans import log_normalizers, rank_logits, spans
from qa_ray.schemas import ReadableDocument


def answer_pairs(
    documents: Sequence[ReadableDocument], pairs: Sequence[Pair], found: Logits, settings: InferenceSettings
) -> list[dict[str, Any]]:
    """What schemas.ANSWER says of each pair; ``documents`` has that of each.

    Raises:
        FloatingPointError: logits that are no numbers.
    """
    device = found.start_T.device
    num_tokens = [len(pair.document_ids_T) for pair in pairs]
    num_owned_W = np.concatenate([pair.windows.own_stop_W - pair.windows.own_start_W for pair in pairs])
    num_owned_W = torch.from_numpy(num_owned_W).to(device)
    start_T = rank_logits(found.start_T, found.null_start_W, num_owned_W, settings.ranking)
    end_T = rank_logits(found.end_T, found.null_end_W, num_owned_W, settings.ranking)
    boosts = [_boost(pair, settings.lexical_weight) for pair in pairs]
    boost_T = torch.from_numpy(np.concatenate(boosts)).to(device)
    start_T, end_T = start_T + boost_T, end_T + boost_T
    reach_T = torch.from_numpy(np.concatenate([pair.windows.reach_T() for pair in pairs])).to(device)
    normalizers = log_normalizers(start_T, num_tokens) + log_normalizers(end_T, num_tokens)
    if not np.isfinite(normalizers).all():
        raise FloatingPointError("the model's logits are no finite numbers; try runner.dtype=float32")
    null_logits = iter((found.null_start_W + found.null_end_W).tolist())
    answers = []
    for document, pair, boost, best_spans, normalizer in zip(
        documents,
        pairs,
        boosts,
        spans(start_T, end_T, reach_T, num_tokens, settings.max_answer_tokens),
        normalizers.tolist(),
        strict=True,
    ):
        best = candidates(best_spans, document.tokens, document.text, settings.n_best)
        null_logit_W = list(islice(null_logits, len(pair.windows)))
        null_logit = 0.0  # where its window's null logit has been taken off already
        if best and settings.ranking == "logit":
            null_logit = null_logit_W[np.searchsorted(pair.windows.own_stop_W, best[0].start_token, side="right")]
        if best:  # whether the answer stands there is the model's to say
            null_logit += float(boost[best[0].start_token] + boost[best[0].stop_token - 1])
        answers.append(
            answer(
                document.text,
                best,
                log_normalizer=normalizer,
                null_logit=null_logit,
                score_slope=settings.score_slope,
                score_intercept=settings.score_intercept,
                no_answer_threshold=settings.no_answer_threshold,
                snippet_chars=settings.snippet_chars,
            )
        )
    return answers


def _boost(pair: Pair, weight: float) -> np.ndarray:
    """What is added to the start and to the end logit of each token of the document, [T] in float32."""
    if not weight:
        return np.zeros(len(pair.document_ids_T), dtype=np.float32)
    return np.float32(weight) * lexical_match(pair.document_ids_T, pair.question_ids)
