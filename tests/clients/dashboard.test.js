// The operator's page in a browser: each panel shows what a test causes on a real server.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import http from 'node:http';
import { createInterface } from 'node:readline';
import * as file from 'node:test';
import { startBrowser } from './chromium.js';
import { address, ask, openDashboard, OPERATOR, startWatched, VIEWER } from './dashboard.js';
import { block } from './documents.js';
import { app, binary, startGema } from './gema.js';
import { startSites } from './nginx.js';
import { freePort } from './program.js';
import { test, until } from './wait.js';
import { openWire } from './wire.js';

const PANELS = ['overview', 'now', 'live', 'channels', 'connections?user:42', 'apps', 'try', 'settings'];
const HOOK = '/hooks/klinik';

const endpoint = http.createServer((_, answer) => answer.writeHead(500).end());
await new Promise((resolve) => endpoint.listen(0, '127.0.0.1', resolve));
file.after(() => endpoint.close());

const gema = await startWatched({
  env: {
    GEMA_LIMITS_FLOW_RULES: JSON.stringify([{ match: 'scada-*', conflate: { key: 'data.tag', window_ms: 250 } }]),
    GEMA_LIMITS_MAX_CONNECTIONS: '1000',
    SOKETI_DEFAULT_APP_WEBHOOKS: JSON.stringify([{ url: `http://127.0.0.1:${endpoint.address().port}${HOOK}`, event_types: ['channel_occupied'] }]),
  },
});
const browser = await startBrowser(file);
file.afterEach(() => browser.closeTabs());

/** A member of a presence channel. */
async function join(t, channel, user) {
  const wire = await openWire(t, gema.url());
  const member = { user_id: user, user_info: { name: user } };
  await wire.join(channel, gema.api.authorizeChannel(await wire.socketId(), channel, member));
  return wire;
}

/** A page says nothing to its console, and asks nobody but this machine. */
function assertClean({ page }) {
  assert.deepEqual(page.errors, []);
  const hosts = new Set(page.requests.map((url) => new URL(url).hostname));
  assert.deepEqual([...hosts], ['127.0.0.1']);
}

test('without a token there is no page, and the answer names the setting', async (t) => {
  const closed = await startGema({ t });
  for (const path of ['', '/page.js', '/api/state', '/api/stream']) {
    const answer = await fetch(address(closed, path));
    assert.equal(answer.status, 404, path);
    assert.match(await answer.text(), /dashboard\.token/, path);
  }
});

test('the token of the URL lets in, and leaves the URL', async () => {
  const tab = await openDashboard(browser, gema);
  assert.equal(await tab.evaluate('location.href'), address(gema));
  assert.equal(await tab.evaluate('document.cookie'), '', 'no script can read the cookie');
  await tab.reads(/\S/, 'h1');
  assertClean(tab);
  assert.ok(tab.page.requests.every((url) => !url.includes(OPERATOR)), 'the token is in no request’s URL');
  // The cookie holds in another tab.
  const other = await browser.open(address(gema));
  await until(() => other.evaluate('document.querySelector("nav a") !== null'), 'the cookie lets in');
});

