"""qa-ray verify compares an output with its manifest; read_answers reads what the manifest names."""

import json
from pathlib import Path

import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from parts import part_of, plan_of
from running import raises_error

import qa_ray
from qa_ray.answering.commit import commit
from qa_ray.answering.part_files import write_part
from qa_ray.cli.main import main
from qa_ray.errors import OutputError
from qa_ray.output.acquire import acquire_output
from qa_ray.output.verify import verify

IDS = ["a", "b👍", "c"]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A finished output with a reject."""
    folder = tmp_path / "out put"
    with acquire_output(str(folder), {"model": "m"}) as acquired:
        write_part(acquired.parts, part_of(IDS, "c", year=[1871, 1872, 1873]))
        commit(plan_of(IDS, IDS), acquired, {})
    return folder


def file_in(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def test_a_finished_output_is_as_its_manifest_says(output: Path, capsys: pytest.CaptureFixture):
    verification = verify(str(output))
    sizes = sum(
        path.stat().st_size for name in ("answers", "exports", "rejects") for path in output.rglob(f"{name}/**/*.*")
    )
    assert (verification.num_files, verification.num_bytes, verification.problems) == (3, sizes, [])
    assert main(["verify", str(output)]) == 0
    assert capsys.readouterr().out == f"3 files, {sizes:,} bytes: as the manifest says\n"


def test_every_difference_from_the_manifest_is_listed(output: Path, capsys: pytest.CaptureFixture):
    answers, rejects, export = (file_in(output / name) for name in ("answers", "rejects", "exports/jsonl"))
    content = bytearray(answers.read_bytes())
    content[20] ^= 1
    answers.write_bytes(content)
    rejects.unlink()
    export.write_text(export.read_text()[:-1])
    (output / "answers" / "part-00009-stray.parquet").touch()
    (output / "_SUCCESS").unlink()
    (output / "_run").mkdir()
    (output / "_run" / "x").touch()
    assert main(["verify", str(output)]) == 1
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(
        [
            f"answers/{answers.name}: its checksum differs: its content was changed or damaged",
            f"rejects/{rejects.name}: missing",
            f"exports/jsonl/{export.name}: {export.stat().st_size:,} bytes, not {export.stat().st_size + 1:,}",
            "answers/part-00009-stray.parquet: not in the manifest",
            "_SUCCESS: missing; a run was killed after its commit: run the same command again",
            "_run: left by a run that was killed, or of one that is live: run the same command again",
            "3 files, " + f"{sum(f['bytes'] for f in manifest_files(output)):,} bytes: 6 problems",
        ]
    )


def manifest_files(output: Path) -> list[dict]:
    return [file for files in json.loads((output / "manifest.json").read_text())["files"].values() for file in files]


def test_counts_that_differ_from_the_rows_are_listed(output: Path):
    manifest = json.loads((output / "manifest.json").read_text())
    manifest["counts"]["answers"] = 7
    (output / "manifest.json").write_text(json.dumps(manifest))
    assert verify(str(output)).problems == [
        "answers: 2 rows in its files, and counts.answers is 7",
        "exports/jsonl: 2 rows in its files, and counts.answers is 7",
    ]


def test_the_answers_are_those_of_the_manifest_and_not_of_stray_files(output: Path):
    stray = output / "answers" / "part-00001-stray.parquet"
    pq.write_table(pq.read_table(file_in(output / "answers")), stray)
    answers = qa_ray.read_answers(str(output))
    assert answers.to_table(columns=["document_id", "year"]).to_pylist() == [
        {"document_id": "a", "year": 1871},
        {"document_id": "b👍", "year": 1872},
    ]
    assert answers.count_rows(filter=pyarrow.dataset.field("document_id") == "b👍") == 1


def test_an_output_without_answers_is_an_empty_table_with_all_columns(tmp_path: Path):
    with acquire_output(str(tmp_path), {"model": "m"}) as output:
        write_part(output.parts, part_of(["c"], "c"))
        commit(plan_of(["c"], ["c"]), output, {})
    assert qa_ray.read_answers(str(tmp_path)).to_table(columns=["document_id", "n_best"]).num_rows == 0


def test_what_is_no_finished_output_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture):
    for folder in (tmp_path, tmp_path / "no such"):
        with raises_error(
            OutputError, f"{str(folder)!r} has no manifest.json: it is no output folder, or its run is not"
        ):
            qa_ray.read_answers(str(folder))
        assert main(["verify", str(folder)]) == 2
    assert main(["verify", str(tmp_path), "storage.endpoint=x"]) == 2
    assert "unknown setting 'storage.endpoint'; did you mean 'storage.endpoint_url'?" in capsys.readouterr().err
    (tmp_path / "manifest.json").write_text('{"identity": {"job": "finetune"}, "files": {"model": []}, "counts": {}}')
    with raises_error(OutputError, "has no answers: it is not the output of `qa-ray answer`"):
        qa_ray.read_answers(str(tmp_path))
