"""The function: handle(request) is called for every request."""

import json


def handle(request):
    """Greets whoever the request names.

    A str, bytes, dict or list is an answer; (body, status, headers) says more,
    and a generator streams.
    """
    name = request.query.get("name", "world")
    if request.body:
        try:
            name = request.json()["name"]
        except (json.JSONDecodeError, KeyError, TypeError):
            return {"error": 'send {"name": "…"}'}, 400
    return {"message": f"Hello, {name}!"}
