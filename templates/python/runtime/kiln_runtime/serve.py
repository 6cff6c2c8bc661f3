"""The server around a function: listening, readiness, loading, ending."""

import asyncio
import collections
import gc
import hmac
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback

from . import apps, cell
from .http1 import Connection

BACKLOG = 1024
DEFAULT_CONCURRENCY = 16
TOKEN_FIELD = "kiln-instance-token"


# Jobs that take less than this on average are run one after the other by one
# thread: switching threads costs more than they do.
SHORT = 0.0005  # seconds
# A job that waits this long behind such a thread gets another one.
PATIENCE = 0.002  # seconds
WEIGHT = 1 / 8  # of the last job in the average


class Workers:
    """A pool of threads for sync handlers, started as they are needed. submit is
    called on the loop's thread."""

    def __init__(self, loop):
        self.limit = DEFAULT_CONCURRENCY  # threads
        self._loop = loop
        self._lock = threading.Lock()  # guards all that follows but the bell
        self._jobs = collections.deque()
        self._started = 0
        self._idle = 0  # threads that wait for the bell
        self._running = {}  # since when the other threads have been at their job
        self._average = 0.0  # seconds a job takes
        self._watched = False
        self._bell = queue.SimpleQueue()

    def submit(self, job, *args):
        with self._lock:
            self._jobs.append((job, args))
            now = time.perf_counter()
            if self._average > SHORT or not any(now - began < PATIENCE for began in self._running.values()):
                return self._wake()
            watch, self._watched = not self._watched, True
        if watch:
            self._loop.call_later(PATIENCE, self._watch)

    def _watch(self):
        with self._lock:
            self._watched = False
            if self._jobs:
                # A short job would be done: these wait for something.
                self._average = max(self._average, 2 * SHORT)
                for _ in range(len(self._jobs)):
                    self._wake()

    def _wake(self):
        """Sets one more thread to work, if there may be one; lock held."""
        if self._idle:
            self._idle -= 1
            self._bell.put(None)
        elif self._started < self.limit:
            self._started += 1
            threading.Thread(target=self._run, name=f"worker-{self._started}", daemon=True).start()

    def _run(self):
        me = threading.get_ident()
        while True:
            job = None
            with self._lock:
                if self._jobs:
                    job = self._jobs.popleft()
                    self._running[me] = began = time.perf_counter()
                else:
                    self._running.pop(me, None)
                    self._idle += 1
            if job is None:
                self._bell.get()
                continue
            try:
                job[0](*job[1])
            except BaseException:  # a handler may raise SystemExit
                traceback.print_exc()
            with self._lock:
                self._average += (time.perf_counter() - began - self._average) * WEIGHT


def problem(request, status, code, detail):
    """An RFC 9457 document as (headers, body)."""
    from http import HTTPStatus

    document = {"type": "urn:kiln:error:" + code, "title": HTTPStatus(status).phrase,
                "status": status, "code": code, "detail": detail}
    request_id = request.headers.get("kiln-request-id")
    if request_id:
        document["instance"] = "urn:kiln:request:" + request_id
        document["request_id"] = request_id
    headers = [("content-type", "application/problem+json"), ("kiln-error", "function")]
    return headers, json.dumps(document).encode()


