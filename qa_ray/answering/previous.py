"""Answers of earlier outputs that are taken over, so that a run asks only what is new.

A (document, question) pair has the same answer as before if the document's text, the question's text, the model and the
settings are the same. Such a pair is recognized by its key, a hash of both ids and both texts.

    open_previous     before the run: the earlier outputs, compared with this run, and their files
    index_pairs       Ray tasks, one per file: the key of each answer -> a sorted index, shared by each node's processes
    take_known        in TokenizeDocuments: questions whose answer is there are not asked; its position is noted
    gather_answers    at the commit, Ray tasks, one per file: positions -> rows
    ReusedAnswers     the rows of one group of part files, by position (flatten.py)

The position of an answer counts over all answers of all earlier files, in the order of PreviousAnswers.files. The index
takes 24 bytes a pair on each node, and 56 of the driver while it is sorted; a pair that is taken over 8 of the driver.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from qa_ray.errors import InputError, OutputError
from qa_ray.io.id_types import id_strings
from qa_ray.io.row_checks import CheckedDocument
from qa_ray.io.storage import absolute_uri, configure_s3, join, open_filesystem, open_parquet
from qa_ray.io.storage_errors import reading
from qa_ray.log import LOG
from qa_ray.output.folder import differences
from qa_ray.output.manifest import read_manifest
from qa_ray.runtime.tasks import run_tasks
from qa_ray.schemas import ANSWERS

KEY = "S16"  # all keys are 16 long, so that NumPy's comparison, which ignores zeros at the end, is exact
KEY_COLUMNS = ["document_id", "question_id", "question", "text_sha256"]
ROWS_PER_BATCH = 65_536  # of those columns, read at a time
ROWS_PER_TABLE = 20_000  # taken at a time: a column of strings has room for 2 GiB
COMBINED_BYTES = 1_000_000_000  # tables up to this size are one batch each, which is searched faster than many


# ---- The earlier outputs


class AnswersFile(NamedTuple):
    """A file of answers of an earlier output."""

    uri: str
    num_rows: int
    sha256: str


@dataclass(frozen=True)
class PreviousAnswers:
    """The answers of earlier outputs with the settings of this run; of two with the same pair, the first counts."""

    files: tuple[AnswersFile, ...] = ()
    outputs: tuple[dict[str, str], ...] = ()  # as the manifest lists them: output, run_id

    @cached_property
    def starts(self) -> np.ndarray:
        """The position of the first answer of each file, and the number of all answers, [files + 1]."""
        return np.cumsum([0, *(file.num_rows for file in self.files)])

    @property
    def num_answers(self) -> int:
        """The number of answers in all files."""
        return int(self.starts[-1])

    @property
    def origin(self) -> dict[str, Any] | None:
        """What a run that is resumed must have again, because its part files hold positions; None without answers."""
        if not self.num_answers:
            return None
        digest = hashlib.sha256(" ".join(file.sha256 for file in self.files).encode()).hexdigest()
        return {"outputs": [output["output"] for output in self.outputs], "sha256": digest}


NO_ANSWERS = PreviousAnswers()


def open_previous(uris: Iterable[str], identity: dict[str, Any]) -> PreviousAnswers:
    """The answers of the output folders ``uris`` that a run of this identity can take over.

    Nothing is taken from an output of another model, version or settings: a warning names what differs.

    Raises:
        InputError: one of them is no finished output of the answer job.
    """
    files, outputs = [], []
    for uri in map(absolute_uri, uris):
        try:
            manifest = read_manifest(uri)
        except OutputError as error:
            raise InputError(f"previous: {str(error).removeprefix('output: ')}") from error
        if "answers" not in manifest["files"]:
            raise InputError(f"previous: {uri!r} is not the output of `qa-ray answer`; leave it out of previous=…")
        if different := differences(_own_settings(manifest["identity"]), _own_settings(identity)):
            LOG.warning("previous: nothing is taken from %r, which differs in %s", uri, "; ".join(different))
            continue
        outputs.append({"output": uri, "run_id": manifest["run_id"]})
        for file in manifest["files"]["answers"]:
            files.append(AnswersFile(join(uri, "answers", file["name"]), file["rows"], file["sha256"]))
    return PreviousAnswers(tuple(files), tuple(outputs))


def _own_settings(identity: dict[str, Any]) -> dict[str, Any]:
    """What an answer depends on beside its document and question."""
    is_own = ("model", "qa_ray", "windows.", "answers.", "runner.")
    return {name: value for name, value in identity.items() if name.startswith(is_own)}


# ---- The index


class PairIndex(NamedTuple):
    """The keys of all pairs with an answer, sorted, and the positions of these answers, [num_pairs] each."""

    keys: np.ndarray
    positions: np.ndarray

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The position of the answer to each pair, [len(keys)] int64; -1: there is none."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        rows = np.searchsorted(self.keys, keys)
        is_found = self.keys.take(rows, mode="clip") == keys
        return np.where(is_found, self.positions.take(rows, mode="clip"), -1)


def index_pairs(previous: PreviousAnswers, storage: dict[str, Any]) -> PairIndex:
    """The index of all answers; ``storage`` is for configure_s3.

    Raises:
        InputError: a file cannot be read, or is not that of its manifest.
    """
    LOG.info("reading the ids of %d earlier answers in %d files", previous.num_answers, len(previous.files))
    return make_index(np.concatenate(run_tasks(read_keys, [(storage, file) for file in previous.files])))


def make_index(keys: np.ndarray) -> PairIndex:
    """The index of the keys at positions 0, 1, and so on; of equal keys, the first counts.

    np.unique does the same with twice the memory.
    """
    positions = np.argsort(keys, kind="stable")
    keys = keys[positions]
    is_first = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
    return PairIndex(keys, positions) if is_first.all() else PairIndex(keys[is_first], positions[is_first])


def read_keys(storage: dict[str, Any], answers: AnswersFile) -> np.ndarray:
    """The key of each answer in the file, [num_rows] KEY."""
    configure_s3(**storage)
    keys = [np.empty(0, KEY)]
    with reading(answers.uri, "previous"):
        for batch in _open(answers).iter_batches(ROWS_PER_BATCH, columns=KEY_COLUMNS):
            ids = (id_strings(batch[name]).to_pylist() for name in KEY_COLUMNS[:2])
            keys.append(_as_array(map(pair_key, *ids, *(batch[name].to_pylist() for name in KEY_COLUMNS[2:]))))
    return np.concatenate(keys)


def pair_key(document_id: str, question_id: str, question: str, text_sha256: str) -> bytes:
    """A hash of the pair, 16 bytes."""
    text = f"{len(document_id)} {len(question_id)} {text_sha256}{document_id}{question_id}{question}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _as_array(keys: Iterable[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(keys), KEY)


def _open(answers: AnswersFile) -> pq.ParquetFile:
    filesystem, path = open_filesystem(answers.uri)
    file = open_parquet(filesystem, path, "previous")
    if file.metadata.num_rows != answers.num_rows:
        raise InputError(
            f"previous: {answers.uri!r} has {file.metadata.num_rows} rows, and its manifest says {answers.num_rows}; "
            "`qa-ray verify` shows what is damaged: restore it, or leave the output out of previous=…"
        )
    return file


# ---- Documents with their questions


def take_known(
    index: PairIndex, document_ids: Sequence[str], documents: Sequence[CheckedDocument]
) -> tuple[list[CheckedDocument], pa.ListArray]:
    """The documents with the questions that are to be answered; and for each document, the positions of the others."""
    keys = [key for id_, document in zip(document_ids, documents, strict=True) for key in _keys(id_, document)]
    positions = index.find(_as_array(keys))
    is_known = positions >= 0
    stops = np.cumsum([len(document.questions) for document in documents], dtype=np.int64)
    known_stops = np.append(0, np.cumsum(is_known))[stops]
    lists = pa.ListArray.from_arrays(pa.array(np.append(0, known_stops), pa.int32()), pa.array(positions[is_known]))
    masks = np.split(is_known, stops[:-1])
    return [_without(*row) for row in zip(documents, masks[: len(documents)], strict=True)], lists


def _keys(document_id: str, document: CheckedDocument) -> list[bytes]:
    if not document.questions:
        return []
    text_sha256 = hashlib.sha256(document.text.encode()).hexdigest()
    return [pair_key(document_id, q.question_id, q.question or "", text_sha256) for q in document.questions]


def _without(document: CheckedDocument, is_known: np.ndarray) -> CheckedDocument:
    questions = [question for question, known in zip(document.questions, is_known, strict=True) if not known]
    return CheckedDocument(document.text if questions else "", questions, document.rejects)


# ---- The commit


def gather_answers(
    previous: PreviousAnswers, storage: dict[str, Any], positions_by_group: Sequence[np.ndarray]
) -> list[list[Any]]:
    """For each group of positions, references to tables with these answers, in Ray's object store.

    Each file is read once, by one task, whichever groups need it: the order of ids need not be that of the last run.
    """
    rows_by_file: dict[int, dict[int, np.ndarray]] = defaultdict(dict)
    for group, positions in enumerate(positions_by_group):
        positions = np.unique(positions)  # a document may be in two part files
        bounds = np.searchsorted(positions, previous.starts)
        for file in map(int, np.flatnonzero(np.diff(bounds))):
            rows_by_file[file][group] = positions[bounds[file] : bounds[file + 1]] - previous.starts[file]
    tables: list[list[Any]] = [[] for _ in positions_by_group]
    for file, rows_by_group in sorted(rows_by_file.items()):
        task: Any = ray.remote(num_cpus=1, num_returns=len(rows_by_group))(read_rows_at)
        values = storage, previous.files[file], int(previous.starts[file]), [*rows_by_group.values()]
        references = task.remote(*values)
        for group, table in zip(rows_by_group, references if len(rows_by_group) > 1 else [references], strict=True):
            tables[group].append(table)
    return tables


def read_rows_at(
    storage: dict[str, Any], answers: AnswersFile, start: int, rows_by_group: Sequence[np.ndarray]
) -> list[pa.Table] | pa.Table:
    """A table for each group of rows, which are sorted; of a single group, that table itself, as Ray wants it.

    They have the columns of schemas.ANSWERS, with ids as large strings, and ``position``; ``start`` is the position of
    the file's first answer.
    """
    configure_s3(**storage)
    pieces: list[list[pa.Table]] = [[] for _ in rows_by_group]
    with reading(answers.uri, "previous"):
        file, stop = _open(answers), 0
        for number in range(file.num_row_groups):
            first, stop = stop, stop + file.metadata.row_group(number).num_rows
            wanted = [rows[slice(*np.searchsorted(rows, [first, stop]))] for rows in rows_by_group]
            if not any(map(len, wanted)):
                continue
            table = file.read_row_group(number, columns=ANSWERS.names).select(ANSWERS.names)
            for column in ("document_id", "question_id"):  # outputs may differ in the types of their ids
                table = table.set_column(ANSWERS.get_field_index(column), column, id_strings(table[column]))
            for piece, rows in zip(pieces, wanted, strict=True):
                positions = pa.array(start + rows, pa.int64())
                piece.append(table.take(pa.array(rows - first)).append_column("position", positions))
    tables = [pa.concat_tables(piece) for piece in pieces]
    tables = [table.combine_chunks() if table.nbytes < COMBINED_BYTES else table for table in tables]
    return tables if len(tables) > 1 else tables[0]


class ReusedAnswers:
    """Answers of earlier runs, to be looked up; ``tables`` are of ``read_rows_at``, in the order of their files."""

    def __init__(self, tables: Sequence[pa.Table]):
        # In batches, as to take rows of a table would first make one array of each column, for each lookup.
        self._batches = [batch for table in tables for batch in table.to_batches()]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        positions = [batch["position"].to_numpy() for batch in self._batches]
        self._positions = np.concatenate([np.empty(0, np.int64), *positions])

    def at(self, positions: np.ndarray) -> pa.Table:
        """The answers at these positions, which are sorted and at most ROWS_PER_TABLE, as schemas.ANSWERS."""
        rows = np.searchsorted(self._positions, positions)
        assert (self._positions.take(rows, mode="clip") == positions).all()
        bounds = np.searchsorted(rows, self._starts)
        pieces = [
            self._batches[i].take(pa.array(rows[bounds[i] : bounds[i + 1]] - self._starts[i]))
            for i in np.flatnonzero(np.diff(bounds))
        ]
        return pa.Table.from_batches(pieces).select(ANSWERS.names)
