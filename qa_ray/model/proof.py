"""A model is proved once, before it answers: on real windows, against transformers' own call of tokenizer and model.

What is compared, in float32 on the CPU: the input ids and token types of a question and a document of many scripts; the
logits of windows alone, of the same windows in a batch with padding, and once more after that; the ids that texts can
have with the model's embeddings; the positions with those that the model really holds. It takes two seconds for
the default model, and is kept by the model's fingerprint: the driver proves, and the actors of a job trust its proof.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from qa_ray.errors import ModelError
from qa_ray.model.checkpoint import Checkpoint
from qa_ray.model.cpu_linear import prepack
from qa_ray.model.device import using_threads
from qa_ray.model.families import OTHER_FAMILIES, find_family
from qa_ray.model.positions import max_positions
from qa_ray.model.probes import DOCUMENT, QUESTION, TEXTS
from qa_ray.model.quiet import quiet_transformers
from qa_ray.model.runner import build_backend
from qa_ray.model.tokenizer import Tokenizer
from qa_ray.model.transformers_backend import takes_token_types
from qa_ray.model.weights import keep_head_in_float32, load

WINDOW_TOKENS = (121, 45)  # of the windows that are compared; multiples of nothing that a family might need
LONGEST_RUN = 512  # the longest window runs once, up to this length
# Of the largest logit. Rounding gives up to 1e-5, and padding that reaches the real tokens 1e-2 to 1.
TOLERANCE = 1e-3

T = TypeVar("T")


@dataclass(frozen=True)
class Proof:
    """That the model with this fingerprint answers as transformers does, in windows of up to ``max_tokens`` tokens."""

    fingerprint: str
    max_tokens: int


_PROOFS: dict[str, Proof] = {}  # of this process, by fingerprint


def trust(proof: Proof) -> None:
    """Makes ``prove`` return this proof, from another process, for the model with its fingerprint."""
    _PROOFS[proof.fingerprint] = proof


def prove(checkpoint: Checkpoint, tokenizer: Tokenizer) -> Proof:
    """The proof of a checkpoint, and of its tokenizer; a head that it lacks is taken to be new.

    Raises:
        ModelError: it does not answer exactly, or not at all, with what does not fit and what would.
    """
    if checkpoint.fingerprint not in _PROOFS:
        # One thread: beside other processes more would wait for each other, and the windows are short.
        with quiet_transformers(), using_threads(1), torch.random.fork_rng(devices=[]), torch.inference_mode():
            trust(_Trial(checkpoint, tokenizer).proof())
    return _PROOFS[checkpoint.fingerprint]


class NotFiniteError(ModelError, FloatingPointError):
    """The logits of a model are not finite, even in float32."""


class _Trial:
    def __init__(self, checkpoint: Checkpoint, tokenizer: Tokenizer):
        self.name, self.fingerprint, self.tokenizer = checkpoint.name, checkpoint.fingerprint, tokenizer
        self.layout, self.family = tokenizer.layout(), checkpoint.family
        self._check_special_tokens()  # before the weights are loaded, which takes longest
        for text in TEXTS:
            self._check_ids(text)
        new_head = {} if checkpoint.has_head else {"num_labels": 2}  # of another task it may have had more
        self.model: Any = load(checkpoint.folder, torch.float32, needs_head=checkpoint.has_head, **new_head).eval()

    def proof(self) -> Proof:
        self._run(self._check_vocabulary)
        max_tokens = min(self._run(lambda: max_positions(self.model)), self.tokenizer.model_max_tokens)
        lengths = [min(length, max_tokens) for length in WINDOW_TOKENS]
        inputs = [self._transformers_input(QUESTION, DOCUMENT, length) for length in lengths]
        self._check_token_types(inputs[0])
        expected = [self._run(lambda pair=pair: self._transformers_logits(pair)) for pair in inputs]
        if not all(logits.isfinite().all() for logits in expected):
            raise NotFiniteError(
                f"model {self.name!r}: its logits are not finite in float32; its weights are damaged, or its training "
                "diverged: use another checkpoint"
            )
        windows = [pair["input_ids"] for pair in inputs]
        num_prefix_tokens = len(self.layout.prefix) + len(self.tokenizer.question(QUESTION))
        self.backend = self._run(self._backend)

        def logits(windows: list[list[int]]) -> list[Tensor]:
            return self._run(lambda: self._logits(windows, num_prefix_tokens))

        alone = [logits([window])[0] for window in windows]
        self._compare(alone, expected, "its logits of a window are not those of transformers")
        self._compare(logits(windows), alone, "its logits of a window depend on the others of its batch")
        self._compare(logits([windows[0]]), alone[:1], "its logits of a window differ from one call to the next")
        if lengths[0] < max_tokens <= LONGEST_RUN:
            missing = max_tokens - lengths[0]
            logits([windows[0][:-1] + windows[0][-2:-1] * missing + windows[0][-1:]])
        return Proof(self.fingerprint, max_tokens)

    def _check_special_tokens(self) -> None:
        """Checks that the layout has the three places; the first token of a window is its null answer."""
        layout = self.layout
        places = {"before the question": layout.prefix, "between question and document": layout.middle}
        places |= {"after the document": layout.suffix}
        if empty := [place for place, special_tokens in places.items() if not special_tokens]:
            raise ModelError(
                f"model {self.name!r}: its tokenizer puts no special token {', '.join(empty)}, and the family "
                f"{self.family!r} is not supported without (the first one scores the null answer); {OTHER_FAMILIES}"
            )

    def _check_ids(self, document: str) -> None:
        """Compares the input ids of a window with those of transformers' own call of the tokenizer."""
        layout, question = self.layout, self.tokenizer.question(QUESTION)
        own = [*layout.prefix, *question, *layout.middle, *self.tokenizer(document).ids_T, *layout.suffix]
        expected = self._transformers_input(QUESTION, document, max_tokens=10_000)["input_ids"]
        if (own := [int(token_id) for token_id in own]) != expected:
            at = next(
                (i for i, pair in enumerate(zip(own, expected)) if len(set(pair)) > 1), min(len(own), len(expected))
            )
            raise ModelError(
                f"model {self.name!r}: transformers' own call of its tokenizer gives other input ids for a question "
                f"and a document (from token {at} on: {expected[at : at + 3]}, not {own[at : at + 3]}); "
                f"the layout is one that qa-ray does not have; {OTHER_FAMILIES}"
            )

    def _check_token_types(self, pair: dict[str, list[int]]) -> None:
        """Compares the token types of a window with those of transformers' own call of the tokenizer."""
        if "token_type_ids" not in pair or not takes_token_types(self.model):
            return
        types, num_document = pair["token_type_ids"], self.layout.document_type_id or 0
        num_question = len(self.layout.prefix) + len(self.tokenizer.question(QUESTION)) + 1
        if types != [0] * num_question + [num_document] * (len(types) - num_question):
            raise ModelError(
                f"model {self.name!r}: its tokenizer gives token types that qa-ray does not have (0 up to the first "
                f"separator, then one other, not {types[:3]} … {types[-3:]}); {OTHER_FAMILIES}"
            )

    def _check_vocabulary(self) -> None:
        """Checks that every token that texts and windows are made of has an embedding."""
        num_embeddings = self.model.get_input_embeddings().weight.shape[0]
        layout, tokens = self.layout, self.tokenizer.used_tokens
        ids = {*layout.prefix, *layout.middle, *layout.suffix, *tokens.values()}
        if max(ids) < num_embeddings:
            return
        first = min((token_id, token) for token, token_id in tokens.items() if token_id >= num_embeddings)
        raise ModelError(
            f"model {self.name!r}: the tokenizer has {len(self.tokenizer.vocabulary)} tokens, the model "
            f"{num_embeddings}: from {first[1]!r} on they have no embedding; put the model's own tokenizer beside the "
            "weights, or fine-tune with model.resize_token_embeddings(len(tokenizer))"
        )

    def _transformers_input(self, question: str, document: str, max_tokens: int) -> dict[str, list[int]]:
        try:
            return self.tokenizer.transformers_input(question, document, max_tokens)
        except Exception as error:  # a tokenizer of pages or images, which takes more than two texts
            raise ModelError(
                f"model {self.name!r}: transformers' own call of its tokenizer with a question and a document fails "
                f"({_one_line(error)}); {OTHER_FAMILIES}"
            ) from error

    def _transformers_logits(self, pair: dict[str, list[int]]) -> Tensor:
        """The logits [2, T] of transformers' own call, on the input that its own tokenizer gave."""
        inputs = {name: torch.tensor([ids]) for name, ids in pair.items()}
        if not takes_token_types(self.model):
            inputs.pop("token_type_ids", None)
        if self.family == "longformer":  # whose config may lack the separator from which it would make the mask
            num_prefix_tokens = len(self.layout.prefix) + len(self.tokenizer.question(QUESTION))
            inputs["global_attention_mask"] = (torch.arange(len(pair["input_ids"])) < num_prefix_tokens).long()[None]
        output = self.model(**inputs)
        return torch.cat([output.start_logits, output.end_logits]).float()

    def _backend(self) -> Any:
        """The forward pass as model.runner builds it."""
        prepack(self.model.base_model, find_family(self.family).layers_not_prepacked)
        keep_head_in_float32(self.model)
        return build_backend(self.model, self.layout.document_type_id)

    def _logits(self, windows: Sequence[Sequence[int]], num_prefix_tokens: int) -> list[Tensor]:
        """The logits [2, T] of each window, computed in one batch."""
        lengths = [len(window) for window in windows]
        ids_N = torch.tensor([token_id for window in windows for token_id in window])
        logits_2N = torch.stack(self.backend(ids_N, lengths, [num_prefix_tokens] * len(windows)))
        return list(logits_2N.split(lengths, dim=1))

    def _compare(self, logits: Sequence[Tensor], expected: Sequence[Tensor], fault: str) -> None:
        for own, other in zip(logits, expected, strict=True):
            difference = float((own - other).abs().max() / other.abs().max().clamp(min=1e-9))
            if not difference <= TOLERANCE:
                raise ModelError(
                    f"model {self.name!r}: the family {self.family!r} is not supported: {fault} (by {difference:.0e} "
                    f"of the largest); {OTHER_FAMILIES}"
                )

    def _run(self, compute: Callable[[], T]) -> T:
        """What ``compute`` returns; any error of the model is one of the checkpoint."""
        try:
            return compute()
        except ModelError:
            raise
        except Exception as error:  # a family may fail with any
            raise ModelError(
                f"model {self.name!r}: the family {self.family!r} is not supported: it fails on a window of question "
                f"and document ({_one_line(error)}); {OTHER_FAMILIES}"
            ) from error


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
