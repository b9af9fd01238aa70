// Known users on lines that break: numbered events for them, what breaks, and whether they got all of it.

import assert from 'node:assert/strict';
import { startLine } from './line.js';
import { until } from './wait.js';

/** For how long events are published. */
const SECONDS = Number(process.env.HISTORY_SECONDS ?? 5);
const RUNS = Number(process.env.HISTORY_RUNS ?? 1);
/** Events of all publishers together. */
const PER_SECOND = 200;
/** After that a request that was not answered with 200 is sent again. */
const RETRY_MS = 50;
/**
 * Events that may come again after a cut: those of three seconds, since another node knows a place that is so old. A line
 * that stalls adds its part.
 */
const TWICE_MAX = 3 * PER_SECOND;
/** Between two looks whether everything has come. */
const CHECK_MS = 250;
/** A node that is killed may take along events that it has accepted this shortly before. */
const LOST_MS = 1_000;

export const EVENT = 'order';
const GAP = 'gema:history_gap';

/** The runs of a test that is never twice the same. HISTORY_SEED repeats one, as far as it depends on chance. */
export const runs = Array.from({ length: RUNS }, (_, n) => ({
  suffix: RUNS > 1 ? `, run ${n + 1}` : '',
  seed: Number(process.env.HISTORY_SEED ?? Math.floor(2 ** 32 * Math.random())),
}));

/** Numbers from 0 to 1, the same for the same seed (mulberry32). */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** One of `these`; `chance` is from `random`. */
export const choose = (these, chance) => these[Math.floor(these.length * chance())];

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Numbered events, all accepted by one node, each after the one before. */
class Sequence {
  /** For each event, when its request began and when it was answered with 200. */
  accepted = [];
  /** When its node was killed. */
  #brokenAt = 0;
  #began = performance.now();

  constructor(name, node) {
    this.name = name;
    this.node = node;
  }

  /** Whether the node was killed since it began, so that it does not go on. */
  get isBroken() {
    if (!this.#brokenAt && this.node.killedAt > this.#began) this.#brokenAt = this.node.killedAt;
    return this.#brokenAt > 0;
  }

  /** Whether an event may have been on the node only when that was killed. */
  mayBeLost(number) {
    return this.isBroken && this.accepted[number - 1].at > this.#brokenAt - LOST_MS;
  }
}

/** Publishes numbered events, each until it is accepted. Begins a new sequence at another node if its node is killed. */
class Publisher {
  sequences = [];
  #name;
  #channels;
  #findNode;

  constructor(name, channels, node, findNode) {
    this.#name = name;
    this.#channels = channels;
    this.#findNode = findNode;
    this.#begin(node);
  }

  /** Publishes so many at a steady pace. */
  async run(count, perSecond) {
    const began = performance.now();
    for (let n = 1; n <= count; n += 1) {
      await this.publish();
      await pause(began + (1000 * n) / perSecond - performance.now());
    }
  }

  async publish() {
    for (;;) {
      if (this.sequences.at(-1).isBroken) await this.#moveOn();
      const { name, node, accepted } = this.sequences.at(-1);
      const [begun, number] = [performance.now(), accepted.length + 1];
      try {
        const once = { idempotency_key: `${this.#channels[0]}-${name}-${number}` };
        await node.api.trigger(this.#channels, EVENT, { sequence: name, number }, once);
        accepted.push({ begun, at: performance.now() });
        return;
      } catch (error) {
        // 409: the same request is still being carried out. 503: Redis is away.
        if (error.status && ![409, 503].includes(error.status)) throw error;
        await pause(RETRY_MS);
      }
    }
  }

  async #moveOn() {
    let node;
    while (!(node = this.#findNode())) await pause(RETRY_MS);
    this.#begin(node);
  }

  #begin(node) {
    this.sequences.push(new Sequence(`${this.#name}${this.sequences.length || ''}`, node));
  }
}

/** The pages of a user, one after the other, and what came over each connection: events and gaps in their order. */
export class Page {
  connections = [];
  /** The present page, and its subscription. */
  pusher;
  channel;

  /**
   * `load` opens a page and subscribes. A pusher-js whose connections break within seconds gives up WebSockets for good;
   * then the user loads the page anew.
   */
  static async load(load) {
    const page = new Page();
    page.#load(load);
    await until(() => page.channel.subscribed, 'the page is subscribed');
    return page;
  }

