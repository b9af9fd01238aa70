// History: known users behind a line that is cut, reset and stalled at random miss nothing that no gap tells, with
// unmodified clients. `HISTORY_SECONDS=60 HISTORY_RUNS=100` shows it for longer; a run is repeated with HISTORY_SEED.

import assert from 'node:assert/strict';
import { startGema } from './gema.js';
import { startLaravel } from './laravel.js';
import { startLine } from './line.js';
import { fresh, ready, subscribed, withEcho, withPusher } from './pages.js';
import { until } from './wait.js';

const SECONDS = Number(process.env.HISTORY_SECONDS ?? 5);
const RUNS = Number(process.env.HISTORY_RUNS ?? 1);
const PER_SECOND = 200;
const EVENT = 'order';

const rule = { match: '*', seconds: 120, events_max: 5000 };
const gema = await startGema({ env: { GEMA_LIMITS_HISTORY_RULES: JSON.stringify([rule]) } });
const laravel = await startLaravel(gema);
laravel.channel('room-{number}', (user) => ({ id: user.id }));

/** Numbers from 0 to 1, the same for the same seed (mulberry32). */
function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** What a page has seen: the numbers of each of its connections, in order, and the gaps it was told. */
class Page {
  connections = [[]];
  missed = 0;

  order({ number }) {
    this.connections.at(-1).push(number);
  }

  gap({ missed }) {
    this.missed += missed;
  }

  all() {
    return this.connections.flat();
  }

  check(last) {
    for (const numbers of this.connections) {
      assert.ok(numbers.every((number, n) => n === 0 || number === numbers[n - 1] + 1), `in order, without a hole: ${numbers}`);
    }
    const seen = new Set(this.all());
    const missing = Array.from({ length: last }, (_, n) => n + 1).filter((number) => !seen.has(number));
    assert.ok(missing.length <= this.missed, `missing, and told ${this.missed}: ${missing}`);
    return { connections: this.connections.length, twice: this.all().length - seen.size, missed: this.missed };
  }
}

/** Publishes numbers at a steady pace. Returns the last. */
async function publish(channel) {
  const [began, count] = [performance.now(), SECONDS * PER_SECOND];
  for (let number = 1; number <= count; number += 1) {
    await gema.api.trigger(channel, EVENT, { number });
    await pause(began + (1000 * number) / PER_SECOND - performance.now());
  }
  return count;
}

/** Breaks the line in one of its ways, again and again. */
async function trouble(line, chance, isOver) {
  while (!isOver()) {
    await pause(300 + 1500 * chance());
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
}

async function scenario(t, open) {
  for (let run = 0; run < RUNS; run += 1) {
    const seed = Number(process.env.HISTORY_SEED ?? Math.floor(2 ** 32 * Math.random()));
    const channel = fresh('room');
    const line = await startLine(t, gema);
    const page = new Page();
    await open(line, channel, page);
    let isOver = false;
    const [last] = await Promise.all([
      publish(page.name).finally(() => { isOver = true; }),
      trouble(line, random(seed), () => isOver),
    ]);
    await until(() => page.all().includes(last), `the last event has come (HISTORY_SEED=${seed})`);
    const told = page.check(last);
    console.log(`HISTORY_SEED=${seed}: ${last} events, ${told.connections} connections, ${told.twice} came twice, ${told.missed} told as missed`);
    assert.ok(told.connections > 1, 'the line was broken');
  }
}

/**
 * A new list of numbers for each connection of a page. A pusher-js whose connections break within seconds gives up
 * WebSockets for good; then its user loads the page anew.
 */
function follow(pusher, page, reload) {
  pusher.connection.bind('connected', () => page.connections.push([]));
  pusher.connection.bind('failed', reload);
}

withPusher('a user on a private channel misses nothing over cuts', gema, ({ t, open }) =>
  scenario(t, async (line, channel, page) => {
    page.name = `private-${channel}`;
    const authorize = ({ socketId, channelName }, answer) =>
      answer(null, gema.api.authorizeChannel(socketId, channelName, { user_id: channel }));
    const load = () => {
      const pusher = open({ wsHost: line.host, wsPort: line.port, channelAuthorization: { customHandler: authorize } });
      follow(pusher, page, load);
      const subscription = pusher.subscribe(page.name);
      subscription.bind(EVENT, (data) => page.order(data));
      subscription.bind('gema:history_gap', (data) => page.gap(data));
      return subscription;
    };
    await subscribed(load());
  }));

withEcho('a member of a presence channel misses nothing over cuts', laravel, ({ t, open }) =>
  scenario(t, async (line, channel, page) => {
    page.name = `presence-${channel}`;
    const load = () => {
      const { echo, pusher } = open(channel, { wsHost: line.host, wsPort: line.port });
      follow(pusher, page, load);
      const joined = echo.join(channel);
      joined.listen(`.${EVENT}`, (data) => page.order(data)).listen('.gema:history_gap', (data) => page.gap(data));
      return joined;
    };
    await ready(load());
  }));
