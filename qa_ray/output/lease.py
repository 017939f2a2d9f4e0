"""One live run to an output: a claim that only one can create, a sign of life while it runs, and taking over.

    OUTPUT/_run/leases/000001.json    who wrote it: a token, the machine, the process
    OUTPUT/_run/leases/000001.beat    rewritten every BEAT_SECONDS while the run lives

A claim is created by a write that fails if the file is there (O_EXCL on a disk, If-None-Match on S3); a dead run's is
taken over by creating the next number. The highest number holds the output. Dead is a process that is gone from this
very machine, or one whose beat stands still for WATCH_SECONDS of our own clock: two clocks are never compared.
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
    """Who holds an output."""

    token: str
    machine: str
    process: int

    def is_gone(self) -> bool:
        """Whether it certainly lives no more; False if that cannot be told from here."""
        if self.machine != _machine():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False


class Lease:
    """The right to write to one output, held until released.

    Raises:
        OutputError: a live run holds it.
    """

    def __init__(self, output: str):
        self.folder = join(output, "_run", "leases")
        self.owner = LeaseHolder(uuid.uuid4().hex, _machine(), os.getpid())
        self.lost = False
        self._output = output
        self._ended = threading.Event()
        self._number = self._take()
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._beats.start()

    def release(self) -> None:
        """Lets another run have the output."""
        self._ended.set()
        self._beats.join(timeout=2 * HEARTBEAT_SECONDS)
        if not self.lost:
            with suppress(OutputError):  # a later run finds that this one is gone
                remove_file(self._path("beat"))
                remove_file(self._path("json"))

    def check(self) -> None:
        """Raises an OutputError if another run has taken over."""
        if self.lost or self._newest() != self._number:
            self.lost = True
            raise OutputError(
                f"output: {self._output!r} was taken over by another run, because this one gave no sign of life for "
                f"{WATCH_SECONDS:.0f} s; let that one finish"
            )

    def _take(self) -> int:
        while True:
            newest = self._newest()
            if newest and not self._is_dead(newest):
                continue  # it was released, or the next one was created, while we watched
            if create_text(self._path("json", newest + 1), json.dumps(vars(self.owner))):
                return newest + 1

    def _is_dead(self, number: int) -> bool:
        """Whether the run of this claim is dead; False if the claim is gone. A live one is an OutputError."""
        owner, beat = self._owner(number), self._last_beat(number)
        if owner and owner.is_gone():
            return True
        who = f"process {owner.process} on {owner.machine.split('/')[0]}" if owner else "process unknown"
        LOG.warning("waiting for a sign of life from the run that holds the output (%s)", who)
        deadline = time.monotonic() + WATCH_SECONDS
        while time.monotonic() < deadline:
            time.sleep(min(0.2, HEARTBEAT_SECONDS))
            if self._newest() != number or read_text(self._path("json", number)) is None:
                return False
            if self._last_beat(number) != beat:
                raise OutputError(
                    f"output: {self._output!r} is being written by a live run ({who}); "
                    "wait for it, or give another folder with output=…"
                )
        return True

    def _beat(self) -> None:
        for beat in itertools.count():
            with suppress(OutputError):  # no sign of life is no reason to end
                write_text(self._path("beat"), f"{self.owner.token} {beat}")
            if self._ended.wait(HEARTBEAT_SECONDS):
                return
            with suppress(OSError):
                if self._newest() != self._number:
                    self.lost = True
                    # What a script starts in the background ignores Ctrl-C.
                    is_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
                    number = signal.SIGTERM if is_ignored else signal.SIGINT
                    signal.pthread_kill(threading.main_thread().ident or 0, number)
                    return

    def _newest(self) -> int:
        """The highest number claimed; 0 if there is none."""
        numbers = [name.removesuffix(".json") for name in list_names(self.folder) if name.endswith(".json")]
        return max(map(int, numbers), default=0)

    def _owner(self, number: int) -> LeaseHolder | None:
        try:
            fields: Any = json.loads(read_text(self._path("json", number)) or "")
            return LeaseHolder(**fields)
        except (ValueError, TypeError):  # it is being written, or was not written to its end
            return None

    def _last_beat(self, number: int) -> str | None:
        return read_text(self._path("beat", number))

    def _path(self, kind: str, number: int | None = None) -> str:
        return posixpath.join(self.folder, f"{self._number if number is None else number:06}.{kind}")


def _machine() -> str:
    """The machine, or container, that we are on: its name, and what tells it from others of that name."""
    with suppress(OSError):
        return f"{socket.gethostname()}/{os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()
