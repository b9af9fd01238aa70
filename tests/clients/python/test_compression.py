"""Python's `websockets`, which asks for compression by itself."""

import json
import unittest

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.sync.client import connect

import gema as harness

server = harness.Gema()


def setUpModule():
    server.start(GEMA_CONNECTIONS_COMPRESSION="true")


def tearDownModule():
    server.stop()


def readings(number):
    """An event of 2 KB, as a dashboard gets it."""
    values = [
        {"channel": f"sensor-{sensor}", "value": (number * 7919 + sensor * 104729) % 100000 / 100, "unit": "°C"}
        for sensor in range(35)
    ]
    return {"number": number, "note": "é😀", "readings": values}


class Websockets(unittest.TestCase):
    def open(self, channel, **options):
        url = f"ws://{server.host}:{server.port}/app/{harness.KEY}?protocol=7&client=python"
        socket = connect(url, open_timeout=harness.LIMIT_SECONDS, **options)
        self.addCleanup(socket.close)
        established = json.loads(socket.recv(timeout=harness.LIMIT_SECONDS))
        socket_id = json.loads(established["data"])["socket_id"]
        fields = server.api.authenticate(channel, socket_id) if channel.startswith("private-") else {}
        socket.send(json.dumps({"event": "pusher:subscribe", "data": {**fields, "channel": channel}}))
        joined = json.loads(socket.recv(timeout=harness.LIMIT_SECONDS))
        self.assertEqual(joined["event"], "pusher_internal:subscription_succeeded")
        return socket

    def next(self, socket):
        return json.loads(socket.recv(timeout=harness.LIMIT_SECONDS))

    def test_events_come_compressed_and_whole(self):
        socket = self.open("public-websockets")
        (extension,) = socket.protocol.extensions
        self.assertIsInstance(extension, PerMessageDeflate)
        self.assertTrue(extension.remote_no_context_takeover and extension.local_no_context_takeover)
        compressed = []
        decode = extension.decode

        def record(frame, **options):
            compressed.append(frame.rsv1)
            return decode(frame, **options)

        extension.decode = record
        for number in range(10):
            server.api.trigger("public-websockets", "scada.data.received", readings(number))
            frame = self.next(socket)
            self.assertEqual(json.loads(frame["data"]), readings(number))
        self.assertEqual(compressed, [True] * 10)

    def test_what_it_compresses_arrives(self):
        sender = self.open("private-websockets")
        receiver = self.open("private-websockets", compression=None)
        self.assertEqual(receiver.protocol.extensions, [])
        for number in range(3):
            sender.send(
                json.dumps({"event": "client-note", "channel": "private-websockets", "data": readings(number)})
            )
            self.assertEqual(json.loads(self.next(receiver)["data"]), readings(number))
            # In fragments, of which the first marks the message as compressed.
            text = json.dumps({"event": "client-note", "channel": "private-websockets", "data": readings(number)})
            sender.send(text[start : start + 500] for start in range(0, len(text), 500))
            self.assertEqual(json.loads(self.next(receiver)["data"]), readings(number))


if __name__ == "__main__":
    unittest.main()
