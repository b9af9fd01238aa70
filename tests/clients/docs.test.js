// The examples of README.md and docs/, done to the letter: only ports and hosts are exchanged.

import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import Echo1 from 'laravel-echo-1';
import Echo2 from 'laravel-echo-2';
import Publisher from 'pusher';
import Pusher7 from 'pusher-js-7';
import Pusher8 from 'pusher-js-8';
import { block, run } from './documents.js';
import { startGema } from './gema.js';
import { hear, subscribed } from './pages.js';
import { sha256 } from './php.js';
import { test, until } from './wait.js';

const ECHOS = [
  ['1.19.0', Echo1.default ?? Echo1, Pusher7],
  ['2.5.0', Echo2, Pusher8],
];
const folder = import.meta.dirname ?? new URL('.', import.meta.url).pathname;

const gema = await startGema({ app: { id: 'app-id', key: 'app-key', secret: 'app-secret' } });

/** Lines of a document, made to reach a server of this test. */
const here = (code, port = gema.port) => code.replaceAll('localhost', '127.0.0.1').replaceAll('6001', port);

/** Opens the page of a document, which listens to a channel; answers its Echo and what it logs. */
async function openPage(t, Echo, Pusher, document = 'getting-started.md', name = 'scada-realtime') {
  const logged = [];
  const console = { log: (...values) => logged.push(...values) };
  globalThis.window = globalThis; // as in a browser
  const code = here(block(document, 'js', 'new Echo'));
  const echo = run(code, 'echo', { Echo, Pusher, window: globalThis, console });
  t.after(() => echo.disconnect());
  const { pusher } = echo.connector;
  await until(() => pusher.channel(name)?.subscribed, 'the page listens');
  return { echo, logged };
}

const publishers = {
  pusher: () => {
    const code = here(block('getting-started.md', 'js', 'pusher.trigger'));
    return run(code, 'undefined', { require: createRequire(import.meta.url) });
  },
  curl: () => promisify(execFile)('bash', ['-euc', here(block('getting-started.md', 'bash', 'curl -d'))]),
};

for (const [name, publish] of Object.entries(publishers)) {
  for (const [version, Echo, Pusher] of ECHOS) {
    test(`the first page gets what the ${name} lines publish [laravel-echo ${version}]`, async (t) => {
      const { logged } = await openPage(t, Echo, Pusher);
      await publish();
      await until(() => logged.length > 0, 'the event');
      assert.deepEqual(logged, [{ value: 42 }]);
    });
  }
}

for (const [version, Echo, Pusher] of ECHOS) {
  test(`the page of the README gets an event [laravel-echo ${version}]`, async (t) => {
    const { logged } = await openPage(t, Echo, Pusher, '../README.md', 'orders');
    await gema.api.trigger('orders', 'order.shipped', { id: 7 });
    await until(() => logged.length > 0, 'the event');
    assert.deepEqual(logged, [{ id: 7 }]);
  });

  test(`a page shows every event, whatever its name [laravel-echo ${version}]`, async (t) => {
    const { echo } = await openPage(t, Echo, Pusher);
    const logged = [];
    const console = { log: (...values) => logged.push(values) };
    run(block('getting-started.md', 'js', 'listenToAll'), 'undefined', { echo, console });
    await gema.api.trigger('scada-realtime', 'another.name', { value: 1 });
    await until(() => logged.length > 0, 'the event');
    assert.deepEqual(logged, [['.another.name', { value: 1 }]]);
  });
}

/** Variables of Laravel's `.env` as laravel.md has it. */
function variables(text) {
  const lines = block('laravel.md', 'env', text).split('\n').map((line) => line.split('#')[0].trim().split('='));
  const env = Object.fromEntries(lines.filter(([name]) => name));
  const expand = (value) => value.replace(/^"|"$/g, '').replace(/\$\{(\w+)\}/g, (_, name) => env[name]);
  return Object.fromEntries(Object.entries(env).map(([name, value]) => [name, expand(value)]));
}

/** What `config/broadcasting.php` makes of `.env`, both as in laravel.md. */
function laravelsSettings() {
  const env = variables('PUSHER_APP_ID');
  const php = block('laravel.md', 'php', "'driver' => 'pusher'");
  const setting = (name) => {
    const [, variable, fallback] = php.match(new RegExp(`'${name}' => env\\('(\\w+)'(?:, '?([^')]+)'?)?\\)`));
    return env[variable] ?? fallback;
  };
  const [appId, key, secret, host, port] = ['app_id', 'key', 'secret', 'host', 'port'].map(setting);
  assert.equal(env.BROADCAST_CONNECTION, 'pusher');
  return { appId, key, secret, host, port, useTLS: setting('useTLS') === 'https' };
}

