"""Pysher, a client of protocol 6 that signs channels by itself and sends its pings with a string as data."""

import queue
import unittest

import pysher

import gema as harness

server = harness.Gema()


def setUpModule():
    server.start()


def tearDownModule():
    server.stop()


def subscriptions(name):
    return server.api.channel_info(name, ["subscription_count"])["subscription_count"]


class Pysher(unittest.TestCase):
    def open(self, **options):
        client = pysher.Pusher(
            harness.KEY, secure=False, secret=harness.SECRET, custom_host=server.host, port=server.port, **options
        )
        # It has no other way to tell that it may subscribe.
        established = queue.Queue()
        client.connection.bind("pusher:connection_established", established.put)
        client.connect()
        # Nobody waits for its thread, which often sleeps on after the socket is closed; it ends with the process.
        self.addCleanup(client.disconnect, 0)
        established.get(timeout=harness.LIMIT_SECONDS)
        return client

    def hear(self, client, name, event):
        before = subscriptions(name)
        channel = client.subscribe(name)
        heard = queue.Queue()
        channel.bind(event, heard.put)
        # The success itself may arrive before one can bind to it.
        harness.until(lambda: subscriptions(name) > before, f"{name} is subscribed")
        return channel, heard

    def test_it_connects_and_its_ping_is_answered(self):
        # G-66
        client = self.open()
        harness.until(lambda: client.connection.pong_received, "a pong for the ping it sends on opening")
        self.assertEqual(client.connection.state, "connected")

    def test_it_hears_events_on_public_private_and_presence_channels(self):
        client = self.open(user_data={"user_id": "py", "user_info": {"name": "Zoë"}})
        for name in ["public", "private-room", "presence-room"]:
            _, heard = self.hear(client, name, "ev")
            server.api.trigger(name, "ev", {"n": 1})
            self.assertEqual(heard.get(timeout=harness.LIMIT_SECONDS), '{"n": 1}')

    def test_its_client_events_reach_the_others(self):
        sender, receiver = self.open(), self.open()
        channel, _ = self.hear(sender, "private-talk", "client-typing")
        _, heard = self.hear(receiver, "private-talk", "client-typing")
        channel.trigger("client-typing", {"on": True})
        self.assertIn("on", heard.get(timeout=harness.LIMIT_SECONDS))

    def test_a_refused_event_does_not_cost_it_the_connection(self):
        client = self.open()
        errors = queue.Queue()
        client.connection.bind("pusher:error", errors.put)
        client.connection.send_event("client-typing", {}, "public-channel")
        self.assertIsNone(errors.get(timeout=harness.LIMIT_SECONDS)["code"])
        _, heard = self.hear(client, "still-here", "ev")
        server.api.trigger("still-here", "ev", {})
        heard.get(timeout=harness.LIMIT_SECONDS)


if __name__ == "__main__":
    unittest.main()
