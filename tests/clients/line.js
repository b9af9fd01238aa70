// A line between pages and a server that can be cut in each way in which real lines are.

import { createServer, connect } from 'node:net';

/** Passes TCP connections on to a server. It ends with the test. */
export async function startLine(t, { host, port }) {
  const line = new Line({ host, port });
  await line.start();
  t.after(() => line.stop());
  return line;
}

class Line {
  host = '127.0.0.1';
  port = 0;
  #target;
  #server;
  #pairs = new Set();
  #dead = new Set();

  constructor(target) {
    this.#target = target;
  }

  async start() {
    this.#server = createServer({ noDelay: true }, (near) => this.#pass(near));
    await new Promise((resolve) => this.#server.listen(0, this.host, resolve));
    this.port = this.#server.address().port;
  }

  #pass(near) {
    const pair = { near, far: connect({ ...this.#target, noDelay: true }) };
    this.#pairs.add(pair);
    for (const [from, to] of [[near, pair.far], [pair.far, near]]) {
      from.on('data', (bytes) => pair.isStalled || to.write(bytes));
      from.on('error', () => {});
      from.on('close', () => {
        this.#pairs.delete(pair);
        if (!pair.isStalled) to.destroy();
      });
    }
  }

  /** Both sides learn at once that the line is gone. */
  cut() {
    for (const { near, far } of this.#pairs) {
      near.destroy();
      far.destroy();
    }
  }

  /** The same with a reset in place of an end. */
  reset() {
    for (const { near, far } of this.#pairs) {
      near.resetAndDestroy();
      far.resetAndDestroy();
    }
  }

  /** Nothing passes any more, and neither side is told. What was on its way is lost. */
  stall() {
    for (const pair of this.#pairs) pair.isStalled = true;
  }

  /** The page gives up its stalled line; the server learns nothing so far. */
  abandon() {
    for (const pair of this.#pairs) {
      if (!pair.isStalled) continue;
      this.#dead.add(pair.far);
      pair.near.destroy();
    }
  }

  /** The server learns that the lines that were given up are gone. */
  bury() {
    for (const far of this.#dead) far.destroy();
    this.#dead.clear();
  }

  stop() {
    this.cut();
    this.bury();
    this.#server.close();
  }
}