/** The Echo that `resources/js/echo.js` of laravel.md makes of `.env`. */
function laravelsEcho(t, Echo, Pusher, env, port) {
  globalThis.window = globalThis;
  const code = here(block('laravel.md', 'js', 'window.Echo = new Echo'), port).replaceAll('import.meta.env.', 'env.');
  const at = (value) => here(value, port);
  const reached = Object.fromEntries(Object.entries(env).map(([name, value]) => [name, at(value)]));
  const echo = run(code, 'window.Echo', { Echo, Pusher, window: globalThis, env: reached });
  t.after(() => echo.disconnect());
  return echo;
}

for (const [version, Echo, Pusher] of ECHOS) {
  test(`Laravel's settings and its page reach a server with the same app [laravel-echo ${version}]`, async (t) => {
    const { appId: id, key, secret, ...address } = laravelsSettings();
    const server = await startGema({ t, app: { id, key, secret } });
    assert.equal(address.port, '6001');
    const publisher = new Publisher({ appId: id, key, secret, ...address, port: server.port });
    const echo = laravelsEcho(t, Echo, Pusher, variables('PUSHER_APP_ID'), server.port);
    const heard = [];
    const channel = echo.channel('orders').listen('.shipped', (data) => heard.push(data));
    await subscribed(channel.subscription);
    await publisher.trigger('orders', 'shipped', { id: 7 });
    await until(() => heard.length > 0, 'the event');
    assert.deepEqual(heard, [{ id: 7 }]);
  });

  test(`a page in production speaks TLS to nginx' port [laravel-echo ${version}]`, (t) => {
    const env = { ...variables('PUSHER_APP_ID'), ...variables('VITE_PUSHER_HOST=ws.shop.example') };
    const { config } = laravelsEcho(t, Echo, Pusher, { ...env, VITE_PUSHER_HOST: '127.0.0.1' }, 6001).connector.pusher;
    assert.deepEqual([config.useTLS, config.wssPort], [true, '443']);
    assert.equal(env.VITE_PUSHER_HOST, 'ws.shop.example');
  });

  test(`a page that was away loads what it missed [laravel-echo ${version}]`, async (t) => {
    const app = { id: 'my-app', key: 'my-key', secret: 'my-secret' };
    const server = await startGema({ t, app });
    const echo = laravelsEcho(t, Echo, Pusher, variables('PUSHER_APP_ID'), server.port);
    const [shown, states] = [[], []];
    const names = {
      window: { Echo: echo },
      show: (order) => shown.push(order.id),
      showState: (state) => states.push(state),
      load: async () => [{ id: `loaded ${shown.length}` }],
    };
    run(block('laravel.md', 'js', 'orders.subscribed'), 'undefined', names);
    run(block('laravel.md', 'js', 'showState'), 'undefined', names);
    await until(() => shown.length === 1, 'the first load');
    await server.api.trigger('orders', 'order.changed', { id: 'event' });
    await until(() => shown.length === 2, 'the event');
    await server.stop();
    await server.start();
    // After a second; after 15 s more if the server was not there yet.
    await until(() => shown.length === 3, 'the second load', 25_000);
    assert.deepEqual(shown, ['loaded 0', 'event', 'loaded 2']);
    assert.deepEqual(states.slice(-2), ['connecting', 'connected']);
  });
}

/** The webhook requests that a server with the configuration of webhooks.md sends when Siti joins a room. */
async function webhooks(t) {
  const requests = [];
  const endpoint = http.createServer(async (request, answer) => {
    let body = '';
    for await (const part of request.setEncoding('utf8')) body += part;
    requests.push({ body, headers: request.headers });
    answer.end();
  });
  await new Promise((resolve) => endpoint.listen(0, '127.0.0.1', resolve));
  t.after(() => endpoint.close());
  const config = block('webhooks.md', 'toml', 'webhooks = [')
    .replaceAll('https://shop.example', `http://127.0.0.1:${endpoint.address().port}`);
  const app = { id: 'app-id', key: 'app-key', secret: 'change-this' };
  const server = await startGema({ t, config, app });
  const page = new Pusher8(app.key, {
    cluster: 'mt1',
    wsHost: '127.0.0.1',
    wsPort: server.port,
    forceTLS: false,
    channelAuthorization: {
      customHandler: ({ socketId, channelName }, answer) =>
        answer(null, server.api.authorizeChannel(socketId, channelName, { user_id: 'siti' })),
    },
  });
  t.after(() => page.disconnect());
  await subscribed(page.subscribe('presence-room'));
  const events = () => requests.flatMap(({ body }) => JSON.parse(body).events);
  await until(() => events().length >= 2, 'the webhook');
  return { requests, events: events(), secret: app.secret };
}

