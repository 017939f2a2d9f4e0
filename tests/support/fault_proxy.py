"""A proxy in front of an S3 server that injects the faults of networks and busy servers."""

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
REPLIES = {
    "slow down": (503, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"),
    "deny": (403, b"<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>"),
}


class FaultProxy:
    """Forwards to ``port``; ``choose(method, path, headers)`` returns the fault of a request, or None.

    ``slow down``: 503, not forwarded. ``deny``: 403, not forwarded. ``reset``: the connection is reset, not forwarded.
    ``cut``: it is reset in the middle of the request's body, or of the reply's if the request has none. ``lose reply``:
    forwarded, then reset before the reply.
    """

    def __init__(self, port: int):
        self.choose: Callable[[str, str, Message], Fault | None] = lambda method, path, headers: None
        self.done: Counter[str] = Counter()  # the number of each fault
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
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
                if fault in REPLIES:
                    status, content = REPLIES[fault]
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
                except (OSError, http.client.HTTPException):  # the server was killed
                    self.reset()
                    return
                finally:
                    upstream.close()
                if fault == "lose reply":
                    self.reset()
                    return
                hop_by_hop = ("connection", "transfer-encoding", "content-length", "date", "server")
                headers = [(name, value) for name, value in response.getheaders() if name.lower() not in hop_by_hop]
                if self.command == "HEAD":
                    headers.append(("Content-Length", response.getheader("Content-Length", "0")))
                self.reply(response.status, headers, content, cut=fault == "cut")

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

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
        """From now on each fault hits this share of the requests, as in ``slow_down=0.05``."""
        draw = random.Random(seed)
        shares: dict[Fault, float] = {
            "slow down": share.get("slow_down", 0),
            "reset": share.get("reset", 0),
            "cut": share.get("cut", 0),
        }

        def choose(method: str, path: str, headers: Message) -> Fault | None:
            remainder = draw.random()
            for fault, fault_share in shares.items():
                if (remainder := remainder - fault_share) < 0:
                    return fault
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
