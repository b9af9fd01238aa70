// The rules of docs/flood.md, each in a server of its own, and pages as they are. Events of one batch come at one moment,
// so that no test depends on how fast the machine is.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Echo1 from 'laravel-echo-1';
import Echo2 from 'laravel-echo-2';
import Pusher7 from 'pusher-js-7';
import Pusher8 from 'pusher-js-8';
import { block, blocks, run, text } from './documents.js';
import { binary, startGema } from './gema.js';
import { address, hear, join as joinChannel, subscribed } from './pages.js';
import { test, until } from './wait.js';

const ECHOS = [
  ['1.19.0', Echo1.default ?? Echo1, Pusher7],
  ['2.5.0', Echo2, Pusher8],
];
const READING = 'scada.data.received';
const app = { id: 'shop', key: 'shop-key', secret: 'of-the-test' };
const APP = `\n[[apps]]\nid = "${app.id}"\nkey = "${app.key}"\nsecret = "${app.secret}"\n`;

/** A server with the rule of a block. */
const serve = (t, rule) => startGema({ t, app, config: rule + APP });
/** The paragraph or row of the document that begins with `start`. */
function line(start) {
  const [, rest] = text('flood.md').split(`\n${start}`);
  assert.ok(rest, `docs/flood.md has no line that begins with ${start}`);
  return start + rest.split(/\n\n|\n\|/)[0].replaceAll('\n', ' ');
}

const rule = (text) => block('flood.md', 'toml', text);
/** The last block has the rule that works. */
const lastRule = blocks('flood.md', 'toml').at(-1);

function openPusher(t, gema) {
  const pusher = new Pusher8(app.key, address(gema));
  t.after(() => pusher.disconnect());
  return pusher;
}

/** A page that has joined a channel, and hears it. */
async function listen(t, gema, name) {
  return hear(await joinChannel(openPusher(t, gema), name));
}

const reading = (sensor, value) => ({ data: { channel: sensor, value } });

/** Publishes at one moment: `[name, data]` each. */
const publish = (gema, channel, events) =>
  gema.api.triggerBatch(events.map(([name, data]) => ({ channel, name, data })));

const readings = (sensor, values) => values.map((value) => [READING, reading(sensor, value)]);

/** Values of a sensor, and names of other events, in the order of arrival. */
const shown = (inbox) =>
  inbox.all
    .filter(({ name }) => !name.startsWith('pusher:'))
    .map(({ name, data }) => (name === READING ? `${data.data.channel}=${data.data.value}` : name));

const shows = (inbox, expected) =>
  until(() => shown(inbox).length >= expected.length, `${expected}`).then(() => assert.deepEqual(shown(inbox), expected));

for (const [version, Echo, Pusher] of ECHOS) {
  for (const [which, toml] of [['first', rule('match = "scada-realtime"')], ['last', lastRule]]) {
    test(`the page gets the first and the newest value of a window by the ${which} rule [laravel-echo ${version}]`, async (t) => {
      const gema = await serve(t, toml);
      const echo = new Echo({ broadcaster: 'pusher', Pusher, key: app.key, ...address(gema) });
      t.after(() => echo.disconnect());
      const values = [];
      const show = (sensor, value) => values.push(`${sensor}=${value}`);
      run(block('flood.md', 'js', "channel('scada-realtime')"), 'undefined', { echo, show });
      await subscribed(echo.connector.pusher.channel('scada-realtime'));
      await publish(gema, 'scada-realtime', [...readings('pump-7', [1, 2, 3]), ...readings('pump-8', [4, 5, 6])]);
      await until(() => values.length >= 4, 'the end of the window');
      assert.deepEqual(values, ['pump-7=1', 'pump-8=4', 'pump-7=3', 'pump-8=6']);
    });
  }

  test(`a page chooses a longer window by name [laravel-echo ${version}]`, async (t) => {
    for (const toml of [rule('views = ["1s", "5s"]'), lastRule]) {
      const gema = await serve(t, toml);
      const echo = new Echo({ broadcaster: 'pusher', Pusher, key: app.key, ...address(gema) });
      t.after(() => echo.disconnect());
      const values = [];
      run(block('flood.md', 'js', '@1s'), 'undefined', { echo, show: (sensor, value) => values.push(`${sensor}=${value}`) });
      await subscribed(echo.connector.pusher.channel('scada-realtime@1s'));
      await publish(gema, 'scada-realtime', readings('pump-7', [1, 2, 3]));
      await until(() => values.length >= 2, 'the end of the window');
      assert.deepEqual(values, ['pump-7=1', 'pump-7=3']);
    }
  });
}

test('an alarm comes behind the readings before it, at once', async (t) => {
  for (const [channel, toml] of [['scada-alarms', rule('match = "scada-alarms"')], ['scada-realtime', lastRule]]) {
    // So that only the alarm can end the window.
    const gema = await serve(t, toml.replace('window_ms = 250', 'window_ms = 3600000'));
    const inbox = await listen(t, gema, channel);
    await publish(gema, channel, [...readings('pump-7', [1, 2, 3]), ['pump.alarm', {}], ...readings('pump-7', [4])]);
    await shows(inbox, ['pump-7=1', 'pump-7=3', 'pump.alarm']);
  }
});

