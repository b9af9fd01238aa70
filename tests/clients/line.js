// A line between pages and servers that can be cut in each way in which real lines are.

import { createServer, connect } from 'node:net';

/**
 * Passes each TCP connection on to the server that `pick` names then, or to none if it names none. It ends with the test,
 * or with whatever has the `after` of a test.
 */
export async function startLine(t, pick) {
  const line = new Line(pick);
  await line.start();
  t.after(() => line.stop());
  return line;
}

class Line {
  host = '127.0.0.1';
  port = 0;
  #pick;
  #server;
  #pairs = new Set();
  #dead = new Set();
  #isDown = false;

  constructor(pick) {
    this.#pick = pick;
  }

  async start() {
    this.#server = createServer({ noDelay: true }, (near) => this.#pass(near));
    await new Promise((resolve) => this.#server.listen(0, this.host, resolve));
    this.port = this.#server.address().port;
  }

  #pass(near) {
    const server = this.#isDown ? undefined : this.#pick();
    if (!server) {
      near.destroy();
      return;
    }
    const pair = { near, far: connect({ host: server.host, port: server.port, noDelay: true }) };
    this.#pairs.add(pair);
    for (const [from, to] of [[near, pair.far], [pair.far, near]]) {
      from.on('data', (bytes) => pair.isStalled || to.write(bytes));
      from.on('error', () => {});
      from.on('close', () => {
        if (pair.isStalled) return;
        this.#pairs.delete(pair);
        to.destroy();
      });
    }
  }

  /** Both sides learn at once that the line is gone. */
  cut() {
    for (const { near, far } of this.#pairs) {
      near.destroy();
      far.destroy();
    }
    this.#pairs.clear();
  }

  /** The same with a reset in place of an end. */
  reset() {
    for (const { near, far } of this.#pairs) {
      near.resetAndDestroy();
      far.resetAndDestroy();
    }
    this.#pairs.clear();
  }

  /** The same, and there is no other line until `mend`. */
  down() {
    this.#isDown = true;
    this.reset();
  }

  /** There are lines again. */
  mend() {
    this.#isDown = false;
  }

  /** Nothing passes any more, and neither side is told. What was on its way is lost. */
  stall() {
    for (const pair of this.#pairs) pair.isStalled = true;
  }

  /** The page gives up its stalled line; the server learns nothing so far. */
  abandon() {
    for (const pair of this.#pairs) {
      if (!pair.isStalled) continue;
      this.#pairs.delete(pair);
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
