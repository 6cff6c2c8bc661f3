"""A cell: a runtime that waits for the code of one function.

POST /_kiln/load carries a tar: first env.json, an object of strings, then
perhaps secrets.json, an object of values in base64, then the function's files
under function/. docs/templates.md has the whole contract."""

import binascii
import hmac
import importlib
import json
import os
import posixpath
import sys
import traceback

TOKEN_FD = 3  # start.sh leaves the token there
BLOCK = 512
MAX_META = 1 << 20  # env.json, long names
MAX_SECRETS = 8 << 20  # 64 values of 64 KiB in base64
SECRETS = "run/secrets"

# Imported while nobody waits: what most functions import, directly or not.
COMMON = ("base64 collections contextlib copy csv dataclasses datetime decimal email.message enum "
          "functools hashlib html http.client http.cookies importlib.metadata io itertools logging "
          "math mimetypes pathlib random secrets shutil ssl statistics string subprocess tempfile "
          "textwrap typing unicodedata urllib.request uuid weakref zlib zoneinfo").split()


class LoadError(Exception):
    """The body is not what a load carries."""


def waiting():
    """The cell this process is to be, or None."""
    if os.environ.pop("KILN_CELL", "") != "1":
        return None
    with os.fdopen(TOKEN_FD, "rb") as pipe:
        return Cell(pipe.read().strip())


def prewarm():
    from . import asgi, wsgi  # noqa: F401

    for name in COMMON:
        try:
            importlib.import_module(name)
        except ImportError:
            pass


class Cell:
    """Takes one load, whose files it writes below root."""

    def __init__(self, token, root="/"):
        self._token = token
        self._root = root
        self._used = False

    def authorized(self, request):
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode("latin-1"), self._token)

    async def load(self, server, request):
        """Answers a load as (status, text)."""
        if not self.authorized(request):
            return 401, "the token is not this cell's"
        if self._used:
            return 409, "this cell was loaded before"
        self._used = True
        try:
            env = await server.loop.run_in_executor(None, unpack, iter(request), self._root)
            os.environ.update(env)
        except Exception as error:  # whatever a load makes the reader stumble over
            return 422, f"the code cannot be unpacked: {error or type(error).__name__}"
        try:
            server.app = await server.load(posixpath.join(self._root, "function"))
        except BaseException as error:
            traceback.print_exception(error)
            return 422, "".join(traceback.format_exception(error))
        return 200, ""


class Reader:
    """Exact reads from an iterator of chunks."""

    def __init__(self, chunks):
        self._chunks = chunks
        self._rest = b""

    def pieces(self, size):
        """Yields size bytes in pieces."""
        while size:
            if not self._rest:
                self._rest = next(self._chunks, b"")
                if not self._rest:
                    raise LoadError("it ends too early")
            piece, self._rest = self._rest[:size], self._rest[size:]
            size -= len(piece)
            yield piece

    def read(self, size):
        return b"".join(self.pieces(size))

    def drain(self):
        for _ in self._chunks:
            pass


def text(field):
    return field.split(b"\0", 1)[0].decode()


def number(field):
    if field[0] & 0x80:  # base-256, of sizes over 8 GiB
        raise LoadError("an entry is too large")
    return positive(text(field).strip() or "0", 8)


def positive(digits, base=10):
    value = int(digits, base)
    if value < 0:
        raise LoadError("a number is negative")
    return value


def pax(data):
    """The records of an extended header."""
    records = {}
    while data:
        length = positive(data.split(b" ", 1)[0])
        if length == 0:
            raise LoadError("an extended header is malformed")
        record, data = data[:length], data[length:]
        key, _, value = record.split(b" ", 1)[1][:-1].partition(b"=")
        records[key.decode()] = value.decode()
    return records


def entries(reader):
    """Yields (name, type, mode, link, size) of a tar; the caller reads size bytes."""
    extended = {}
    while True:
        header = reader.read(BLOCK)
        if not header.strip(b"\0"):
            return
        if sum(header[:148]) + sum(header[156:]) + 256 != number(header[148:156]):
            raise LoadError("an entry's checksum is wrong")
        kind, size = header[156:157], number(header[124:136])
        if kind in (b"x", b"g", b"L", b"K"):
            if size > MAX_META:
                raise LoadError("an entry's name is too long")
            data = reader.read(size + -size % BLOCK)[:size]
            if kind == b"x":
                extended.update(pax(data))
            elif kind == b"L":
                extended["path"] = text(data)
            elif kind == b"K":
                extended["linkpath"] = text(data)
            continue
        name = text(header[:100])
        if header[257:263] == b"ustar\0" and header[345]:
            name = text(header[345:500]) + "/" + name
        yield (extended.get("path", name), kind, number(header[100:108]),
               extended.get("linkpath", text(header[157:257])), positive(extended["size"]) if "size" in extended else size)
        extended = {}


def unpack(chunks, root):
    """Writes the files of a load below root and returns its environment."""
    reader = Reader(chunks)
    env, links, made = {}, [], set()
    for name, kind, mode, link, size in entries(reader):
        if name == "env.json":
            env = environment(reader.read(size + -size % BLOCK)[:size] if size <= MAX_META else b"")
            continue
        if name == "secrets.json":
            data = reader.read(size + -size % BLOCK)[:size] if size <= MAX_SECRETS else b""
            write_secrets(data, posixpath.join(root, SECRETS))
            continue
        path = posixpath.normpath(name)
        if path != "function" and not path.startswith("function/"):
            raise LoadError(f"{name!r} is not below function/")
        target = posixpath.join(root, path)
        folder = target if kind == b"5" else posixpath.dirname(target)
        if folder not in made:
            os.makedirs(folder, exist_ok=True)
            made.add(folder)
        if kind in (b"0", b"\0"):
            with open(target, "xb", opener=lambda p, flags: os.open(p, flags, mode & 0o777)) as file:
                for piece in reader.pieces(size):
                    file.write(piece)
            reader.read(-size % BLOCK)
        elif kind == b"2":
            links.append((target, path, link))
        elif kind != b"5":
            raise LoadError(f"{name!r} is neither file nor folder")
    reader.drain()
    # Links come last, so that nothing is written through one.
    for target, path, link in links:
        end = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
        if link.startswith("/") or not (end + "/").startswith("function/"):
            raise LoadError(f"the link {path!r} leads out of function/")
        os.symlink(link, target)
    return env


def write_secrets(data, folder):
    """Writes each secret to a file that only this user may read. No value is in
    its errors."""
    try:
        secrets = {name: binascii.a2b_base64(value, strict_mode=True) for name, value in json.loads(data).items()}
    except (ValueError, TypeError, AttributeError):
        raise LoadError("secrets.json is not an object of values in base64") from None
    for name, value in secrets.items():
        if name in ("", ".", "..") or "/" in name:
            raise LoadError(f"{name!r} is no name of a secret")
        with open(posixpath.join(folder, name), "xb", opener=lambda p, flags: os.open(p, flags, 0o400)) as file:
            file.write(value)


def environment(data):
    env = json.loads(data)
    if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
        raise LoadError("env.json is not an object of strings")
    return env
