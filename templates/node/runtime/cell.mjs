// A cell: a runtime that waits for the code of one function.
//
// POST /_kiln/load carries a tar: first env.json, an object of strings, then
// perhaps secrets.json, an object of values in base64, then the function's files
// under function/. docs/templates.md has the whole contract.

import { timingSafeEqual } from 'node:crypto';
import {
  closeSync, createReadStream, mkdirSync, openSync, readFileSync, rmSync, symlinkSync, writeSync,
} from 'node:fs';
import { inspect } from 'node:util';
import path from 'node:path';
import { Server } from './serve.mjs';

const TOKEN_FD = 3; // start.sh leaves the token there
const WARM_LOAD = '/kiln/warm.tar';
const WARM_ROOT = `/tmp/kiln-warm-${process.pid}`; // several may share a container
const WARM_REQUESTS = 50; // enough for the way to be compiled
const BLOCK = 512;
const MAX_META = 1 << 20; // env.json, long names
const MAX_SECRETS = 8 << 20; // 64 values of 64 KiB in base64
const SECRETS = 'run/secrets';

// waitingCell returns the cell this process is to be, or null.
export async function waitingCell() {
  if (process.env.KILN_CELL !== '1') return null;
  delete process.env.KILN_CELL;
  const token = readFileSync(TOKEN_FD);
  closeSync(TOKEN_FD);
  return new Cell(token.toString().trim());
}

class Cell {
  #token;
  #used = false;

