"""A process that is killed, or suspended as a whole, before the n-th operation on its storage.

Every call of a file system that qa-ray makes is an operation, as are the system calls of a local write; a removal of
many files is one for each of them. Operations of the heartbeat's thread are not counted.
"""

import os
import signal
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec import asyn
from s3fs import S3FileSystem

from qa_ray.errors import OutputError
from qa_ray.io import storage
from qa_ray.output import lease

OPERATIONS = (
    "cat_file", "cp_file", "exists", "find", "info", "isdir", "isfile", "ls", "rm_file", "size",
)  # fmt: skip
FINISHED, FENCED, FAILED = 0, 2, 99


class SteppedFiles:
    """A file system that calls ``step`` with the name of each operation before it happens."""

    def __init__(self, filesystem: Any, step: Callable[[str], object]):
        self._filesystem, self._step = filesystem, step

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._filesystem, name)
        if name not in OPERATIONS:
            return attribute

        def stepped(*values: Any, **options: Any) -> Any:
            self._step(name)
            return attribute(*values, **options)

        return stepped

    def pipe_file(self, *values: Any, **options: Any) -> None:
        self._step("pipe_file")
        self._filesystem.pipe_file(*values, **options)

    def rm(self, path: Any, recursive: bool = False) -> None:
        for file in self._filesystem.find(path):
            self.rm_file(file)
        self._step("rm")
        if self._filesystem.exists(path):
            self._filesystem.rm(path, recursive=recursive)

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        self._step(f"open {mode}")
        file = self._filesystem.open(path, mode, **options)
        return SteppedFile(file, self._step) if mode == "wb" else file


class SteppedFile:
    """A file opened for writing."""

    def __init__(self, file: Any, step: Callable[[str], object]):
        self.__dict__.update(_file=file, _step=step)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._file, name, value)

    def close(self) -> None:
        self._step("close")
        self._file.close()


class SteppedProcess:
    """``work`` in a forked process, which gets the signal ``stop`` before operation number ``stop_before``.

    A heartbeat is sent every ``heartbeat_s``: not so often that a server has nothing else to do.
    """

    def __init__(
        self,
        work: Callable[[], object],
        log: Path,
        heartbeat_s: float,
        stop_before: int | None = None,
        stop: int = 0,
    ):
        self._log = log
        # Held in the child too: closed there, they would leave the epoll instance that both processes share.
        self._connections = [*S3FileSystem._cache.values(), asyn.loop[0]]
        self.pid = os.fork()
        if not self.pid:
            try:
                _work(work, log, heartbeat_s, stop_before, stop)
            finally:
                os._exit(FAILED)

    def stopped_or_exit_code(self) -> int:
        """What it does next: -SIGKILL, -SIGSTOP, or ends with an exit code."""
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        return -os.WSTOPSIG(status) if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""


def _work(work: Callable[[], object], log: Path, heartbeat_s: float, stop_before: int | None, stop: int) -> None:
    number = -1
    steps: list[str] = []

    def step(name: str) -> None:
        nonlocal number
        if threading.current_thread() is not threading.main_thread():
            return
        number += 1
        steps.append(name)
        if number == stop_before:
            log.write_text(f"stopped before step {number}: {' '.join(steps)}\n")
            os.kill(os.getpid(), stop)

    def stepped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def stepped_call(*values: Any, **options: Any) -> Any:
            step(name)
            return call(*values, **options)

        return stepped_call

    signal.signal(signal.SIGINT, signal.default_int_handler)
    lease.HEARTBEAT_SECONDS, lease.WATCH_SECONDS = heartbeat_s, 6 * heartbeat_s
    patch, filesystem = pytest.MonkeyPatch(), storage._filesystem
    patch.setattr(storage, "_filesystem", lambda uri: SteppedFiles(filesystem(uri), step))
    for name in ("replace", "link", "remove", "rmdir"):
        patch.setattr(os, name, stepped(f"os.{name}", getattr(os, name)))
    try:
        work()
        os._exit(FINISHED)
    except BaseException as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the heartbeat's thread interrupts a fenced run
        with log.open("a") as file:
            traceback.print_exc(file=file)
        os._exit(FENCED if isinstance(error, OutputError | KeyboardInterrupt) else FAILED)
