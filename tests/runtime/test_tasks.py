import time
from pathlib import Path

import pytest

from qa_ray.errors import InputError
from qa_ray.runtime.tasks import run_tasks


def write_slowly(path: str | None) -> None:
    if not path:
        raise InputError("no path")
    Path(f"{path}.started").touch()
    time.sleep(1)
    Path(path).touch()


def write_or_fail(path: str | None, other: str) -> None:
    while not path and not Path(f"{other}.started").exists():
        time.sleep(0.01)
    write_slowly(path)


@pytest.mark.usefixtures("ray_session")
def test_no_task_writes_after_another_one_has_failed(tmp_path: Path):
    path = str(tmp_path / "file")
    with pytest.raises(InputError, match="no path"):
        run_tasks(write_or_fail, [(None, path), (path, "")])
    time.sleep(2)
    assert [file.name for file in tmp_path.iterdir()] == ["file.started"]