test('webhooks are what webhooks.md shows', async (t) => {
  const { requests, events, secret } = await webhooks(t);
  const shown = block('webhooks.md', 'json', 'time_ms').trim();
  assert.deepEqual(events, JSON.parse(shown).events);
  for (const { body, headers } of requests) {
    assert.deepEqual(Object.keys(JSON.parse(body)), Object.keys(JSON.parse(shown)));
    assert.equal(headers['x-pusher-signature'], sha256(secret, body));
    for (const line of ['Content-Type: application/json', 'X-Pusher-Key: app-key']) {
      const [name, value] = line.split(': ');
      assert.equal(headers[name.toLowerCase()], value);
      block('webhooks.md', 'text', line);
    }
  }
  block('webhooks.md', 'text', sha256('app-secret', shown));
});

const php = (...args) => spawnSync('php', args, { encoding: 'utf8' }).status === 0;
/** Debian's package php-laravel-framework is Laravel 8. */
const withoutLaravel =
  !php('-r', "error_reporting(0); exit((include 'Illuminate/autoload.php') ? 0 : 1);") && 'Laravel is not installed';

/** Runs blocks of PHP by a script of php/, which gets `input` as JSON; answers the JSON that it prints. */
function laravel(t, script, blocks, input) {
  const own = mkdtempSync(join(tmpdir(), 'gema-docs-'));
  t.after(() => rmSync(own, { recursive: true, force: true }));
  const files = blocks.map((code, index) => {
    const file = join(own, `${index}.php`);
    writeFileSync(file, `<?php\n${code}`);
    return file;
  });
  const { stdout, stderr } = spawnSync('php', [join(folder, 'php', script), ...files], {
    encoding: 'utf8',
    input: JSON.stringify(input),
  });
  assert.ok(stdout.startsWith('[') || stdout.startsWith('{') || stdout === 'null', `${script}: ${stdout}${stderr}`);
  return JSON.parse(stdout);
}

test('the receiver in Laravel takes webhooks, once and again, and refuses others', (t) => {
  if (withoutLaravel) return t.skip(withoutLaravel);
  const joined = block('webhooks.md', 'json', 'time_ms').trim();
  const left = joined.replace('member_added', 'member_removed');
  const signed = (body) => ({ body, signature: sha256('app-secret', body) });
  const receiver = block('webhooks.md', 'php', 'X-Pusher-Signature');
  const requests = [signed(joined), signed(joined), { body: left, signature: 'wrong' }, signed(left), signed(left)];
  const answers = laravel(t, 'receiver.php', [receiver], requests);
  const siti = [{ channel: 'presence-room', user_id: 'siti' }];
  assert.deepEqual(answers.map(({ status }) => status), [204, 204, 401, 204, 204]);
  assert.deepEqual(answers.map(({ online }) => online), [siti, siti, siti, [], []]);
});

test("Laravel's grant lets a warehouse see its group", async (t) => {
  if (withoutLaravel) return t.skip(withoutLaravel);
  const route = `use Illuminate\\Support\\Facades\\Broadcast;\n${block('laravel.md', 'php', "'gudang.{group}'")}`;
  const blocks = [block('laravel.md', 'php', 'Broadcast::extend'), route];
  const authorize = ({ socketId, channelName }, answer) => {
    const request = { socket_id: socketId, channel_name: channelName };
    const auth = laravel(t, 'grant.php', blocks, { app: gema.app, request });
    answer(auth ? null : new Error('403'), auth);
  };
  const page = new Pusher8(gema.app.key, {
    cluster: 'mt1',
    wsHost: '127.0.0.1',
    wsPort: gema.port,
    forceTLS: false,
    channelAuthorization: { customHandler: authorize },
  });
  t.after(() => page.disconnect());
  // The user of php/grant.php is of the group K.
  const own = page.subscribe('private-gudang.K');
  const other = hear(page.subscribe('private-gudang.B'));
  await subscribed(own);
  await other.take('pusher:subscription_error');
  const heard = hear(own);
  await gema.api.trigger('permintaan-barang.K003', 'dikirim', { number: 1 });
  await gema.api.trigger('permintaan-barang.K002', 'dikirim', { number: 2 });
  assert.deepEqual(await heard.data('dikirim'), { number: 2 });
});

test('the message of the redis driver is what PHP writes', () => {
  const shown = block('laravel.md', 'json', '"socket":null').trim();
  const event = { event: 'App\\Events\\OrderShipped', data: { orderId: 7, socket: null }, socket: null };
  assert.equal(shown, JSON.stringify(event));
});
