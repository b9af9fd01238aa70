// Two nodes behind one address are restarted one after the other, while an application publishes and pages listen.

import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { startAddress } from './address.js';
import { startCluster } from './cluster.js';
import { errorCode, openEveryPusher } from './pages.js';
import { PhpPusher } from './php.js';
import { test, until } from './wait.js';

/** Pages, half of them with each pusher-js. */
const PAGES = 20;
/** Events of all publishers together, if the machine has no other work. */
const EVENTS_PER_SECOND = 500;
/** Each with one connection at a time, kept as long as its node keeps it. */
const PUBLISHERS = 2;
/** Events in a request: at least, and for a publisher who lags behind. */
const BATCH = { least: 5, most: 10 };
/** After that a request that was not answered with 200 is sent again. A queue of Laravel waits for seconds. */
const RETRY_MS = 50;
/** What a node has to leave in; it closes its connections spread over the first half. */
const GRACE_MS = 3_000;
/** So many events are accepted before, between and after the restarts, however long that takes. */
const QUIET_EVENTS = 1_000;
/** Longest that this may take; on a quiet machine it is 2 s. */
const QUIET_LIMIT_MS = 60_000;
/** So many requests of each publisher are accepted at least while a node restarts. */
const RESTART_REQUESTS = 5;
/** What was accepted this shortly before a connection's end may still have been on its way to it. */
const ON_ITS_WAY_MS = 3_000;
/**
 * How long a page may be without its channel. pusher-js returns at once; the rest is for a machine with other work. A
 * page that finds nobody listening is away for 15 s.
 */
const AWAY_MS = 14_000;

const CHANNEL = 'private-orders';

const cluster = await startCluster(2, { env: { SOKETI_SHUTDOWN_GRACE_PERIOD: String(GRACE_MS) } });
const address = await startAddress(cluster.nodes);

/**
 * Publishes numbers, each again and again until it is accepted, and the next one only then. It stays with a node as
 * long as that takes it.
 */
class Publisher {
  /** When the request that was accepted began and when it was answered, and at which stay, by number. */
  accepted = [];
  /** Answers other than 200, ports that were closed and connections broken off. */
  refusals = [];
  /** Accepted requests. */
  requests = 0;
  /** Counts the stays with a node. */
  #stay;

  constructor(index) {
    this.event = `n-${index}`;
    this.libraries = cluster.nodes.map((node) => new PhpPusher(node));
    this.#stay = index;
  }

  async run(stop) {
    const began = performance.now();
    const due = () => ((performance.now() - began) / 1_000) * (EVENTS_PER_SECOND / PUBLISHERS);
    while (!stop.aborted) {
      const count = Math.floor(due()) - this.accepted.length;
      if (count >= BATCH.least) await this.#publish(Math.min(count, BATCH.most));
      else await sleep(1);
    }
    this.seconds = (performance.now() - began) / 1_000;
    for (const library of this.libraries) library.close();
  }

  async #publish(count) {
    const first = this.accepted.length;
    const batch = Array.from({ length: count }, (_, n) => ({ channel: CHANNEL, name: this.event, data: first + n }));
    for (;;) {
      const begun = performance.now();
      const stay = this.#stay;
      try {
        await this.libraries[stay % this.libraries.length].triggerBatch(batch);
        const at = performance.now();
        this.requests += 1;
        return this.accepted.push(...batch.map(() => ({ begun, at, stay })));
      } catch (error) {
        this.refusals.push(error.status ?? error.code ?? error.message);
        this.#stay += 1;
        await sleep(RETRY_MS);
      }
    }
  }
}

/** A pusher-js, and what it heard while it was subscribed each time. */
class Page {
  /** `{ succeeded, ended, heard: { event: [numbers] } }`. */
  times = [];
  /** Milliseconds from each end to the next success. */
  away = [];
  /** Why connections ended. */
  codes = [];

