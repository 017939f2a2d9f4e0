"""Hashes of document ids: equal ids have equal hashes, others do not collide, and a search in them is exact."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import raises_error

from qa_ray.errors import InputError
from qa_ray.io import document_ids
from qa_ray.io.document_table import document_hashes, open_documents, unfinished_row_groups
from qa_ray.io.id_hashes import HASH_KEYS, hash_ids, is_in

COLUMNS = {"document_id": "document_id", "text": "text"}
HASHES = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 9), max_size=30)


@given(HASHES, HASHES)
def test_a_hash_is_found_where_it_is_and_nowhere_else(hashes: list[int], others: list[int]):
    found = is_in(np.array(hashes, np.uint64), np.unique(np.array(others, np.uint64)))
    assert found.tolist() == [hash_ in others for hash_ in hashes]


def inverse(hash_: int) -> int:
    """The integer with this hash."""
    for shift, factor in ((31, 0x94D049BB133111EB), (27, 0xBF58476D1CE4E5B9), (30, 1)):
        shifted = hash_
        for _ in range(64 // shift):
            shifted = hash_ ^ shifted >> shift
        hash_ = shifted * pow(factor, -1, 2**64) % 2**64
    return hash_


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_integers_never_collide_as_their_hash_can_be_inverted(ids: list[int]):
    hashes = hash_ids(pa.array(ids, pa.int64()), HASH_KEYS[0])
    assert [inverse(int(hash_)) for hash_ in hashes] == [id_ % 2**64 for id_ in ids]


def test_ids_hash_to_the_same_in_every_string_type_and_to_another_value_under_every_key():
    ids = pa.array(["a", "a\0", "á", ""])
    hashes = [hash_ids(ids, key).tolist() for key in HASH_KEYS]
    assert len({hash_ for row in hashes for hash_ in row}) == len(ids) * len(HASH_KEYS)
    assert hash_ids(ids.cast(pa.large_string()), HASH_KEYS[0]).tolist() == hashes[0]
    assert hash_ids(pa.chunked_array([ids[:1], ids[1:]]), HASH_KEYS[0]).tolist() == hashes[0]


@pytest.fixture
def short_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes of 10 bits: some two of 60 ids have the same under most keys."""
    monkeypatch.setattr(document_ids, "hash_ids", lambda ids, key: hash_ids(ids, key) % np.uint64(1024))


def write_documents(folder: Path, ids: list[str]) -> None:
    for name, part in (("one", ids[:40]), ("other", ids[40:])):
        table = pa.table({"document_id": part, "text": ["Ada Vane built it."] * len(part)})
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=5)


@pytest.mark.usefixtures("short_hashes")
def test_ids_whose_hashes_collide_are_hashed_with_another_key(tmp_path: Path):
    write_documents(tmp_path, [f"d{i}" for i in range(60)])
    documents = open_documents(str(tmp_path), COLUMNS)
    assert documents.hash_key != HASH_KEYS[0]
    hashes = document_hashes(documents)
    assert len(set(hashes.tolist())) == 60
    finished = np.sort(hashes[hashes != hashes[17]])
    assert unfinished_row_groups(documents, finished) == [documents.row_groups[3]]


@pytest.mark.usefixtures("short_hashes")
def test_a_duplicate_id_is_found_among_ids_whose_hashes_collide(tmp_path: Path):
    write_documents(tmp_path, [*(f"d{i}" for i in range(60)), "d7"])
    with raises_error(InputError, "document_id 'd7' occurs twice, in ", "one.parquet' and in ", "other.parquet'"):
        open_documents(str(tmp_path), COLUMNS)


def test_the_share_of_documents_that_finetune_holds_out_stays_the_same():
    assert hash_ids(pa.array(["d1"]), HASH_KEYS[0]).tolist() == [11435820897440130229]
