import json
import os
import sys
import time
from urllib.parse import parse_qs


def await_file(name):
    while not os.path.exists("/tmp/" + name):
        time.sleep(0.005)


def touch(name):
    open("/tmp/" + name, "w").close()


def barrier(n):
    touch(f"barrier-{os.urandom(8).hex()}")
    while sum(name.startswith("barrier-") for name in os.listdir("/tmp")) < n:
        time.sleep(0.005)
    return [b"passed"]


def parts(name):
    yield b"first\n"
    await_file(name)
    yield b"last\n"


def broken():
    yield b"first\n"
    raise RuntimeError("late")


def upload(body, name):
    size = len(body.read1())
    touch(name)
    while chunk := body.read(1 << 16):
        size += len(chunk)
    return [str(size).encode()]


def application(environ, start_response):
    path = environ["PATH_INFO"]
    q = {key: values[-1] for key, values in parse_qs(environ["QUERY_STRING"]).items()}
    status, headers = "200 OK", [("Content-Type", "text/plain; charset=utf-8")]

    def answer(body):
        start_response(status, headers)
        return body

    match path:
        case "/echo":
            headers = [("Content-Type", environ.get("CONTENT_TYPE") or "application/octet-stream"),
                       ("X-Method", environ["REQUEST_METHOD"]), ("X-Path", path),
                       ("X-Query", environ["QUERY_STRING"]),
                       ("X-Request-Id", environ.get("HTTP_KILN_REQUEST_ID", ""))]
            return answer([environ["wsgi.input"].read()])
        case "/status":
            status = q["code"] + " Whatever"
            return answer([b"status"])
        case "/cookies":
            headers += [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
            return answer([b""])
        case "/fail":
            raise ValueError("kaboom")
        case "/fail-late":
            return answer(broken())
        case "/stream":
            return answer(parts(q["file"]))
        case "/wait":
            await_file(q["file"])
            return answer([b"done"])
        case "/exists":
            status = "200 OK" if os.path.exists("/tmp/" + q["file"]) else "404 Not Found"
            return answer([b"exists"])
        case "/barrier":
            return answer(barrier(int(q["n"])))
        case "/upload":
            return answer(upload(environ["wsgi.input"], q["file"]))
        case "/env":
            proc = {name: open(f"/proc/{name}/environ", "rb").read().decode("latin-1") for name in ("self", "1")}
            return answer([json.dumps({"env": dict(os.environ), "proc": proc}).encode()])
        case "/print":
            print(q["text"])
            return answer([b"printed"])
    status = "404 Not Found"
    return answer([path.encode()])
