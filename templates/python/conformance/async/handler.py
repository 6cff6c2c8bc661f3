import asyncio
import json
import os


async def await_file(name):
    while not os.path.exists("/tmp/" + name):
        await asyncio.sleep(0.005)


def touch(name):
    open("/tmp/" + name, "w").close()


async def barrier(n):
    touch(f"barrier-{os.urandom(8).hex()}")
    while sum(name.startswith("barrier-") for name in os.listdir("/tmp")) < n:
        await asyncio.sleep(0.005)


def environment():
    return {"env": dict(os.environ), "proc": {
        name: open(f"/proc/{name}/environ", "rb").read().decode("latin-1") for name in ("self", "1")}}


async def parts(name):
    yield "first\n"
    await await_file(name)
    yield b"last\n"


async def broken():
    yield "first\n"
    raise RuntimeError("late")


async def read(request):
    return b"".join([chunk async for chunk in request])


async def upload(request, name):
    size = 0
    async for chunk in request:
        if not size:
            touch(name)
        size += len(chunk)
    return str(size)


async def until_cancelled(name):
    touch(name + "-begun")
    try:
        await asyncio.sleep(3600)
    finally:
        touch(name)


async def handle(request):
    q = request.query
    match request.path:
        case "/echo":
            return await read(request), 200, {
                "Content-Type": request.headers.get("content-type", "application/octet-stream"),
                "X-Method": request.method, "X-Path": request.path, "X-Query": request.query_string,
                "X-Request-Id": request.headers.get("Kiln-Request-Id", "")}
        case "/status":
            return "status", int(q["code"])
        case "/empty":
            return None
        case "/cookies":
            return "", 200, [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
        case "/json":
            return {"ümläut": [1, 2.5, None, True]}
        case "/fail":
            raise ValueError("kaboom")
        case "/fail-late":
            return broken()
        case "/stream":
            return parts(q["file"])
        case "/wait":
            await await_file(q["file"])
            return "done"
        case "/exists":
            return "exists", 200 if os.path.exists("/tmp/" + q["file"]) else 404
        case "/barrier":
            await barrier(int(q["n"]))
            return "passed"
        case "/upload":
            return await upload(request, q["file"])
        case "/disconnect":
            await until_cancelled(q["file"])
        case "/env":
            return environment()
        case "/print":
            print(q["text"])
            return "printed"
        case path:
            return {"error": path}, 404


handle.stream = True
