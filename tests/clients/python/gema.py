"""One gema process for the tests of a module, and plain sockets to it."""

import json
import os
import pathlib
import queue
import subprocess
import threading
import time

import pusher
import websocket

HERE = pathlib.Path(__file__).parent
BINARY = os.environ.get("GEMA_BINARY") or str(HERE / "../../../target/debug/gema")

# Digits only: the library accepts no other app id.
APP_ID, KEY, SECRET = "1001", "clients-key", "clients-secret"
# 32 bytes 0, 1, ... 31: the master key of protocol.md, C.5.
MASTER_KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

# Longest that anything on a local server may take.
LIMIT_SECONDS = 8
# The same for a start or a stop.
START_STOP_SECONDS = 20

HOST = "127.0.0.1"


def library(port):
    return pusher.Pusher(
        app_id=APP_ID, key=KEY, secret=SECRET, ssl=False, host=HOST, port=port, encryption_master_key_base64=MASTER_KEY
    )


class Gema:
    host = HOST

    def start(self, command=(BINARY, "start"), **settings):
        """Starts it with these environment variables, too."""
        self.process = subprocess.Popen(
            command,
            env={
                "PATH": os.environ["PATH"],
                "SOKETI_HOST": self.host,
                "SOKETI_PORT": "0",
                "SOKETI_METRICS_SERVER_PORT": "0",
                "SOKETI_SHUTDOWN_GRACE_PERIOD": "500",
                "SOKETI_DEFAULT_APP_ID": APP_ID,
                "SOKETI_DEFAULT_APP_KEY": KEY,
                "SOKETI_DEFAULT_APP_SECRET": SECRET,
                "SOKETI_DEFAULT_APP_ENABLE_CLIENT_MESSAGES": "true",
                "GEMA_LOG_FORMAT": "json",
                **settings,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.log = []
        ready = queue.Queue()
        threading.Thread(target=self._read, args=[ready], daemon=True).start()
        try:
            address = ready.get(timeout=START_STOP_SECONDS)
        except queue.Empty:
            address = None
        if not address:
            self.process.kill()
            raise AssertionError(f"{BINARY} did not become ready:\n{''.join(self.log[-20:])}")
        self.port = int(address.rsplit(":", 1)[1])
        self.api = library(self.port)
        return self

    def _read(self, ready):
        for line in self.process.stdout:
            self.log.append(line)
            try:
                said = json.loads(line)
            except ValueError:
                continue
            said.update(said.get("fields") or {})
            if said.get("message") == "ready":
                ready.put(said["address"])
        ready.put(None)

    def stop(self):
        self.process.terminate()
        try:
            code = self.process.wait(START_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.process.stdout.close()
        assert code == 0, f"exit code {code}:\n{''.join(self.log[-20:])}"

    def open(self):
        return Wire(f"ws://{self.host}:{self.port}/app/{KEY}?protocol=7&client=js&version=8.6.0&flash=false")


class Wire:
    """A WebSocket without a library: frames by their event name, `data` as the string it was on the wire."""

    def __init__(self, url):
        self.socket = websocket.create_connection(url, timeout=LIMIT_SECONDS)
        self.frames = []
        self.socket_id = json.loads(self.take("pusher:connection_established")["data"])["socket_id"]

    def take(self, event):
        """The next frame of that name; those before it stay for later."""
        for index, frame in enumerate(self.frames):
            if frame["event"] == event:
                return self.frames.pop(index)
        while True:
            try:
                frame = json.loads(self.socket.recv())
            except Exception as error:
                seen = [frame["event"] for frame in self.frames]
                raise AssertionError(f"no {event!r} ({error}); arrived: {seen}") from error
            if frame["event"] == event:
                return frame
            self.frames.append(frame)

    def send(self, event, data):
        self.socket.send(json.dumps({"event": event, "data": data}))

    def join(self, channel, fields=None):
        """Subscribes with what the library's `authenticate` answered."""
        self.send("pusher:subscribe", {**(fields or {}), "channel": channel})
        return self.take("pusher_internal:subscription_succeeded")

    def close_code(self):
        """Reads until the server closes, and answers its code."""
        while True:
            opcode, payload = self.socket.recv_data()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return int.from_bytes(payload[:2], "big")

    def close(self):
        self.socket.close()


def until(condition, what):
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {LIMIT_SECONDS} s: {what}")
        time.sleep(0.005)
