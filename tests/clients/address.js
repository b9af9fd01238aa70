// One address in front of several nodes: each new connection goes to the next node that takes it.

import { createConnection, createServer } from 'node:net';
import { after } from 'node:test';

/** Starts such an address for `nodes` and ends it after the tests of the file. */
export async function startAddress(nodes) {
  const address = new Address(nodes);
  await address.listen();
  after(() => address.close());
  return address;
}

class Address {
  host = '127.0.0.1';
  #turn = 0;
  #sockets = new Set();

  constructor(nodes) {
    this.nodes = nodes;
    this.app = nodes[0].app;
    this.server = createServer({ pauseOnConnect: true, noDelay: true }, (client) => this.#serve(client));
  }

  listen() {
    return new Promise((resolve) => {
      this.server.listen(0, this.host, () => resolve((this.port = this.server.address().port)));
    });
  }

  /** For what a page has to have signed; it asks no node. */
  get api() {
    return this.nodes[0].api;
  }

  close() {
    for (const socket of this.#sockets) socket.destroy();
    return new Promise((resolve) => this.server.close(resolve));
  }

  async #serve(client) {
    this.#watch(client);
    const first = (this.#turn += 1);
    for (const index of this.nodes.keys()) {
      const node = await this.#connect(this.nodes[(first + index) % this.nodes.length]);
      if (!node) continue;
      // What one side ends or breaks off, the other one hears.
      this.#watch(node, client);
      this.#watch(client, node);
      node.pipe(client);
      client.pipe(node);
      return;
    }
    client.destroy();
  }

  /** A connection to a node, or nothing if it takes none. */
  #connect(node) {
    return new Promise((resolve) => {
      const socket = createConnection({ host: node.host, port: node.port, noDelay: true });
      socket.once('connect', () => resolve(socket));
      socket.once('error', () => resolve(undefined));
    });
  }

  #watch(socket, other) {
    this.#sockets.add(socket);
    socket.on('error', () => other?.destroy());
    socket.on('close', () => {
      this.#sockets.delete(socket);
      other?.destroySoon();
    });
  }
}
