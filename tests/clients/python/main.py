"""Runs every test of this folder and writes the counts as TAP does, for `../run`."""

import pathlib
import sys
import unittest

here = pathlib.Path(__file__).parent
sys.path.insert(0, str(here))
result = unittest.TextTestRunner(verbosity=2).run(unittest.defaultTestLoader.discover(str(here)))
failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
passed = max(0, result.testsRun - failed)
pathlib.Path(sys.argv[1]).write_text(f"# pass {passed}\n# fail {failed}\n")
sys.exit(failed > 0)
