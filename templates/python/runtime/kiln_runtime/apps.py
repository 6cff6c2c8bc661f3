"""From a module to something that answers requests."""

import asyncio
import importlib
import importlib.util
import inspect
import json
import os
import site
import sys
import types

CODE = "/function"
DEPENDENCIES = ".deps"  # below the code
DEFAULT_FILE = "handler.py"
DEFAULT_NAMES = ("handle", "app", "application")


class HandlerError(Exception):
    """The handler is missing or is not something that can be called."""


async def load(server, code):
    """Imports the function whose files are at code and returns its app."""
    if not os.path.isdir(code):
        raise HandlerError(f"{code} does not exist")
    sys.path.insert(0, code)
    dependencies = os.path.join(code, DEPENDENCIES)
    if os.path.isdir(dependencies):
        site.addsitedir(dependencies)
        # Installed versions win over those of the interpreter's own folders.
        sys.path.remove(dependencies)
        sys.path.insert(1, dependencies)
    importlib.invalidate_caches()
    file, _, name = (os.environ.get("KILN_HANDLER") or DEFAULT_FILE).partition(":")
    module = import_file(code, file or DEFAULT_FILE)
    app = adapt(server, module, name)
    await app.open()
    return app


def import_file(code, file):
    """Imports a file of the function under its usual module name."""
    path = os.path.normpath(os.path.join(code, file))
    if os.path.isdir(path):
        path = os.path.join(path, "__init__.py")
    if not os.path.isfile(path):
        raise HandlerError(f"the handler {file} does not exist")
    parts = os.path.relpath(path, code)[:-len(".py")].split(os.sep)
    if parts[-1] == "__init__":
        parts.pop()
    return importlib.import_module(".".join(parts))


def adapt(server, module, name):
    from . import asgi, wsgi

    for candidate in (name,) if name else DEFAULT_NAMES:
        target = getattr(module, candidate, None)
        if target is None:
            continue
        if not callable(target):
            raise HandlerError(f"{module.__name__}.{candidate} cannot be called")
        arguments = positional(target)
        if candidate == "handle" or arguments == 1:
            if is_async(target):
                return AsyncFunction(server, target)
            return Function(server, target)
        if is_async(target) or arguments == 3:
            return asgi.App(server, target)
        return wsgi.App(server, target)
    wanted = name or " or ".join(DEFAULT_NAMES[:2])
    raise HandlerError(f"{module.__name__} has no {wanted}: define handle(request), or a WSGI or ASGI app")


def is_async(target):
    return any(inspect.iscoroutinefunction(f) or inspect.isasyncgenfunction(f)
               for f in (target, getattr(target, "__call__", None)))


def positional(target):
    """How many arguments a callable takes by position; 0 when it does not say."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return 0
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(1 for p in parameters if p.kind in kinds and (p.default is p.empty))


TEXT = ("content-type", "text/plain; charset=utf-8")
BINARY = ("content-type", "application/octet-stream")
JSON = ("content-type", "application/json")


def encode(value):
    """A handler's value as (content type field or None, bytes); generators are
    not for here."""
    if isinstance(value, str):
        return TEXT, value.encode()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return BINARY, bytes(value)
    return JSON, json.dumps(value, ensure_ascii=False).encode()


def split(result):
    """Splits what a handler returned into body, status and header fields."""
    status, headers = None, []
    if isinstance(result, tuple):
        if not 1 <= len(result) <= 3:
            raise TypeError("a handler's tuple is (body, status) or (body, status, headers)")
        body = result[0]
        status = result[1] if len(result) > 1 else None
        if len(result) == 3 and result[2]:
            given = result[2]
            headers = list(given.items() if hasattr(given, "items") else given)
        result = body
    if status is not None and not 200 <= int(status) <= 599:
        raise ValueError(f"{status} is not a status that a handler can return")
    if status is None:
        status = 204 if result is None else 200
    return result, int(status), headers


def complete(result):
    """A handler's result, no generator, as (status, fields, body)."""
    value, status, headers = split(result)
    if value is None:
        return status, headers, b""
    content_type, body = encode(value)
    return status, with_type(headers, content_type), body


