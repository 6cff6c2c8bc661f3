"""Entry point of a Python function's container."""

import os
import sys

# The runtime is found beside this file; the function's own folders come first
# for everything that is imported later.
from kiln_runtime import serve

if __name__ == "__main__":
    sys.path.remove(os.path.dirname(os.path.abspath(__file__)))
    sys.exit(serve.main())
