"""WSGI (PEP 3333): an app(environ, start_response) on the worker threads."""

import io
import sys

from .apps import Function
from urllib.parse import unquote_to_bytes


class BodyFile(io.RawIOBase):
    """A streamed body as wsgi.input."""

    def __init__(self, request):
        self._chunks = iter(request)
        self._rest = b""

    def readable(self):
        return True

    def readinto(self, buffer):
        if not self._rest:
            self._rest = next(self._chunks, b"")
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def environ(request):
    """The environment of one request."""
    path = request.target.partition("?")[0]
    host, _, port = request.headers.get("host", "localhost").partition(":")
    env = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": request.query_string,
        "SERVER_NAME": host,
        "SERVER_PORT": port or "80",
        "SERVER_PROTOCOL": request.version,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": request.headers.get("x-forwarded-proto", "http"),
        "wsgi.input": io.BufferedReader(BodyFile(request)),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in request.headers.items():
        if name == "content-type":
            env["CONTENT_TYPE"] = value
        elif name == "content-length":
            env["CONTENT_LENGTH"] = value
        elif "_" not in name:
            env["HTTP_" + name.upper().replace("-", "_")] = value
    return env


class App(Function):
    def __init__(self, server, app):
        super().__init__(server, app)
        self.streams = True

    def _work(self, connection, request):
        answer = {}

        def start_response(status, headers, exc_info=None):
            try:
                if exc_info and answer.get("sent"):
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
            answer["head"] = (int(status.split(" ", 1)[0]), headers)
            return write

        def write(data):
            if not answer.get("sent"):
                answer["sent"] = True
                self._call(connection.start, *answer["head"])
            if data:
                self._send(connection, data)

        result = None
        try:
            result = self._function(environ(request), start_response)
            if isinstance(result, (list, tuple)) and not answer.get("sent"):
                status, headers = answer["head"]
                self._respond(connection, request, status, headers, b"".join(result))
                return
            for data in result:
                if connection.lost:
                    return
                if data:
                    write(data)
            write(b"")
            self._loop.call_soon_threadsafe(connection.finish)
        except BaseException as error:
            self._loop.call_soon_threadsafe(self._server.failed, connection, request, error)
        finally:
            if hasattr(result, "close"):
                result.close()
