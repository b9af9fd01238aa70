"""The official server library for Python, `pusher` 3.3.4: publishing, asking and authorising (G-203, G-205)."""

import base64
import hashlib
import itertools
import json
import unittest

import nacl.secret
import pusher
from pusher.errors import PusherBadAuth, PusherBadRequest

import gema as harness

server = harness.Gema()
numbers = itertools.count(1)


def setUpModule():
    server.start()


def tearDownModule():
    server.stop()


def fresh(start):
    """A channel name that no other test uses."""
    return f"{start}-{next(numbers)}"


class Case(unittest.TestCase):
    def open(self):
        wire = server.open()
        self.addCleanup(wire.close)
        return wire

    def join(self, channel, member=None):
        wire = self.open()
        fields = None
        if channel.startswith(("private-", "presence-")):
            fields = server.api.authenticate(channel, wire.socket_id, member)
        wire.join(channel, fields)
        return wire


class Publishing(Case):
    def test_trigger_delivers_the_json_that_the_library_wrote(self):
        # G-205
        channel = fresh("public")
        wire = self.join(channel)
        self.assertEqual(server.api.trigger(channel, "ev", {"a": "é/😀", "b": [1, 2.5]}), {})
        frame = wire.take("ev")
        # Spaces after colons and commas, and raw UTF-8: nothing was parsed and written anew.
        self.assertEqual(frame, {"event": "ev", "data": '{"a": "é/😀", "b": [1, 2.5]}', "channel": channel})

    def test_trigger_reaches_several_channels_and_leaves_the_sender_out(self):
        # G-205
        channels = [fresh("public"), fresh("private")]
        wires = [self.open(), self.open()]
        for wire, channel in itertools.product(wires, channels):
            wire.join(channel, server.api.authenticate(channel, wire.socket_id))
        sender, other = wires
        server.api.trigger(channels, "to-others", "plain string", socket_id=sender.socket_id)
        server.api.trigger(channels, "to-all", {})
        self.assertEqual({other.take("to-others")["channel"] for _ in channels}, set(channels))
        self.assertEqual({sender.take("to-all")["channel"] for _ in channels}, set(channels))
        self.assertEqual(sender.frames, [])

    def test_trigger_batch_delivers_in_order(self):
        # G-205
        channel = fresh("public")
        wire = self.join(channel)
        batch = [{"channel": channel, "name": "n", "data": {"n": n}} for n in range(10)]
        self.assertEqual(server.api.trigger_batch(batch), {})
        self.assertEqual([wire.take("n")["data"] for _ in range(10)], [f'{{"n": {n}}}' for n in range(10)])

    def test_send_to_user_reaches_the_signed_in_user(self):
        # G-205
        wire = self.sign_in("ada")
        self.assertEqual(server.api.send_to_user("ada", "hello", {"m": 1}), {})
        self.assertEqual(wire.take("hello")["data"], '{"m": 1}')

    def test_an_encrypted_event_arrives_as_it_was_encrypted(self):
        channel = fresh("private-encrypted")
        wire = self.open()
        fields = server.api.authenticate(channel, wire.socket_id)
        wire.join(channel, {"auth": fields["auth"]})
        server.api.trigger(channel, "secret", {"text": "é/😀"})
        box = json.loads(wire.take("secret")["data"])
        key = hashlib.sha256(channel.encode() + base64.b64decode(harness.MASTER_KEY)).digest()
        plain = nacl.secret.SecretBox(key).decrypt(base64.b64decode(box["ciphertext"]), base64.b64decode(box["nonce"]))
        self.assertEqual(json.loads(plain), {"text": "é/😀"})

    def test_a_refusal_is_the_exception_that_the_library_has_for_it(self):
        options = dict(app_id=harness.APP_ID, key=harness.KEY, ssl=False, host=server.host, port=server.port)
        with self.assertRaises(PusherBadAuth):
            pusher.Pusher(secret="wrong", **options).trigger("c", "e", {})
        with self.assertRaises(PusherBadRequest):
            server.api.trigger("c", "pusher:fake", {})

    def sign_in(self, user):
        wire = self.open()
        wire.send("pusher:signin", server.api.authenticate_user(wire.socket_id, {"id": user}))
        wire.take("pusher:signin_success")
        wire.join(f"#server-to-user-{user}")
        return wire


