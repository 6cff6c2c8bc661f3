"""WebSocket (RFC 6455) for ASGI apps: text, binary, ping and close."""

import asyncio
import base64
import hashlib
import struct

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
MAX_MESSAGE = 16 << 20
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
GOING_AWAY, PROTOCOL_ERROR, TOO_BIG, NO_STATUS, ABNORMAL = 1001, 1002, 1009, 1005, 1006


def wanted(request):
    return (request.headers.get("upgrade", "").lower() == "websocket"
            and "upgrade" in request.headers.get("connection", "").lower()
            and "sec-websocket-key" in request.headers)


async def run(server, app, scope, connection, request):
    """Runs an app on one WebSocket connection."""
    protocols = request.headers.get("sec-websocket-protocol", "")
    scope["subprotocols"] = [p.strip() for p in protocols.split(",") if p.strip()]
    del scope["method"]
    socket = Socket(connection, request)
    try:
        await app(scope, socket.receive, socket.send)
        socket.close(1000)
    except Exception as error:
        if socket.accepted:
            server.failed(connection, None, error)
            socket.close(1011)
        else:
            server.failed(connection, request, error)


class Socket:
    """Both directions of one connection."""

    def __init__(self, connection, request):
        self._connection = connection
        self._request = request
        self._messages = asyncio.Queue()
        self._messages.put_nowait({"type": "websocket.connect"})
        self._buffer = b""
        self._parts = []
        self._kind = None
        self._closed = False
        self.accepted = False
        connection.on_lost = self.connection_lost

    # The app's side.

    async def receive(self):
        return await self._messages.get()

    async def send(self, message):
        kind = message["type"]
        if kind == "websocket.accept":
            return self._accept(message)
        if kind == "websocket.close" and not self.accepted:
            self._closed = True
            return self._connection.respond(403, [], b"")
        if not self.accepted:
            raise RuntimeError(f"{kind} before websocket.accept")
        if kind == "websocket.close":
            return self.close(message.get("code", 1000), message.get("reason") or "")
        if self._closed:
            return None
        if message.get("text") is not None:
            self._frame(TEXT, message["text"].encode())
        else:
            self._frame(BINARY, bytes(message.get("bytes") or b""))
        await self._connection.writable.wait()

    def _accept(self, message):
        key = self._request.headers["sec-websocket-key"].encode()
        accept = base64.b64encode(hashlib.sha1(key + MAGIC).digest())
        lines = [b"HTTP/1.1 101 Switching Protocols", b"upgrade: websocket", b"connection: Upgrade",
                 b"sec-websocket-accept: " + accept]
        if message.get("subprotocol"):
            lines.append(b"sec-websocket-protocol: " + message["subprotocol"].encode())
        lines += [bytes(name) + b": " + bytes(value) for name, value in message.get("headers", ())]
        if any(b"\r" in line or b"\n" in line for line in lines):
            raise ValueError("a header has a line end")
        self._connection.transport.write(b"\r\n".join(lines) + b"\r\n\r\n")
        self.accepted = True
        self._connection.upgrade(self)

    def close(self, code, reason=""):
        if self._closed:
            return
        self._closed = True
        if self.accepted:
            self._frame(CLOSE, struct.pack("!H", code) + reason.encode()[:120])
            self._connection.transport.close()

    def drain(self):
        """The process ends: the peer is told."""
        self._messages.put_nowait({"type": "websocket.disconnect", "code": GOING_AWAY})
        self.close(GOING_AWAY)

    def _frame(self, opcode, data):
        size = len(data)
        if size < 126:
            head = struct.pack("!BB", 0x80 | opcode, size)
        elif size < 1 << 16:
            head = struct.pack("!BBH", 0x80 | opcode, 126, size)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 127, size)
        if not self._connection.lost:
            self._connection.transport.write(head + data)

    # The connection's side.

    def connection_lost(self):
        if not self._closed:
            self._closed = True
            self._messages.put_nowait({"type": "websocket.disconnect", "code": ABNORMAL})

    def data_received(self, data):
        self._buffer += data
        while not self._closed and self._take():
            pass

    def _take(self):
        """Handles one frame; False when it is not complete."""
        buffer = self._buffer
        if len(buffer) < 2:
            return False
        opcode, size, at = buffer[0] & 15, buffer[1] & 127, 2
        if buffer[0] & 0x70 or not buffer[1] & 0x80:
            return self._fail(PROTOCOL_ERROR)
        if size > 125:
            width = 2 if size == 126 else 8
            if len(buffer) < at + width:
                return False
            size, at = int.from_bytes(buffer[at:at + width], "big"), at + width
        if size > MAX_MESSAGE:
            return self._fail(TOO_BIG)
        if len(buffer) < at + 4 + size:
            return False
        mask, data = buffer[at:at + 4], buffer[at + 4:at + 4 + size]
        self._buffer = buffer[at + 4 + size:]
        return self._handle(opcode, bool(buffer[0] & 0x80), unmask(data, mask))

    def _handle(self, opcode, final, data):
        if opcode == CLOSE:
            code = struct.unpack("!H", data[:2])[0] if len(data) >= 2 else NO_STATUS
            self._messages.put_nowait({"type": "websocket.disconnect", "code": code})
            self.close(1000 if code == NO_STATUS else code)
            return False
        if opcode == PING:
            self._frame(PONG, data)
            return True
        if opcode == PONG:
            return True
        if opcode in (TEXT, BINARY):
            self._kind, self._parts = opcode, [data]
        elif opcode == 0 and self._kind is not None:
            self._parts.append(data)
        else:
            return self._fail(PROTOCOL_ERROR)
        if sum(map(len, self._parts)) > MAX_MESSAGE:
            return self._fail(TOO_BIG)
        if final:
            whole, kind, self._kind, self._parts = b"".join(self._parts), self._kind, None, []
            message = {"type": "websocket.receive"}
            if kind == TEXT:
                try:
                    message["text"] = whole.decode()
                except UnicodeDecodeError:
                    return self._fail(1007)
            else:
                message["bytes"] = whole
            self._messages.put_nowait(message)
        return True

    def _fail(self, code):
        self._messages.put_nowait({"type": "websocket.disconnect", "code": code})
        self.close(code)
        return False


def unmask(data, mask):
    """XORs data with the repeated mask, as one large number."""
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
