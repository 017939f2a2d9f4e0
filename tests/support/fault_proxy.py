"""A proxy before an S3 server that does to requests what networks and busy servers do."""

import http.client
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Fault = Literal["slow down", "deny", "reset", "cut", "lose reply"]
ANSWERS = {
    "slow down": (503, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"),
    "deny": (403, b"<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>"),
}


class FaultProxy:
    """Relays to ``port``; ``choose(method, path, headers)`` says what goes wrong with a request, or None.

    ``slow down``: 503, nothing done. ``deny``: 403, nothing done. ``reset``: the connection is reset, nothing done.
    ``cut``: it is reset in the middle of the body, which is the request's if it has one. ``lose reply``: done, then
    reset before the reply.
    """

    def __init__(self, port: int):
        self.choose: Callable[[str, str, Message], Fault | None] = lambda method, path, headers: None
        self.done: Counter[str] = Counter()  # faults, by kind
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def relay(self) -> None:
                fault = proxy.choose(self.command, self.path, self.headers)
                if fault:
                    proxy.done[fault] += 1
                length = int(self.headers.get("Content-Length", 0))
                if fault == "reset" or (fault == "cut" and length):
                    self.rfile.read(length // 2)
                    self.reset()
                    return
                is_chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
                body = self.chunks() if is_chunked else self.rfile.read(length)
                if fault in ANSWERS:
                    status, content = ANSWERS[fault]
                    self.reply(status, [("Content-Type", "application/xml")], content)
                    return
                upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
                try:
                    upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in self.headers.items():
                        if name.lower() not in ("expect", "connection", "transfer-encoding"):
                            upstream.putheader(name, value)
                    upstream.endheaders(body)
                    response = upstream.getresponse()
                    content = response.read()
                except (OSError, http.client.HTTPException):  # the server is gone
                    self.reset()
                    return
                finally:
                    upstream.close()
                if fault == "lose reply":
                    self.reset()
                    return
                hop = ("connection", "transfer-encoding", "content-length", "date", "server")
                headers = [(name, value) for name, value in response.getheaders() if name.lower() not in hop]
                if self.command == "HEAD":
                    headers.append(("Content-Length", response.getheader("Content-Length", "0")))
                self.reply(response.status, headers, content, cut=fault == "cut")

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = relay

            def reply(self, status: int, headers: list, content: bytes, *, cut: bool = False) -> None:
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                if self.command != "HEAD":
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content[: len(content) // 2] if cut else content)
                if cut:
                    self.wfile.flush()
                    self.reset()

            def chunks(self) -> bytes:
                body = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def reset(self) -> None:
                self.close_connection = True
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

            def finish(self) -> None:
                with suppress(OSError):  # it was reset
                    super().finish()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def at_random(self, seed: int = 0, **share: float) -> None:
        """From now on this share of requests each; ``slow_down=0.05``."""
        draw = random.Random(seed)
        kinds: dict[Fault, float] = {
            "slow down": share.get("slow_down", 0),
            "reset": share.get("reset", 0),
            "cut": share.get("cut", 0),
        }

        def choose(method: str, path: str, headers: Message) -> Fault | None:
            left = draw.random()
            for kind, part in kinds.items():
                if (left := left - part) < 0:
                    return kind
            return None

        self.choose = choose

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def fault_proxy(port: int) -> Iterator[FaultProxy]:
    proxy = FaultProxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
