"""Run with: python3 -m unittest"""

import json
import types
import unittest

from handler import handle


def request(body=b"", **query):
    return types.SimpleNamespace(body=body, query=query, json=lambda: json.loads(body))


class HandleTest(unittest.TestCase):
    def test_greets_by_query(self):
        self.assertEqual(handle(request(name="Ada")), {"message": "Hello, Ada!"})

    def test_greets_by_body(self):
        self.assertEqual(handle(request(b'{"name": "Ada"}')), {"message": "Hello, Ada!"})

    def test_refuses_what_it_does_not_understand(self):
        self.assertEqual(handle(request(b"[]"))[1], 400)


if __name__ == "__main__":
    unittest.main()