class Asking(Case):
    """Each GET carries the MD5 of an empty body (G-213)."""

    def test_channels_info_lists_the_occupied_channels(self):
        # G-205, G-213
        start = fresh("presence-list")
        self.assertEqual(server.api.channels_info(start), {"channels": {}})
        self.join(start, {"user_id": "ada"})
        self.assertEqual(server.api.channels_info(start), {"channels": {start: {}}})
        info = server.api.channels_info(start, ["user_count", "subscription_count"])
        self.assertEqual(info, {"channels": {start: {"user_count": 1, "subscription_count": 1}}})
        self.assertEqual(server.api.channels_info()["channels"][start], {})

    def test_channel_info_describes_one_channel(self):
        # G-205, G-213
        channel = fresh("presence")
        self.assertEqual(server.api.channel_info(channel), {"occupied": False})
        for user in ["ada", "budi", "budi"]:
            self.join(channel, {"user_id": user})
        info = server.api.channel_info(channel, ["user_count", "subscription_count"])
        self.assertEqual(info, {"occupied": True, "user_count": 2, "subscription_count": 3})

    def test_users_info_lists_each_member_once(self):
        # G-205, G-213
        channel = fresh("presence")
        self.assertEqual(server.api.users_info(channel), {"users": []})
        for user in ["ada", "budi", "budi", 10]:
            self.join(channel, {"user_id": user})
        users = [user["id"] for user in server.api.users_info(channel)["users"]]
        self.assertEqual(sorted(users), ["10", "ada", "budi"])


class Authorising(Case):
    def test_what_authenticate_signs_is_accepted_for_every_kind(self):
        # G-203
        for kind in ["private", "private-cache", "private-encrypted"]:
            wire, channel = self.open(), fresh(kind)
            frame = wire.join(channel, {"auth": server.api.authenticate(channel, wire.socket_id)["auth"]})
            self.assertEqual(frame["data"], "{}")

    def test_channel_data_with_spaces_passes_as_it_was_signed(self):
        # G-194, G-203
        channel = fresh("presence")
        wire = self.open()
        member = {"user_id": "u/1", "user_info": {"name": "Zoë 😀"}}
        fields = server.api.authenticate(channel, wire.socket_id, member)
        self.assertIn('": ', fields["channel_data"])
        presence = json.loads(wire.join(channel, fields)["data"])["presence"]
        self.assertEqual(presence, {"count": 1, "ids": ["u/1"], "hash": {"u/1": {"name": "Zoë 😀"}}})

    def test_channel_data_written_anew_without_its_spaces_is_refused(self):
        # G-194
        channel = fresh("presence")
        wire = self.open()
        fields = server.api.authenticate(channel, wire.socket_id, {"user_id": "u/1"})
        compact = json.dumps(json.loads(fields["channel_data"]), separators=(",", ":"))
        wire.send("pusher:subscribe", {**fields, "channel_data": compact, "channel": channel})
        self.assertEqual(json.loads(wire.take("pusher:subscription_error")["data"])["status"], 401)

    def test_user_data_with_spaces_comes_back_as_it_was_sent(self):
        # G-203
        wire = self.open()
        fields = server.api.authenticate_user(wire.socket_id, {"id": "12345", "user_info": {"name": "Zoë"}})
        self.assertIn('": ', fields["user_data"])
        wire.send("pusher:signin", fields)
        self.assertEqual(json.loads(wire.take("pusher:signin_success")["data"])["user_data"], fields["user_data"])


class Terminating(Case):
    def test_the_path_without_the_app_ends_the_connections_of_the_user(self):
        # G-273, G-205: the library posts to /users/{id}/terminate_connections, without /apps/{app_id}.
        wires = {}
        for user in ["leaving", "staying"]:
            wires[user] = self.open()
            wires[user].send("pusher:signin", server.api.authenticate_user(wires[user].socket_id, {"id": user}))
            wires[user].take("pusher:signin_success")
        self.assertEqual(server.api.terminate_user_connections("leaving"), {})
        self.assertEqual(wires["leaving"].close_code(), 4009)
        wires["staying"].send("pusher:ping", {})
        wires["staying"].take("pusher:pong")

    def test_a_user_whom_nobody_knows_is_no_error(self):
        # G-273
        self.assertEqual(server.api.terminate_user_connections("nobody-here"), {})


if __name__ == "__main__":
    unittest.main()
