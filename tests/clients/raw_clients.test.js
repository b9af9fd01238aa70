// Raw clients: the first users' page with a bare WebSocket, its chart and its Blade template, in Chromium and unedited.

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import WebSocket from 'ws';
import { openPage } from './chromium.js';
import { startGema } from './gema.js';
import { startLaravel } from './laravel.js';
import { Inbox, test, until } from './wait.js';

/** The app of the users' own soketi.config.js, with the one setting that their page needs. */
const scada = { id: 'scada-app', key: 'scada-key', secret: 'scada-secret' };
const config = `[[apps]]
id = "scada-app"
key = "scada-key"
secret = "scada-secret"
raw_clients = { channels = ["scada-realtime"], accept_id = true }
`;

const fixture = (name) => readFileSync(new URL(`fixtures/${name}`, import.meta.url), 'utf8');
const plotly = readFileSync(new URL('node_modules/plotly.js-dist-min/plotly.min.js', import.meta.url), 'utf8');

/**
 * As much of Livewire as the page calls: events go to whoever listens for them, and what a component is told to set is
 * noted. The component itself would be PHP.
 */
const livewire = `
window.heard = [];
window.component = {};
const listeners = {};
window.Livewire = {
  on(name, listen) { (listeners[name] ??= []).push(listen); },
  dispatch(name, data) { heard.push({ name, data }); (listeners[name] ?? []).forEach((listen) => listen(data)); },
  find: () => ({ set(name, value) { component[name] = value; } }),
};`;

/** What Blade makes of the template for a component that has just been mounted. */
function blade(template) {
  const body = template
    .replace(/\{\{--.*?--\}\}/gs, '')
    .replace(/@(push\([^)]*\)|endpush)/g, '')
    .replaceAll('@this', "window.Livewire.find('scada')")
    .replace(/\{\{ asset\('(.*?)'\) \}\}/g, '/$1')
    .replace(/\{\{.*?\}\}/gs, '');
  return `<!doctype html><title>SCADA</title><style>#scada-chart { height: 384px }</style><script>${livewire}</script>${body}`;
}

/** The users' page, which goes to port 6001 of its own machine: there our server is. */
function openScadaPage(t, gema) {
  const script = (name) => ['text/javascript', fixture(name)];
  return openPage(t, {
    url: 'http://localhost/graph-analysis',
    hosts: { 'localhost:6001': `${gema.host}:${gema.port}` },
    files: {
      'http://localhost/graph-analysis': ['text/html', blade(fixture('graph-analysis.blade.php'))],
      'http://localhost/js/scada-websocket-client.js': script('scada-websocket-client.js'),
      'http://localhost/js/scada-chart-manager.js': script('scada-chart-manager.js'),
      'http://localhost/favicon.ico': ['image/x-icon', ''],
      'https://cdn.plot.ly/plotly-latest.min.js': ['text/javascript', plotly],
    },
  });
}

/** As the users' ScadaDataReceived has it. */
const received = (data) => ({ data, timestamp: '2025-08-06T04:30:00.000000Z', channel: 'scada-realtime' });

async function joined(gema, count = 1) {
  await until(async () => {
    const answer = await gema.api.get({ path: '/channels/scada-realtime', params: { info: 'subscription_count' } });
    return (await answer.json()).subscription_count === count;
  }, `${count} pages have joined`);
}

const traces = `document.getElementById('scada-chart').data.map(({ name, x, y }) => ({ name, points: x.length, y: [...y] }))`;

