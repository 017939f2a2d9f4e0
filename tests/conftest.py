"""Shared by all tests: small models of every family, a Ray session, and tables to answer."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from models import FAMILIES, save_model

from qa_ray.records import QUESTIONS

settings.register_profile("patient", deadline=None)  # a busy machine is no failure
settings.load_profile("patient")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "60")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
needs_shared_data = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason="needs ../shared/data, which is not part of the repository"
)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder with a small random model for each family; positions allow windows of 128 tokens."""
    root = tmp_path_factory.mktemp("models")
    settings = {"max_tokens": 64, "overlap_tokens": 16, "max_question_tokens": 30}
    return {family: save_model(family, root / family, settings=settings) for family in FAMILIES}


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for all tests that need one."""
    import ray

    ray.init(num_cpus=6, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture
def write_tables(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Writes documents and questions; returns the config of a job over them."""

    def write(documents: list[dict], questions: list[dict], num_files: int = 1) -> dict[str, Any]:
        for name, rows, schema in (("documents", documents, None), ("questions", questions, QUESTIONS)):
            (tmp_path / name).mkdir(exist_ok=True)
            for i in range(num_files):
                table = pa.Table.from_pylist(rows[i::num_files], schema)
                pq.write_table(table, tmp_path / name / f"part-{i}.parquet", row_group_size=8)
        return {name: str(tmp_path / name) for name in ("documents", "questions", "output")}

    return write
