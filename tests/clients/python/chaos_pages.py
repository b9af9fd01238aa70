"""Clients with Pysher for tests/chaos: they print what they see as JSON, one line each, and read the phase of the run.

python chaos_pages.py PLAN, where the plan has the address, keys, channels and the number of clients.
"""

import json
import sys
import threading
import time

import pysher

plan = json.loads(sys.argv[1])
# Pysher gives no user to a channel that has none by the protocol, so it has no history there.
CHANNELS = [name for name in plan["channels"] if not name.startswith("private-log")]
# Between two tries of a client, in seconds.
PAUSE = 1

lock = threading.Lock()
sockets = 0
over = threading.Event()


def show(**line):
    """Nothing is sent before it stands in the pipe."""
    with lock:
        print(json.dumps(line), flush=True)


class Client:
    """A Pysher that subscribes whenever it is connected, and another one if it gives up."""

    def __init__(self, number):
        self.number = number
        self.app = number % len(plan["apps"])
        self.user = f"python-{number}"
        self.socket = None
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while not over.is_set():
            self.open()
            self.pusher.connection.join()
            self.closed("server")
            time.sleep(PAUSE)

    def open(self):
        app = plan["apps"][self.app]
        self.pusher = pysher.Pusher(
            app["key"],
            secure=False,
            secret=app["secret"],
            custom_host=plan["host"],
            port=plan["port"],
            reconnect_interval=PAUSE,
            user_data={"user_id": self.user},
        )
        connection = self.pusher.connection
        connection.bind("pusher:connection_established", self.connected)
        connection.bind("pusher:error", lambda data: show(what="note", text=f"Pysher {self.number}: {data}"))
        error, close = connection._on_error, connection._on_close
        connection._on_error = lambda *args: (self.closed("server"), error(*args))
        connection._on_close = lambda *args: (self.closed("server"), close(*args))
        self.pusher.connect()

    def connected(self, _):
        global sockets
        self.closed("server")
        upstream = self.pusher.connection.socket.sock.headers.get("x-upstream", "")
        with lock:
            sockets += 1
            self.socket = sockets
        show(what="opened", socket=self.socket, app=self.app, upstream=upstream)
        for name in CHANNELS:
            user = self.user if name.startswith("presence-") else None
            show(what="asked", socket=self.socket, channel=name, user=user)
            # Its answer may come at once, on this thread only.
            self.hear(self.pusher.subscribe(name), self.socket)

    def hear(self, channel, socket):
        def bind(event, what, read):
            channel.bind(event, lambda data: show(what=what, socket=socket, channel=channel.name, **read(data)))

        def members(data):
            inner = json.loads(data) if isinstance(data, str) else data
            return {"members": inner.get("presence", {}).get("ids", [])}

        def user(data):
            return {"user": json.loads(data)["user_id"]}

        bind("n", "heard", lambda data: {"data": data})
        bind("client-n", "heard", lambda data: {"data": data})
        bind("pusher_internal:subscription_succeeded", "joined", members)
        bind("pusher_internal:member_added", "came", user)
        bind("pusher_internal:member_removed", "went", user)

    def closed(self, how):
        with lock:
            socket, self.socket = self.socket, None
        if socket is not None:
            show(what="closed", socket=socket, how=how)


clients = [Client(number) for number in range(plan["pages"])]
for line in sys.stdin:
    if line.strip() == "over":
        break
over.set()
for client in clients:
    client.closed("clean")
    client.pusher.disconnect(0)
