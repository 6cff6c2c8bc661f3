// From files under /function to something that answers requests.

import { existsSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

export const CODE = '/function';
const DEFAULT_FILES = ['handler.js', 'handler.mjs', 'handler.cjs'];

// loadHandler imports the function in the folder code and returns (request) =>
// response. setting is "FILE", "FILE:NAME" or ":NAME".
export async function loadHandler(code, setting) {
  const [file, name] = (setting ?? '').split(':');
  const target = file ? path.join(code, file) : defaultFile(code);
  if (!existsSync(target)) {
    throw new Error(`the handler ${file || DEFAULT_FILES[0]} does not exist`);
  }
  const entry = statSync(target).isDirectory() ? packageMain(target) : target;
  const module = await import(pathToFileURL(entry).href);
  return pick(module, name, path.relative(code, entry));
}

function defaultFile(code) {
  for (const file of DEFAULT_FILES) {
    const target = path.join(code, file);
    if (existsSync(target)) return target;
  }
  return packageMain(code);
}

function packageMain(folder) {
  const manifest = path.join(folder, 'package.json');
  const main = existsSync(manifest) ? JSON.parse(readFileSync(manifest, 'utf8')).main : undefined;
  return path.join(folder, main ?? 'index.js');
}

// pick finds the function among a module's exports: a CommonJS module's exports
// are its default export, and transpilers nest another default in there.
function pick(module, name, file) {
  const candidates = name
    ? [module[name], module.default?.[name]]
    : [module.default?.default, module.default, module.handle, module.default?.handle];
  for (const candidate of candidates) {
    if (typeof candidate === 'function') return candidate;
    if (typeof candidate?.fetch === 'function') return candidate.fetch.bind(candidate);
  }
  throw new Error(`${file} does not export ${name || 'a default function'}: ` +
    'write export default async (request) => new Response("…")');
}

// toResponse turns what a handler returned into a Response: one of its own, or
// text, bytes, a stream, nothing, or anything that JSON can carry.
export function toResponse(value) {
  if (value instanceof Response) return value;
  if (value === undefined || value === null) return new Response(null, { status: 204 });
  if (typeof value === 'string' || value instanceof ReadableStream || value instanceof Blob ||
      value instanceof ArrayBuffer || ArrayBuffer.isView(value) || value instanceof FormData ||
      value instanceof URLSearchParams) {
    return new Response(value);
  }
  // A Response of another implementation, such as a polyfill.
  if (typeof value.status === 'number' && value.headers?.entries && 'body' in value) {
    return new Response(value.body, { status: value.status, headers: [...value.headers.entries()] });
  }
  return Response.json(value);
}
