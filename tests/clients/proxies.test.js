// Laravel Echo, bare sockets and publishers through each proxy that has files in config/, to two nodes.

import assert from 'node:assert/strict';
import { request } from 'node:http';
import { after } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startCluster } from './cluster.js';
import { startGema } from './gema.js';
import { startLaravel } from './laravel.js';
import { fresh, listener, ready, whisper, withEcho } from './pages.js';
import { KINDS, startProxy } from './proxies.js';
import { test, until } from './wait.js';
import { openWire } from './wire.js';

/** Longer than proxies wait by themselves (60 s). */
const SILENCE_MS = 70_000;
/** Published one after the other. */
const EVENTS = 500;
/** Below gema's limit of a body, a little above it, and far above it. */
const BODIES = [1_000_000, 11_000_000, 20_000_000];
/** Of each size. */
const STRANGERS = 5;

// The certificate signs itself. Node reads this for each connection.
process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0';

const cluster = await startCluster(2);
const proxies = await Promise.all(KINDS.map((kind) => startProxy(kind, cluster.nodes)));
const laravels = await Promise.all(proxies.map((proxy) => startLaravel(proxy)));
const url = ({ host, port, app }, scheme = 'ws') => `${scheme}://${host}:${port}/app/${app.key}?protocol=7`;

/** Two through each proxy, which gives one to each node. They send nothing. */
const silent = await Promise.all(proxies.map(async (proxy) => {
  const wires = [await openWire({ after }, url(proxy)), await openWire({ after }, url(proxy))];
  for (const wire of wires) await wire.join('silence');
  return { proxy, wires };
}));
const silentSince = performance.now();

for (const [nth, proxy] of proxies.entries()) {
  const { kind } = proxy;
  const laravel = laravels[nth];
  laravel.channel('orders-{id}', () => true).channel('room-{id}', (user) => ({ id: Number(user.id) }));

  withEcho(`public, private and presence channels work through ${kind}`, laravel, async ({ open }) => {
    const [news, orders, room] = [fresh('news'), fresh('orders'), fresh('room')];
    const pages = ['1', '2', '3', '4'].map((user) => ({ user, ...open(user), here: [] }));
    for (const page of pages) {
      const [callback, heard] = listener('shipped');
      page.heard = heard;
      await ready(page.echo.channel(news).listen('.order.shipped', callback));
      await ready(page.echo.private(orders).listen('.order.shipped', callback));
      await ready(page.echo.join(room).here((members) => page.here.push(...members)).joining((member) => page.here.push(member)));
    }
    const ids = ({ here }) => here.map(({ id }) => id).sort();
    await until(() => pages.every((page) => page.here.length === pages.length), 'everybody sees everybody');
    for (const page of pages) assert.deepEqual(ids(page), [1, 2, 3, 4]);
    for (const [n, channel] of [news, `private-${orders}`].entries()) {
      await laravel.broadcast([channel], 'order.shipped', { n });
      for (const { heard } of pages) assert.deepEqual(await heard.data('shipped'), { n });
    }
  });

  withEcho(`whispers work through ${kind}`, laravel, ({ open }) => whisper(open('1'), open('2')));

  test(`what a publisher sends one after the other through ${kind} arrives in order on both nodes`, async (t) => {
    const channel = fresh('order');
    const wires = await Promise.all(cluster.nodes.map((node) => openWire(t, node.url())));
    for (const wire of wires) await wire.join(channel);
    for (let n = 0; n < EVENTS; n += 1) await proxy.api.trigger(channel, 'e', n);
    const numbers = Array.from({ length: EVENTS }, (_, n) => n);
    for (const { frames } of wires) {
      await until(() => frames.count('e') === EVENTS, 'all events have come');
      assert.deepEqual(frames.all.filter(({ name }) => name === 'e').map(({ data }) => Number(data)), numbers);
    }
  });

  test(`pages are spread over both nodes by ${kind}`, async (t) => {
    const connected = () => Promise.all(cluster.nodes.map((node) => node.metric('soketi_connected')));
    const before = await connected();
    const wires = await Promise.all(Array.from({ length: 20 }, () => openWire(t, url(proxy))));
    await Promise.all(wires.map((wire) => wire.established()));
    const more = (await connected()).map((count, node) => count - before[node]);
    t.diagnostic(`${kind}: ${more.join(' and ')} pages`);
    assert.ok(Math.min(...more) >= 5, `${more}`);
  });

  test(`nothing but /app/ and /apps/ is behind ${kind}`, async () => {
    for (const path of ['/', '/metrics', '/usage', '/ready', '/dashboard', '/apps/../metrics', '/apps/../usage']) {
      assert.equal((await ask(proxy, path)).status, 404, path);
    }
  });

  test(`a path comes through ${kind} as it was signed`, async () => {
    const path = `/channels/${encodeURIComponent('a;b,c=d@e.f')}`;
    assert.equal((await proxy.api.get({ path, params: { info: 'subscription_count' } })).status, 200);
    for (const user of ['a/b', 'a b', 'a%2Fb', '100%', 'ä?#']) {
      const path = `/users/${encodeURIComponent(user)}/terminate_connections`;
      assert.equal((await proxy.api.post({ path, body: {} })).status, 200, user);
    }
  });

  test(`strangers do not make ${kind} believe that a node is gone`, async (t) => {
    const path = '/apps/nobody/events?auth_key=k&auth_timestamp=1&auth_version=1.0&auth_signature=s';
    for (const size of BODIES) {
      for (let n = 0; n < STRANGERS; n += 1) {
        // Caddy and Traefik end a connection whose body they do not read to its end, perhaps before the answer is read.
        const answer = ask(proxy, path, { method: 'POST', body: 'x'.repeat(size) });
        const status = await answer.then(({ status }) => status, ({ code }) => code);
        assert.ok([404, 413, 'ECONNRESET', 'EPIPE'].includes(status), `${size} bytes: ${status}; ${proxy.log()}`);
        await ask(proxy, path, { method: 'POST', body: 'x', headers: { 'Content-Length': size }, breaksOff: true });
      }
      const began = performance.now();
      await (await openWire(t, url(proxy))).established();
      await proxy.api.trigger('news', 'e', 1);
      const took = performance.now() - began;
      assert.ok(took < 2_000, `a page and an event took ${took} ms`);
    }
  });
}

