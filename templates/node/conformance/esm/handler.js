import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

const touch = (name) => writeFileSync(`/tmp/${name}`, '');
const awaitFile = async (name) => { while (!existsSync(`/tmp/${name}`)) await sleep(5); };

async function barrier(n) {
  touch(`barrier-${Math.random()}`);
  while (readdirSync('/tmp').filter((name) => name.startsWith('barrier-')).length < n) await sleep(5);
}

function stream(name) {
  return new ReadableStream({
    async start(controller) {
      controller.enqueue(new TextEncoder().encode('first\n'));
      if (name === undefined) {
        await sleep(20);
        return controller.error(new Error('late'));
      }
      await awaitFile(name);
      controller.enqueue(new TextEncoder().encode('last\n'));
      controller.close();
    },
  });
}

async function upload(request, name) {
  let size = 0;
  for await (const chunk of request.body) {
    if (size === 0) touch(name);
    size += chunk.byteLength;
  }
  return String(size);
}

async function untilAborted(request, name) {
  touch(`${name}-begun`);
  await new Promise((resolve) => request.signal.addEventListener('abort', resolve));
  touch(name);
}

export default async function handle(request) {
  const url = new URL(request.url);
  const q = url.searchParams;
  switch (url.pathname) {
    case '/echo':
      return new Response(await request.arrayBuffer(), {
        headers: {
          'content-type': request.headers.get('content-type') ?? 'application/octet-stream',
          'x-method': request.method, 'x-path': url.pathname, 'x-query': url.search.slice(1),
          'x-request-id': request.headers.get('kiln-request-id') ?? '',
        },
      });
    case '/status': return new Response('status', { status: Number(q.get('code')) });
    case '/empty': return undefined;
    case '/cookies': return new Response('', { headers: [['set-cookie', 'a=1'], ['set-cookie', 'b=2']] });
    case '/json': return { 'ümläut': [1, 2.5, null, true] };
    case '/fail': throw new TypeError('kaboom');
    case '/fail-late': return new Response(stream());
    case '/stream': return new Response(stream(q.get('file')));
    case '/wait': await awaitFile(q.get('file')); return 'done';
    case '/exists': return new Response('exists', { status: existsSync(`/tmp/${q.get('file')}`) ? 200 : 404 });
    case '/barrier': await barrier(Number(q.get('n'))); return 'passed';
    case '/upload': return upload(request, q.get('file'));
    case '/disconnect': return untilAborted(request, q.get('file'));
    case '/env':
      return {
        env: { ...process.env },
        proc: Object.fromEntries(['self', '1'].map((name) => [name, readFileSync(`/proc/${name}/environ`, 'latin1')])),
      };
    case '/print': console.log(q.get('text')); return 'printed';
    default: return new Response(url.pathname, { status: 404 });
  }
}
