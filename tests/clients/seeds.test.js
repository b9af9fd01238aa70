// What the first users have: a hand-written client, SCADA events, goods requests between clinics, a load script.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import WebSocket from 'ws';
import { startGema } from './gema.js';
import { startLaravel } from './laravel.js';
import { hear, openEveryEcho, openEveryPusher, subscribed, withEcho } from './pages.js';
import { Inbox, test, until, within } from './wait.js';

/** The app of the users' own soketi.config.js. */
const scada = { id: 'scada-app', key: 'scada-key', secret: 'scada-secret' };
const env = { SOKETI_DEFAULT_APP_ENABLE_CLIENT_MESSAGES: 'false' };

const gema = await startGema({ app: scada, env });
const laravel = await startLaravel(gema);
laravel.channel('permintaan-barang.{kode_klinik}', (user, kode) => user.id === kode || user.id === 'GUDANG');

/** A browser's `WebSocket` that notes what is sent, and goes to our server where the script wants to go to its own. */
function browserSocket(server) {
  return class extends WebSocket {
    static opened = [];
    static sent = [];

    constructor(url) {
      super(url.replace('ws://localhost:6001', `ws://${server.host}:${server.port}`));
      this.constructor.opened.push(this);
    }

    send(text) {
      super.send(text);
      this.constructor.sent.push(JSON.parse(text));
    }
  };
}

/** Runs a script of the users as a page would, with the globals given; answers what `result` names. */
function runScript(file, globals, result = 'undefined') {
  const source = readFileSync(new URL(`fixtures/${file}`, import.meta.url), 'utf8');
  const page = { console: { log() {}, warn() {}, error() {} }, ...globals };
  return new Function(...Object.keys(page), `${source}\nreturn ${result};`)(...Object.values(page));
}

/** A ScadaWebSocketClient, with everything that its handlers are called with. */
function openScadaClient(t, server, options) {
  const socket = browserSocket(server);
  const ScadaWebSocketClient = runScript('scada-websocket-client.js', { WebSocket: socket }, 'ScadaWebSocketClient');
  const heard = new Inbox();
  const client = new ScadaWebSocketClient({ url: 'ws://localhost:6001/app/scada-key', ...options });
  client.onConnect = () => heard.push('connect');
  client.onDisconnect = (event) => heard.push('disconnect', event.code);
  client.onMessage = (data) => heard.push('message', data);
  t.after(() => {
    // Its disconnect() does not keep it from coming back.
    client.options.reconnectAttempts = 0;
    client.disconnect();
  });
  return { client, heard, sent: socket.sent };
}

/** Whatever the server thinks of the messages before: it has read them when it answers this. */
async function pong(socket) {
  const answer = new Promise((resolve) => socket.once('pong', resolve));
  socket.ping();
  await within(answer, 'a pong');
}

test('ScadaWebSocketClient stays connected with heartbeats and without any subscription', async (t) => {
  const { client, heard, sent } = openScadaClient(t, gema, { heartbeatInterval: 50 });
  await heard.take('connect');
  const { event, data } = await heard.data('message');
  assert.equal(event, 'pusher:connection_established');
  assert.equal(typeof JSON.parse(data).socket_id, 'string');

  await until(() => sent.length >= 20, 'twenty heartbeats');
  assert.deepEqual(Object.keys(sent[0]), ['type', 'timestamp']);
  await pong(client.ws);
  assert.equal(client.getConnectionState(), 'connected');
  assert.equal(heard.count('connect'), 1);
  assert.equal(heard.count('disconnect'), 0);
});

test('each heartbeat of ScadaWebSocketClient is answered (G-49), so that it knows its connection is healthy', async (t) => {
  const { client, heard } = openScadaClient(t, gema, { heartbeatInterval: 50 });
  await heard.take('message');
  for (let beat = 0; beat < 3; beat += 1) {
    const { event, data } = await heard.data('message');
    assert.equal(event, 'pusher:error');
    assert.equal(data.code, null);
    assert.ok(client.isConnectionHealthy());
  }
});

test('ScadaWebSocketClient comes back after the server restarted', async (t) => {
  const restarting = await startGema({ t, app: scada, env });
  const { client, heard } = openScadaClient(t, restarting, { reconnectDelay: 20, reconnectAttempts: 100 });
  await heard.take('connect');
  await restarting.kill();
  await restarting.start();
  await heard.take('connect');
  assert.equal(client.getConnectionState(), 'connected');
});

test('ScadaWebSocketClient with the app’s id in place of its key is told why it is turned away', async (t) => {
  const { heard } = openScadaClient(t, gema, { url: 'ws://localhost:6001/app/scada-app', reconnectAttempts: 0 });
  const { event, data } = await heard.data('message');
  assert.equal(event, 'pusher:error');
  assert.equal(data.code, 4001);
  assert.equal(await heard.data('disconnect'), 4001);
});

