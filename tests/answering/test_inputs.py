"""Tables as they are in a lake: the results have what was in them, with its type, and say what was not read."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gold_tables import golds
from parts import part_of
from running import assert_nothing_lost, changed, read_rows, write_job

from qa_ray.answering.commit import has_document
from qa_ray.answering.flatten import flatten_lists
from qa_ray.answering.job import answer_documents
from qa_ray.answering.plan import make_plan
from qa_ray.answering.retry_rejects import documents_without
from qa_ray.config import AnswerConfig
from qa_ray.evaluation.evaluate import evaluate
from qa_ray.io.document_table import document_hashes
from qa_ray.schemas import ANSWER, flat

TEXT = "Ada Vane built the lighthouse in 1871."


def lake(folder: Path, model: str, **settings: Any) -> AnswerConfig:
    """Documents in folders of two languages, with integer ids, one of them empty; questions bound by them."""
    documents = [
        ("de", {"document_id": pa.array([1, 2], pa.int32()), "text": [TEXT, " "], "note": pa.nulls(2)}),
        ("en", {"document_id": pa.array([3], pa.int64()), "text": [TEXT], "note": ["new"], "later": [1]}),
    ]
    others = {
        "key": pa.array([b"k" * 16], pa.uuid()),
        "tags": pa.array([["x"]], pa.list_(pa.string_view())),
        "kind": pa.array(["k"]).dictionary_encode(),
        "price": pa.array([1], pa.decimal128(9, 2)),
        "pair": pa.array([{"a": 1}]),
        "map": pa.array([[("m", 1)]], pa.map_(pa.string(), pa.int8())),
        "time": pa.array([0], pa.timestamp("ns", "UTC")),
    }
    documents[1][1].update(others)
    for lang, columns in documents:
        (folder / "documents" / f"_lang={lang}").mkdir(parents=True)
        pq.write_table(pa.table(columns), folder / "documents" / f"_lang={lang}" / "p.PARQUET")
    for name in ("terms.pdf", "_SUCCESS"):
        (folder / "documents" / name).touch()
    rows = [
        {"question_id": number, "question": "Who built it?", "document_id": number, "answers": golds("Ada Vane")}
        for number in (1, 2, 3, 9)
    ]
    config = write_job(folder, model, [{"document_id": "-", "text": ""}], rows, **settings)
    (folder / "documents" / "part-0.parquet").unlink()
    return config


@pytest.mark.usefixtures("ray_session")
def test_answers_and_rejects_have_the_ids_and_columns_of_the_input(tmp_path: Path, models: dict[str, str]):
    limits = {"max_rejected_fraction": 1}
    config = lake(tmp_path, models["bert"], limits=limits)
    manifest = answer_documents(config)
    pairs: Any = [(number, number) for number in (1, 2, 3, 9)]
    assert_nothing_lost(config, pairs, manifest)
    assert manifest["inputs"] == {
        "documents": {"files": 2, "not_read": {".pdf": 1, "hidden": 1}},
        "questions": {"files": 1, "not_read": {}},
    }
    assert "documents: 2 files; not read: 1 .pdf, 1 hidden\n" in (Path(config.output) / "run.log").read_text()
    answers = read_rows(config, "answers")
    assert [(row["document_id"], row["_lang"], row["note"], row["later"]) for row in answers] == [
        (1, "de", None, None),
        (3, "en", "new", 1),
    ]
    assert (answers[0]["key"], answers[1]["key"], answers[1]["tags"]) == (None, UUID(bytes=b"k" * 16), ["x"])
    for name in ("answers", "rejects"):
        schema = pq.read_schema(next((Path(config.output) / name).glob("*.parquet")))
        assert [schema.field(column).type for column in ("document_id", "question_id")] == [pa.int64(), pa.int64()]
    rejects = [(row["document_id"], row["reason"]) for row in read_rows(config, "rejects")]
    assert rejects == [(2, "blank_text"), (9, "unknown_document")]
    scores = evaluate(config.output, config.questions or "", by=["_lang"])
    assert {"de", "en"} <= scores.groups["_lang"].keys()

    retried = answer_documents(changed(config, retry_rejects=True))
    assert retried["counts"]["rejects"] == 2
    assert [(row["document_id"], row["reason"]) for row in read_rows(config, "rejects")] == rejects

    # The same documents with ids of another type have the same answers.
    later = write_job(
        tmp_path / "later",
        models["bert"],
        [{"document_id": str(number), "text": TEXT} for number in (1, 3)],
        [{"question_id": str(number), "question": "Who built it?", "document_id": str(number)} for number in (1, 3)],
        previous=[config.output],
    )
    manifest = answer_documents(later)
    assert (manifest["counts"]["reused"], manifest["windows_this_run"]) == (2, 0)
    assert [row["document_id"] for row in read_rows(later, "answers")] == ["1", "3"]


@pytest.mark.parametrize("id_type", [pa.uuid(), pa.int8(), pa.decimal128(9, 0), pa.string()])
def test_ids_of_every_type_are_found_again_by_their_text(tmp_path: Path, models: dict[str, str], id_type: pa.DataType):
    values = [UUID(int=number).bytes if id_type == pa.uuid() else number for number in (5, 6, 7)]
    values = [str(value) for value in values] if id_type == pa.string() else values
    table = pa.table({"document_id": pa.array(values, id_type), "text": [TEXT] * 3})
    names = [str(id_) for id_ in table["document_id"].to_pylist()]
    asked = [names[0], names[2], "8", "1000000000000", "05", "none"]
    rows = [{"question_id": "q", "question": "Who?", "document_id": name} for name in asked]
    plan = make_plan(write_job(tmp_path, models["bert"], table, rows))
    hashes = np.sort(document_hashes(plan.documents))
    found = {name for name, _ in plan.questions.bound(has_document(plan, hashes))}
    assert found == {names[0], names[2]}
    assert len(documents_without(plan.documents, plan.questions)) == 1
    part = part_of(names)
    part = part.set_column(part.schema.get_field_index("document_id"), "document_id", table["document_id"])
    flattened, _ = flatten_lists(part, "answers", flat(ANSWER, id_type, pa.string()), "document_id")
    assert flattened["document_id"].equals(table["document_id"])


def test_the_plan_says_which_files_were_read_and_which_were_not(tmp_path: Path, models: dict[str, str]):
    plan = make_plan(lake(tmp_path, models["bert"]))
    assert {name: files.words for name, files in plan.inputs.items()} == {
        "documents": "2 files; not read: 1 .pdf, 1 hidden",
        "questions": "1 file",
    }
    assert json.loads(json.dumps(plan.inputs["documents"].as_json()))["not_read"] == {".pdf": 1, "hidden": 1}
