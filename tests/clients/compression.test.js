// `permessage-deflate` with clients of their own making: pages in Chromium, and the `ws` library. Python's `websockets`
// is in python/test_compression.py.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import WebSocket from 'ws';
import { openPage } from './chromium.js';
import { startGema } from './gema.js';
import { fresh } from './pages.js';
import { Inbox, test, until } from './wait.js';
import { openWire } from './wire.js';

const EXTENSION = 'permessage-deflate; server_no_context_takeover; client_no_context_takeover';
const EVENTS = 20;

const gema = await startGema({ env: { GEMA_CONNECTIONS_COMPRESSION: 'true' } });

/** An event of 2 KB, as a dashboard gets it. */
function readings(number) {
  const reading = (sensor) => ({
    channel: `sensor-${sensor}`,
    value: ((number * 7919 + sensor * 104_729) % 100_000) / 100,
    unit: sensor % 2 ? '°C' : 'bar',
    at: `2027-01-01T08:00:${String((number + sensor) % 60).padStart(2, '0')}Z`,
  });
  return { number, note: 'é😀', readings: Array.from({ length: 25 }, (_, sensor) => reading(sensor)) };
}

async function publish(channel) {
  for (let number = 0; number < EVENTS; number += 1) {
    await gema.api.trigger(channel, 'scada.data.received', readings(number));
  }
}

const EXPECTED = Array.from({ length: EVENTS }, (_, number) => readings(number));

/** An open socket of the `ws` library that has joined a channel. */
async function openSocket(t, channel, options) {
  const socket = new WebSocket(gema.url(), options);
  t.after(() => socket.terminate());
  const frames = new Inbox();
  socket.on('message', (bytes) => {
    const { event, data } = JSON.parse(bytes);
    frames.push(event, data);
  });
  const { socket_id: id } = JSON.parse(await frames.data('pusher:connection_established'));
  const fields = channel.startsWith('private-') ? gema.api.authorizeChannel(id, channel) : {};
  socket.send(JSON.stringify({ event: 'pusher:subscribe', data: { ...fields, channel } }));
  await frames.take('pusher_internal:subscription_succeeded');
  return { socket, frames };
}

/** What a socket has received on the wire while `run` ran. */
async function bytesOf({ socket, frames }, run) {
  const before = socket._socket.bytesRead;
  await run();
  const events = [];
  for (let number = 0; number < EVENTS; number += 1) {
    events.push(JSON.parse(await frames.data('scada.data.received')));
  }
  assert.deepEqual(events, EXPECTED);
  return socket._socket.bytesRead - before;
}

test('the ws library gets compressed events, and fewer bytes than a plain client', async (t) => {
  const channel = fresh('public');
  const compressed = await openSocket(t, channel, { perMessageDeflate: true });
  const plain = await openSocket(t, channel, { perMessageDeflate: false });
  assert.equal(compressed.socket.extensions, 'permessage-deflate');
  assert.equal(plain.socket.extensions, '');
  const published = publish(channel);
  const [few, many] = await Promise.all([bytesOf(compressed, () => published), bytesOf(plain, () => published)]);
  assert.ok(few < 0.35 * many, `${few} bytes instead of ${many}`);
});

test('every offer that the ws library can make ends in an agreement that both sides keep', async (t) => {
  const offers = [
    [{}, 'permessage-deflate'],
    [{ serverNoContextTakeover: true, clientNoContextTakeover: true }, 'permessage-deflate'],
    [{ clientMaxWindowBits: 9 }, 'permessage-deflate'],
    [{ clientMaxWindowBits: false }, 'permessage-deflate'],
    [{ serverMaxWindowBits: 15 }, 'permessage-deflate'],
    [{ serverMaxWindowBits: 10 }, ''],
  ];
  for (const [offer, expected] of offers) {
    const channel = fresh('public');
    const { socket, frames } = await openSocket(t, channel, { perMessageDeflate: offer });
    assert.equal(socket.extensions, expected, JSON.stringify(offer));
    await publish(channel);
    for (const event of EXPECTED) assert.deepEqual(JSON.parse(await frames.data('scada.data.received')), event);
  }
});

test('what the ws library compresses arrives, in one frame and in several', async (t) => {
  const channel = fresh('private-orders');
  const wire = await openWire(t, gema.url());
  await wire.join(channel, gema.api.authorizeChannel(await wire.socketId(), channel));
  const { socket } = await openSocket(t, channel, { perMessageDeflate: { threshold: 0 } });
  for (const data of [readings(1), 'x'.repeat(9000), 'é😀'.repeat(500)]) {
    const message = JSON.stringify({ event: 'client-note', channel, data });
    socket.send(message);
    assert.deepEqual(decoded(await wire.frames.data('client-note'), data), data);
    for (let start = 0; start < message.length; start += 1000) {
      const end = start + 1000;
      socket.send(message.slice(start, end), { compress: true, fin: end >= message.length });
    }
    assert.deepEqual(decoded(await wire.frames.data('client-note'), data), data);
  }
});

/** Data of an object comes as a text of it. */
const decoded = (data, sent) => (typeof sent === 'string' ? data : JSON.parse(data));

for (const [version, folder] of [['7.6.0', 'pusher-js-7'], ['8.6.0', 'pusher-js-8']]) {
  test(`a page in Chromium gets compressed events [pusher-js ${version}]`, async (t) => {
    const channel = fresh('public');
    const library = readFileSync(new URL(`node_modules/${folder}/dist/web/pusher.min.js`, import.meta.url), 'utf8');
    const files = { 'http://app.test/': ['text/html', page(channel)], 'http://app.test/pusher.js': ['text/javascript', library] };
    const tab = await openPage(t, { url: 'http://app.test/', files, hosts: {} });
    await until(() => tab.evaluate('Boolean(window.joined)'), 'the page has joined');
    await until(() => tab.handshakes.length > 0, 'the handshake is recorded');
    assert.equal(header(tab.handshakes[0], 'sec-websocket-extensions'), EXTENSION);
    await publish(channel);
    await until(() => tab.evaluate(`window.events.length === ${EVENTS}`), 'the page has all events');
    assert.deepEqual(await tab.evaluate('window.events'), EXPECTED);
    assert.deepEqual(tab.errors, []);
  });
}

const header = (headers, name) => Object.entries(headers).find(([own]) => own.toLowerCase() === name)?.[1];

/** Subscribes as any page does; Chromium compresses the subscription. */
function page(channel) {
  const options = { cluster: 'mt1', wsHost: gema.host, wsPort: gema.port, forceTLS: false, enabledTransports: ['ws'] };
  return `<!doctype html><title>compression</title><script src="/pusher.js"></script><script>
    window.events = [];
    const channel = new Pusher(${JSON.stringify(gema.app.key)}, ${JSON.stringify(options)})
      .subscribe(${JSON.stringify(channel)});
    channel.bind('pusher:subscription_succeeded', () => { window.joined = true; });
    channel.bind('scada.data.received', (data) => window.events.push(data));
  </script>`;
}
