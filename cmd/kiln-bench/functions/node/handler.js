export default async (request) => new Response(await request.arrayBuffer());
