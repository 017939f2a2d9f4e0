"""The answer job on a real S3 server, also with network faults and refused requests."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fault_proxy import FaultProxy, fault_proxy
from models import TEXT
from running import assert_same_answers, changed, raises_error, write_job
from s3_server import CREDENTIALS, S3Server, lake_with, on_s3, s3_server

from qa_ray.answering.job import answer_documents, check_job
from qa_ray.config import AnswerConfig
from qa_ray.errors import InputError, ModelError, OutputError
from qa_ray.io.storage import configure_s3, create_text, read_text
from qa_ray.io.table_files import open_table
from qa_ray.output.acquire import acquire_output
from qa_ray.output.lease import Lease

NUM_DOCUMENTS = 24
QUESTIONS = [{"question_id": f"q{i}", "question": text} for i, text in enumerate(("Who built it?", "Where was it?"))]


def documents() -> list[dict[str, Any]]:
    draw = random.Random(0)
    return [
        {"document_id": f"d{i:02}", "text": " ".join(draw.choices(TEXT.split(), k=draw.randint(30, 200)))}
        for i in range(NUM_DOCUMENTS)
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("swift")) as server:
        yield server


@pytest.fixture(scope="module")
def proxy(server: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(server.ports["proxy"]) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def lake(server: S3Server, local: AnswerConfig) -> Any:
    return lake_with(local, server.endpoint_url)


@pytest.fixture(scope="module")
def local(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AnswerConfig:
    """The same job without S3."""
    rows = documents()
    return write_job(tmp_path_factory.mktemp("job"), models["bert"], (rows[:5], rows[5:]), QUESTIONS, row_group_size=2)


@pytest.fixture(scope="module")
def expected(local: AnswerConfig, ray_session: None) -> list[dict[str, Any]]:
    answer_documents(local)
    return rows_of(local.output)


@pytest.fixture(autouse=True)
def _no_faults(proxy: FaultProxy) -> Iterator[None]:
    yield
    proxy.choose = lambda *request: None
    proxy.done.clear()


def reach(endpoint_url: str, **settings: Any) -> None:
    configure_s3(
        **{
            "endpoint_url": endpoint_url,
            "region": None,
            "addressing_style": "path",
            "max_attempts": 8,
            "connect_timeout_s": 5,
            "read_timeout_s": 30,
        }
        | settings
    )


def rows_of(output: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    from qa_ray.io.storage import open_filesystem

    filesystem, path = open_filesystem(f"{output}/answers")
    rows = [row for file in filesystem.find(path) for row in pq.read_table(filesystem.open(file)).to_pylist()]
    return sorted(rows, key=lambda row: (row["document_id"], row["question_id"]))


def test_a_job_on_s3_gives_the_answers_of_a_local_one(server, lake, local, expected):
    config = on_s3(local, server.endpoint_url, "whole")
    manifest = answer_documents(config)
    assert_same_answers(rows_of(config.output), expected)
    assert sorted(name.split("/")[2] for name in lake.find("lake/whole")) == [
        "_SUCCESS", "answers", "manifest.json", "run.json", "run.log",
    ]  # fmt: skip
    assert answer_documents(config) == manifest  # finished: nothing is run again
    with raises_error(OutputError, "holds another run, which differs in answers.n_best (5 there, 2 now)"):
        answer_documents(changed(config, answers={"n_best": 2}))
    secret = CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode()
    assert all(secret not in lake.cat_file(name) for name in lake.find("lake/whole"))
    logs = [file for file in Path(session_folder()).rglob("*") if file.is_file()]
    assert len(logs) > 10
    assert [file for file in logs if secret in file.read_bytes()] == []


def test_tables_on_s3_are_listed_as_on_a_disk(server, lake, local):
    reach(server.endpoint_url)
    content = (Path(local.documents) / "part-0.parquet").read_bytes()
    for name in ("lang=de/a.parquet", "_day=1/lang=e%20n/b.PARQUET"):
        lake.pipe_file(f"lake/listed/{name}", content)
    for name in ("_SUCCESS", "_old/c.parquet", "lang=de/terms.pdf", "sub_$folder$"):
        lake.pipe_file(f"lake/listed/{name}", b"")
    for uri, count, words in (
        ("s3://lake/listed", 2, "2 files; not read: 1 .pdf, 1 without suffix, 2 hidden"),
        ("s3://lake/listed/*", 2, "2 files; not read: 1 .pdf, 1 without suffix, 2 hidden"),
        ("s3://lake/listed/lang=*/*.parquet", 1, "1 file"),
        ("s3://lake/listed/**/*.PARQUET", 1, "1 file"),
    ):
        files = open_table(uri, "documents")
        assert (len(files.footers), files.counts.words) == (count, words)
        assert "lang" in files.names
    assert files.partitions == {"_day": pa.int32(), "lang": pa.string()}
    assert files.footers[0].partitions == {"_day": "1", "lang": "e n"}


def session_folder() -> str:
    """Where Ray keeps the logs of the running session."""
    import ray

    return ray.worker.global_worker.node.get_session_dir_path()  # pyright: ignore[reportAttributeAccessIssue]


def test_throttling_resets_and_truncated_bodies_do_not_change_the_answers(proxy, lake, local, expected):
    proxy.at_random(slow_down=0.05, reset=0.01, cut=0.01)
    config = on_s3(local, proxy.endpoint_url, "faults")
    answer_documents(config)
    assert proxy.done["slow down"] > 3
    assert proxy.done["reset"] + proxy.done["cut"] > 0
    assert_same_answers(rows_of(config.output), expected)


def test_a_write_whose_reply_was_lost_is_recognized_as_our_own(proxy, lake):
    reach(proxy.endpoint_url)
    lost = []

    def lose_once(method: str, path: str, headers: Any) -> Any:
        if method == "PUT" and "If-None-Match" in headers and path not in lost:
            lost.append(path)
            return "lose reply"
        return None

    proxy.choose = lose_once
    assert create_text("s3://lake/once/_SUCCESS", "mine")
    assert proxy.done == {"lose reply": 1}
    assert not create_text("s3://lake/once/_SUCCESS", "another's")
    assert read_text("s3://lake/once/_SUCCESS") == "mine"


def test_only_one_live_run_may_write_to_an_output_on_s3(server, lake):
    reach(server.endpoint_url)
    first = Lease("s3://lake/leased")
    with raises_error(OutputError, "is being written by a live run"):
        Lease("s3://lake/leased")
    first.release()
    Lease("s3://lake/leased").release()
    assert lake.find("lake/leased") == []


@pytest.mark.parametrize(
    ("credentials", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "no permission ("),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "Unable to locate credentials; set AWS_ACCESS_"),
    ],
)
def test_wrong_or_missing_credentials_are_reported_before_a_model_is_loaded(
    server, lake, local, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, credentials: dict[str, Any], message: str
):
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name, value in credentials.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    config = on_s3(local, server.endpoint_url, "refused")
    with raises_error(InputError, f"documents: cannot read 's3://lake/documents': {message}"):
        check_job(changed(config, model=local.model))
    with raises_error(OutputError, "output: cannot write 's3://lake/refused", message):
        acquire_output(config.output, {})
    with raises_error(ModelError, "model 's3://lake/model': cannot be fetched (", message):
        check_job(changed(config, documents=local.documents, questions=local.questions))
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_read_only_output_is_reported_before_a_model_is_loaded(proxy, lake, local):
    proxy.choose = lambda method, path, headers: "deny" if method == "PUT" else None
    config = on_s3(local, proxy.endpoint_url, "denied")
    for start in (check_job, answer_documents):
        with raises_error(OutputError, "output: cannot write 's3://lake/denied", "no permission (Access Denied.)"):
            start(config)


def test_a_missing_bucket_is_reported_and_not_created(server, lake, local):
    config = changed(on_s3(local, server.endpoint_url, "x"), output="s3://no-such-bucket/out")
    with raises_error(OutputError, "output: cannot write 's3://no-such-bucket/out", "bucket does not exist"):
        check_job(config)
    with raises_error(InputError, "documents: no such file or folder: 's3://no-such-bucket/documents'"):
        check_job(changed(config, documents="s3://no-such-bucket/documents"))
    assert not lake.exists("no-such-bucket")


def test_an_endpoint_that_refuses_connections_is_reported(local, lake):
    config = on_s3(local, "http://127.0.0.1:9", "x", max_attempts=2)
    with raises_error(
        ModelError, "Could not connect to the endpoint URL", "check storage.endpoint_url and the network"
    ):
        check_job(config)


def test_credentials_in_a_uri_are_refused_and_not_repeated(local):
    from qa_ray.errors import ConfigError

    with pytest.raises(ConfigError) as error:
        changed(local, output="s3://key:hunter2@lake/out")
    assert "hunter2" not in str(error.value)
    assert "credentials in a URI end up in logs; give them by environment variables, a profile or a role" in str(
        error.value
    )
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in json.dumps(local.model_dump())
