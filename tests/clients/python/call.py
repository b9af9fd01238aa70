"""Calls the library for the tests under Node: PORT METHOD ARGUMENTS, the last a JSON list. Prints what it answers."""

import json
import sys

import gema as harness

port, method, arguments = sys.argv[1:]
print(json.dumps(getattr(harness.library(int(port)), method)(*json.loads(arguments))))