test('gema start --dashboard prints an address that lets an operator in', async (t) => {
  const env = { PATH: process.env.PATH, SOKETI_HOST: '127.0.0.1', SOKETI_PORT: '0', SOKETI_METRICS_SERVER_PORT: '0' };
  const child = spawn(binary, ['start', '--dashboard'], { env, stdio: ['ignore', 'ignore', 'pipe'] });
  t.after(() => child.kill('SIGKILL'));
  let url;
  createInterface({ input: child.stderr }).on('line', (line) => (url ??= /The operator's page: (\S+#token=\S+)/.exec(line)?.[1]));
  await until(() => url, 'the address of the page');
  const page = await (await startBrowser(t)).open(url.replace('0.0.0.0', '127.0.0.1'));
  await until(() => page.evaluate('document.querySelector("nav a") !== null'), 'the page');
  await page.evaluate('location.hash = "settings"');
  await until(() => page.evaluate('document.body.innerText.includes("signed in as operator")'), 'an operator');
});

test('the lines for nginx let the page through, and the operator act', async (t) => {
  const own = await startWatched({ t, env: { GEMA_SERVER_TRUSTED_PROXIES: '127.0.0.1' } });
  const port = await freePort();
  const location = block('dashboard.md', 'nginx', 'location /dashboard').replaceAll('9601', own.metricsPort);
  await startSites(`server { listen 127.0.0.1:${port}; ${location} }`, port);
  const page = await (await startBrowser(t)).open(`http://127.0.0.1:${port}/dashboard#token=${OPERATOR}`);
  const reads = (pattern) => until(async () => pattern.test(await page.evaluate('document.body?.innerText ?? ""')), String(pattern));
  await reads(/All well: 1 node/);
  await openWire(t, own.url()).then((wire) => wire.join('lewat-nginx'));
  // The stream goes through, too.
  await reads(/All well: 1 node, 1 page connected/);
  await page.evaluate('location.hash = "try?channel=lewat-nginx"');
  await reads(/Publish an event/);
  await page.evaluate(`[...document.querySelectorAll('button')].find((one) => one.innerText === 'Publish').click()`);
  await reads(/1 socket got the event/);
  assert.deepEqual(page.errors, []);
});

test('a wrong token is told, a right one lets in, and signing out ends it', async (t) => {
  const own = await startWatched({ t });
  const fresh = await startBrowser(t);
  const page = await fresh.open(address(own));
  const says = (pattern) => until(async () => pattern.test(await page.evaluate('document.body?.innerText ?? ""')), String(pattern));
  await says(/gema: sign in/);
  const submit = (token) => page.evaluate(`document.querySelector('input').value = '${token}'; document.querySelector('form').requestSubmit()`);
  await submit('a wrong token of some length');
  await until(() => page.evaluate('document.querySelector(".note.bad") !== null'), 'the refusal');
  await submit(VIEWER);
  await until(() => page.evaluate('document.querySelector("nav a") !== null'), 'the page');
  await page.evaluate('location.hash = "settings"');
  await says(/signed in as viewer/);
  await page.evaluate('[...document.querySelectorAll("button")].find((one) => one.innerText === "Sign out").click()');
  await says(/gema: sign in/);
  const state = await page.evaluate(`fetch('dashboard/api/state').then((answer) => answer.status)`);
  assert.equal(state, 401);
});

test('Status: the sentence counts pages, and Nodes has this node', async (t) => {
  const tab = await openDashboard(browser, gema);
  await openWire(t, gema.url()).then((wire) => wire.socketId());
  await tab.reads(/^All well: 1 node, [1-9]\d* pages? connected/, 'h1');
  assert.match(await tab.evaluate('document.title'), /^✓ gema · All well/);
  await tab.click('Refresh');
  await tab.reads(/\(this one\)\s+✓ up/);
  await tab.reads(/Redis is not used: this node is alone\./);
  assertClean(tab);
});

test('Now: plots have the figures, in 15 minutes and 24 hours, for eyes and for keys', async (t) => {
  const wire = await openWire(t, gema.url());
  await wire.join('figures');
  const tab = await openDashboard(browser, gema);
  const label = (title) => tab.evaluate(`document.querySelector('figure[aria-label^="${title}:"]')?.getAttribute('aria-label')`);
  await until(async () => /now [1-9]/.test(await label('Connections')), 'the plot of connections');
  const highest = async () => Number(/and ([\d.]+)/.exec(await label('Events in'))?.[1] ?? 0);
  await until(async () => {
    await gema.api.trigger('figures', 'tick', {});
    return (await highest()) > 0;
  }, 'the plot of events has some');
  // The value under the cross, moved by keys.
  await tab.evaluate(`document.querySelector('figure').focus()`);
  await tab.page.press('ArrowLeft');
  await tab.reads(/^\d\d:\d\d:\d\d\s*\d+/, 'figure output:not([hidden])');
  await tab.page.press('Escape');
  assert.equal(await tab.evaluate(`document.querySelectorAll('figure output:not([hidden])').length`), 0);
  await tab.click('24 h');
  await until(() => tab.evaluate(`document.querySelector('[aria-pressed=true]').innerText === '24 h'`), '24 hours');
  await tab.turn('now');
  await tab.reads(/Most connections so far: [1-9]/);
  await tab.reads(/scada-\*\s+1001\s+conflate/);
  assertClean(tab);
});

test('Live: rows of all kinds, a filter in the URL, fields and the Echo line', async (t) => {
  const tab = await openDashboard(browser, gema, { panel: 'live' });
  await tab.reads(/Nothing yet\. Publish an event with/);
  const wire = await join(t, 'presence-ruang.7', 'siti');
  await tab.reads(/connect[\s\S]*/, 'main table');
  await tab.reads(/subscribe\s+1001\s+presence-ruang\.7/, 'main table');
  await gema.api.trigger('presence-ruang.7', 'App\\Events\\Dikirim', { n: 1 });
  await tab.reads(/publish\s+1001\s+presence-ruang\.7\s+App\\Events\\Dikirim/, 'main table');
  wire.send('client-typing', {}, 'presence-ruang.7');
  await tab.reads(/client_event/, 'main table');
  const stranger = await openWire(t, gema.url(undefined, 'no-such-key'));
  await stranger.end();
  await tab.reads(/refusal[\s\S]*a connection named a key that no app has/, 'main table');
  wire.socket.close();
  await tab.reads(/disconnect/, 'main table');

  await tab.turn(`live?${encodeURIComponent('kind:publish channel:stok.*')}`);
  assert.equal(await tab.evaluate(`document.querySelector('input').value`), 'kind:publish channel:stok.*');
  await until(async () => {
    await gema.api.trigger('lain', 'a', {});
    await gema.api.trigger('private-stok.1', 'berubah', {});
    await gema.api.trigger('stok.K001', 'berubah', {});
    return tab.evaluate(`document.querySelector('.row') !== null`);
  }, 'a row that the filter lets pass');
  await until(() => tab.evaluate(`(document.querySelector('.row .opener').click(), document.querySelector('.fields:not([hidden])') !== null)`), 'the opened row');
  await tab.reads(/channel\s+stok\.K001[\s\S]*Echo\.channel\('stok\.K001'\)\.listen\('\.berubah'/, '.fields:not([hidden])');
  assert.doesNotMatch(await tab.text('main table'), /lain|private-stok/);
  assertClean(tab);
});

test('Live: rows wait under the pointer, and the page says how many', async () => {
  const tab = await openDashboard(browser, gema, { panel: `live?${encodeURIComponent('kind:publish channel:jeda')}` });
  const rows = () => tab.evaluate(`document.querySelectorAll('.row').length`);
  await until(async () => {
    await gema.api.trigger('jeda', 'a', {});
    return (await rows()) > 0;
  }, 'a row');
  const { x, y } = await tab.evaluate(`(({ x, y }) => ({ x: x + 40, y: y + 60 }))(document.querySelector('.scroll').getBoundingClientRect())`);
  await tab.page.point(x, y);
  const before = await rows();
  await until(async () => {
    await gema.api.trigger('jeda', 'b', {});
    return /[1-9]\d* new/.test(await tab.text('.fresh'));
  }, 'waiting rows');
  assert.equal(await rows(), before);
  await tab.page.point(5, 5);
  await until(async () => (await rows()) > before, 'the rows that have waited');
  await tab.click('‖ Pause');
  await until(async () => {
    await gema.api.trigger('jeda', 'c', {});
    return tab.evaluate(`!document.querySelector('.fresh').hidden`);
  }, 'rows wait for the button');
});

test('Channels: found by pattern, with members, and links to their connections', async (t) => {
  await join(t, 'presence-klinik.K001', 'budi');
  await join(t, 'presence-klinik.K001', 'ani');
  const tab = await openDashboard(browser, gema, { panel: 'channels' });
  await tab.fill('Name or pattern', 'presence-klinik.*');
  await tab.click('Search');
  await tab.reads(/presence-klinik\.K001\s+1001\s+2\s+2/);
  await tab.click('presence-klinik.K001');
  await tab.reads(/User\s+Info\s+(budi[^]*ani|ani[^]*budi)/);
  await tab.reads(/Echo\.join\('klinik\.K001'\)/);
  await tab.click('budi');
  await tab.reads(/Connections[^]*budi/);
  assertClean(tab);
});

test('Connections: found by user and by socket, and closed by the operator', async (t) => {
  const wire = await join(t, 'presence-klinik.K002', 'tuti');
  const socket = await wire.socketId();
  const tab = await openDashboard(browser, gema, { panel: 'connections?user%3Atuti' });
  await tab.reads(new RegExp(`${socket.replace('.', '\\.')}\\s+tuti\\s+127\\.0\\.0\\.1[^]*presence-klinik\\.K002`));
  await tab.turn(`connections?${socket}`);
  await tab.reads(/tuti\s+127\.0\.0\.1/);
  await tab.click('Disconnect');
  await tab.click('Yes, disconnect');
  await tab.reads(/1 connection was closed\./);
  assert.equal((await wire.end()).code, 4009);
  assertClean(tab);
});

test('Apps and webhooks: limits as bars, and an endpoint that fails', async (t) => {
  const tab = await openDashboard(browser, gema, { panel: 'apps' });
  await tab.reads(/1001\s+clients-key\s+✓ enabled\s+\d+ \/ 1.000/);
  await openWire(t, gema.url()).then((wire) => wire.join('hook-test'));
  await until(async () => {
    await tab.click('Refresh');
    return /✕ 500/.test(await tab.text());
  }, 'the status of the endpoint');
  await tab.reads(new RegExp(HOOK));
  assertClean(tab);
});

test('Try: an event reaches sockets, a user is disconnected, a viewer may do neither', async (t) => {
  const wire = await openWire(t, gema.url());
  await wire.join('coba');
  const member = await openWire(t, gema.url());
  const user = gema.api.authenticateUser(await member.socketId(), { id: 'wati' });
  member.send('pusher:signin', user);
  await member.frames.take('pusher:signin_success');
  const tab = await openDashboard(browser, gema, { panel: 'try?channel=coba' });
  await tab.click('Publish');
  await tab.reads(/1 socket got the event\.[^]*Echo\.channel\('coba'\)\.listen\('\.order\.shipped'/);
  assert.deepEqual(JSON.parse(await wire.frames.data('order.shipped')), { id: 17 });
  await tab.fill('User or socket', 'wati');
  await tab.evaluate(`[...document.querySelectorAll('form')].at(-1).requestSubmit()`);
  await tab.reads(/1 connection was closed\./);
  await member.end();
  assertClean(tab);

  const refused = await ask(gema, 'publish', { token: VIEWER, body: { app: app.id, channel: 'coba', event: 'a', data: '' } });
  assert.equal(refused.status, 403);
  const looking = await startBrowser(t).then((other) => openDashboard(other, gema, { token: VIEWER, panel: 'try' }));
  await looking.reads(/This token lets you look\.[^]*dashboard\.operator_token/);
  assert.doesNotMatch(await looking.text(), /Disconnect a user/);
});

test('Try: the connection test goes through each step, and names the cause of a wrong key', async () => {
  const tab = await openDashboard(browser, gema, { panel: 'try' });
  await tab.click('Test');
  await tab.reads(/✓ Right An event came back from the server after \d+ ms\./, '.steps');
  const steps = await tab.text('.steps');
  assert.match(steps, /name, port and TLS are right[^]*WebSocket is open[^]*key clients-key is right[^]*Subscribed to gema-test-/);
  assert.doesNotMatch(steps, /✕/);
  assertClean(tab);
  await tab.fill('Key', app.id);
  await tab.click('Test');
  await tab.reads(/✕ Failed The server did not greet: 4001[^]*PUSHER_APP_KEY, not PUSHER_APP_ID/, '.steps');
});

test('Settings: each value with who set it, secrets masked, lines to paste', async () => {
  const tab = await openDashboard(browser, gema, { panel: 'settings' });
  await tab.reads(/PUSHER_APP_KEY=clients-key/);
  await tab.reads(/location \/app \{[^]*proxy_set_header Upgrade/);
  await tab.fill('Filter', 'server.port');
  await tab.reads(/server\.port\s+\d+\s+\$?SOKETI_PORT/);
  await tab.fill('Filter', '');
  await tab.fill('Minutes', '1');
  await tab.click('Log more');
  await tab.reads(/More is logged until/);
  const text = await tab.text();
  for (const secret of [app.secret, VIEWER, OPERATOR]) assert.ok(!text.includes(secret));
  assertClean(tab);
});

test('names from outside stay text: HTML, escapes and marks that turn the direction', async (t) => {
  const user = '<img src=x onerror="document.title=\'broken\'">\u202e\u001b[31m';
  await join(t, 'presence-aneh', user);
  const tab = await openDashboard(browser, gema, { panel: 'channels?app=1001&name=presence-aneh' });
  await tab.reads(/<img src=x onerror=/);
  await tab.reads(/\\u202e/);
  assert.equal(await tab.evaluate(`document.querySelectorAll('img').length`), 0);
  await tab.turn(`connections?${encodeURIComponent('channel:presence-aneh')}`);
  await tab.reads(/<img src=x/);
  const origin = `https://${'a'.repeat(3000)}.example.com`;
  await (await openWire(t, gema.url(undefined, 'no-such-key'))).end();
  const stranger = await fetch(`http://${gema.host}:${gema.port}/app/${'x'.repeat(3000)}`, { headers: { Origin: origin } });
  await stranger.text();
  await tab.turn('overview');
  assert.ok((await tab.evaluate('document.documentElement.scrollWidth')) <= (await tab.evaluate('innerWidth')));
  assertClean(tab);
});

test('a page that outlives its server says so, and comes back by itself', async (t) => {
  const own = await startWatched({ t });
  const tab = await openDashboard(browser, own, { panel: 'live' });
  await own.kill();
  await tab.reads(/^disconnected, trying again in \d+ s$/, '.link-state');
  await own.start();
  await until(async () => (await tab.text('.link-state')) === '', 'the page is back');
  await openWire(t, own.url()).then((wire) => wire.socketId());
  await tab.reads(/connect/, 'main table');
});

test('Indonesian browsers get an Indonesian page', async (t) => {
  const own = await startWatched({ t });
  const tab = await openDashboard(await startBrowser(t, { language: 'id-ID,id' }), own);
  await tab.reads(/^Semua baik: 1 node, 0 halaman tersambung/, 'h1');
  await tab.reads(/Sekarang[^]*Masalah[^]*Node/);
  assert.equal(await tab.evaluate('document.documentElement.lang'), 'id');
  await (await openWire(t, own.url(undefined, 'no-such-key'))).end();
  const card = await tab.problem('connect_unknown_key');
  assert.match(card, /Koneksi memakai key yang tidak dimiliki aplikasi mana pun[^]*Yang harus dilakukan: pakai key/);
  await tab.turn('live');
  await tab.reads(/Log langsung/);
  assertClean(tab);
});

test('keys are enough: skip link, tabs, suggestions, rows', async () => {
  const tab = await openDashboard(browser, gema);
  await tab.page.press('Tab');
  assert.equal(await tab.evaluate('document.activeElement.className'), 'skip');
  for (let presses = 0; presses < 3; presses += 1) await tab.page.press('Tab');
  assert.equal(await tab.evaluate('document.activeElement.innerText'), 'Live');
  await tab.page.press('Enter');
  await tab.sees('.word-field input');
  await tab.evaluate(`document.querySelector('.word-field input').focus()`);
  await tab.page.write('kind:ref');
  await tab.sees('.suggestions:not([hidden]) [role=option]');
  await tab.page.press('ArrowDown');
  await tab.page.press('Enter');
  await until(() => tab.evaluate(`location.hash === '#live?kind%3Arefusal'`), 'the URL has the filter');
  // Each control has a name for screen readers.
  for (const panel of PANELS) {
    await tab.turn(panel);
    const nameless = await tab.evaluate(
      `[...document.querySelectorAll('button, a, input, select, textarea')].filter((one) => !(one.innerText?.trim() || one.hidden || one.getAttribute('aria-label') || one.closest('label')?.innerText.trim())).map((one) => one.outerHTML)`,
    );
    assert.deepEqual(nameless, [], panel);
  }
});

test('each panel fits a phone, a desk and a wall, with room for fingers', async (t) => {
  await join(t, `presence-${'panjang-'.repeat(20)}`, 'u'.repeat(100));
  const tab = await openDashboard(browser, gema);
  for (const width of [320, 360, 1440, 2560]) {
    await tab.page.show({ width, height: 800 });
    for (const panel of PANELS) {
      await tab.turn(panel);
      const sizes = await tab.evaluate(`({ page: document.documentElement.scrollWidth, window: innerWidth })`);
      assert.ok(sizes.page <= sizes.window, `${panel} at ${width} px is ${sizes.page} px wide`);
      const small = await tab.evaluate(
        `[...document.querySelectorAll('nav a, button, .button, select, input:not([type=checkbox])')].filter((one) => one.offsetHeight > 0 && one.offsetHeight < 40).map((one) => one.outerHTML)`,
      );
      assert.deepEqual(small, [], `${panel} at ${width} px`);
    }
  }
});

test('the page comes with a strict policy, and nothing in it is inline', async () => {
  const answer = await fetch(address(gema));
  const policy = answer.headers.get('content-security-policy');
  for (const part of ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"]) {
    assert.ok(policy.includes(part), part);
  }
  assert.doesNotMatch(policy, /unsafe/);
  assert.equal(answer.headers.get('x-content-type-options'), 'nosniff');
  assert.equal(answer.headers.get('referrer-policy'), 'no-referrer');
  assert.doesNotMatch(await answer.text(), /<script>|style=|onclick|https?:\/\//);
});
