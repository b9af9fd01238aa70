# -*- coding: utf-8 -*-
# Autobahn's cases against gema, under Python 2.7, which they need: python2.7 autobahn.py ws://127.0.0.1:6001/app/app-key
#
# The cases are written for a server that echoes. gema greets with `pusher:connection_established` and answers each
# message that is none of Pusher's with one `pusher:error`, which stands here for the echo. All else is as in Autobahn:
# what a server must answer, what must end the connection, and with which code.

import collections
import json
import sys

from autobahn.websocket.protocol import WebSocketProtocol
from autobahntestsuite import fuzzing
from twisted.internet import reactor

# 6.4 wants invalid UTF-8 to be noticed within a frame or a fragment, which RFC 6455 leaves open: `NON-STRICT`. The cases
# of compression (12, 13) end at the first message that is not answered; whether gema has decompressed it rightly only
# shows where it is text, which must be UTF-8.
SPEC = {
    "outdir": sys.argv[2],
    "servers": [{"agent": "gema", "url": sys.argv[1]}],
    "cases": ["*"],
    "exclude-cases": [],
    "exclude-agent-cases": {},
}
FINE = ("OK", "NON-STRICT", "INFORMATIONAL")
# Autobahn would rather have the server end the TCP connection, within a second, than do it itself.
CLOSED = FINE + ("FAILED BY CLIENT",)


class Protocol(fuzzing.FuzzingClientProtocol):
    greeted = False
    sent = None

    def sendMessage(self, payload, isBinary=False, **options):
        self.sent = payload, isBinary
        WebSocketProtocol.sendMessage(self, payload, isBinary, **options)

    def onMessage(self, message, is_binary):
        event = json.loads(message)
        if not self.greeted:
            assert event["event"] == "pusher:connection_established", message
            self.greeted = True
            return
        assert event["event"] == "pusher:error" and event["data"]["code"] is None, message
        self.runCase.onMessage(*self.echo())

    def echo(self):
        """What a server that echoes would have answered."""
        case = self.runCase
        if hasattr(case, "CLIENT_OFFERS"):
            return self.sent
        if not case.expected:
            size = getattr(case, "DATALEN", getattr(case, "LEN", 0))
            return "*" * size, case.__class__.__name__.startswith(("Case9_2_", "Case9_4_", "Case9_6_", "Case9_8_"))
        for events in case.expected.values():
            if len(events) > len(case.received) and events[len(case.received)][0] == "message":
                return events[len(case.received)][1:]
        return "unexpected", False


fuzzing.FuzzingClientProtocol = Protocol
fuzzing.FuzzingClientFactory(SPEC)
reactor.run()

with open(sys.argv[2] + "/index.json") as index:
    cases = json.load(index)["gema"]
groups = collections.defaultdict(collections.Counter)
for name, case in cases.items():
    groups[int(name.split(".")[0])][case["behavior"]] += 1
for group, counts in sorted(groups.items()):
    print "%d: %s" % (group, ", ".join("%d %s" % (count, verdict) for verdict, count in counts.most_common()))
behaviours = [(name, case["behavior"], case["behaviorClose"]) for name, case in sorted(cases.items())]
# 13.3 and 13.5 demand that the server compresses within 512 bytes, which gema declines.
declined = lambda name: name.startswith(("13.3.", "13.5.")) and cases[name]["behavior"] == "UNIMPLEMENTED"
faults = [case for case in behaviours if case[1] not in FINE and not declined(case[0]) or case[2] not in CLOSED]
for case in faults:
    print "%s: %s, closing: %s" % case
print "%d cases, %d with a fault" % (len(cases), len(faults))
sys.exit(bool(faults) or not cases)
