"""What a handler sees of a request."""

import asyncio
import collections
import json
import threading
from urllib.parse import parse_qsl, unquote

# A body that is streamed is read ahead by this much, then the client waits.
READ_AHEAD = 256 * 1024


class ClientDisconnected(ConnectionError):
    """The caller went away before the whole request was read."""


class Headers(dict):
    """Header fields by name, in any case; repeated fields joined by commas."""

    def __getitem__(self, name):
        return dict.__getitem__(self, name.lower())

    def get(self, name, default=None):
        return dict.get(self, name.lower(), default)

    def __contains__(self, name):
        return dict.__contains__(self, name.lower())


class Query(dict):
    """Parameters of the query string; the last one wins."""

    def __init__(self, text):
        self._pairs = parse_qsl(text, keep_blank_values=True)
        super().__init__(self._pairs)

    def getlist(self, name):
        """Returns every value of a parameter."""
        return [value for key, value in self._pairs if key == name]


class Request:
    """One request. The body is complete unless the handler streams it."""

    __slots__ = ("method", "target", "version", "headers", "raw_headers", "client",
                 "keep_alive", "_body", "_stream", "_query")

    def __init__(self, method, target, version, headers, raw_headers):
        self.method = method
        self.target = target  # as it was sent: "/a%20b?c=d"
        self.version = version
        self.headers = headers
        self.raw_headers = raw_headers  # [(name, value)], lower-case names, latin-1 bytes
        self.client = None
        self.keep_alive = True
        self._body = None
        self._stream = None
        self._query = None

    def forget(self, name):
        """Drops a field that is not the handler's."""
        dict.pop(self.headers, name, None)
        encoded = name.encode()
        if self.raw_headers[-1][0] == encoded:  # where the gateway puts it
            self.raw_headers.pop()
        else:
            self.raw_headers[:] = [field for field in self.raw_headers if field[0] != encoded]

    @property
    def path(self):
        """The path without the query, percent-decoded."""
        path = self.target.partition("?")[0]
        return unquote(path) if "%" in path else path

    @property
    def query_string(self):
        return self.target.partition("?")[2]

    @property
    def query(self):
        if self._query is None:
            self._query = Query(self.query_string)
        return self._query

    @property
    def body(self):
        """The whole body as bytes."""
        if self._body is None:
            self._body = b"".join(self._stream) if self._stream else b""
        return self._body

    @property
    def text(self):
        """The whole body as str, by the charset of Content-Type, else UTF-8."""
        charset = "utf-8"
        for parameter in self.headers.get("content-type", "").split(";")[1:]:
            key, _, value = parameter.strip().partition("=")
            if key.lower() == "charset" and value:
                charset = value.strip('"')
        return self.body.decode(charset)

    def json(self):
        """The body parsed as JSON."""
        return json.loads(self.body)

    def __iter__(self):
        """Chunks of the body, for a sync handler with `handle.stream = True`."""
        if self._stream is not None and self._body is None:
            return iter(self._stream)
        return iter([self._body] if self._body else [])

    async def __aiter__(self):
        """Chunks of the body, for an async handler with `handle.stream = True`."""
        if self._stream is None or self._body is not None:
            if self._body:
                yield self._body
            return
        while chunk := await self._stream.read():
            yield chunk


class BodyStream:
    """The body of a request between the connection and one reader, which is
    either a thread (iterate) or a task (await read())."""

    def __init__(self, loop, on_first_read, on_space):
        self._loop = loop
        self._on_first_read = on_first_read
        self._on_space = on_space
        self._lock = threading.Condition()  # guards the fields below
        self._chunks = collections.deque()
        self._size = 0
        self._ended = False
        self._error = None
        self._waiter = None
        self._discard = False

    # The connection's side, on the loop's thread.

    def feed(self, data):
        """Adds a chunk; True when the reader should be waited for."""
        with self._lock:
            if self._discard:
                return False
            self._chunks.append(data)
            self._size += len(data)
            self._wake()
            return self._size > READ_AHEAD

    def end(self, error=None):
        with self._lock:
            self._ended, self._error = True, error
            self._wake()

    def discard(self):
        """Nobody reads on."""
        with self._lock:
            self._discard = True
            self._chunks.clear()
            self._size = 0

    def _wake(self):
        self._lock.notify()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # The reader's side.

    def _take(self):
        """A chunk, b"" at the end, None when there is none yet; lock held."""
        if self._chunks:
            chunk = self._chunks.popleft()
            full = self._size > READ_AHEAD
            self._size -= len(chunk)
            return chunk, full and self._size <= READ_AHEAD
        if self._error is not None:
            raise self._error
        return (b"" if self._ended else None), False

    def read_blocking(self):
        """The next chunk, b"" at the end; called on a worker thread."""
        with self._lock:
            chunk, space = self._take()
            if chunk is None:
                if self._on_first_read:
                    self._loop.call_soon_threadsafe(self._on_first_read)
                    self._on_first_read = None
                while chunk is None:
                    self._lock.wait()
                    chunk, space = self._take()
        if space:
            self._loop.call_soon_threadsafe(self._on_space)
        return chunk

    async def read(self):
        """The next chunk, b"" at the end; called on the loop's thread."""
        while True:
            with self._lock:
                chunk, space = self._take()
                if chunk is None:
                    self._waiter = self._loop.create_future()
            if chunk is not None:
                if space:
                    self._on_space()
                return chunk
            if self._on_first_read:
                self._on_first_read()
                self._on_first_read = None
            await self._waiter

    def __iter__(self):
        while chunk := self.read_blocking():
            yield chunk