  constructor(pusher) {
    this.pusher = pusher;
    const channel = pusher.subscribe(CHANNEL);
    channel.bind('pusher:subscription_succeeded', () => this.#begin());
    channel.bind_global((event, number) => event.startsWith('n-') && this.times.at(-1).heard[event].push(number));
    pusher.connection.bind('error', (error) => this.#end(errorCode(error)));
    pusher.connection.bind('state_change', ({ previous }) => previous === 'connected' && this.#end('no code'));
  }

  get isSubscribed() {
    return this.times.length > 0 && this.times.at(-1).ended === undefined;
  }

  #begin() {
    const succeeded = performance.now();
    if (this.times.length > 0) this.away.push(succeeded - this.times.at(-1).ended);
    const heard = Object.fromEntries(Array.from({ length: PUBLISHERS }, (_, index) => [`n-${index}`, []]));
    this.times.push({ succeeded, heard });
  }

  #end(code) {
    // An error is told twice, and the change of state follows it.
    if (!this.isSubscribed) return;
    this.times.at(-1).ended = performance.now();
    this.codes.push(code);
  }
}

/** What one page should have heard of one publisher in one subscription and did not, or not in order, or twice. */
function faults({ succeeded, ended }, numbers, accepted) {
  const found = [];
  const heard = new Set();
  // Two nodes have no order between them: what the second accepts may overtake what the first has just accepted.
  const latest = new Map();
  for (const number of numbers) {
    const { stay } = accepted[number];
    if (heard.has(number)) found.push(`${number} twice`);
    else if (latest.has(stay) && number !== latest.get(stay) + 1) found.push(`${number} after ${latest.get(stay)}`);
    heard.add(number);
    latest.set(stay, number);
  }
  for (const [number, { begun, at }] of accepted.entries()) {
    if (begun > succeeded && at < ended - ON_ITS_WAY_MS && !heard.has(number)) found.push(`no ${number}`);
  }
  return found;
}

/** How long before its end the oldest event was accepted that a connection did not get any more. */
function onItsWay({ succeeded, ended }, numbers, accepted) {
  const heard = new Set(numbers);
  const missing = accepted.find(({ begun, at }, number) => begun > succeeded && at < ended && !heard.has(number));
  return missing ? ended - missing.at : 0;
}

/** For each time away, the events of all publishers that were accepted meanwhile. */
function missed(pages, publishers) {
  return pages.flatMap(({ times }) => times.slice(1).map(({ succeeded }, index) =>
    publishers.flatMap(({ accepted }) => accepted).filter(({ at }) => at > times[index].ended && at < succeeded).length));
}

function spread(numbers) {
  const sorted = [...numbers].sort((x, y) => x - y);
  const at = (share) => Number(sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))].toFixed(1));
  return `p50 ${at(0.5)}, p90 ${at(0.9)}, at most ${at(1)}`;
}

test('no page misses anything while one node after the other is restarted under load', async (t) => {
  const pages = [];
  while (pages.length < PAGES) {
    pages.push(...openEveryPusher(t, address).map((pusher) => new Page(pusher)));
  }
  await until(() => pages.every((page) => page.isSubscribed), 'all pages listen');

  const stop = new AbortController();
  const publishers = Array.from({ length: PUBLISHERS }, (_, index) => new Publisher(index));
  const published = Promise.all(publishers.map((publisher) => publisher.run(stop.signal)));
  const acceptedSoFar = () => publishers.reduce((sum, publisher) => sum + publisher.accepted.length, 0);
  const quiet = () => {
    const before = acceptedSoFar();
    return until(() => acceptedSoFar() >= before + QUIET_EVENTS, `${QUIET_EVENTS} events are accepted`, QUIET_LIMIT_MS);
  };
  /** For each restart, the requests of each publisher that were accepted meanwhile. */
  const duringRestarts = [];
  await quiet();
  for (const node of cluster.nodes) {
    const before = publishers.map(({ requests }) => requests);
    await node.stop();
    await node.start();
    await until(() => pages.every((page) => page.isSubscribed), 'all pages are back', AWAY_MS);
    duringRestarts.push(publishers.map(({ requests }, index) => requests - before[index]));
    await quiet();
  }
  stop.abort();
  await published;
  await sleep(ON_ITS_WAY_MS);
  const now = performance.now();
  for (const { times } of pages) times.at(-1).ended = now;

  const seconds = Math.max(...publishers.map((publisher) => publisher.seconds));
  const accepted = acceptedSoFar();
  const away = pages.flatMap((page) => page.away);
  t.diagnostic(`${accepted} events in ${seconds.toFixed(1)} s; asked again: ${tally(publishers.flatMap((p) => p.refusals))}`);
  t.diagnostic(`requests accepted during the restarts: ${duringRestarts.map((requests) => requests.join(' + ')).join(', ')}`);
  t.diagnostic(`${away.length} times away: ${spread(away)} ms; connections ended with ${tally(pages.flatMap((p) => p.codes))}`);
  t.diagnostic(`accepted while a page was away: ${spread(missed(pages, publishers))} events`);
  const ways = pages.flatMap(({ times }) => times.slice(0, -1)).flatMap((time) =>
    publishers.map(({ event, accepted }) => onItsWay(time, time.heard[event], accepted)));
  t.diagnostic(`accepted before a connection's end, and not heard there: within ${Math.max(...ways).toFixed(1)} ms of it`);

  assert.ok(duringRestarts.flat().every((requests) => requests >= RESTART_REQUESTS), `requests during the restarts: ${duringRestarts}`);
  for (const [index, page] of pages.entries()) {
    // Once for each node, unless the connection happened to be on the other one.
    assert.ok(page.times.length >= 2 && page.times.length <= 3, `page ${index} subscribed ${page.times.length} times`);
    assert.deepEqual(page.codes.filter((code) => code !== 4200), [], `page ${index}`);
    for (const [nth, time] of page.times.entries()) {
      for (const { event, accepted } of publishers) {
        assert.deepEqual(faults(time, time.heard[event], accepted), [], `page ${index}, subscription ${nth}, ${event}`);
      }
    }
  }
  assert.ok(Math.max(...away) < AWAY_MS, `away for ${Math.max(...away)} ms`);
});

/** `3 × ECONNRESET, 1 × 503`. */
function tally(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].map(([value, count]) => `${count} × ${value}`).join(', ') || 'none';
}