test('the first users’ page draws its chart, unedited', async (t) => {
  const gema = await startGema({ t, app: scada, config });
  const laravel = await startLaravel(gema);
  const page = await openScadaPage(t, gema);
  await joined(gema);
  await until(async () => page.said.includes('WebSocket connected'), 'the page is connected');
  assert.ok(page.said.includes('Connecting to WebSocket: ws://localhost:6001/app/scada-app'), page.said.join('\n'));

  // The event as the users' own class publishes it: a point at its time, under its channel's name.
  const reading = received({ id: 1, channel: 'boiler', value: 20.5 });
  await laravel.broadcast(['scada-realtime'], 'scada.data.received', reading);
  await until(() => page.evaluate(`heard.some(({ name }) => name === 'chart-data-updated')`), 'the event arrives');
  await until(async () => (await page.evaluate(traces)).length > 0, 'the chart has a trace');
  const [{ name, points }] = await page.evaluate(traces);
  assert.deepEqual([name, points], ['scada-realtime', 1]);

  // With channel and value where ScadaChartManager reads them, it draws the values.
  const sensors = ['boiler', 'pump', 'valve'];
  const readings = sensors.map((channel, at) => ({ ...reading, channel, value: 20.5 + at }));
  const drawn = [];
  for (const value of readings) {
    await laravel.broadcast(['scada-realtime'], 'scada.data.received', value);
    await until(async () => (await page.evaluate(traces)).some((trace) => trace.name === value.channel), value.channel);
    drawn.push(...(await page.evaluate(traces)).filter((trace) => trace.name === value.channel));
    await until(() => page.evaluate(`document.querySelectorAll('#scada-chart .points path').length > 0`), 'a point');
  }
  assert.deepEqual(drawn, readings.map(({ channel, value }) => ({ name: channel, points: 1, y: [value] })));
  if (process.env.GEMA_PICTURE) writeFileSync(process.env.GEMA_PICTURE, await page.picture());

  // Livewire is told of the connection and of each event, with its data as it was broadcast.
  const heard = await page.evaluate('heard');
  assert.deepEqual(heard[0], { name: 'connection-status-updated', data: { status: 'connected' } });
  const data = heard.filter(({ name }) => name === 'chart-data-updated').map(({ data }) => data);
  assert.deepEqual(data, [reading, ...readings]);
  const component = await page.evaluate('component');
  assert.equal(component.connectionStatus, 'connected');
  assert.ok(Date.parse(component.lastUpdate) > 0);
  assert.deepEqual(page.errors, []);
});

test('the page gets a flood of readings in order, and comes back after a restart', async (t) => {
  const gema = await startGema({ t, app: scada, config });
  const laravel = await startLaravel(gema);
  const page = await openScadaPage(t, gema);
  await joined(gema);
  const sent = [];
  for (let id = 0; id < 300; id += 1) {
    sent.push(received({ id, channel: `sensor-${id % 10}`, value: id / 2 }));
    await laravel.broadcast(['scada-realtime'], 'scada.data.received', sent.at(-1));
  }
  const data = `heard.filter(({ name }) => name === 'chart-data-updated').map(({ data }) => data)`;
  await until(async () => (await page.evaluate(`${data}.length`)) >= sent.length, 'all readings');
  assert.deepEqual(await page.evaluate(data), sent);

  await gema.kill();
  await until(() => page.said.includes('WebSocket disconnected'), 'the page notices');
  await gema.start();
  await joined(gema);
  await laravel.broadcast(['scada-realtime'], 'scada.data.received', sent[0]);
  await until(async () => (await page.evaluate(`${data}.length`)) > sent.length, 'a reading after the restart');
});

test('a bare WebSocket gets JSON, by id and by key, and its heartbeats are welcome', async (t) => {
  const gema = await startGema({ t, app: scada, config });
  const laravel = await startLaravel(gema);
  const pages = ['scada-app', 'scada-key', 'scada-key?channels=scada-realtime'].map((path) => {
    const socket = new WebSocket(`ws://${gema.host}:${gema.port}/app/${path}`);
    t.after(() => socket.terminate());
    const heard = new Inbox();
    socket.on('message', (text) => heard.push('message', JSON.parse(text)));
    socket.on('open', () => socket.send(JSON.stringify({ type: 'heartbeat', timestamp: Date.now() })));
    return heard;
  });
  await joined(gema, pages.length);
  const payload = received({ name: 'Suhu °C / kanal "1"', value: 1e-7 });
  await laravel.broadcast(['scada-realtime'], 'scada.data.received', payload);
  for (const heard of pages) {
    const message = await heard.data('message');
    assert.deepEqual(message, { event: 'scada.data.received', data: payload, channel: 'scada-realtime' });
    assert.equal(heard.all.length, 1);
  }
});