def with_type(headers, content_type):
    if any(str(name).lower() == "content-type" for name, _ in headers):
        return headers
    return [*headers, content_type]


class App:
    """What requests are handed to. handle is called on the loop's thread."""

    streams = False

    async def open(self):
        """Runs before the first request."""

    async def close(self):
        """Runs after the last."""


class Function(App):
    """A sync handler, run on the worker threads."""

    def __init__(self, server, function):
        self._server = server
        self._loop = server.loop
        self._function = function
        self.streams = bool(getattr(function, "stream", False))

    def handle(self, connection, request):
        self._server.workers.submit(self._work, connection, request)

    def _work(self, connection, request):
        try:
            result = self._function(request)
            if inspect.iscoroutine(result):  # an async function in disguise
                result = asyncio.run_coroutine_threadsafe(result, self._loop).result()
            body = result[0] if isinstance(result, tuple) and result else result
            if isinstance(body, types.AsyncGeneratorType):
                asyncio.run_coroutine_threadsafe(send_stream(connection, request, result), self._loop).result()
            elif hasattr(body, "__next__"):
                self._stream(connection, request, result, body)
            else:
                self._respond(connection, request, *complete(result))
        except BaseException as error:
            self._loop.call_soon_threadsafe(self._server.failed, connection, request, error)

    def _respond(self, connection, request, status, headers, body):
        if connection.respond_from_worker(request, status, headers, body):
            return

        def send():
            try:
                connection.respond(status, headers, body)
            except Exception as error:  # a header that is not allowed
                self._server.failed(connection, request, error)
        self._loop.call_soon_threadsafe(send)

    def _stream(self, connection, request, result, iterator):
        # The first chunk decides the content type, and an error before it is
        # still a 500.
        first = next(iterator, None)
        _, status, headers = split(result)
        content_type, chunk = encode(b"" if first is None else first)
        self._call(connection.start, status, with_type(headers, content_type))
        try:
            while True:
                self._send(connection, chunk)
                if connection.lost:
                    return
                following = next(iterator, None)
                if following is None:
                    break
                chunk = encode(following)[1]
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
        self._loop.call_soon_threadsafe(connection.finish)

    def _send(self, connection, data):
        """Writes a part of a started response; waits while the client is slow."""
        self._call(connection.write, data)
        if not connection.writable.is_set():
            asyncio.run_coroutine_threadsafe(connection.writable.wait(), self._loop).result()

    def _call(self, method, *args):
        """Runs a method on the loop's thread and waits, so that its error is seen
        here and a slow client slows the handler."""
        async def call():
            method(*args)
        asyncio.run_coroutine_threadsafe(call(), self._loop).result()


class AsyncFunction(App):
    """An async handler, run on the event loop."""

    def __init__(self, server, function):
        self._server = server
        self._function = function
        self._tasks = set()
        self.streams = bool(getattr(function, "stream", False))

    def handle(self, connection, request):
        task = self._server.loop.create_task(self._work(connection, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        connection.on_lost = task.cancel

    async def _work(self, connection, request):
        try:
            result = self._function(request)
            if inspect.isawaitable(result):
                result = await result
            body = result[0] if isinstance(result, tuple) and result else result
            if hasattr(body, "__anext__") or hasattr(body, "__next__"):
                await send_stream(connection, request, result)
            else:
                connection.respond(*complete(result))
        except asyncio.CancelledError:
            if not connection.lost:
                self._server.failed(connection, request, RuntimeError("the handler was cancelled"))
        except BaseException as error:
            self._server.failed(connection, request, error)


async def send_stream(connection, request, result):
    """Sends a result whose body is an (async) iterator."""
    iterator, status, headers = split(result)
    if not hasattr(iterator, "__anext__"):
        iterator = as_async(iterator)
    try:
        first = await anext(iterator, None)
        content_type, chunk = encode(b"" if first is None else first)
        connection.start(status, with_type(headers, content_type))
        while chunk is not None and not connection.lost:
            connection.write(chunk)
            await connection.writable.wait()
            following = await anext(iterator, None)
            chunk = None if following is None else encode(following)[1]
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()
    connection.finish()


async def as_async(iterator):
    for item in iterator:
        yield item
