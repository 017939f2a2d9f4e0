"""Hashes of document ids: 8 bytes in place of an id, where millions are compared or stored."""

import numpy as np
import pandas as pd
import pyarrow as pa

from qa_ray.io.id_types import id_strings, is_uuid

HASH_KEYS = ("0123456789123456", *(f"{number:016}" for number in range(1, 16)))
"""Keys of the hash of strings, in the order in which they are tried; the first is pandas' own.

Two ids that collide under one key do not under another. Of 10^9 ids some two collide under a key with 2.7 %.
"""


def hash_ids(ids: pa.Array | pa.ChunkedArray, key: str) -> np.ndarray:
    """A hash of each id, [len(ids)] uint64. Integers never collide: their hash is a bijection, and has no key."""
    if is_uuid(ids.type):
        ids = ids.cast(pa.binary(16))
    elif pa.types.is_decimal(ids.type):
        ids = id_strings(ids)
    return pd.util.hash_array(  # pyright: ignore[reportAttributeAccessIssue]
        ids.to_numpy(zero_copy_only=False), hash_key=key, categorize=False
    )


def is_in(hashes: np.ndarray, sorted_hashes: np.ndarray) -> np.ndarray:
    """Which of ``hashes`` are among ``sorted_hashes``, [len(hashes)] bool.

    A binary search: of 4,096 hashes among 5 million it takes 5 ms, where np.isin, which sorts all, takes 5 s.
    """
    if not len(sorted_hashes):
        return np.zeros(len(hashes), dtype=bool)
    return sorted_hashes.take(np.searchsorted(sorted_hashes, hashes), mode="clip") == hashes
