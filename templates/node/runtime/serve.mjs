// The server around a function: requests, readiness, loading, ending.

import http from 'node:http';
import { timingSafeEqual } from 'node:crypto';
import { Readable } from 'node:stream';
import { once } from 'node:events';
import { CODE, loadHandler, toResponse } from './handler.mjs';

const MAX_HEADER_SIZE = 64 * 1024;
const BACKLOG = 1024;
const NO_BODY = new Set(['GET', 'HEAD']);
const TOKEN_FIELD = 'kiln-instance-token';

export class Server {
  #handler = null;
  #token = null; // that requests must show; null = any will do
  #cell;
  #http;
  #draining = false;

  constructor(cell) {
    this.#cell = cell;
    this.#http = http.createServer({
      maxHeaderSize: MAX_HEADER_SIZE, noDelay: true,
      // The gateway decides how long a request may take and a connection idle.
      requestTimeout: 0, headersTimeout: 0, keepAliveTimeout: 0,
    }, (req, res) => this.#serve(req, res));
    this.#http.on('checkContinue', (req, res) => this.#serve(req, res, true));
    this.#http.maxRequestsPerSocket = 0;
  }

  get loaded() { return this.#handler !== null; }

  // load imports the handler; it throws what the import throws. What is for the
  // runtime alone the handler does not find in its environment.
  async load(code = CODE) {
    const token = process.env.KILN_INSTANCE_TOKEN;
    delete process.env.KILN_INSTANCE_TOKEN;
    this.#token = token === undefined ? null : Buffer.from(token);
    process.chdir(code);
    this.#handler = await loadHandler(code, process.env.KILN_HANDLER);
  }

  // rehearse answers requests of its own on a private port.
  async rehearse(requests) {
    this.#http.listen(0, '127.0.0.1');
    await once(this.#http, 'listening');
    const { port } = this.#http.address();
    const agent = new http.Agent({ keepAlive: true });
    for (let n = 0; n < requests; n++) {
      const request = http.request({ port, agent, method: n % 2 ? 'POST' : 'GET', path: `/?n=${n}` });
      request.end(n % 2 ? 'body' : undefined);
      const [response] = await once(request, 'response');
      response.resume();
      await once(response, 'end');
    }
    agent.destroy();
    this.#http.close();
  }

  listen() {
    this.#http.listen({ port: Number(process.env.PORT) || 8080, host: '0.0.0.0', backlog: BACKLOG });
    process.on('SIGTERM', () => this.#drain());
    process.on('SIGINT', () => this.#drain());
  }

  #drain() {
    if (this.#draining) return;
    this.#draining = true;
    this.#http.close(() => process.exit(0));
    this.#http.closeIdleConnections();
  }

  async #serve(req, res, expects = false) {
    if (this.#draining) res.setHeader('connection', 'close');
    res.on('close', () => { if (this.#draining) setImmediate(() => this.#http.closeIdleConnections()); });
    if (req.url.startsWith('/_kiln/')) {
      if (expects) res.writeContinue();
      return this.#control(req, res);
    }
    if (!this.#handler) {
      return problem(req, res, 503, 'cell-empty', 'no function is loaded yet');
    }
    if (!this.#admits(req)) {
      return problem(req, res, 403, 'instance-token', "the call does not show this instance's token; calls come through the gateway");
    }
    const gone = new AbortController();
    res.on('close', () => { if (!res.writableFinished) gone.abort(); });
    try {
      const request = toRequest(req, res, gone.signal, expects);
      await this.#send(await this.#handler(request), req, res);
    } catch (error) {
      this.#failed(req, res, error);
    }
  }

  // #admits says whether a request shows the instance's token.
  #admits(req) {
    if (this.#token === null) return true;
    const shown = Buffer.from(req.headers[TOKEN_FIELD] ?? '');
    return shown.length === this.#token.length && timingSafeEqual(shown, this.#token);
  }

  // #failed reports a handler's error: the stack to stderr, a 500 to the caller,
  // or a broken connection when the response has begun.
  #failed(req, res, error) {
    if (res.destroyed && !res.writableFinished) {
      if (error?.name !== 'AbortError') console.error(error);
      return;
    }
    console.error(error);
    if (res.headersSent) return res.destroy();
    const name = error?.constructor?.name ?? typeof error;
    problem(req, res, 500, 'handler-failed', `the handler threw ${name}; its stack is in the function's log`);
  }

  // #send writes a handler's value as the response.
  async #send(value, req, res) {
    const response = toResponse(value);
    res.statusCode = response.status;
    if (response.statusText) res.statusMessage = response.statusText;
    for (const [name, value] of response.headers) {
      if (name === 'set-cookie') continue;
      if (name === 'connection' || name === 'transfer-encoding') continue;
      res.setHeader(name, value);
    }
    const cookies = response.headers.getSetCookie();
    if (cookies.length) res.setHeader('set-cookie', cookies);
    if (!response.body || req.method === 'HEAD') {
      await response.body?.cancel();
      if (!response.body && req.method !== 'HEAD' && response.status !== 204 && response.status !== 304) {
        res.setHeader('content-length', 0);
      }
      res.end();
      return;
    }
    await sendBody(response.body.getReader(), res);
  }

  async #control(req, res) {
    const path = req.url.split('?')[0];
    if (path === '/_kiln/ready') {
      if (this.#cell) res.setHeader('kiln-cell', this.loaded ? 'loaded' : 'empty');
      res.setHeader('content-length', 0);
      return res.end();
    }
    if (path === '/_kiln/load' && req.method === 'POST') {
      if (!this.#cell) return problem(req, res, 409, 'not-a-cell', 'this is no cell');
      const [status, text] = await this.#cell.load(req, this);
      // Of a load that is refused some may still come: closed now, its sender would get no answer.
      if (status === 200) res.setHeader('connection', 'close');
      res.writeHead(status, { 'content-type': 'text/plain; charset=utf-8', 'content-length': Buffer.byteLength(text) });
      return res.end(text);
    }
    problem(req, res, 404, 'route-unknown', `nothing answers at ${path}`);
  }
}

// sendBody sends a body with its length when it is one chunk that is there
// already, and chunk by chunk as they come otherwise.
async function sendBody(reader, res) {
  res.on('close', () => { if (!res.writableFinished) reader.cancel().catch(() => {}); });
  const first = await reader.read();
  if (first.done) {
    if (!res.hasHeader('content-length')) res.setHeader('content-length', 0);
    res.end();
    return;
  }
  let following = reader.read();
  following.catch(() => {}); // awaited below
  const turn = new Promise((resolve) => setImmediate(resolve, null));
  if ((await Promise.race([following, turn]))?.done) {
    if (!res.hasHeader('content-length')) res.setHeader('content-length', first.value.byteLength);
    res.end(first.value);
    return;
  }
  for (let chunk = first; !chunk.done; chunk = await following, following = null) {
    if (following === null) following = reader.read();
    if (!res.write(chunk.value)) await Promise.race([once(res, 'drain'), once(res, 'close')]);
    if (res.destroyed) return;
  }
  res.end();
}

// toRequest makes the standard's Request of Node's.
function toRequest(req, res, signal, expects) {
  const headers = new Headers();
  const raw = req.rawHeaders;
  for (let i = 0; i < raw.length; i += 2) {
    if (raw[i].length === TOKEN_FIELD.length && raw[i].toLowerCase() === TOKEN_FIELD) continue; // not the handler's
    headers.append(raw[i], raw[i + 1]);
  }
  const init = { method: req.method, headers, signal };
  const hasBody = req.headers['content-length'] > 0 || 'transfer-encoding' in req.headers;
  if (hasBody && !NO_BODY.has(req.method)) {
    init.body = body(req, res, expects);
    init.duplex = 'half';
  }
  const url = req.url.startsWith('/') ? `http://${req.headers.host ?? 'localhost'}${req.url}` : req.url;
  return new Request(url, init);
}

// body reads a request's body when it is asked for, and only then tells a client
// that waits to go on.
function body(req, res, expects) {
  let iterator = null;
  return new ReadableStream({
    type: 'bytes',
    async pull(controller) {
      if (!iterator) {
        if (expects) res.writeContinue();
        iterator = Readable.prototype[Symbol.asyncIterator].call(req);
      }
      const { value, done } = await iterator.next();
      if (done) {
        controller.close();
        controller.byobRequest?.respond(0);
      } else {
        controller.enqueue(new Uint8Array(value.buffer, value.byteOffset, value.byteLength));
      }
    },
    cancel() { req.resume(); },
  }, { highWaterMark: 0 });
}

// problem answers with an RFC 9457 document.
function problem(req, res, status, code, detail) {
  const document = { type: `urn:kiln:error:${code}`, title: http.STATUS_CODES[status], status, code, detail };
  const id = req.headers['kiln-request-id'];
  if (id) Object.assign(document, { instance: `urn:kiln:request:${id}`, request_id: id });
  const text = JSON.stringify(document);
  for (const name of res.getHeaderNames()) if (name !== 'connection') res.removeHeader(name);
  res.statusMessage = '';
  res.writeHead(status, http.STATUS_CODES[status], {
    'content-type': 'application/problem+json', 'content-length': Buffer.byteLength(text), 'kiln-error': 'function',
  });
  res.end(text);
  req.resume();
}