  constructor(token) { this.#token = Buffer.from(token); }

  // prewarm goes the whole way of a load and of some requests with a function of
  // its own, while nobody waits.
  async prewarm() {
    await import('./warm.mjs');
    await unpack(createReadStream(WARM_LOAD), WARM_ROOT);
    const rehearsal = new Server(null);
    await rehearsal.load(`${WARM_ROOT}/function`);
    await rehearsal.rehearse(WARM_REQUESTS);
    process.chdir('/');
    rmSync(WARM_ROOT, { recursive: true });
  }

  // load answers a load as [status, text].
  async load(req, server) {
    if (!this.#authorized(req)) return [401, "the token is not this cell's"];
    if (this.#used) return [409, 'this cell was loaded before'];
    this.#used = true;
    try {
      Object.assign(process.env, await unpack(req, '/'));
    } catch (error) {
      return [422, `the code cannot be unpacked: ${error.message}`];
    }
    try {
      await server.load();
    } catch (error) {
      console.error(error);
      return [422, inspect(error)];
    }
    return [200, ''];
  }

  #authorized(req) {
    const [scheme, token = ''] = (req.headers.authorization ?? '').split(' ');
    const given = Buffer.from(token);
    return scheme.toLowerCase() === 'bearer' && given.length === this.#token.length && timingSafeEqual(given, this.#token);
  }
}

// Reader reads exact amounts from a stream of chunks.
class Reader {
  #chunks;
  #rest = Buffer.alloc(0);

  constructor(stream) { this.#chunks = stream[Symbol.asyncIterator](); }

  async * pieces(size) {
    while (size > 0) {
      if (this.#rest.length === 0) {
        const { value, done } = await this.#chunks.next();
        if (done) throw new Error('it ends too early');
        this.#rest = value;
      }
      const piece = this.#rest.subarray(0, size);
      this.#rest = this.#rest.subarray(piece.length);
      size -= piece.length;
      yield piece;
    }
  }

  async read(size) {
    if (this.#rest.length >= size) {
      const piece = this.#rest.subarray(0, size);
      this.#rest = this.#rest.subarray(size);
      return piece;
    }
    const parts = [];
    for await (const piece of this.pieces(size)) parts.push(piece);
    return Buffer.concat(parts);
  }

  async drain() {
    while (!(await this.#chunks.next()).done);
  }
}

const padding = (size) => (BLOCK - size % BLOCK) % BLOCK;
const text = (field) => { const end = field.indexOf(0); return field.toString('utf8', 0, end < 0 ? field.length : end); };

function number(field) {
  if (field[0] & 0x80) throw new Error('an entry is too large'); // base-256, over 8 GiB
  return positive(parseInt(text(field).trim() || '0', 8));
}

function positive(value) {
  if (!Number.isSafeInteger(value) || value < 0) throw new Error('a number is malformed');
  return value;
}

function checksum(header) {
  let sum = 8 * 0x20; // the checksum itself counts as blanks
  for (let i = 0; i < BLOCK; i++) if (i < 148 || i >= 156) sum += header[i];
  return sum;
}

function pax(data) {
  const records = {};
  for (let at = 0; at < data.length;) {
    const length = parseInt(data.toString('utf8', at, data.indexOf(0x20, at)), 10);
    if (!(length > 0)) throw new Error('an extended header is malformed');
    const record = data.toString('utf8', data.indexOf(0x20, at) + 1, at + length - 1);
    const split = record.indexOf('=');
    records[record.slice(0, split)] = record.slice(split + 1);
    at += length;
  }
  return records;
}

// entries yields a tar's entries; the caller reads their size bytes.
async function * entries(reader) {
  for (let extended = {}; ;) {
    const header = await reader.read(BLOCK);
    if (header.every((byte) => byte === 0)) return;
    if (checksum(header) !== number(header.subarray(148, 156))) throw new Error("an entry's checksum is wrong");
    const kind = String.fromCharCode(header[156]);
    const size = number(header.subarray(124, 136));
    if ('xgLK'.includes(kind)) {
      if (size > MAX_META) throw new Error("an entry's name is too long");
      const data = (await reader.read(size + padding(size))).subarray(0, size);
      if (kind === 'x') Object.assign(extended, pax(data));
      if (kind === 'L') extended.path = text(data);
      if (kind === 'K') extended.linkpath = text(data);
      continue;
    }
    let name = text(header.subarray(0, 100));
    if (header.toString('latin1', 257, 263) === 'ustar\0' && header[345]) name = `${text(header.subarray(345, 500))}/${name}`;
    yield {
      name: extended.path ?? name, kind, mode: number(header.subarray(100, 108)),
      link: extended.linkpath ?? text(header.subarray(157, 257)), size: positive(Number(extended.size ?? size)),
    };
    extended = {};
  }
}

// unpack writes the files of a load below root and returns its environment.
async function unpack(stream, root) {
  const reader = new Reader(stream);
  const links = [];
  const made = new Set();
  let env = {};
  for await (const { name, kind, mode, link, size } of entries(reader)) {
    if (name === 'env.json') {
      if (size > MAX_META) throw new Error('env.json is too large');
      env = environment((await reader.read(size + padding(size))).subarray(0, size));
      continue;
    }
    if (name === 'secrets.json') {
      if (size > MAX_SECRETS) throw new Error('secrets.json is too large');
      writeSecrets((await reader.read(size + padding(size))).subarray(0, size), path.join(root, SECRETS));
      continue;
    }
    const file = path.posix.normalize(name).replace(/\/$/, '');
    if (file !== 'function' && !file.startsWith('function/')) throw new Error(`${name} is not below function/`);
    const target = path.join(root, file);
    const folder = kind === '5' ? target : path.dirname(target);
    if (!made.has(folder)) {
      mkdirSync(folder, { recursive: true });
      made.add(folder);
    }
    if (kind === '0' || kind === '\0') {
      const fd = openSync(target, 'wx', mode & 0o777);
      for await (const piece of reader.pieces(size)) {
        for (let at = 0; at < piece.length;) at += writeSync(fd, piece, at);
      }
      closeSync(fd);
      await reader.read(padding(size));
    } else if (kind === '2') {
      links.push({ target, file, link });
    } else if (kind !== '5') {
      throw new Error(`${name} is neither file nor folder`);
    }
  }
  await reader.drain();
  // Links come last, so that nothing is written through one.
  for (const { target, file, link } of links) {
    const end = path.posix.join(path.posix.dirname(file), link);
    if (link.startsWith('/') || !`${end}/`.startsWith('function/')) throw new Error(`the link ${file} leads out of function/`);
    symlinkSync(link, target);
  }
  return env;
}

// writeSecrets writes each secret to a file that only this user may read. No
// value is in its errors.
function writeSecrets(data, folder) {
  let secrets;
  try {
    secrets = JSON.parse(data.toString());
  } catch {
    throw new Error('secrets.json is no JSON'); // what else it is, is nobody's business
  }
  if (secrets === null || typeof secrets !== 'object' || Array.isArray(secrets)) throw new Error('secrets.json is no object');
  for (const [name, value] of Object.entries(secrets)) {
    if (typeof value !== 'string' || !/^[A-Za-z0-9+/]*={0,2}$/.test(value)) throw new Error('secrets.json is not an object of values in base64');
    if (['', '.', '..'].includes(name) || name.includes('/')) throw new Error(`${JSON.stringify(name)} is no name of a secret`);
    const fd = openSync(path.join(folder, name), 'wx', 0o400);
    const content = Buffer.from(value, 'base64');
    for (let at = 0; at < content.length;) at += writeSync(fd, content, at);
    closeSync(fd);
  }
}

function environment(data) {
  const env = JSON.parse(data.toString());
  if (env === null || typeof env !== 'object' || !Object.values(env).every((value) => typeof value === 'string')) {
    throw new Error('env.json is not an object of strings');
  }
  return env;
}
