"""Runs every test of this folder, and closes with the same lines as Node's runner."""

import pathlib
import sys
import unittest

here = pathlib.Path(__file__).parent
sys.path.insert(0, str(here))
result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(unittest.defaultTestLoader.discover(str(here)))
failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
print(f"ℹ tests {result.testsRun}\nℹ pass {max(0, result.testsRun - failed)}\nℹ fail {failed}")
sys.exit(failed > 0)
