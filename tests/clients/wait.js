// Waiting for a condition, never for a time: every wait has a limit and says what it waited for. So has every test.

import { test as testWithoutLimit } from 'node:test';

/** Longest that anything on a local server may take; on a loaded machine it is mostly unused. */
export const LIMIT_MS = 30_000;

/** Longest that one test may take. Its waits have shorter limits, so this one ends only what nobody waits for. */
const TEST_LIMIT_MS = 300_000;

/** `test` of Node, with a limit for each test: a file takes as long as its tests need, also on a busy machine. */
export function test(name, run) {
  return testWithoutLimit(name, { timeout: TEST_LIMIT_MS }, run);
}

/** Resolves as soon as `condition` holds. */
export async function until(condition, what, limitMs = LIMIT_MS) {
  const deadline = Date.now() + limitMs;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`not within ${limitMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** `promise`, or a failure that says what was waited for. */
export function within(promise, what, limitMs = LIMIT_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${limitMs} ms: ${what}`)), limitMs);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Events in the order of their arrival; each can be taken once. */
export class Inbox {
  /** Everything that ever arrived, taken or not. */
  all = [];
  #untaken = [];
  #waiting = [];

  push(name, data, more = {}) {
    const item = { name, data, ...more };
    this.all.push(item);
    const index = this.#waiting.findIndex(({ name }) => name === item.name);
    if (index < 0) this.#untaken.push(item);
    else this.#waiting.splice(index, 1)[0].resolve(item);
  }

  /** The first event called `name` that nobody has taken yet. */
  take(name) {
    const index = this.#untaken.findIndex((item) => item.name === name);
    if (index >= 0) return Promise.resolve(this.#untaken.splice(index, 1)[0]);
    const item = new Promise((resolve) => this.#waiting.push({ name, resolve }));
    const seen = () => this.all.map(({ name }) => name).slice(-20).join(', ') || 'nothing';
    return within(item, `event "${name}"`).catch((error) => {
      throw new Error(`${error.message}; arrived so far: ${seen()}`);
    });
  }

  /** The data of the next event called `name`. */
  async data(name) {
    return (await this.take(name)).data;
  }

  names() {
    return this.all.map(({ name }) => name);
  }

  count(name) {
    return this.all.filter((item) => item.name === name).length;
  }
}
