// Stories of failure: each is brought about on a real server, and the operator's page names it with its remedy.

import assert from 'node:assert/strict';
import http from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import * as file from 'node:test';
import { connect as connectTls } from 'node:tls';
import Pusher from 'pusher';
import { startBrowser } from './chromium.js';
import { openDashboard, startWatched, tokens } from './dashboard.js';
import { app } from './gema.js';
import { sha256 } from './php.js';
import { startRedis } from './redis.js';
import { openWire } from './wire.js';
import { test, until } from './wait.js';

const here = import.meta.dirname ?? new URL('.', import.meta.url).pathname;

/** Nobody listens there: the port of a server that has gone. */
async function deadPort() {
  const server = http.createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

const config = `
[connections]
slow_seconds = 1.0
outbox_bytes_max = 4096

[[apps]]
id = "${app.id}"
key = "${app.key}"
secret = "${app.secret}"
webhooks = [{ url = "http://127.0.0.1:${await deadPort()}/hook", event_types = ["channel_occupied"] }]
channel_rules = [{ match = "permintaan-*", require = "private" }]
max_event_payload_in_kb = 1000.0

[[apps]]
id = "2002"
key = "limited-key"
secret = "limited-secret"
allowed_origins = ["klinik.example.com"]
max_backend_events_per_second = 1
max_connections = 1

[[apps]]
id = "3003"
key = "closed-key"
secret = "closed-secret"
enabled = false

[[apps]]
id = "4004"
key = "whisper-key"
secret = "whisper-secret"
enable_client_messages = true
max_client_events_per_second = 1
`;
const gema = await startWatched({ config });
const browser = await startBrowser(file);
file.afterEach(() => browser.closeTabs());

/** A publisher with other settings than the right ones. */
function publisher(wrong) {
  const own = { appId: app.id, key: app.key, secret: app.secret, host: gema.host, port: gema.port, useTLS: false };
  return new Pusher({ ...own, ...wrong });
}

/** Publishes, and expects a refusal. */
const refused = (pusher, status, channel = 'orders', data = {}) =>
  assert.rejects(pusher.trigger(channel, 'shipped', data), (error) => error.status === status);

/** A connection that the server closes. */
async function closed(t, key, options) {
  const wire = await openWire(t, gema.url(undefined, key), options);
  await wire.end();
}

/** A subscription that the server refuses. */
async function notJoined(t, channel, auth) {
  const wire = await openWire(t, gema.url());
  const socket = await wire.socketId();
  wire.send('pusher:subscribe', { channel, ...auth?.(socket) });
  await wire.frames.take('pusher:subscription_error');
}

/** Each story with the code on the page, what happens, and the remedy that the page has to name. */
const STORIES = [
  {
    story: 'Laravel publishes with a wrong secret',
    code: 'api_signature',
    happens: () => refused(publisher({ secret: 'wrong' }), 401),
    remedy: /PUSHER_APP_SECRET/,
  },
  {
    story: 'Laravel publishes with another app’s key',
    code: 'api_unknown_key',
    happens: () => refused(publisher({ key: 'limited-key' }), 401),
    remedy: /PUSHER_APP_ID=1001\s+PUSHER_APP_KEY=clients-key/,
  },
  {
    story: 'Laravel publishes to an app that is not there',
    code: 'api_unknown_app',
    happens: () => refused(publisher({ appId: '9999' }), 404),
    remedy: /PUSHER_APP_ID/,
  },
  {
    story: 'the clock of Laravel is off',
    code: 'api_expired',
    happens: async () => {
      const query = `auth_key=${app.key}&auth_timestamp=1000000000&auth_version=1.0`;
      const path = `/apps/${app.id}/channels`;
      const signature = sha256(app.secret, `GET\n${path}\n${query}`);
      const answer = await fetch(`http://${gema.host}:${gema.port}${path}?${query}&auth_signature=${signature}`);
      assert.equal(answer.status, 401);
    },
    remedy: /set both clocks[^]*timedatectl set-ntp true/,
  },
  {
    story: 'a script publishes unsigned',
    code: 'api_unsigned',
    happens: async () => {
      const answer = await fetch(`http://${gema.host}:${gema.port}/apps/${app.id}/events`, { method: 'POST', body: '{}' });
      assert.equal(answer.status, 401);
    },
    remedy: /auth_signature/,
  },
  {
    story: 'an event is too large',
    code: 'api_event_too_large',
    happens: () => refused(publisher(), 413, 'orders', 'x'.repeat(1_100_000)),
    remedy: /max_event_payload_in_kb/,
  },
  {
    story: 'an app publishes faster than it may',
    code: 'api_event_rate',
    happens: async () => {
      const limited = publisher({ appId: '2002', key: 'limited-key', secret: 'limited-secret' });
      const send = () => limited.trigger('orders', 'shipped', {}).then(() => 200, (error) => error.status);
      await until(async () => (await Promise.all([send(), send(), send()])).includes(429), 'a refusal');
    },
    remedy: /max_backend_events_per_second = 1000/,
  },
  {
    story: 'a page uses a wrong key',
    code: 'connect_unknown_key',
    happens: (t) => closed(t, 'no-such-key'),
    remedy: /use the key of one of the apps/,
  },
  {
    story: 'a page uses the app’s id as its key',
    code: 'app_id_as_key',
    happens: (t) => closed(t, app.id),
    remedy: /PUSHER_APP_KEY, not PUSHER_APP_ID[^]*PUSHER_APP_KEY=clients-key/,
  },
  {
    story: 'a page of another site connects',
    code: 'connect_origin',
    happens: async () => {
      const { default: WebSocket } = await import('ws');
      const socket = new WebSocket(gema.url(undefined, 'limited-key'), { origin: 'https://stranger.example.com' });
      await new Promise((resolve) => socket.once('close', resolve));
    },
    remedy: /allowed_origins = \["https:\/\/stranger\.example\.com"\]/,
  },
  {
    story: 'a disabled app is used',
    code: 'connect_disabled',
    happens: (t) => closed(t, 'closed-key'),
    remedy: /enabled = true/,
  },
  {
    story: 'a proxy drops the upgrade headers',
    code: 'no_upgrade',
    happens: async () => {
      const answer = await fetch(`http://${gema.host}:${gema.port}/app/${app.key}`);
      assert.equal(answer.status, 426);
    },
    remedy: /proxy_set_header Upgrade \$http_upgrade;/,
  },
  {
    story: 'a client speaks TLS to the plain port',
    code: 'tls_on_plain_port',
    happens: () =>
      new Promise((resolve) => {
        const socket = connectTls({ host: gema.host, port: gema.port, rejectUnauthorized: false });
        socket.once('error', resolve);
        socket.once('close', resolve);
      }),
    remedy: /PUSHER_SCHEME=http/,
  },
  {
    story: 'another protocol is spoken to the port',
    code: 'invalid_http',
    happens: () =>
      new Promise((resolve) => {
        const socket = connect(gema.port, gema.host, () => socket.write('HELLO\r\n\r\n'));
        socket.once('close', resolve).resume();
      }),
    remedy: /who speaks another protocol/,
  },
  {
    story: 'a page subscribes to a private channel unsigned',
    code: 'subscribe_no_auth',
    happens: (t) => notJoined(t, 'private-orders'),
    remedy: /authEndpoint/,
  },
  {
    story: 'Laravel signs channels with a wrong secret',
    code: 'subscribe_signature',
    happens: (t) =>
      notJoined(t, 'private-orders', (socket) => publisher({ secret: 'wrong' }).authorizeChannel(socket, 'private-orders')),
    remedy: /PUSHER_APP_SECRET/,
  },
  {
    story: 'page and Laravel have different keys',
    code: 'subscribe_unknown_key',
    happens: (t) =>
      notJoined(t, 'private-orders', (socket) => publisher({ key: 'other-key' }).authorizeChannel(socket, 'private-orders')),
    remedy: /PUSHER_APP_KEY/,
  },
  {
    story: 'a clinic reads another one’s requests',
    code: 'subscribe_forbidden',
    happens: (t) => notJoined(t, 'permintaan-barang.K002'),
    remedy: /channel_rules/,
  },
  {
    story: 'a page whispers where client events are off',
    code: 'client_events_disabled',
    happens: async (t) => {
      const wire = await openWire(t, gema.url());
      await wire.join('private-chat', gema.api.authorizeChannel(await wire.socketId(), 'private-chat'));
      wire.send('client-typing', {}, 'private-chat');
    },
    remedy: /enable_client_messages = true/,
  },
  {
    story: 'a page whispers too fast',
    code: 'client_event_rate',
    happens: async (t) => {
      const wire = await openWire(t, gema.url(undefined, 'whisper-key'));
      const own = publisher({ appId: '4004', key: 'whisper-key', secret: 'whisper-secret' });
      await wire.join('private-chat', own.authorizeChannel(await wire.socketId(), 'private-chat'));
      for (let n = 0; n < 20; n += 1) wire.send('client-typing', {}, 'private-chat');
    },
    remedy: /max_client_events_per_second = 1000/,
  },
  {
    story: 'a page subscribes twice',
    code: 'subscribe_twice',
    happens: async (t) => {
      const wire = await openWire(t, gema.url());
      await wire.join('orders');
      wire.send('pusher:subscribe', { channel: 'orders' });
    },
    remedy: /subscribe once/,
  },
  {
    story: 'a client does not read',
    code: /slow_reader/,
    happens: async (t) => {
      const wire = await openWire(t, gema.url());
      await wire.join('berat');
      wire.socket.pause();
      const pusher = publisher();
      const event = 'x'.repeat(900_000);
      for (let n = 0; n < 30; n += 1) await pusher.trigger('berat', 'besar', event);
    },
    remedy: /connections\.(slow_seconds|backlog_bytes_max)/,
  },
  {
    story: 'the endpoint of a webhook is dead',
    code: /webhook_(failed|lost)/,
    happens: (t) => openWire(t, gema.url()).then((wire) => wire.join(`orders-${Date.now()}`)),
    remedy: /endpoint/,
  },
];

for (const { story, code, happens, remedy } of STORIES) {
  test(`${story}: Problems names it and its remedy`, async (t) => {
    const tab = await openDashboard(browser, gema);
    await happens(t);
    const selector = typeof code === 'string' ? `[data-code="${code}"]` : `[data-code^="${code.source.split('_')[0]}_"]`;
    const text = await tab.reads(remedy, selector);
    assert.match(text, /What to do:/);
    assert.match(text, code instanceof RegExp ? code : new RegExp(`Cause\\s+${code}`));
    // Never what is secret.
    for (const secret of [app.secret, 'limited-secret', 'whisper-secret']) assert.ok(!text.includes(secret));
    assert.deepEqual(tab.page.errors, []);
  });
}

test('a card leads to its rows in Live', async (t) => {
  await closed(t, 'no-such-key');
  const tab = await openDashboard(browser, gema);
  await tab.sees('[data-code="connect_unknown_key"]');
  await tab.click('Show in Live', '[data-code="connect_unknown_key"]');
  await tab.sees('nav a[href="#live"][aria-current]');
  await until(async () => {
    await closed(t, 'no-such-key');
    return tab.evaluate(`document.querySelector('.row') !== null`);
  }, 'the next one is a row');
  assert.match(await tab.text('.row'), /a connection named a key that no app has/);
});

test('a client speaks plain HTTP to the TLS port: Problems names it', async (t) => {
  const secure = await startWatched({
    t,
    env: {
      SOKETI_SSL_CERT: join(here, '../it/tls/certificate.pem'),
      SOKETI_SSL_KEY: join(here, '../it/tls/encrypted.key'),
      SOKETI_SSL_PASS: 'hush',
    },
  });
  const tab = await openDashboard(browser, secure);
  await fetch(`http://${secure.host}:${secure.port}/`).then((answer) => answer.text(), () => undefined);
  await tab.reads(/use https:\/\/ and wss:\/\/ there[^]*PUSHER_SCHEME=https/, '[data-code="plain_on_tls_port"]');
});

test('Redis is killed: the sentence on top and Problems say so', async (t) => {
  const redis = await startRedis();
  const node = await startWatched({
    t,
    env: { ...tokens, GEMA_CLUSTER_DRIVER: 'redis', GEMA_CLUSTER_NAME: 'dashboard', GEMA_REDIS_PORT: String(redis.port) },
  });
  await node.linked();
  const tab = await openDashboard(browser, node);
  await tab.reads(/^All well/, 'h1');
  await redis.stop();
  await tab.reads(/^Redis has been away for/, 'h1');
  assert.equal(await tab.evaluate(`document.querySelector('.glance').classList.contains('bad')`), true);
  await tab.reads(/redis\.host, redis\.port and redis\.password/, '[data-code^="redis_"]');
});
