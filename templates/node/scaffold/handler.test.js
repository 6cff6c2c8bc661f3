// Run with: node --test

import assert from 'node:assert/strict';
import test from 'node:test';
import handle from './handler.js';

const call = async (path, body) =>
  handle(new Request(`http://function${path}`, body === undefined ? {} : { method: 'POST', body }));

test('greets by query', async () => {
  assert.deepEqual(await (await call('/?name=Ada')).json(), { message: 'Hello, Ada!' });
});

test('greets by body', async () => {
  assert.deepEqual(await (await call('/', '{"name": "Ada"}')).json(), { message: 'Hello, Ada!' });
});

test('refuses what it does not understand', async () => {
  assert.equal((await call('/', '[]')).status, 400);
});
