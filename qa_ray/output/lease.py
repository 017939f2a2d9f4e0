"""A lease on an output folder: at most one live run writes to it.

    OUTPUT/_run/leases/000001.json         the holder: a token, the host, the machine, the process id
    OUTPUT/_run/leases/000001.heartbeat    rewritten every HEARTBEAT_SECONDS while the holder lives

A run acquires the lease by creating the file of the next number with a write that fails if the file exists (O_EXCL on a
disk, If-None-Match on S3). The highest number holds the output; a run that holds a lower number is fenced: ``check``
raises, and the run is interrupted. A run is presumed dead if its process id is gone on this machine, or if its
heartbeat has not changed for WATCH_SECONDS on the observer's clock; the clocks of two hosts are never compared.
"""

import itertools
import json
import os
import posixpath
import signal
import socket
import sys
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem

from qa_ray.errors import OutputError
from qa_ray.io.storage import create_text, join, list_names, open_filesystem, read_text, remove_file, write_text
from qa_ray.log import LOG

BOOT_ID, PID_NAMESPACE = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
HEARTBEAT_SECONDS = 5.0
WATCH_SECONDS = 20.0


@dataclass(frozen=True)
class LeaseHolder:
    """The run that holds a lease."""

    token: str
    host: str
    machine: str  # where the process id means something; two hosts may have one name
    pid: int

    def is_gone(self) -> bool:
        """Whether its process has certainly ended; False if this machine cannot know."""
        if (self.host, self.machine) != (socket.gethostname(), _this_machine()):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lease:
    """The exclusive right to write to one output folder, held until released.

    Raises:
        OutputError: a live run holds it.
    """

    def __init__(self, output: str):
        self.folder = join(output, "_run", "leases")
        self.holder = LeaseHolder(uuid.uuid4().hex, socket.gethostname(), _this_machine(), os.getpid())
        self.fenced = False
        self._output = output
        self._released = threading.Event()
        self._number = self._acquire()
        self._heartbeat_thread = threading.Thread(target=self._send_heartbeats, daemon=True)
        self._heartbeat_thread.start()

    @property
    def released(self) -> bool:
        """Whether it is not held any more, by its own will."""
        return self._released.is_set()

    def release(self) -> None:
        """Lets another run acquire the output."""
        self._stop_heartbeat()
        with suppress(Exception):  # a later run detects that this one is gone
            if self._is_held():
                remove_file(self._path("heartbeat"))
                remove_file(self._path("json"))

    def remove(self) -> None:
        """Removes the files of all leases of the output, which dead runs left; its own last.

        Raises:
            OutputError: another run has acquired the output since.
        """
        self._stop_heartbeat()
        self.check()
        filesystem, folder = open_filesystem(self.folder)
        own_name = posixpath.basename(self._path("json"))
        with suppress(FileNotFoundError):  # another run did the same
            names = [posixpath.basename(str(path)) for path in filesystem.ls(folder, detail=False)]
            for name in sorted(names, key=own_name.__eq__):
                remove_file(posixpath.join(self.folder, name))

    def check(self) -> None:
        """Raises an OutputError if another run has acquired the output since."""
        if self.fenced or not self._is_held():
            self.fenced = True
            raise OutputError(
                f"output: {self._output!r} was taken over by another run, because this run's heartbeat did not change "
                f"for {WATCH_SECONDS:.0f} s; let the other run finish"
            )

    def _stop_heartbeat(self) -> None:
        self._released.set()
        self._heartbeat_thread.join(timeout=2 * HEARTBEAT_SECONDS)

    def _acquire(self) -> int:
        while True:
            newest = self._newest()
            if newest and not self._is_presumed_dead(newest):
                continue  # it was released, or the next number was created, while we watched
            if create_text(self._path("json", newest + 1), json.dumps(vars(self.holder))):
                return newest + 1

    def _is_presumed_dead(self, number: int) -> bool:
        """Whether the holder of this lease is presumed dead; False if the lease is gone.

        Raises:
            OutputError: the holder is alive.
        """
        holder, heartbeat = self._read_holder(number), self._read_heartbeat(number)
        if holder and holder.is_gone():
            return True
        LOG.warning("waiting for a heartbeat from the run that holds the output (%s)", holder or "process unknown")
        deadline = time.monotonic() + WATCH_SECONDS
        while time.monotonic() < deadline:
            time.sleep(min(0.2, HEARTBEAT_SECONDS))
            if self._newest() != number or read_text(self._path("json", number)) is None:
                return False
            if self._read_heartbeat(number) != heartbeat:
                raise OutputError(
                    f"output: {self._output!r} is being written by a live run ({holder or 'process unknown'}); "
                    "wait for it, or give another folder with output=…"
                )
        return True

    def _send_heartbeats(self) -> None:
        for count in itertools.count():
            # Whatever a storage raises, a missed heartbeat is no reason to stop, nor is a failed look at the lease a
            # reason to miss one.
            with suppress(Exception):
                if not self._is_held():
                    if not self.fenced:
                        self._interrupt()
                    return
            with suppress(Exception):
                write_text(self._path("heartbeat"), f"{self.holder.token} {count}")
            if self._released.wait(HEARTBEAT_SECONDS):
                return

    def _interrupt(self) -> None:
        """Interrupts the main thread, whose run was fenced."""
        self.fenced = True
        # A process that a script started in the background ignores SIGINT.
        ignores_sigint = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        number = signal.SIGTERM if ignores_sigint else signal.SIGINT
        signal.pthread_kill(threading.main_thread().ident or 0, number)

    def _is_held(self) -> bool:
        """Whether no other run has acquired the output; its lease may have the same number, but not the same token."""
        if self._newest() != self._number:
            return False
        holder = self._read_holder(self._number)
        return holder is not None and holder.token == self.holder.token

    def _newest(self) -> int:
        """The highest lease number; 0 if there is none."""
        numbers = [name.removesuffix(".json") for name in list_names(self.folder) if name.endswith(".json")]
        return max(map(int, numbers), default=0)

    def _read_holder(self, number: int) -> LeaseHolder | None:
        try:
            fields: Any = json.loads(read_text(self._path("json", number)) or "")
            return LeaseHolder(**fields)
        except (ValueError, TypeError):  # the file is being written, or its writer was killed midway
            return None

    def _read_heartbeat(self, number: int) -> str | None:
        return read_text(self._path("heartbeat", number))

    def _path(self, suffix: str, number: int | None = None) -> str:
        return posixpath.join(self.folder, f"{self._number if number is None else number:06}.{suffix}")


@cache
def _this_machine() -> str:
    """An id of this boot of this kernel and of the PID namespace: there, a process id names one process at a time.

    On macOS, which has neither, the hardware address. Where nothing is known, an id of this process, which is like no
    other's: then heartbeats alone decide.
    """
    with suppress(OSError):
        return f"{BOOT_ID.read_text(encoding='ascii').strip()} {os.readlink(PID_NAMESPACE)}"
    return f"{uuid.getnode():012x}" if sys.platform == "darwin" else uuid.uuid4().hex


def is_exclusive(output: str) -> bool:
    """Whether the storage of the output folder ``output`` creates files exclusively, on which leases and commits rely.

    Some servers that speak the protocol of S3 do not: they ignore If-None-Match, which this tries with a file. Nor does
    fsspec's generic implementation, which looks for the file and then writes it: two writers may look at once.
    """
    filesystem, _ = open_filesystem(output)
    if getattr(filesystem.pipe_file, "__func__", None) is AbstractFileSystem.pipe_file:
        return False
    probe = join(output, "_run", f"probe-{uuid.uuid4().hex}")
    try:
        return create_text(probe, "first") and not create_text(probe, "second") and read_text(probe) == "first"
    finally:
        remove_file(probe)
