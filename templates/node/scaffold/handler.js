// The function: it is called with a Request for every request and returns a
// Response, both as in the fetch standard.

export default async function handle(request) {
  let name = new URL(request.url).searchParams.get('name') ?? 'world';
  if (request.body) {
    try {
      ({ name } = await request.json());
      if (typeof name !== 'string') throw new TypeError('name is not a string');
    } catch {
      return Response.json({ error: 'send {"name": "…"}' }, { status: 400 });
    }
  }
  return Response.json({ message: `Hello, ${name}!` });
}
