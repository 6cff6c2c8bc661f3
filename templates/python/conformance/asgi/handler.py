import asyncio
import json
import os
from urllib.parse import parse_qs

started = []


async def await_file(name):
    while not os.path.exists("/tmp/" + name):
        await asyncio.sleep(0.005)


def touch(name):
    open("/tmp/" + name, "w").close()


async def barrier(n):
    touch(f"barrier-{os.urandom(8).hex()}")
    while sum(name.startswith("barrier-") for name in os.listdir("/tmp")) < n:
        await asyncio.sleep(0.005)


async def lifespan(receive, send):
    await receive()
    started.append(True)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("lifespan shutdown")
    await send({"type": "lifespan.shutdown.complete"})


async def socket(receive, send):
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "fail":
            raise ValueError("kaboom")
        await send({"type": "websocket.send", "text": message.get("text"), "bytes": message.get("bytes")})


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    if scope["type"] == "websocket":
        return await socket(receive, send)
    assert started
    request = {key.decode(): value.decode("latin-1") for key, value in scope["headers"]}
    q = {key: values[-1] for key, values in parse_qs(scope["query_string"].decode()).items()}

    async def body():
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError("disconnected")
            yield message["body"]
            if not message["more_body"]:
                return

    async def start(status=200, headers=()):
        await send({"type": "http.response.start", "status": status,
                    "headers": [(b"content-type", b"text/plain; charset=utf-8")] if not headers else headers})

    async def answer(data, status=200, headers=()):
        await start(status, headers)
        await send({"type": "http.response.body", "body": data})

    match scope["path"]:
        case "/echo":
            data = b"".join([chunk async for chunk in body()])
            headers = {"content-type": request.get("content-type", "application/octet-stream"),
                       "x-method": scope["method"], "x-path": scope["path"],
                       "x-query": scope["query_string"].decode(),
                       "x-request-id": request.get("kiln-request-id", "")}
            await answer(data, 200, [(k.encode(), v.encode()) for k, v in headers.items()])
        case "/status":
            await answer(b"status", int(q["code"]))
        case "/cookies":
            await answer(b"", 200, [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")])
        case "/fail":
            raise ValueError("kaboom")
        case "/fail-late" | "/stream":
            await start()
            await send({"type": "http.response.body", "body": b"first\n", "more_body": True})
            if scope["path"] == "/fail-late":
                raise RuntimeError("late")
            await await_file(q["file"])
            await send({"type": "http.response.body", "body": b"last\n"})
        case "/wait":
            await await_file(q["file"])
            await answer(b"done")
        case "/exists":
            await answer(b"exists", 200 if os.path.exists("/tmp/" + q["file"]) else 404)
        case "/barrier":
            await barrier(int(q["n"]))
            await answer(b"passed")
        case "/upload":
            size = 0
            async for chunk in body():
                if not size:
                    touch(q["file"])
                size += len(chunk)
            await answer(str(size).encode())
        case "/disconnect":
            touch(q["file"] + "-begun")
            assert (await receive())["type"] == "http.request"
            assert (await receive())["type"] == "http.disconnect"
            touch(q["file"])
        case "/env":
            proc = {name: open(f"/proc/{name}/environ", "rb").read().decode("latin-1") for name in ("self", "1")}
            await answer(json.dumps({"env": dict(os.environ), "proc": proc}).encode())
        case "/print":
            print(q["text"])
            await answer(b"printed")
        case path:
            await answer(path.encode(), 404)