class Server:
    """Serves one function, or is a cell that waits for one."""

    def __init__(self, loop, waiting_cell, workers=None):
        self.loop = loop
        self.app = None
        self.cell = waiting_cell
        self.workers = workers or Workers(loop)
        self.connections = set()
        self.draining = False
        self._token = None  # that requests must show; None = any will do
        self._listener = None
        self._tasks = set()
        self._drained = loop.create_future()

    def load(self, code=apps.CODE):
        """Imports the handler; raises what the import raises. What is for the
        runtime alone the handler does not find in its environment."""
        token = os.environ.pop("KILN_INSTANCE_TOKEN", None)
        self._token = None if token is None else token.encode()
        self.workers.limit = max(1, int(os.environ.get("KILN_CONCURRENCY") or DEFAULT_CONCURRENCY))
        return apps.load(self, code)

    async def listen(self):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("0.0.0.0", int(os.environ.get("PORT") or 8080)))
        self._listener = await self.loop.create_server(lambda: Connection(self), sock=sock, backlog=BACKLOG)
        self.loop.add_signal_handler(signal.SIGTERM, self.drain)
        self.loop.add_signal_handler(signal.SIGINT, self.drain)

    # What connections ask.

    def streams(self, request):
        """Whether the handler gets the body while it arrives."""
        if request.target.startswith("/_kiln/"):
            return request.target == "/_kiln/load"
        if self.app is None:
            return False
        # A body that nobody will read is not waited for.
        return self.app.streams or not self._admits(request)

    def _admits(self, request):
        """Whether a request shows the instance's token."""
        if self._token is None:
            return True
        shown = request.headers.get(TOKEN_FIELD, "")
        return hmac.compare_digest(shown.encode("latin-1"), self._token)

    def dispatch(self, connection, request):
        if request.target.startswith("/_kiln/"):
            return self._control(connection, request)
        if self.app is None:
            return connection.respond(503, *problem(request, 503, "cell-empty", "no function is loaded yet"))
        if not self._admits(request):
            detail = "the call does not show this instance's token; calls come through the gateway"
            return connection.respond(403, *problem(request, 403, "instance-token", detail))
        if self._token is not None:
            request.forget(TOKEN_FIELD)
        try:
            self.app.handle(connection, request)
        except Exception as error:
            self.failed(connection, request, error)

    def refuse(self, connection, status, detail):
        connection.respond(status, *problem(connection.request, status, "request-malformed", detail))

    def failed(self, connection, request, error):
        """Reports a handler's error: the stack to stderr, a 500 to the caller, or
        a broken connection when the response has begun."""
        traceback.print_exception(error)
        if connection.lost or connection.request is not request:
            return
        if connection.responding:
            return connection.abort()
        detail = f"the handler raised {type(error).__name__}; its stack is in the function's log"
        connection.respond(500, *problem(request, 500, "handler-failed", detail))

    def _control(self, connection, request):
        path = request.target.partition("?")[0]
        if path == "/_kiln/ready":
            state = [("kiln-cell", "empty" if self.app is None else "loaded")] if self.cell else []
            return connection.respond(200, state, b"")
        if path == "/_kiln/load" and request.method == "POST":
            if self.cell is None:
                return connection.respond(409, *problem(request, 409, "not-a-cell", "this is no cell"))
            task = self.loop.create_task(self._load(connection, request))
            self._tasks.add(task)
            return task.add_done_callback(self._tasks.discard)
        connection.respond(404, *problem(request, 404, "route-unknown", f"nothing answers at {path}"))

    async def _load(self, connection, request):
        status, text = await self.cell.load(self, request)
        request.keep_alive = False
        connection.respond(status, [("content-type", "text/plain; charset=utf-8")], text.encode())

    # The end.

    def drain(self):
        """Stops listening; the process ends when the last response is sent."""
        if self.draining:
            return
        self.draining = True
        self._listener.close()
        for connection in list(self.connections):
            if connection.upgraded is not None:
                connection.upgraded.drain()
            else:
                connection.close_if_idle()
        self.connection_done()

    def connection_done(self):
        if self.draining and not self.connections and not self._drained.done():
            self._drained.set_result(None)

    async def drained(self):
        await self._drained
        if self.app is not None:
            await self.app.close()


async def run():
    loop = asyncio.get_running_loop()
    server = Server(loop, cell.waiting())
    if server.cell:
        from . import rehearsal  # which only cells need

        cell.prewarm()
        await rehearsal.rehearse(server)
    else:
        try:
            server.app = await server.load()
        except BaseException as error:
            traceback.print_exception(error)
            print("kiln: the handler could not be imported", file=sys.stderr, flush=True)
            return 1
    # What is imported by now lives as long as the process.
    gc.collect()
    gc.freeze()
    await server.listen()
    await server.drained()
    return 0


def main():
    status = asyncio.run(run())
    sys.stdout.flush()
    return status
