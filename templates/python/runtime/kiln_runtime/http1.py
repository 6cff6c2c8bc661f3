"""An HTTP/1.1 server connection: strict parsing, keep-alive, both framings."""

import asyncio
import http
import os
import re
import threading
import time

from .request import BodyStream, ClientDisconnected, Headers, Request

MAX_HEAD = 64 * 1024  # request line and header fields together
MAX_CHUNK_LINE = 4096  # a chunk's size line with extensions, or the trailers
LINGER = 1.0  # seconds that a client gets to read a response it did not wait for
MAX_DIRECT = 64 * 1024  # of a body that a worker thread sends itself
MAX_PIPELINED = 64 * 1024  # read ahead of a request that is being answered

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
BAD_VALUE = re.compile(r"[\x00\r\n]")
CONTROL = re.compile(r"[\x00-\x20\x7f]")
REASONS = {status.value: status.phrase for status in http.HTTPStatus}
NO_BODY = frozenset((204, 304))

_date = (0, b"")


def date_line():
    """The Date field, made once a second."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        text = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now))
        _date = (now, b"date: " + text.encode() + b"\r\n")
    return _date[1]


class BadRequest(Exception):
    def __init__(self, status, detail):
        super().__init__(detail)
        self.status = status


def parse_head(head):
    """Parses everything up to the empty line into a Request."""
    lines = head.decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or parts[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise BadRequest(400, "malformed request line")
    method, target, version = parts
    if not TOKEN.match(method) or not target or CONTROL.search(target):
        raise BadRequest(400, "malformed request line")
    headers, raw = Headers(), []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not TOKEN.match(name):
            raise BadRequest(400, "malformed header field")
        name, value = name.lower(), value.strip(" \t")
        if BAD_VALUE.search(value):
            raise BadRequest(400, "malformed header field")
        raw.append((name.encode(), value.encode("latin-1")))
        if dict.__contains__(headers, name):
            value = dict.__getitem__(headers, name) + ("; " if name == "cookie" else ", ") + value
        dict.__setitem__(headers, name, value)
    if target.startswith("http://"):  # absolute form
        target = "/" + target[7:].partition("/")[2]
    request = Request(method, target, version, headers, raw)
    connection = headers.get("connection", "").lower()
    request.keep_alive = "close" not in connection if version == "HTTP/1.1" else "keep-alive" in connection
    return request


def body_length(request):
    """The body's length, None when chunked."""
    coding = request.headers.get("transfer-encoding")
    length = request.headers.get("content-length")
    if coding is not None:
        if length is not None:
            raise BadRequest(400, "both Transfer-Encoding and Content-Length")
        if coding.lower() != "chunked" or request.version != "HTTP/1.1":
            raise BadRequest(501, "unknown transfer coding")
        return None
    if length is None:
        return 0
    if not length.isascii() or not length.isdigit() or len(length) > 18:
        raise BadRequest(400, "malformed Content-Length")
    return int(length)


class ChunkedDecoder:
    """Decodes a chunked body; feed returns (data, rest) with rest None until
    the last chunk was seen."""

    def __init__(self):
        self._buffer = b""
        self._left = 0  # of the current chunk, line end included
        self._trailers = False

    def feed(self, data):
        buffer, out = self._buffer + data, []
        while buffer:
            if self._left > 2:
                piece = buffer[:self._left - 2]
                out.append(piece)
                self._left -= len(piece)
                buffer = buffer[len(piece):]
                continue
            if self._left:  # the line end after the data
                if len(buffer) < self._left:
                    break
                if buffer[:2] != b"\r\n":
                    raise BadRequest(400, "malformed chunk")
                buffer, self._left = buffer[2:], 0
                continue
            line, end, rest = buffer.partition(b"\r\n")
            if not end:
                if len(buffer) > MAX_CHUNK_LINE:
                    raise BadRequest(400, "chunk line too long")
                break
            buffer = rest
            if self._trailers:
                if not line:
                    self._buffer = b""
                    return b"".join(out), buffer
                continue
            size = line.partition(b";")[0].strip(b" \t")
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", size):
                raise BadRequest(400, "malformed chunk size")
            self._left = int(size, 16)
            if self._left:
                self._left += 2
            else:
                self._trailers = True
        self._buffer = buffer
        return b"".join(out), None


def encode_head(status, headers):
    """Status line and fields, checked, without framing and the empty line."""
    out = [b"HTTP/1.1 %d %s\r\n" % (status, REASONS.get(status, "Status").encode())]
    seen_date = False
    for name, value in headers:
        if isinstance(name, bytes):
            name = name.decode("latin-1")
        if isinstance(value, bytes):
            value = value.decode("latin-1")
        else:
            value = str(value)
        if not TOKEN.match(name) or BAD_VALUE.search(value):
            raise ValueError(f"the response header {name!r} has a character that is not allowed")
        lower = name.lower()
        if lower in ("content-length", "transfer-encoding", "connection", "keep-alive"):
            continue  # framing belongs to the connection
        seen_date = seen_date or lower == "date"
        out.append(f"{name}: {value}\r\n".encode("latin-1", "replace"))
    if not seen_date:
        out.append(date_line())
    return b"".join(out)


