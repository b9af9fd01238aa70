// Two nodes behind one address are restarted one after the other, while an application publishes and pages listen.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startAddress } from './address.js';
import { startCluster } from './cluster.js';
import { errorCode, openEveryPusher } from './pages.js';
import { PhpPusher } from './php.js';
import { until } from './wait.js';

/** Pages, half of them with each pusher-js. */
const PAGES = 20;
/** Events of all publishers together. */
const EVENTS_PER_SECOND = 500;
/** Each with one connection, kept as long as its node keeps it. */
const PUBLISHERS = 2;
/** Events in a request. */
const BATCH = 5;
/** When a request is sent again that was not answered with 200. A queue of Laravel waits for seconds. */
const RETRY_MS = 50;
/** What a node has to leave in; it closes its connections spread over the first half. */
const GRACE_MS = 3_000;
/** How long everything goes on before, between and after the restarts. */
const QUIET_MS = 1_000;
/** What was accepted this shortly before a connection's end may still have been on its way to it. */
const ON_ITS_WAY_MS = 500;
/** How long a page may be without its channel. pusher-js returns at once; the rest is for a machine with other work. */
const AWAY_MS = 2_000;

const CHANNEL = 'private-orders';

const cluster = await startCluster(2, { env: { SOKETI_SHUTDOWN_GRACE_PERIOD: String(GRACE_MS) } });
const address = await startAddress(cluster.nodes);

/** Publishes numbers, each again and again until it is accepted, and the next one only then. */
class Publisher {
  /** When the request that was accepted began and when it was answered, by number. */
  accepted = [];
  /** Answers other than 200, and connections broken off. */
  refusals = [];

  constructor(index) {
    this.event = `n-${index}`;
    this.library = new PhpPusher(address);
  }

  async run(stop) {
    const began = performance.now();
    const due = () => ((performance.now() - began) / 1_000) * (EVENTS_PER_SECOND / PUBLISHERS);
    while (!stop.aborted) {
      if (this.accepted.length + BATCH <= due()) await this.#publish();
      else await sleep(1);
    }
    this.seconds = (performance.now() - began) / 1_000;
    this.library.close();
  }

  async #publish() {
    const first = this.accepted.length;
    const batch = Array.from({ length: BATCH }, (_, n) => ({ channel: CHANNEL, name: this.event, data: first + n }));
    for (;;) {
      const begun = performance.now();
      try {
        await this.library.triggerBatch(batch);
        const at = performance.now();
        return this.accepted.push(...batch.map(() => ({ begun, at })));
      } catch (error) {
        this.refusals.push(error.status ?? error.code ?? error.message);
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

/** What one page should have heard of one publisher in one subscription, and did not, or did twice. */
function faults({ succeeded, ended }, numbers, accepted) {
  const first = accepted.findIndex(({ begun }) => begun > succeeded);
  const last = accepted.findLastIndex(({ at }) => at < ended - ON_ITS_WAY_MS);
  const found = [];
  for (const [index, number] of numbers.entries()) {
    const before = numbers[index - 1] ?? number - 1;
    if (number !== before + 1) found.push(`${number} after ${before}`);
  }
  if (first >= 0 && first <= last && !(numbers[0] <= first)) found.push(`${numbers[0]} is the first, not ${first}`);
  if (first >= 0 && first <= last && !(numbers.at(-1) >= last)) found.push(`${numbers.at(-1)} is the last, not ${last}`);
  return found;
}

/** How long the newest accepted event that a connection did not get had been accepted when it ended. */
function onItsWay({ ended }, numbers, accepted) {
  const missing = accepted.slice((numbers.at(-1) ?? Infinity) + 1).find(({ at }) => at < ended);
  return missing ? ended - missing.at : 0;
}

/** For each time away, the events of all publishers that the page heard neither before nor after. */
function missed(pages, publishers) {
  return pages.flatMap(({ times }) => times.slice(1).map((time, index) =>
    publishers.reduce((sum, { event }) =>
      sum + Math.max(0, time.heard[event][0] - times[index].heard[event].at(-1) - 1), 0)));
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
  await sleep(QUIET_MS);
  for (const node of cluster.nodes) {
    await node.stop();
    await node.start();
    await until(() => pages.every((page) => page.isSubscribed), 'all pages are back', AWAY_MS);
    await sleep(QUIET_MS);
  }
  stop.abort();
  await published;
  await sleep(ON_ITS_WAY_MS);
  const now = performance.now();
  for (const { times } of pages) times.at(-1).ended = now;

  const seconds = Math.max(...publishers.map((publisher) => publisher.seconds));
  const accepted = publishers.reduce((sum, publisher) => sum + publisher.accepted.length, 0);
  const away = pages.flatMap((page) => page.away);
  t.diagnostic(`${accepted} events in ${seconds.toFixed(1)} s; asked again: ${tally(publishers.flatMap((p) => p.refusals))}`);
  t.diagnostic(`${away.length} times away: ${spread(away)} ms; connections ended with ${tally(pages.flatMap((p) => p.codes))}`);
  t.diagnostic(`accepted while a page was away, and not heard: ${spread(missed(pages, publishers))} events`);
  const ways = pages.flatMap(({ times }) => times.slice(0, -1)).flatMap((time) =>
    publishers.map(({ event, accepted }) => onItsWay(time, time.heard[event], accepted)));
  t.diagnostic(`accepted before a connection's end, and not heard there: within ${Math.max(...ways).toFixed(1)} ms of it`);

  assert.ok(accepted / seconds > EVENTS_PER_SECOND * 0.9, `${accepted} events in ${seconds} s`);
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
