"""Text -> token ids with character offsets, once per document; and the layout of a model's windows.

Special tokens that occur literally in a text (``</s>``, ``[SEP]``, ``<mask>``) are tokenized as text.
"""

from functools import lru_cache

import numpy as np
import tokenizers
from transformers import AutoTokenizer

from qa_ray.errors import ModelError
from qa_ray.schemas import Layout, Tokens


class Tokenizer:
    """The tokenizer of a checkpoint folder, without padding or truncation.

    Raises:
        ModelError: no tokenizer can be loaded, or it is not a fast one.
    """

    def __init__(self, folder: str):
        self._folder = folder
        try:
            self._pretrained = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # transformers and tokenizers raise many classes for a folder without a tokenizer
            raise ModelError(
                f"model {folder!r}: no tokenizer can be loaded ({error}); "
                "save it beside the weights with tokenizer.save_pretrained(folder)"
            ) from error
        if not self._pretrained.is_fast:
            raise ModelError(
                f"model {folder!r}: {type(self._pretrained).__name__} gives no character offsets; "
                "save a fast tokenizer (tokenizer.json) beside the weights"
            )
        self._backend: tokenizers.Tokenizer = self._pretrained.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True
        self._question = lru_cache(maxsize=100_000)(lambda text: self(text).ids_T)

    def __call__(self, text: str) -> Tokens:
        """The tokens of ``text``, without special tokens."""
        # Other than encode, this lets other threads run meanwhile: the Watchdog of an actor has to.
        (encoding,) = self._backend.encode_batch([text], add_special_tokens=False)
        offsets_T2 = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)
        return Tokens(np.array(encoding.ids, dtype=np.int32), offsets_T2[:, 0].copy(), offsets_T2[:, 1].copy())

    def question(self, text: str) -> np.ndarray:
        """The token ids of a question, cached: a question asked of many documents is tokenized once."""
        return self._question(text)

    def layout(self) -> Layout:
        """The special tokens around the question and the document, read from an encoded pair."""
        pair = self._backend.encode("a", "a")
        question, document = pair.sequence_ids.index(0), pair.sequence_ids.index(1)
        after_question = question + pair.sequence_ids.count(0)
        after_document = document + pair.sequence_ids.count(1)
        has_token_types = "token_type_ids" in self._pretrained.model_input_names
        return Layout(
            prefix=tuple(pair.ids[:question]),
            middle=tuple(pair.ids[after_question:document]),
            suffix=tuple(pair.ids[after_document:]),
            pad_id=self._pretrained.pad_token_id or 0,
            document_type_id=pair.type_ids[document] if has_token_types else 0,
        )

    def save(self, folder: str) -> None:
        """Writes the tokenizer into a model's folder, unchanged."""
        AutoTokenizer.from_pretrained(self._folder, trust_remote_code=False).save_pretrained(folder)

    @property
    def vocabulary(self) -> dict[str, int]:
        """Token -> id."""
        return self._backend.get_vocab()

    @property
    def model_max_tokens(self) -> int:
        """The longest input that the tokenizer's configuration allows, in tokens; a huge number if it is unknown."""
        return self._pretrained.model_max_length
