"""Shared by all tests: the order of the files, small models of every family, a Ray session, and tables to answer."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from gold_tables import Folder
from hypothesis import settings
from models import TEST_FAMILIES, save_model
from s3_server import CREDENTIALS, free_ports

# No deadline, as a busy machine is no failure. CI draws the same examples every time; elsewhere they are new each time.
settings.register_profile("qa-ray", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("qa-ray")
signal.signal(signal.SIGINT, signal.default_int_handler)  # scripts start background processes with SIGINT ignored
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ |= CREDENTIALS  # before Ray starts: its workers inherit the environment of that moment

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
needs_shared_data = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason="needs ../shared/data, which is not part of the repository"
)

# xdist hands out whole files in this order, so that module fixtures are made once. The files that take longest come
# first: begun last, one of them would keep one process busy after the other has finished.
SLOWEST_FIRST = (
    "training/test_job.py",
    "answering/test_job.py",
    "answering/test_previous.py",
    "io/test_s3.py",
    "output/test_publish.py",
    "cluster/test_jobs.py",
    "answering/test_crash_guard.py",
    "packaging/test_distributions.py",
    "answering/test_rejects.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {Path(__file__).parent / name: i for i, name in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(scope="session", autouse=True)
def explicit_dtypes() -> Iterator[None]:
    """Fails tests whose figures would depend on the processor, as ``dtype="auto"`` does, if it is resolved here.

    Ray's workers and other processes are not patched.
    """

    def fail() -> bool:
        raise AssertionError("dtype='auto' gives other figures on other processors: set the dtype in this test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qa_ray.model.device.cpu_has_bfloat16", fail)
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The folder of a small random model of each family; positions allow windows of 128 tokens."""
    root = tmp_path_factory.mktemp("models")
    settings = {"max_tokens": 64, "overlap_tokens": 16, "max_question_tokens": 30}
    return {family: save_model(family, root / family, settings=settings) for family in TEST_FAMILIES}


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for all tests of this process that need one."""
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
