"""The Kiln runtime for Python: HTTP/1.1 on asyncio, standard library only."""
