"""A lease on an output folder: at most one live run writes to it.

    OUTPUT/_run/leases/000001.json         the holder: a token, the host, the process id
    OUTPUT/_run/leases/000001.heartbeat    rewritten every HEARTBEAT_SECONDS while the holder lives

A run acquires the lease by creating the file of the next number with a write that fails if the file exists (O_EXCL on a
disk, If-None-Match on S3). The highest number holds the output; a run that holds a lower number is fenced: ``check``
raises, and the run is interrupted. A run is presumed dead if its process id is gone on this host, or if its heartbeat
has not changed for WATCH_SECONDS on the observer's clock; the clocks of two hosts are never compared.
"""

import itertools
import json
import os
import posixpath
import signal
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from qa_ray.errors import OutputError
from qa_ray.io.storage import create_text, join, list_names, read_text, remove_file, write_text
from qa_ray.log import LOG

HEARTBEAT_SECONDS = 5.0
WATCH_SECONDS = 20.0


@dataclass(frozen=True)
class LeaseHolder:
    """The run that holds a lease."""

    token: str
    host: str
    pid: int

    def is_gone(self) -> bool:
        """Whether its process has certainly ended; False if this host cannot know."""
        if self.host != _this_host():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host.split('/')[0]}"


class Lease:
    """The exclusive right to write to one output folder, held until released.

    Raises:
        OutputError: a live run holds it.
    """

    def __init__(self, output: str):
        self.folder = join(output, "_run", "leases")
        self.holder = LeaseHolder(uuid.uuid4().hex, _this_host(), os.getpid())
        self.fenced = False
        self._output = output
        self._released = threading.Event()
        self._number = self._acquire()
        self._heartbeat_thread = threading.Thread(target=self._send_heartbeats, daemon=True)
        self._heartbeat_thread.start()

    def release(self) -> None:
        """Lets another run acquire the output."""
        self._released.set()
        self._heartbeat_thread.join(timeout=2 * HEARTBEAT_SECONDS)
        if not self.fenced:
            with suppress(OutputError):  # a later run detects that this one is gone
                remove_file(self._path("heartbeat"))
                remove_file(self._path("json"))

    def check(self) -> None:
        """Raises an OutputError if another run has acquired the output since."""
        if self.fenced or self._newest() != self._number:
            self.fenced = True
            raise OutputError(
                f"output: {self._output!r} was taken over by another run, because this run's heartbeat did not change "
                f"for {WATCH_SECONDS:.0f} s; let the other run finish"
            )

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
            with suppress(OutputError):  # a missed heartbeat is no reason to stop
                write_text(self._path("heartbeat"), f"{self.holder.token} {count}")
            if self._released.wait(HEARTBEAT_SECONDS):
                return
            with suppress(OSError):
                if self._newest() != self._number:
                    self.fenced = True
                    # A process that a script started in the background ignores SIGINT.
                    ignores_sigint = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
                    number = signal.SIGTERM if ignores_sigint else signal.SIGINT
                    signal.pthread_kill(threading.main_thread().ident or 0, number)
                    return

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


def _this_host() -> str:
    """The host name, with the PID namespace where there is one, which tells containers of the same name apart."""
    with suppress(OSError):
        return f"{socket.gethostname()}/{os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()