test('testWebSocketConnection() sends its test message and is not thrown out', async (t) => {
  // Its URL names the app's id, so that has to be the key here.
  const keyed = await startGema({ t, app: { ...scada, key: 'scada-app' }, env });
  const socket = browserSocket(keyed);
  const [said, errors, timers] = [new Inbox(), [], []];
  const console = { log: (text) => said.push(text.replace(/^\P{ASCII}+ /u, '')), error: (...all) => errors.push(all) };
  runScript('test-websocket.js', { WebSocket: socket, console, setTimeout: (close) => timers.push(close) });
  await said.take('WebSocket connection successful');
  assert.equal(socket.sent[0].type, 'test');
  await pong(socket.opened[0]);
  assert.equal(said.count('WebSocket connection closed'), 0);

  // After its five seconds the script closes the socket.
  timers[0]();
  await said.take('WebSocket connection closed');
  assert.deepEqual(errors, []);
});

test('scada.data.received reaches every page on scada-data, scada-realtime and scada-batch', async (t) => {
  const names = ['scada-data', 'scada-realtime', 'scada-batch'];
  const inboxes = [];
  for (const pusher of openEveryPusher(t, gema)) {
    for (const name of names) inboxes.push({ name, heard: hear(await subscribed(pusher.subscribe(name))) });
  }
  for (const { echo } of openEveryEcho(t, laravel)) {
    for (const name of names) {
      const heard = new Inbox();
      const channel = echo.channel(name).listen('.scada.data.received', (data) => heard.push('scada.data.received', data));
      await subscribed(channel.subscription);
      inboxes.push({ name, heard });
    }
  }
  const values = { average: 20.5, min: 1e-7, max: 40, name: 'Suhu °C / kanal "1"' };
  const payload = (channel) => ({ data: { id: 1, channel: 'test-channel', values }, timestamp: '2025-08-06T04:30:00.000000Z', channel });
  for (const name of names) await laravel.broadcast([name], 'scada.data.received', payload(name));
  for (const { name, heard } of inboxes) assert.deepEqual(await heard.data('scada.data.received'), payload(name));
});

withEcho('a clinic hears of its own goods requests only', laravel, async ({ open, version }) => {
  // The tests share one server; a code without dots, as the pattern wants it.
  const [own, other] = ['01', '02'].map((number) => `KLINIK-${version.replaceAll('.', '')}-${number}`);
  const channel = (kode) => `permintaan-barang.${kode}`;
  const [clinic, warehouse] = [open(own).echo, open('GUDANG').echo];
  const [clinicHeard, warehouseHeard] = [new Inbox(), new Inbox()];
  const listen = (echo, call, kode, heard) =>
    subscribed(echo[call](channel(kode)).listen('PermintaanBarangEvent', (data) => heard.push(call, data.kode)).subscription);

  for (const call of ['channel', 'private']) {
    await listen(clinic, call, own, clinicHeard);
    for (const kode of [own, other]) await listen(warehouse, call, kode, warehouseHeard);
  }
  // Joining the other clinic's private channel is not for it.
  const refused = new Inbox();
  clinic.private(channel(other)).error((error) => refused.push('refused', error.status));
  assert.equal(await refused.data('refused'), 403);

  for (const kode of [other, own]) {
    const payload = { type: 'permintaan_baru', kode };
    await laravel.broadcast([channel(kode)], 'App\\Events\\PermintaanBarangEvent', payload);
    await laravel.broadcast([`private-${channel(kode)}`], 'App\\Events\\PermintaanBarangEvent', payload);
  }
  for (const call of ['channel', 'private']) {
    assert.equal(await clinicHeard.data(call), own);
    assert.deepEqual([await warehouseHeard.data(call), await warehouseHeard.data(call)], [other, own]);
  }
  assert.equal(clinicHeard.all.length, 2);
});

test('the load script’s 1,000 events, one a millisecond, arrive everywhere in order', async (t) => {
  const pages = [
    ...openEveryPusher(t, gema).map((pusher) => pusher.subscribe('load-test')),
    ...openEveryEcho(t, laravel).map(({ echo }) => echo.channel('load-test').subscription),
  ];
  await Promise.all(pages.map(subscribed));
  const inboxes = pages.map(hear);
  for (let id = 0; id < 1_000; id += 1) {
    const data = { id, channel: 'test-channel', value: id % 101, timestamp: new Date().toISOString() };
    await laravel.broadcast(['load-test'], 'scada.data.received', { data, timestamp: data.timestamp, channel: 'load-test' });
    // The script's usleep(1000).
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  const expected = [...Array(1_000).keys()];
  for (const inbox of inboxes) {
    await until(() => inbox.count('scada.data.received') >= 1_000, 'all 1,000 events');
    assert.deepEqual(inbox.all.map(({ data }) => data.data.id), expected);
  }
});
