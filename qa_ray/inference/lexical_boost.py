"""Words of the question near a place in the document: a reason to look for the answer there.

A model reads one window at a time: it cannot know that a rare word of the question stands in another one, and takes the
best that its own window has to offer. Term matching knows nothing but that; both together find more than either (Yang
et al. 2019, "End-to-End Open-Domain Question Answering with BERTserini"). Nothing is retrieved here, every window is
read: the match raises the logits of the tokens near it.
"""

import numpy as np

NEAR_TOKENS = 64  # 48 to 96 find as much with the default model, 32 less


def lexical_match(document_ids_T: np.ndarray, question_ids: np.ndarray) -> np.ndarray:
    """How much of the question stands near each token of a document, in nats, [T] in float32.

    The sum over the question's distinct tokens, of those that stand no more than NEAR_TOKENS away, of

        max(0, log(T / (times it stands in the document · (2 · NEAR_TOKENS + 1))))

    (the inverse document frequency of Spärck Jones 1972, of stretches that long). So common words count for nothing,
    and so does every word of a document no longer than one stretch: there the model alone decides. No list of stop
    words is kept, in any language: where a document hardly has a "does", it counts, too.
    """
    num_tokens, stretch = len(document_ids_T), 2 * NEAR_TOKENS + 1
    match_T = np.zeros(num_tokens, dtype=np.float32)
    for token_id in np.unique(question_ids):
        places = np.flatnonzero(document_ids_T == token_id)
        if 0 < len(places) * stretch < num_tokens:
            change_T = np.zeros(num_tokens + 1, dtype=np.int32)
            np.add.at(change_T, np.maximum(places - NEAR_TOKENS, 0), 1)
            np.add.at(change_T, np.minimum(places + NEAR_TOKENS + 1, num_tokens), -1)
            match_T[change_T[:-1].cumsum(dtype=np.int32) > 0] += np.log(num_tokens / (len(places) * stretch))
    return match_T
