"""A filter of Swift's proxy: conditional writes as AWS does them, atomic, and with a 412 that names the condition."""

from collections import defaultdict

CONDITION = b"<Condition>If-None-Match</Condition></Error>"


class LikeAws:
    def __init__(self, app):
        # Installed in Swift's environment, not in that of the tests.
        from eventlet.semaphore import Semaphore  # pyright: ignore[reportMissingImports]

        self._app = app
        self._locks = defaultdict(Semaphore)

    def __call__(self, environ, start_response):
        if environ["REQUEST_METHOD"] != "PUT" or "HTTP_IF_NONE_MATCH" not in environ:
            return self._app(environ, start_response)
        replies = []
        with self._locks[environ["PATH_INFO"]]:
            body = b"".join(self._app(environ, lambda *status_and_headers: replies.append(status_and_headers)))
        status, headers, *_ = replies[-1]
        if status.startswith("412"):
            body = body.replace(b"</Error>", CONDITION)
            headers = [header for header in headers if header[0].lower() != "content-length"]
            headers.append(("Content-Length", str(len(body))))
        start_response(status, headers)
        return [body]


def filter_factory(global_conf, **local_conf):
    return LikeAws
