"""What a cell does before it waits: it goes the whole way of a load and of some
calls with a function of its own. All that runs for the first time, and the memory
it touches first, is not paid for by a caller then."""

import asyncio
import importlib
import os
import shutil
import sys

from .cell import Cell
from .http1 import Connection
from .serve import Server

LOAD = "/kiln/rehearsal.tar"
ROOT = f"/tmp/kiln-rehearsal-{os.getpid()}"  # several may share a container
CODE = ROOT + "/function"
MODULE = "handler"
TOKEN = "rehearsal"  # of a cell that only this process can reach, and that ends here
CALLS = 20  # enough for the interpreter to specialize what they run


async def rehearse(server):
    """Leaves nothing behind but the server's worker thread and what is warm."""
    stage = Server(server.loop, Cell(TOKEN.encode(), ROOT), server.workers)
    listener = await server.loop.create_server(lambda: Connection(stage), "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        with open(LOAD, "rb") as file:
            load = file.read()
        await calls(port, [("POST", "/_kiln/load", "authorization: Bearer " + TOKEN, load)])
        server.workers.limit = 1  # the function's may be
        await calls(port, [("GET", "/?name=kiln", "accept: */*", b""),
                           ("POST", "/", "content-type: application/json", b'{"name": "kiln"}')] * (CALLS // 2))
    finally:
        listener.close()
        await listener.wait_closed()
        forget()


async def calls(port, requests):
    """Makes calls on one connection; an answer that is no success is an error."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for method, target, field, body in requests:
            head = f"{method} {target} HTTP/1.1\r\nhost: cell\r\n{field}\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            text = await reader.readexactly(int(answer.partition("content-length: ")[2].partition("\r\n")[0]))
            if not answer.startswith("http/1.1 200 "):
                raise RuntimeError(f"the rehearsal of {target} was answered {answer.splitlines()[0]}: {text.decode()}")
    finally:
        writer.close()
        await writer.wait_closed()


def forget():
    sys.modules.pop(MODULE, None)
    if CODE in sys.path:
        sys.path.remove(CODE)
    for path in [path for path in sys.path_importer_cache if path.startswith(ROOT)]:
        del sys.path_importer_cache[path]
    importlib.invalidate_caches()
    shutil.rmtree(ROOT, ignore_errors=True)
