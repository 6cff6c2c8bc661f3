"""Run with: python3 -m unittest"""

import unittest

from server import greeting


class GreetingTest(unittest.TestCase):
    def test_by_query(self):
        self.assertEqual(greeting("/?name=Ada"), {"message": "Hello, Ada!"})

    def test_without_name(self):
        self.assertEqual(greeting("/"), {"message": "Hello, world!"})
