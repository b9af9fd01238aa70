// Flow rules as pages see them: a flood of readings comes thinned, an alarm in its place, and who joins in the middle has
// every sensor at once. Official clients of two generations, on one node, on two, and through nginx.

import assert from 'node:assert/strict';
import { startCluster } from './cluster.js';
import { startGema } from './gema.js';
import { startLaravel } from './laravel.js';
import { fresh, ready, subscribed, withEcho, withPusher } from './pages.js';
import { startProxy } from './proxies.js';
import { until } from './wait.js';

const WINDOW_MS = 250;
const SENSORS = 100;
/** Readings of each sensor before the alarm, and after it. 1000 show a flood of 10,000 readings/s on a release build. */
const ROUNDS = Number(process.env.FLOW_ROUNDS ?? 20);
/** Most events of one batch. */
const BATCH = 10;
const READING = 'scada.data.received';
const ALARM = 'pump.alarm';

const rule = {
  match: 'scada-*',
  except: ['*.alarm'],
  conflate: { key: 'data.channel', window_ms: WINDOW_MS },
  snapshot: { max_age_seconds: 600 },
};
const env = { GEMA_LIMITS_FLOW_RULES: JSON.stringify([rule]) };
const gema = await startGema({ env });
const { nodes } = await startCluster(2, { env });
const nginx = await startProxy('nginx', nodes);

const SETUPS = {
  'one node': { server: gema, publisher: gema, pages: 1 },
  'two nodes': { server: nodes[0], publisher: nodes[1], pages: 1 },
  // One page for each node, so that both have heard what was published.
  nginx: { server: nginx, publisher: nodes[1], pages: 2 },
};

/** What a page has got: the readings of each sensor in order, and of an alarm what was there before it. */
class Page {
  readings = new Map();
  alarms = [];
  began = performance.now();

  reading({ data: { channel: sensor, value } }) {
    if (!this.readings.has(sensor)) this.readings.set(sensor, []);
    this.readings.get(sensor).push(value);
  }

  alarm() {
    this.alarms.push(this.newest());
  }

  newest() {
    return [...this.readings.values()].map((values) => values.at(-1));
  }

  has(value) {
    return this.readings.size === SENSORS && this.newest().every((newest) => newest === value);
  }

  /** No sensor came more often than its windows allow, and none went back. */
  check() {
    const windows = Math.ceil((performance.now() - this.began) / WINDOW_MS) + 1 + this.alarms.length;
    for (const [sensor, values] of this.readings) {
      assert.ok(values.length <= windows, `${sensor} came ${values.length} times in ${windows} windows`);
      assert.ok(values.every((value, n) => n === 0 || value > values[n - 1]), `${sensor}: ${values}`);
    }
  }
}

/** Publishes readings of all sensors, `first` and those after it, those of one sensor in order. Returns the last one. */
async function flood({ api }, channel, first, rounds = ROUNDS) {
  const began = performance.now();
  const reading = (n, value) => ({ channel, name: READING, data: { data: { channel: `sensor-${n}`, value }, channel } });
  const lanes = Array.from({ length: SENSORS / BATCH }, async (_, lane) => {
    for (let value = first; value < first + rounds; value += 1) {
      await api.triggerBatch(Array.from({ length: BATCH }, (_, k) => reading(lane * BATCH + k, value)));
    }
  });
  await Promise.all(lanes);
  const perSecond = Math.round((1000 * SENSORS * rounds) / (performance.now() - began));
  if (process.env.FLOW_ROUNDS) console.log(`${perSecond} readings/s published`);
  return first + rounds - 1;
}

/** `open` resolves with a page that is subscribed to a channel. */
async function scenario({ server, publisher, pages: count }, open) {
  const channel = fresh('scada');
  const pages = [];
  for (let n = 0; n < count; n += 1) pages.push(await open(server, channel));
  const before = await flood(publisher, channel, 1);
  await publisher.api.trigger(channel, ALARM, {});
  const last = await flood(publisher, channel, before + 1);
  await until(() => pages.every((page) => page.has(last)), 'each page has the last reading of each sensor');
  for (const page of pages) {
    page.check();
    assert.equal(page.alarms.length, 1);
    assert.deepEqual(page.alarms[0], Array(SENSORS).fill(before), 'the alarm comes after the readings before it');
  }
  const late = await open(server, channel);
  await until(() => late.has(last), 'who joins has every sensor, although nothing is published any more');
  late.check();
}

for (const [name, setup] of Object.entries(SETUPS)) {
  const laravel = await startLaravel(setup.server);

  withPusher(`a flood of readings is thinned: ${name}`, setup.server, ({ open }) =>
    scenario(setup, async (_, channel) => {
      const page = new Page();
      const subscription = open().subscribe(channel);
      subscription.bind(READING, (data) => page.reading(data));
      subscription.bind(ALARM, () => page.alarm());
      await subscribed(subscription);
      return page;
    }));

  withEcho(`a flood of readings is thinned: ${name}`, laravel, ({ open }) =>
    scenario(setup, async (_, channel) => {
      const page = new Page();
      const { echo } = open();
      await ready(echo.channel(channel).listen(`.${READING}`, (data) => page.reading(data)).listen(`.${ALARM}`, () => page.alarm()));
      return page;
    }));
}
