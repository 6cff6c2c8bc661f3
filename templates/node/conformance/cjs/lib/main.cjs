module.exports = async (request) => {
  const url = new URL(request.url);
  if (url.pathname === '/fail') throw new TypeError('kaboom');
  return new Response(request.body, {
    headers: {
      'content-type': request.headers.get('content-type') ?? 'application/octet-stream',
      'x-method': request.method, 'x-path': url.pathname, 'x-query': url.search.slice(1),
      'x-request-id': request.headers.get('kiln-request-id') ?? '',
    },
  });
};
