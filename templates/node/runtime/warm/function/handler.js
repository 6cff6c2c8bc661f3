// What a waiting cell rehearses with.

export default async function handle(request) {
  const body = request.method === 'POST' ? await request.text() : new URL(request.url).search;
  return new Response(body, { headers: { 'content-type': 'text/plain' } });
}