  #load(load) {
    const { pusher, channel } = load();
    [this.pusher, this.channel] = [pusher, channel];
    pusher.connection.bind('connected', () => this.connections.push([]));
    pusher.connection.bind('failed', () => this.#load(load));
    channel.bind(EVENT, (event) => this.connections.at(-1).push(event));
    channel.bind(GAP, (gap) => this.connections.at(-1).push({ ...gap, at: performance.now() }));
  }

  /** The user tries again, if pusher-js does not right now: after a failure it waits for 15 s. */
  retry() {
    if (this.pusher.connection.state === 'connected') return;
    this.pusher.disconnect();
    this.pusher.connect();
  }

  /** The user tries again if pusher-js has given up for now. */
  retryAfterFailure() {
    if (['unavailable', 'disconnected'].includes(this.pusher.connection.state)) this.retry();
  }

  /** What a connection had in a few words: the numbers of events, and gaps. */
  shown(connection = -1) {
    return this.connections.at(connection).map(shown);
  }

  /**
   * What is wrong with what came, of all that these sequences have accepted, and figures. `isEarly`: see `scenario`.
   */
  check(sequences, isEarly) {
    const wrong = this.connections.flatMap((connection, nth) => wrongOrder(connection, nth, isEarly));
    const all = this.connections.flat();
    const unknown = all.filter(({ missed }) => missed === null);
    const figures = { unknown: unknown.length, covered: 0, lost: 0 };
    const missing = [];
    let events = 0;
    for (const sequence of sequences) {
      const seen = new Set(all.filter((event) => event.sequence === sequence.name).map(({ number }) => number));
      events += seen.size;
      const last = Math.max(0, ...seen);
      for (const [index, { begun }] of sequence.accepted.entries()) {
        const number = index + 1;
        if (seen.has(number)) continue;
        if (number > last && sequence.mayBeLost(number)) figures.lost += 1;
        // The page loads everything anew then.
        else if (unknown.some(({ at }) => begun < at)) figures.covered += 1;
        else missing.push(`${sequence.name}:${number}`);
      }
    }
    const told = all.reduce((sum, { missed }) => sum + (missed ?? 0), 0);
    if (missing.length > told) wrong.push(`missing, and told ${told}: ${missing.join(' ')}`);
    const twice = all.filter(({ sequence }) => sequence !== undefined).length - events;
    const connections = this.connections.length;
    const late = lateConnections(this.connections);
    return { wrong, isComplete: missing.length <= told, connections, twice, told, late, ...figures };
  }
}

function shown({ sequence, number, missed }) {
  return sequence === undefined ? `gap of ${missed}` : number;
}

/** What comes twice on a connection, in another order than it was accepted, or with a hole. */
function wrongOrder(connection, nth, isEarly) {
  const [wrong, latest] = [[], new Map()];
  for (const [place, { sequence, number }] of connection.entries()) {
    if (sequence === undefined) continue;
    const before = latest.get(sequence) ?? number - 1;
    const follows = isEarly ? number > before : number === before + 1;
    if (!follows) wrong.push(`${sequence}:${number} after ${before} on connection ${nth}, as item ${place}`);
    latest.set(sequence, Math.max(before, number));
  }
  return wrong;
}

/** How many connections began with a hole that no gap told: it was filled or told later. */
function lateConnections(connections) {
  const latest = new Map();
  let late = 0;
  for (const connection of connections) {
    let [isTold, isLate] = [false, false];
    for (const { sequence, number } of connection) {
      if (sequence === undefined) {
        isTold = true;
        continue;
      }
      const before = latest.get(sequence) ?? 0;
      isLate ||= !isTold && number > before + 1;
      latest.set(sequence, Math.max(before, number));
    }
    if (isLate) late += 1;
  }
  return late;
}

/** Breaks the line of a page in one of its ways, again and again. */
async function breakLine(line, page, chance, isOver) {
  while (!isOver()) {
    await pause(300 + 1500 * chance());
    page.retry();
    const kind = chance();
    if (kind < 0.3) line.cut();
    else if (kind < 0.6) line.reset();
    else {
      line.stall();
      await pause(1500 * chance());
      line.abandon();
      if (kind < 0.8) line.bury();
    }
  }
  line.cut();
  page.retry();
}

/**
 * Pages on lines that break, while each node has a publisher. `open` is a list of functions that load the page of a user
 * on a line; `living` names the nodes that live; `breakNodes(chance, isOver)` breaks something besides. `isEarly`: a node
 * may let a page in before it finds out what that has missed. So a connection may have a hole that is told later. That is
 * rare unless it `mayBeLate`, when Redis is not always there: then more events come twice, too.
 */
export async function scenario(t, seed, { channels, open, living, breakNodes = () => {}, isEarly = false, mayBeLate = false }) {
  const lines = await Promise.all(open.map((_, n) => {
    const chance = random(seed + n);
    return startLine(t, () => choose(living(), chance));
  }));
  const pages = await Promise.all(open.map((load, n) => load(lines[n])));
  const chance = random(seed - 1);
  const publishers = living().map((node, n, { length }) =>
    new Publisher(String.fromCharCode(97 + n), channels, node, () => choose(living(), chance)));
  let isOver = false;
  const [perSecond, ends] = [PER_SECOND / publishers.length, () => isOver];
  const work = [
    Promise.all(publishers.map((one) => one.run(SECONDS * perSecond, perSecond))).finally(() => { isOver = true; }),
    ...lines.map((line, n) => breakLine(line, pages[n], random(seed + 100 + n), ends)),
    breakNodes(random(seed - 2), ends),
  ];
  await Promise.allSettled(work);
  await Promise.all(work);
  const sequences = () => publishers.flatMap((publisher) => publisher.sequences);
  const check = () => pages.map((page) => page.check(sequences(), isEarly));
  // To check a long run takes a while, in which no page gets anything.
  const isComplete = async () => {
    await pause(CHECK_MS);
    pages.forEach((page) => page.retryAfterFailure());
    return check().every(({ isComplete }) => isComplete);
  };
  const allHasCome = () => until(isComplete, '').then(() => true, () => false);
  const began = performance.now();
  // Behind further events nothing comes that came before.
  const hasCome = await allHasCome();
  const lateMs = performance.now() - began;
  for (const publisher of publishers) await publisher.publish();
  await allHasCome();
  const checked = check();
  const events = sequences().reduce((sum, { accepted }) => sum + accepted.length, 0);
  console.log(`HISTORY_SEED=${seed}: ${events} events in ${sequences().length} sequences, the last ones came within ${lateMs.toFixed(0)} ms`);
  for (const { connections, late, twice, told, unknown, covered, lost } of checked) {
    console.log(`  ${connections} connections, ${late} late: ${twice} came twice, ${told} told as missed, ${covered} missing before ` +
      `${unknown} gaps of unknown size, ${lost} lost with a killed node`);
  }
  const wrong = checked.flatMap((one, n) => one.wrong.map((text) => `page ${n}: ${text.slice(0, 1_000)}`));
  assert.deepEqual(wrong, [], `HISTORY_SEED=${seed}`);
  assert.ok(hasCome, `the last events came only when more were published (HISTORY_SEED=${seed})`);
  const sum = (figure) => checked.reduce((sum, one) => sum + one[figure], 0);
  assert.ok(mayBeLate || sum('late') <= sum('connections') / 8, `told too late (HISTORY_SEED=${seed})`);
  const isBounded = ({ twice, connections }) => mayBeLate || twice <= TWICE_MAX * connections;
  assert.ok(checked.every(isBounded), `too many events came twice (HISTORY_SEED=${seed})`);
  assert.ok(checked.every(({ connections }) => connections > 1), 'the lines were broken');
}

/** A page on a private channel, whose signed data names the user. */
export function privatePage(open, line, { api, name, user }) {
  const customHandler = ({ socketId, channelName }, answer) =>
    answer(null, api.authorizeChannel(socketId, channelName, { user_id: user }));
  return Page.load(() => {
    const pusher = open({ wsHost: line.host, wsPort: line.port, channelAuthorization: { customHandler } });
    return { pusher, channel: pusher.subscribe(name) };
  });
}

/** A page of Echo on a presence channel, whose name it gets without prefix. */
export function presencePage(open, line, { name, user }) {
  return Page.load(() => {
    const { echo, pusher } = open(user, { wsHost: line.host, wsPort: line.port });
    return { pusher, channel: echo.join(name).subscription };
  });
}