class Connection(asyncio.Protocol):
    """One client connection. Its methods run on the loop's thread."""

    def __init__(self, server):
        self.server = server
        self.loop = server.loop
        self.transport = None
        self.request = None  # being received or answered
        self.upgraded = None  # takes all further data
        self.lost = False
        self.writable = asyncio.Event()
        self.writable.set()
        self.on_lost = None
        self._buffer = b""
        self._remaining = 0  # of a body with a length
        self._chunked = None
        self._receiving = False
        self._collected = None  # chunks of a body that is not streamed
        self._stream = None
        self._responding = False
        self._response_chunked = False
        self._response_left = None
        self._head_only = False
        self._reading_paused = False
        self._rejected = False
        self._lingering = False
        self._fd = -1
        self._open = threading.Lock()  # held while a worker thread uses _fd

    # asyncio.Protocol

    def connection_made(self, transport):
        self.transport = transport
        self._fd = transport.get_extra_info("socket").fileno()
        self.server.connections.add(self)

    def connection_lost(self, exc):
        with self._open:  # the descriptor is closed after this
            self.lost = True
        self.server.connections.discard(self)
        self.writable.set()
        if self._stream is not None and self._receiving:
            self._stream.end(ClientDisconnected("the caller closed the connection"))
        if self.upgraded is not None:
            self.upgraded.connection_lost()
        if self.on_lost is not None:
            self.on_lost()
        self.server.connection_done()

    def pause_writing(self):
        self.writable.clear()

    def resume_writing(self):
        self.writable.set()

    def data_received(self, data):
        if self._lingering:
            return
        if self.upgraded is not None:
            self.upgraded.data_received(data)
            return
        if self._receiving:
            self._receive(data)
        elif self.request is not None:
            self._buffer += data
            if len(self._buffer) > MAX_PIPELINED:
                self._pause_reading()
        else:
            self._buffer = self._buffer + data if self._buffer else data
            self._next()

    # Receiving

    def _next(self):
        """Starts the next request, if its head is complete."""
        while self.request is None and self._buffer and not self.lost:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > MAX_HEAD:
                    self._reject(431, "the request's header fields are too large")
                elif self._buffer[:2] == b"\r\n":  # left over by an old client
                    self._buffer = self._buffer[2:]
                    continue
                return
            if end > MAX_HEAD:
                return self._reject(431, "the request's header fields are too large")
            head, self._buffer = self._buffer[:end], self._buffer[end + 4:]
            try:
                if head[:2] == b"\r\n":
                    head = head[2:]
                request = parse_head(head)
                length = body_length(request)
            except BadRequest as bad:
                return self._reject(bad.status, str(bad))
            self._begin(request, length)

    def _begin(self, request, length):
        self.request = request
        self._head_only = request.method == "HEAD"
        if length == 0:
            request._body = b""
            self.server.dispatch(self, request)
            return
        self._remaining = length
        self._chunked = ChunkedDecoder() if length is None else None
        self._receiving = True
        expects = request.headers.get("expect", "").lower() == "100-continue"
        data, self._buffer = self._buffer, b""
        if self.server.streams(request):
            self._stream = BodyStream(self.loop, self._continue if expects else None, self._resume_reading)
            request._stream = self._stream
            self.server.dispatch(self, request)
            if data:
                self._receive(data)
            return
        self._collected = []
        if data:
            self._receive(data)
        if expects and self._receiving:
            self._continue()

    def _continue(self):
        if not self.lost and not self._responding:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _receive(self, data):
        rest = None
        if self._chunked is not None:
            try:
                data, rest = self._chunked.feed(data)
            except BadRequest as bad:
                self._receiving = False
                if self._stream is not None:
                    self._stream.end(ClientDisconnected(str(bad)))
                    return self.transport.close()
                return self._reject(bad.status, str(bad))
        else:
            if len(data) >= self._remaining:
                data, rest = data[:self._remaining], data[self._remaining:]
            self._remaining -= len(data)
        if self._stream is not None:
            if data and self._stream.feed(data) and rest is None:
                self._pause_reading()
        elif data:
            self._collected.append(data)
        if rest is not None:
            self._received(rest)

    def _received(self, rest):
        self._receiving = False
        self._buffer = rest
        if self._stream is not None:
            self._stream.end()
            if self.request is None:  # answered before the body was complete
                self._stream = None
                self._next()
            return
        self.request._body = b"".join(self._collected)
        self._collected = None
        self.server.dispatch(self, self.request)

    def _pause_reading(self):
        if not self._reading_paused and not self.lost:
            self._reading_paused = True
            self.transport.pause_reading()

    def _resume_reading(self):
        if self._reading_paused and not self.lost:
            self._reading_paused = False
            self.transport.resume_reading()

    def _reject(self, status, detail):
        self.request = Request("GET", "/", "HTTP/1.1", Headers(), [])
        self.request.keep_alive = False
        self._receiving = False
        self._rejected = True
        self.server.refuse(self, status, detail)

    # Responding

    def respond(self, status, headers, body):
        """Sends a whole response."""
        if self.lost:
            return
        out = self._whole(status, headers, body)
        self._responding = True
        self.transport.write(out)
        self._done()

    def respond_from_worker(self, request, status, headers, body):
        """Sends a whole response from a worker thread without waking the loop, if
        nothing is in the way; False says that respond has to be used."""
        if (self._buffer or self._receiving or self._stream is not None or self._reading_paused
                or not request.keep_alive or self.server.draining or len(body) > MAX_DIRECT):
            return False
        out = self._whole(status, headers, body)
        with self._open:
            if self.lost or self.request is not request or self.transport.get_write_buffer_size():
                return False
            # The client may answer with its next request at once.
            self.request = None
            try:
                sent = os.write(self._fd, out)
            except BlockingIOError:
                sent = 0
            except OSError:  # the loop sees it too
                return True
        if sent < len(out):
            self.loop.call_soon_threadsafe(self.transport.write, out[sent:])
        if self.server.draining:  # and may have passed by this connection
            self.loop.call_soon_threadsafe(self.close_if_idle)
        return True

    def close_if_idle(self):
        if self.request is None:
            self.transport.close()

    def _whole(self, status, headers, body):
        out = encode_head(status, headers)
        if status in NO_BODY:
            framing, body = b"", b""
        else:
            framing = b"content-length: %d\r\n" % len(body)
        if self._head_only:
            body = b""
        return b"".join((out, framing, self._connection_field(), b"\r\n", body))

    def start(self, status, headers):
        """Begins a streamed response; write and finish follow."""
        if self.lost:
            return
        length = None
        for name, value in headers:
            if (name if isinstance(name, str) else name.decode("latin-1")).lower() == "content-length":
                length = int(value)
        out = encode_head(status, headers)
        self._responding = True
        self._response_left = length
        self._response_chunked = False
        if status in NO_BODY:
            framing, self._head_only = b"", True
        elif length is not None:
            framing = b"content-length: %d\r\n" % length
        elif self.request.version == "HTTP/1.1":
            framing, self._response_chunked = b"transfer-encoding: chunked\r\n", True
        else:
            framing, self.request.keep_alive = b"", False
        self.transport.write(b"".join((out, framing, self._connection_field(), b"\r\n")))

    def write(self, data):
        """Sends a part of a started response."""
        if self.lost or self._head_only or not data:
            return
        if self._response_left is not None:
            if len(data) > self._response_left:
                return self.abort()
            self._response_left -= len(data)
        if self._response_chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self.transport.write(data)

    def finish(self):
        """Ends a started response."""
        if self.lost:
            return
        if self._response_left and not self._head_only:
            return self.abort()  # shorter than announced
        if self._response_chunked and not self._head_only:
            self.transport.write(b"0\r\n\r\n")
        self._done()

    def upgrade(self, taker):
        """Hands all further data, and what came already, to another protocol."""
        self.upgraded = taker
        self.on_lost = None
        data, self._buffer = self._buffer, b""
        if data:
            taker.data_received(data)

    def abort(self):
        """Ends a response that cannot be completed, so that the client sees it."""
        if not self.lost:
            self.transport.abort()

    def _close(self, unread):
        """Closes after what was written. A client that is still sending gets time
        to read the response: closing at once would reset the connection."""
        if not unread:
            return self.transport.close()
        self._lingering = True
        self._resume_reading()
        self.transport.write_eof()
        self.loop.call_later(LINGER, self.transport.close)

    @property
    def responding(self):
        return self._responding

    def _connection_field(self):
        if self.server.draining:
            self.request.keep_alive = False
        if self.request.keep_alive:
            return b"" if self.request.version == "HTTP/1.1" else b"connection: keep-alive\r\n"
        return b"connection: close\r\n"

    def _done(self):
        keep_alive = self.request.keep_alive
        self.request = None
        self.on_lost = None
        self._responding = False
        self._response_chunked = False
        self._response_left = None
        if not keep_alive or self.server.draining:
            self._close(self._receiving or self._rejected)
            return
        self._resume_reading()
        if self._receiving:  # the handler did not read the body to its end
            self._stream.discard()
            return
        self._stream = None
        if self._buffer:
            self.loop.call_soon(self._next)
