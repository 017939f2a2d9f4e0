import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import TEST_FAMILIES, TEXT

from qa_ray.inference.windows import windows
from qa_ray.model.tokenizer import Tokenizer
from qa_ray.schemas import Windows


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, int, int]:
    room = draw(st.integers(1, 40))
    return draw(st.integers(1, 400)), room, draw(st.integers(0, room - 1))


def contexts(w: int, token: int, cut: Windows, num_tokens: int) -> float:
    """The distance to the nearer cut edge of window w; the document's ends are not cuts."""
    start, stop = cut.start_W[w], cut.stop_W[w]
    if not start <= token < stop:
        return -1
    left = np.inf if start == 0 else token - start
    right = np.inf if stop == num_tokens else stop - 1 - token
    return min(left, right)


@given(cuts())
def test_every_token_is_in_some_window_and_no_window_is_longer_than_its_room(cut: tuple[int, int, int]):
    num_tokens, room, _ = cut
    result = windows(*cut)
    covered = np.zeros(num_tokens, dtype=bool)
    for start, stop in zip(result.start_W, result.stop_W, strict=True):
        assert 0 < stop - start <= room
        covered[start:stop] = True
    assert covered.all()


@given(cuts())
def test_neighbors_share_exactly_the_overlap_and_only_the_last_is_shorter(cut: tuple[int, int, int]):
    _, room, overlap = cut
    result = windows(*cut)
    assert (result.stop_W[:-1] - result.start_W[1:] == overlap).all()
    assert (result.stop_W[:-1] - result.start_W[:-1] == room).all()


@given(cuts())
def test_every_token_is_owned_once(cut: tuple[int, int, int]):
    result = windows(*cut)
    owned = [t for a, b in zip(result.own_start_W, result.own_stop_W, strict=True) for t in range(a, b)]
    assert owned == list(range(cut[0]))


@given(cuts())
def test_a_token_is_owned_by_the_window_with_most_context(cut: tuple[int, int, int]):
    result = windows(*cut)
    for w in range(len(result)):
        for token in range(result.own_start_W[w], result.own_stop_W[w]):
            own = contexts(w, token, result, cut[0])
            assert own == max(contexts(other, token, result, cut[0]) for other in range(len(result)))


@given(cuts())
def test_reach_ends_with_the_last_window_that_contains_the_token(cut: tuple[int, int, int]):
    result = windows(*cut)
    for token, reach in enumerate(result.reach_T()):
        contains = (result.start_W <= token) & (token < result.stop_W)
        assert token + reach == result.stop_W[contains].max()


@pytest.mark.parametrize("family", TEST_FAMILIES)
@pytest.mark.parametrize(("max_length", "overlap"), [(64, 16), (40, 0), (128, 60), (50, 20)])
@pytest.mark.parametrize("repeats", [1, 3, 9])
def test_windows_equal_the_tokenizers_own_overflow(
    models: dict[str, str], family: str, max_length: int, overlap: int, repeats: int
):
    tokenizer = Tokenizer(models[family])
    layout = tokenizer.layout()
    question, document = "Who built the lighthouse?", (TEXT + "a literal </s> [SEP] <mask> 😀 e\u0301 ") * repeats
    ids, tokens = tokenizer.question(question), tokenizer(document)
    room = max_length - layout.num_special_tokens - len(ids)
    ours = windows(len(tokens), room, overlap)

    theirs = tokenizer._pretrained(
        question, document, truncation="only_second", max_length=max_length, stride=overlap,
        return_overflowing_tokens=True, return_offsets_mapping=True, split_special_tokens=True,
    )  # fmt: skip

    assembled = [
        [*layout.prefix, *ids, *layout.middle, *tokens.ids_T[start:stop], *layout.suffix]
        for start, stop in zip(ours.start_W, ours.stop_W, strict=True)
    ]
    assert assembled == theirs["input_ids"]
    offset = len(layout.prefix) + len(ids) + len(layout.middle)
    for w, offsets in enumerate(theirs["offset_mapping"]):
        document_part = offsets[offset : offset + ours.stop_W[w] - ours.start_W[w]]
        expected = zip(tokens.start_char_T[ours.start_W[w] :], tokens.stop_char_T[ours.start_W[w] :], strict=True)
        assert document_part == [pair for pair, _ in zip(expected, document_part, strict=False)]