/** Sends a request as it stands, and answers its status; or breaks it off in the middle. */
function ask({ host, port }, path, { method = 'GET', body, headers, breaksOff = false } = {}) {
  return new Promise((resolve, reject) => {
    const own = request({ host, port, path, method, headers, agent: false }, (answer) => {
      answer.resume().once('end', () => resolve({ status: answer.statusCode }));
    });
    own.once('error', (error) => (breaksOff ? resolve({}) : reject(error)));
    if (!breaksOff) return own.end(body);
    own.write(body, () => own.destroy(new Error('broken off')));
  });
}

test('gema sees who a client is and whether it came over TLS, whatever the client claims', async (t) => {
  const env = {
    GEMA_SERVER_TRUSTED_PROXIES: '127.0.0.1',
    GEMA_CONNECTIONS_PER_ADDRESS_MAX: '1',
    GEMA_LIMITS_REQUIRE_TLS: 'true',
  };
  const gema = await startGema({ env, t });
  for (const [nth, kind] of KINDS.entries()) {
    const secure = await startProxy(kind, [gema, gema], { tls: true, t });
    const plain = await startProxy(kind, [gema, gema], { t });
    const [one, other] = [`127.0.${nth}.2`, `127.0.${nth}.3`];
    const open = (proxy, scheme, localAddress, headers) => openWire(t, url(proxy, scheme), [], { localAddress, headers });
    await (await open(secure, 'wss', one)).established();
    const forged = { 'X-Forwarded-For': '203.0.113.9', Forwarded: 'for=203.0.113.9', 'X-Real-IP': '203.0.113.9' };
    assert.equal((await (await open(secure, 'wss', one, forged)).end()).code, 4100, `a second one of ${one}: ${kind}`);
    await (await open(secure, 'wss', other)).established();
    const insecure = await open(plain, 'ws', `127.0.${nth}.4`, { 'X-Forwarded-Proto': 'https' });
    assert.equal((await insecure.end()).code, 4000, `${kind} without TLS`);
  }
});

test('pages stay when a proxy reads its files anew, or come back', async (t) => {
  const own = await Promise.all(KINDS.map((kind) => startProxy(kind, cluster.nodes, { t })));
  await Promise.all(own.map(async (proxy) => {
    const { kind, reload } = proxy;
    const page = await openWire(t, url(proxy));
    await page.join('reload');
    await reload();
    const other = await openWire(t, url(proxy));
    await other.join('reload');
    await cluster.nodes[0].api.trigger('reload', kind, 1);
    await other.frames.take(kind);
    // Caddy before 2.7 has no `stream_close_delay`.
    if (kind === 'caddy') await page.end();
    else await page.frames.take(kind);
  }));
});

test('connections through each proxy outlive a long silence', async () => {
  await sleep(silentSince + SILENCE_MS - performance.now());
  const closed = silent.filter(({ wires }) => wires.some((wire) => wire.closed)).map(({ proxy }) => proxy.kind);
  assert.deepEqual(closed, []);
  for (const { proxy, wires } of silent) {
    await proxy.api.trigger('silence', proxy.kind, 1);
    for (const wire of wires) await wire.frames.take(proxy.kind);
  }
});
