// The example `firehose`, started as its README says, with its page in a DOM.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { JSDOM, VirtualConsole } from 'jsdom';
import Pusher8 from 'pusher-js-8';
import { binary } from './gema.js';
import { address, hear, join as joinChannel } from './pages.js';
import { test, until, within } from './wait.js';

const SENSORS = 10;
const WINDOW_MS = 250;

/** Starts the example, as `cargo build --all-targets` or `cargo test` has built it. */
async function start(t, options) {
  const program = join(dirname(binary), 'examples', 'firehose');
  assert.ok(existsSync(program), `${program} is missing: cargo build --example firehose`);
  const child = spawn(program, options, { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => child.kill('SIGKILL'));
  const ended = new Promise((resolve) => child.once('exit', (code, signal) => resolve(signal ?? code)));
  const line = new Promise((resolve) => createInterface({ input: child.stdout }).once('line', resolve));
  const url = await within(line, 'the example says where its page is');
  return { url, ended, interrupt: () => child.kill('SIGINT') };
}

/** The page in a DOM, which has no canvas. Fails at the first error of the page. */
async function openPage(t, url) {
  const virtualConsole = new VirtualConsole();
  const errors = [];
  virtualConsole.on('jsdomError', (error) => /getContext/.test(error.message) || errors.push(error));
  const { window } = await JSDOM.fromURL(url, {
    runScripts: 'dangerously',
    resources: 'usable',
    pretendToBeVisual: true,
    virtualConsole,
    beforeParse: (window) => (window.fetch = (path) => fetch(new URL(path, url))),
  });
  t.after(() => window.close());
  return { document: window.document, errors };
}

test('the firehose fills both charts, the second with four values a second of each sensor at most', async (t) => {
  const { url, ended, interrupt } = await start(t, ['--rate', '1000', '--sensors', String(SENSORS)]);
  const { key, port } = await (await fetch(new URL('/settings.json', url))).json();

  const policy = (await fetch(url)).headers.get('content-security-policy');
  assert.match(policy, /^default-src 'none'; script-src 'self'; style-src 'self';/);
  const { document, errors } = await openPage(t, url);
  const events = (chart) => Number(document.querySelector(`#${chart} .events`).textContent.replaceAll(',', ''));
  await until(() => events('raw') > 0 && events('ruled') > 0, 'both charts get events');
  assert.deepEqual(errors, []);

  const pusher = new Pusher8(key, address({ host: '127.0.0.1', port }));
  t.after(() => pusher.disconnect());
  const readings = async (name, isEnough) => {
    const inbox = hear(await joinChannel(pusher, name));
    const times = new Map();
    const collect = () => {
      times.clear();
      for (const { data } of inbox.all.filter(({ name }) => name === 'scada.data.received')) {
        const sensor = data.data.channel;
        times.set(sensor, [...(times.get(sensor) ?? []), Date.parse(data.timestamp)]);
      }
      return times.size === SENSORS && [...times.values()].every(isEnough);
    };
    await until(collect, `readings on ${name}`);
    pusher.unsubscribe(name);
    return times;
  };
  // By the times of publishing: one at once, one for each window that ended since, and one on each side that was under way.
  const isWithinRate = (times) => times.length <= (times.at(-1) - times[0]) / WINDOW_MS + 3;
  for (const times of (await readings('scada-realtime', (times) => times.length >= 12)).values()) {
    assert.ok(isWithinRate(times), `${times.length} events in ${times.at(-1) - times[0]} ms`);
  }
  const raw = await readings('scada-raw', (times) => !isWithinRate(times));
  assert.equal(raw.size, SENSORS);

  interrupt();
  assert.equal(await within(ended, 'the example ends at Ctrl-C'), 0);
});

test('the firehose ends by itself', async (t) => {
  const { ended } = await start(t, ['--seconds', '1']);
  assert.equal(await within(ended, 'the example ends'), 0);
});
