"""Text -> token ids with character offsets, once per document; and the layout of a model's windows.

Special tokens that occur literally in a text (``</s>``, ``[SEP]``, ``<mask>``) are tokenized as text.
"""

import hashlib
from functools import lru_cache

import numpy as np
import tokenizers
from transformers import AutoTokenizer

from qa_ray.errors import ModelError
from qa_ray.io.row_checks import Fault
from qa_ray.model.offsets import find_wrong_offset, without_trimming
from qa_ray.model.quiet import quiet_transformers
from qa_ray.schemas import Layout, Tokens

KNOWN = "the model's tokenizer knows; take a model for its language"


class Tokenizer:
    """The tokenizer of a checkpoint folder, without padding or truncation.

    Raises:
        ModelError: no tokenizer can be loaded, it is not a fast one, or its offsets are wrong.
    """

    def __init__(self, folder: str):
        self._folder = folder
        try:
            with quiet_transformers():
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
        self._prepare()
        self._space_ids = np.empty(0, np.int32)
        if find_wrong_offset(self._backend):
            self._backend = without_trimming(self._backend)
            self._prepare()
            vocabulary = self.vocabulary.items()
            self._space_ids = np.array([token_id for token, token_id in vocabulary if not token.strip("Ġ ")], np.int32)
        if wrong := find_wrong_offset(self._backend):
            raise ModelError(
                f"model {folder!r}: its tokenizer, {type(self._pretrained).__name__}, says that its token "
                f"{wrong.token!r} is {wrong.characters!r} of {wrong.text!r}: answers would be cut at wrong characters; "
                "use the tokenizer that the model was published with, or repair its pre_tokenizer in tokenizer.json"
            )
        # Blanks around a question are no part of it, but tokens to some tokenizers.
        self._question = lru_cache(maxsize=100_000)(lambda text: self(text.strip()).ids_T)

    def _prepare(self) -> None:
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True

    def __call__(self, text: str) -> Tokens:
        """The tokens of ``text``, without special tokens."""
        # Other than encode, this lets other threads run meanwhile: the Watchdog of an actor has to.
        (encoding,) = self._backend.encode_batch([text], add_special_tokens=False)
        offsets_T2 = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)
        tokens = Tokens(np.array(encoding.ids, dtype=np.int32), offsets_T2[:, 0].copy(), offsets_T2[:, 1].copy())
        for t in np.flatnonzero(np.isin(tokens.ids_T, self._space_ids)) if len(self._space_ids) else ():
            if not text[tokens.start_char_T[t]].isspace():  # a space that the text does not have
                tokens.stop_char_T[t] = tokens.start_char_T[t]
        return tokens

    def question(self, text: str) -> np.ndarray:
        """The token ids of a question, cached: a question asked about many documents is tokenized once."""
        return self._question(text)

    def document_fault(self, tokens: Tokens) -> Fault | None:
        """Why a document with these tokens cannot be answered from; None if it can."""
        if not len(tokens):
            return Fault("no_tokens", "the tokenizer finds no token in the document")
        if self.num_unknown(tokens.ids_T) == len(tokens):
            return Fault("unknown_words", f"the document has no word that {KNOWN}")
        return None

    def question_fault(self, ids: np.ndarray) -> Fault | None:
        """Why a question with these tokens cannot be asked; None if it can."""
        if not len(ids):
            return Fault("question_no_tokens", "the tokenizer finds no token in the question; write it in words")
        if self.num_unknown(ids) == len(ids):
            return Fault("question_unknown_words", f"the question has no word that {KNOWN}")
        return None

    def num_unknown(self, ids: np.ndarray) -> int:
        """How many of these tokens stand for text that the vocabulary lacks."""
        unknown = self._pretrained.unk_token_id
        return 0 if unknown is None else int(np.count_nonzero(ids == unknown))

    def layout(self) -> Layout:
        """The special tokens around the question and the document, read from an encoded pair.

        Raises:
            ModelError: the tokenizer finds no token in a letter.
        """
        letter = next((letter for letter in "aA1一あ가аαا" if len(self(letter))), "a")
        pair = self._backend.encode(letter, letter)
        if not {0, 1} <= set(pair.sequence_ids):
            raise ModelError(f"model {self._folder!r}: its tokenizer finds no token in {letter!r}; use another one")
        question, document = pair.sequence_ids.index(0), pair.sequence_ids.index(1)
        after_question = question + pair.sequence_ids.count(0)
        after_document = document + pair.sequence_ids.count(1)
        has_token_types = "token_type_ids" in self._pretrained.model_input_names
        return Layout(
            prefix=tuple(pair.ids[:question]),
            middle=tuple(pair.ids[after_question:document]),
            suffix=tuple(pair.ids[after_document:]),
            pad_id=self._pretrained.pad_token_id or 0,
            document_type_id=pair.type_ids[document] if has_token_types else None,
        )

    def transformers_input(self, question: str, document: str, max_tokens: int) -> dict[str, list[int]]:
        """What transformers' own call of this tokenizer gives for a pair, the document cut to ``max_tokens`` in all."""
        try:
            with quiet_transformers():
                pair = self._pretrained(question, document, truncation="only_second", max_length=max_tokens)
            return {name: list(pair[name]) for name in pair}
        finally:
            self._prepare()  # that call changes the settings that both share

    def save(self, folder: str) -> None:
        """Writes the tokenizer into a model's folder, unchanged."""
        AutoTokenizer.from_pretrained(self._folder, trust_remote_code=False).save_pretrained(folder)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary: what token ids mean."""
        tokens = sorted(self.vocabulary.items(), key=lambda item: item[1])
        return hashlib.sha256("\0".join(f"{token}\0{token_id}" for token, token_id in tokens).encode()).hexdigest()

    @property
    def vocabulary(self) -> dict[str, int]:
        """Token -> id."""
        return self._backend.get_vocab()

    @property
    def used_tokens(self) -> dict[str, int]:
        """Token -> id of all tokens that texts are made of: those without the special ones that were added."""
        added = self._backend.get_added_tokens_decoder()
        tokens = self._backend.get_vocab(with_added_tokens=False)
        return tokens | {token.content: token_id for token_id, token in added.items() if not token.special}

    @property
    def model_max_tokens(self) -> int:
        """The longest input that the tokenizer's configuration allows, in tokens; a huge number if it is unknown."""
        return self._pretrained.model_max_length
