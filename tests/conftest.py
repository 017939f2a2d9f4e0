"""Shared by all tests: small models of every family, a Ray session, and tables to answer."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from gold_tables import Folder
from hypothesis import settings
from models import FAMILIES, save_model
from s3_server import CREDENTIALS, free_ports

# A busy machine is no failure, and CI tries the same examples every time; at a desk new ones are sought.
settings.register_profile("qa-ray", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("qa-ray")
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a script started the tests in the background
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ |= CREDENTIALS  # before Ray starts, whose workers have the environment of that moment

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

    from qa_ray.runtime.session import start_ray

    (port,) = free_ports(1)
    start_ray(6, _metrics_export_port=port)
    yield
    ray.shutdown()


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """A folder with a good text file, and one that is not UTF-8."""
    folder = tmp_path / "letters"
    folder.mkdir()
    (folder / "a.txt").write_text("Ada was here.")
    (folder / "b.txt").write_bytes(b"Gr\xfc\xdfe")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)