test('a page that joins gets the last value of each sensor', async (t) => {
  for (const [channel, toml] of [['scada-status', rule('match = "scada-status"')], ['scada-realtime', lastRule]]) {
    const gema = await serve(t, toml);
    const inbox = await listen(t, gema, channel);
    await publish(gema, channel, [...readings('pump-7', [1]), ...readings('pump-8', [2])]);
    await shows(inbox, ['pump-7=1', 'pump-8=2']);
    const later = openPusher(t, gema).subscribe(channel);
    await shows(hear(later), ['pump-7=1', 'pump-8=2']);
  }
});

test('fields of a window are put together', async (t) => {
  const [first, second, merged] = line('| `{"pump":7,"pressure"').match(/`[^`]+`/g).map((code) => JSON.parse(code.slice(1, -1)));
  const gema = await serve(t, rule('merge = true'));
  const inbox = await listen(t, gema, 'pumps');
  await publish(gema, 'pumps', [['state', { pump: 7 }], ['state', first], ['state', second]]);
  await until(() => inbox.count('state') >= 2, 'the end of the window');
  assert.deepEqual(inbox.all.filter(({ name }) => name === 'state').map(({ data }) => data), [{ pump: 7 }, merged]);
});

test('figures of lists of readings are those of the document', async (t) => {
  const gema = await serve(t, rule('emit = "map"'));
  const inbox = await listen(t, gema, 'scada-batch');
  const list = JSON.parse(line('For the readings `').match(/`(\{.+\})`/)[1]);
  await publish(gema, 'scada-batch', [[READING, list]]);
  const expected = JSON.parse(block('flood.md', 'json', '"average":-2.5'));
  assert.deepEqual(await inbox.data(READING), expected);
});

test('figures beside the value are those of the document', async (t) => {
  const gema = await serve(t, rule('match = "scada-average"'));
  const inbox = await listen(t, gema, 'scada-average');
  const events = [1, 2, 6].map((value) => [READING, { ...reading('pump-7', value), channel: 'scada-average' }]);
  await publish(gema, 'scada-average', events);
  const example = block('flood.md', 'json', '"aggregate"').trim();
  const data = await inbox.data(READING);
  const { from, to } = data.data.aggregate;
  assert.ok(from <= to && from > 1_700_000_000_000, `${from} ${to}`);
  const shownTimes = JSON.parse(example).data.aggregate;
  Object.assign(data.data.aggregate, { from: shownTimes.from, to: shownTimes.to });
  assert.equal(JSON.stringify(data), example);
});

test('a rate lets the first events pass, and of the rest the last one', async (t) => {
  // So that only the stop of the server gives the last one its turn.
  const gema = await serve(t, rule('rate = {').replace('per_second = 20', 'per_second = 0.001'));
  const inbox = await listen(t, gema, 'telemetry.boiler');
  const numbers = Array.from({ length: 30 }, (_, index) => index + 1);
  for (const from of [0, 10, 20]) {
    await publish(gema, 'telemetry.boiler', numbers.slice(from, from + 10).map((n) => ['state', { sensor: 1, n }]));
  }
  await gema.stop();
  const came = () => inbox.all.filter(({ name }) => name === 'state').map(({ data }) => data.n);
  await until(() => came().at(-1) === 30, 'the last event');
  assert.deepEqual(came(), [...numbers.slice(0, 20), 30]);
});

test('a sample has the first event of ten, and the last one', async (t) => {
  const gema = await serve(t, rule('sample = {'));
  const inbox = await listen(t, gema, 'debug.boiler');
  const events = Array.from({ length: 10 }, (_, index) => ['state', { sensor: 1, n: index + 1 }]);
  await publish(gema, 'debug.boiler', events);
  const came = () => inbox.all.filter(({ name }) => name === 'state').map(({ data }) => data.n);
  await until(() => came().length >= 2, 'the last event');
  assert.deepEqual(came(), [1, 10]);
});

test('gema check prints what the document shows', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'gema-flood-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  writeFileSync(join(folder, 'gema.toml'), lastRule + APP);
  const [, ...options] = block('flood.md', 'bash', 'gema check').trim().split(' ');
  const { stdout, stderr } = spawnSync(binary, options, { cwd: folder, env: {}, encoding: 'utf8' });
  assert.equal(stdout, block('flood.md', 'text', 'flow rule'), stderr);
});

const hasPhp = spawnSync('php', ['-r', '']).status === 0;

test('PHP makes of negative values what the document says', (t) => {
  if (!hasPhp) return t.skip('PHP is not installed');
  const call = 'aggregateBatchData([["channel" => "a", "value" => -3.5], ["channel" => "a", "value" => -1.5], ["channel" => "a"]])';
  const code = `${block('flood.md', 'php', 'aggregateBatchData')} echo json_encode(${call});`;
  const { a } = JSON.parse(spawnSync('php', ['-r', code], { encoding: 'utf8' }).stdout);
  // The reading without a value counts.
  assert.deepEqual([a.count, a.sum, a.min], [3, -5, -3.5]);
  assert.equal(a.max, Number(line('| `max` of').match(/\| `([^`]+E-308)` \|/)[1]));
});
