"""ASGI 3: http and lifespan on the event loop; websocket.py has the rest."""

import asyncio
from urllib.parse import unquote

from . import apps, websocket
from .request import ClientDisconnected

VERSIONS = {"version": "3.0", "spec_version": "2.3"}


class App(apps.App):
    streams = True

    def __init__(self, server, app):
        self._server = server
        self._app = app
        self._tasks = set()
        self._lifespan = None
        self._state = {}

    async def open(self):
        self._lifespan = Lifespan(self._app, self._state)
        await self._lifespan.startup()

    async def close(self):
        await self._lifespan.shutdown()

    def handle(self, connection, request):
        if websocket.wanted(request):
            work = websocket.run(self._server, self._app, self.scope(request, "websocket"), connection, request)
        else:
            work = self._http(connection, request)
        task = self._server.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def scope(self, request, kind):
        path = request.target.partition("?")[0]
        peer = request.client
        return {
            "type": kind, "asgi": VERSIONS, "http_version": request.version[5:], "method": request.method,
            "scheme": {"http": "http", "websocket": "ws"}[kind], "path": unquote(path),
            "raw_path": path.encode("latin-1"), "query_string": request.query_string.encode("latin-1"),
            "root_path": "", "headers": list(request.raw_headers), "client": peer, "server": None,
            "state": self._state.copy(),
        }

    async def _http(self, connection, request):
        exchange = Exchange(self._server.loop, connection, request)
        try:
            await self._app(self.scope(request, "http"), exchange.receive, exchange.send)
            if not exchange.complete and not connection.lost:
                raise RuntimeError("the app ended without a complete response")
        except Exception as error:
            if not connection.lost:
                self._server.failed(connection, request, error)


class Exchange:
    """One request and its response."""

    def __init__(self, loop, connection, request):
        self._connection = connection
        self._request = request
        self._chunks = request.__aiter__()
        self._read = False
        self._start = None
        self._sent = False
        self.complete = False
        self._over = loop.create_future()
        connection.on_lost = self._end

    def _end(self):
        if not self._over.done():
            self._over.set_result(None)

    async def receive(self):
        if not self._read:
            try:
                chunk = await anext(self._chunks, b"")
            except ClientDisconnected:
                return {"type": "http.disconnect"}
            self._read = not chunk or self._request._stream is None
            return {"type": "http.request", "body": chunk, "more_body": not self._read}
        await asyncio.shield(self._over)
        return {"type": "http.disconnect"}

    async def send(self, message):
        kind = message["type"]
        if kind == "http.response.start":
            if self._start is not None:
                raise RuntimeError("http.response.start was sent before")
            self._start = (message["status"], list(message.get("headers", ())))
            return
        if kind != "http.response.body" or self._start is None or self.complete:
            raise RuntimeError(f"{kind} is not allowed now")
        body, more = bytes(message.get("body", b"")), message.get("more_body", False)
        connection = self._connection
        if connection.lost:
            return
        if not self._sent and not more:
            self.complete = True
            status, headers = self._start
            head_length = self._request.method == "HEAD" and not body
            if head_length:  # the app's own Content-Length stands
                connection.start(status, headers)
                connection.finish()
            else:
                connection.respond(status, headers, body)
            self._end()
            return
        if not self._sent:
            self._sent = True
            connection.start(*self._start)
        connection.write(body)
        if more:
            await connection.writable.wait()
            return
        self.complete = True
        connection.finish()
        self._end()


class Lifespan:
    """The lifespan protocol; apps that do not know it are left alone."""

    def __init__(self, app, state):
        self._app = app
        self._state = state
        self._events = asyncio.Queue()
        self._started = asyncio.get_running_loop().create_future()
        self._stopped = asyncio.get_running_loop().create_future()
        self._task = None
        self._supported = False

    async def startup(self):
        self._task = asyncio.create_task(self._run())
        self._events.put_nowait({"type": "lifespan.startup"})
        await self._started

    async def shutdown(self):
        if not self._supported or self._task.done():
            return
        self._events.put_nowait({"type": "lifespan.shutdown"})
        await self._stopped

    async def _run(self):
        scope = {"type": "lifespan", "asgi": VERSIONS, "state": self._state}
        try:
            await self._app(scope, self._events.get, self._send)
        except Exception:
            # Raising instead of answering is how an app says it has no lifespan.
            pass
        for future in (self._started, self._stopped):
            if not future.done():
                future.set_result(None)

    async def _send(self, message):
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            self._supported = True
            self._started.set_result(None)
        elif kind == "lifespan.startup.failed":
            self._started.set_exception(apps.HandlerError("startup failed: " + message.get("message", "")))
        elif kind.startswith("lifespan.shutdown.") and not self._stopped.done():
            self._stopped.set_result(None)
