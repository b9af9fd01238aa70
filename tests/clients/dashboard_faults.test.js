// The operator's page when things go wrong around it: hung servers, lost logins, late answers, hostile names, floods.

import assert from 'node:assert/strict';
import http from 'node:http';
import * as file from 'node:test';
import { startBrowser } from './chromium.js';
import { address, ask, openDashboard, OPERATOR, startWatched, VIEWER } from './dashboard.js';
import { app } from './gema.js';
import { openWire } from './wire.js';
import { test, until } from './wait.js';

const gema = await startWatched({
  env: {
    GEMA_LIMITS_MAX_EVENT_NAME_LENGTH: '200000',
    GEMA_LIMITS_MAX_PRESENCE_USER_ID_LENGTH: '200000',
    GEMA_LIMITS_MAX_PRESENCE_MEMBER_SIZE_IN_KB: '1000',
    GEMA_CONNECTIONS_MESSAGE_BYTES_MAX: '1000000',
  },
});
const browser = await startBrowser(file);
file.afterEach(() => browser.closeTabs());

/** A site on another port. `answer` gets each request with its body. */
async function startSite(t, answer) {
  const site = http.createServer((request, response) => {
    let body = '';
    request.on('data', (bytes) => (body += bytes)).on('end', () => answer(request, response, body));
  });
  await new Promise((resolve) => site.listen(0, '127.0.0.1', resolve));
  t.after(() => site.closeAllConnections());
  t.after(() => site.close());
  return `http://127.0.0.1:${site.address().port}`;
}

/** What the page's buttons copy from now on is `copied`. */
const watchClipboard = (tab) =>
  tab.evaluate(`Object.defineProperty(navigator, 'clipboard', { value: { writeText: async (text) => { window.copied = text; } } }) && undefined`);

test('a server that hangs is told, and the page goes on when it answers again', async (t) => {
  const own = await startWatched({ t });
  const tab = await openDashboard(browser, own);
  await tab.reads(/^All well/, 'h1');
  own.freeze();
  // The stream is silent for 20 s, and then no request is answered.
  await until(async () => /trying again|connecting/.test(await tab.text('.link-state')), 'the page says so', 120_000);
  await until(() => tab.evaluate(`document.body.classList.contains('disconnected')`), 'what it shows is old');
  own.thaw();
  await until(async () => (await tab.text('.link-state')) === '', 'the page is back', 120_000);
  await openWire(t, own.url()).then((wire) => wire.socketId());
  await tab.reads(/^All well: 1 node, 1 page connected/, 'h1');
});

test('a login that has ended leads to the form, which stays', async (t) => {
  const own = await startWatched({ t });
  const tab = await openDashboard(browser, own, { panel: 'live' });
  // Signed out elsewhere, and the stream is cut.
  await tab.evaluate(`fetch('dashboard/api/logout', { method: 'POST' }).then((answer) => answer.status)`);
  await own.kill();
  await tab.reads(/^disconnected/, '.link-state');
  await own.start();
  await tab.sees('form.login');
  assert.equal(await tab.evaluate(`document.body.classList.contains('disconnected')`), false, 'the form is not grey');
  assert.equal(await tab.evaluate('document.title'), 'gema');
  await tab.evaluate(`document.querySelector('form.login').marked = true; document.querySelector('input').value = '${OPERATOR}'`);
  await tab.evaluate(`new Promise((resolve) => setTimeout(resolve, 2500))`);
  assert.equal(await tab.evaluate(`document.querySelector('form.login').marked`), true, 'nothing makes the form anew');
  await tab.evaluate(`document.querySelector('form.login').requestSubmit()`);
  await tab.sees('nav a[href="#live"][aria-current]');
});

test('a request that is refused locks the page at once', async () => {
  const tab = await openDashboard(browser, gema, { panel: 'channels' });
  await tab.evaluate(`fetch('dashboard/api/logout', { method: 'POST' }).then((answer) => answer.status)`);
  await tab.click('Search');
  await tab.sees('form.login');
});

test('a wrong token in the URL ends what the page shows, and says why', async () => {
  const tab = await openDashboard(browser, gema);
  await tab.reads(/^All well/, 'h1');
  await tab.evaluate(`location.hash = 'token=' + 'wrong'.repeat(5) + '%'`);
  await tab.reads(/This token is wrong/, '.note.bad');
  // A second later the stream would have sent its figures.
  await tab.evaluate(`new Promise((resolve) => setTimeout(resolve, 1500))`);
  assert.equal(await tab.evaluate(`document.querySelector('.glance').className`), 'glance hidden');
  await tab.sees('form.login');
});

test('a filter that is typed before the panel is left changes nothing afterwards', async () => {
  const tab = await openDashboard(browser, gema, { panel: 'live' });
  await tab.evaluate(`(field => { field.value = 'kind:publish'; field.dispatchEvent(new Event('input')); location.hash = 'settings'; })(document.querySelector('.word-field input'))`);
  // The page's timers run in their order: the one of the field has run before this one.
  await tab.evaluate(`new Promise((resolve) => setTimeout(resolve, 600))`);
  assert.equal(await tab.evaluate('location.hash'), '#settings');
  assert.equal(tab.page.requests.filter((url) => url.includes('kind%3Apublish')).length, 0);
});

test('a filter that is too long is told, and the page stays connected', async () => {
  const tab = await openDashboard(browser, gema, { panel: `live?${'x'.repeat(600)}` });
  await tab.reads(/This filter is too long/);
  await tab.evaluate(`(field => { field.value = 'kind:publish channel:lagi'; field.dispatchEvent(new Event('input')); })(document.querySelector('.word-field input'))`);
  await until(async () => {
    await gema.api.trigger('lagi', 'a', {});
    return tab.evaluate(`document.querySelector('.row') !== null`);
  }, 'a row of a shorter filter');
  assert.equal(await tab.text('.link-state'), '');
  assert.deepEqual(tab.page.errors, []);
});

test('the form of the connection test is free again after an address that cannot be one', async () => {
  const tab = await openDashboard(browser, gema, { panel: 'try' });
  for (const [label, value] of [['Path before /app', 'ws#x'], ['Host', 'no host'], ['Port', 'x']]) {
    await tab.fill(label, value);
    await tab.evaluate(`document.querySelector('form').requestSubmit()`);
    await tab.reads(/✕/, '.steps');
    await until(() => tab.evaluate(`!document.querySelector('form button').disabled`), `the button, after ${value}`);
  }
});

test('a path without its slash is the same path', async () => {
  const tab = await openDashboard(browser, gema, { panel: 'try' });
  await tab.fill('Path before /app', 'tidak-ada/');
  await tab.evaluate(`document.querySelector('form').requestSubmit()`);
  await tab.reads(/✕ Failed The server did not greet: 4005 [^]*the path before \/app is wrong/, '.steps');
  assert.ok(tab.page.requests.some((url) => url.includes('/tidak-ada/app/clients-key?')));
});

test('Try: a private channel is tested through the application, which may answer anything', async (t) => {
  const origin = `http://${gema.host}:${gema.metricsPort}`;
  let how = 'right';
  const site = await startSite(t, (request, response, body) => {
    response.setHeader('Access-Control-Allow-Origin', origin).setHeader('Access-Control-Allow-Credentials', 'true');
    const asked = new URLSearchParams(body);
    const grant = { ...gema.api.authorizeChannel(asked.get('socket_id') ?? '1.1', asked.get('channel_name') ?? 'private-x') };
    if (how === 'wrong') grant.auth = `${app.key}:${'0'.repeat(64)}`;
    if (how === 'refused') response.statusCode = 403;
    response.end(how === 'html' ? '<!doctype html><title>Login</title>' : JSON.stringify(grant));
  });
  const tab = await openDashboard(browser, gema, { panel: 'try' });
  await tab.fill('Authorisation endpoint', `${site}/broadcasting/auth`);
  await tab.fill('Private channel', 'private-orders.1');
  const run = async (next) => {
    how = next;
    await tab.evaluate(`document.querySelector('form').requestSubmit()`);
    await until(() => tab.evaluate(`document.querySelectorAll('.steps li').length > 4 && !document.querySelector('form button').disabled`), `all steps: ${next}`);
    return tab.text('.steps');
  };
  assert.match(await run('right'), /✓ Right Your application authorised this browser for private-orders\.1\.\s+✓ Right Subscribed to private-orders\.1\./);
  assert.match(await run('wrong'), /✓ Right Your application[^]*✕ Failed Not subscribed to private-orders\.1: [^]*A rule or a wrong secret refuses it/);
  assert.match(await run('refused'), /✕ Failed Your application did not authorise: HTTP 403[^]*routes\/channels\.php/);
  assert.match(await run('html'), /✕ Failed Your application did not authorise: HTTP 200[^]*Sign in to your application/);
});

test('what is copied has no characters that nobody sees', async (t) => {
  const tab = await openDashboard(browser, gema, { panel: `live?${encodeURIComponent('kind:publish channel:salin')}` });
  await watchClipboard(tab);
  const event = "naik\u202eturun\u200b'\nlevel: error";
  await until(async () => {
    await gema.api.trigger('salin', event, {});
    return tab.evaluate(`document.querySelector('.row') !== null`);
  }, 'a row');
  await tab.evaluate(`document.querySelector('.row .opener').click()`);
  await tab.sees('.fields:not([hidden]) button');
  const copied = async (index) => {
    await tab.evaluate(`[...document.querySelectorAll('.fields:not([hidden]) button')].at(${index}).click()`);
    await until(() => tab.evaluate(`typeof window.copied === 'string'`), 'the copy');
    return tab.evaluate(`(text => (window.copied = undefined, text))(window.copied)`);
  };
  assert.equal(await copied(0), `Echo.channel('salin').listen('.naik\\u202eturun\\u200b\\'\\u000alevel: error', (data) => …)`);
  const row = await copied(-1);
  assert.match(row, /^event: naik\\u202eturun\\u200b'\\u000alevel: error$/m);
  assert.doesNotMatch(row, /[\u202e\u200b]/);
  // The line that lets an origin in says whose it must be.
  const own = await startWatched({ t, env: { GEMA_LIMITS_ALLOWED_ORIGINS: '["klinik.example.com"]' } });
  const { default: WebSocket } = await import('ws');
  const socket = new WebSocket(own.url(), { origin: 'https://stranger.example.com' });
  await new Promise((resolve) => socket.once('close', resolve));
  const other = await openDashboard(browser, own);
  await watchClipboard(other);
  await other.problem('connect_origin');
  await other.click('Copy', '[data-code="connect_origin"] .snippet');
  await until(() => other.evaluate(`typeof window.copied === 'string'`), 'the copy');
  assert.equal(await other.evaluate('window.copied'), '# only if this origin is yours\nallowed_origins = ["https://stranger.example.com"]');
});

test('names of 100 KB and of HTML stay text, and the page stays quick to use', async (t) => {
  const html = '<b onclick="alert(1)"><img src=x onerror="document.title=1">';
  const long = html + 'x'.repeat(100_000);
  const wire = await openWire(t, gema.url());
  const member = { user_id: long, user_info: { name: html } };
  await wire.join('presence-besar', gema.api.authorizeChannel(await wire.socketId(), 'presence-besar', member));
  const tab = await openDashboard(browser, gema, { panel: 'channels?app=1001&match=presence-besar&name=presence-besar' });
  await tab.reads(/User[^]*<b onclick=/);
  await tab.turn(`connections?${encodeURIComponent('channel:presence-besar')}`);
  await tab.reads(/<b onclick=[^]*presence-besar/);
  await tab.turn(`live?${encodeURIComponent('kind:publish channel:besar')}`);
  const body = JSON.stringify({ name: long, channel: 'besar', data: '{}' });
  await until(async () => {
    await gema.api.post({ path: '/events', body: JSON.parse(body) });
    return tab.evaluate(`document.querySelector('.row') !== null`);
  }, 'a row with the name');
  await tab.evaluate(`document.querySelector('.row .opener').click()`);
  await tab.reads(/<b onclick=/, '.fields:not([hidden])');
  const longest = await tab.evaluate(`Math.max(...[...document.querySelectorAll('main *')].map((one) => one.childElementCount ? 0 : one.textContent.length))`);
  assert.ok(longest <= 4096, `a text of ${longest} characters`);
  assert.equal(await tab.evaluate(`document.querySelectorAll('main b, main img').length`), 0);
  assert.ok((await tab.evaluate('document.documentElement.scrollWidth')) <= (await tab.evaluate('innerWidth')));
  assert.deepEqual(tab.page.errors, []);
});

test('no page of another site may put the page into a frame', async (t) => {
  const site = await startSite(t, (_, response) => response.setHeader('Content-Type', 'text/html').end(`<iframe src="${address(gema)}"></iframe>`));
  const page = await browser.open(site);
  await until(() => page.errors.some((error) => error.includes('frame-ancestors')), 'the browser refuses the frame');
  assert.ok(!page.requests.some((url) => url.includes('/dashboard/page.js')), 'nothing of the page runs in it');
});

for (const payloads of [true, false]) {
  test(`dashboard.payloads = ${payloads}: Live ${payloads ? 'shows' : 'does not show'} what is in an event`, async (t) => {
    const own = await startWatched({ t, env: { GEMA_DASHBOARD_PAYLOADS: String(payloads) } });
    const tab = await openDashboard(browser, own, { panel: `live?${encodeURIComponent('kind:publish channel:isi')}` });
    await until(async () => {
      await own.api.trigger('isi', 'a', { rahasia: 'nomor-rekam-medis-17' });
      return tab.evaluate(`document.querySelector('.row') !== null`);
    }, 'a row');
    await tab.evaluate(`document.querySelector('.row .opener').click()`);
    const text = await tab.reads(/channel\s+isi/, '.fields:not([hidden])');
    if (payloads) assert.match(text, /data\s+\{"rahasia":"nomor-rekam-medis-17"\}/);
    const whole = await tab.evaluate('document.documentElement.outerHTML');
    assert.equal(whole.includes('nomor-rekam-medis'), payloads);
  });
}

test('refusals of before the page was opened are in the table of causes', async (t) => {
  const own = await startWatched({ t });
  for (let n = 0; n < 3; n += 1) await (await openWire(t, own.url(undefined, 'no-such-key'))).end();
  await until(async () => (await ask(own, 'state')).body.problems.some(({ code, count }) => code === 'connect_unknown_key' && count === 3), 'three are counted');
  const tab = await openDashboard(browser, own, { panel: 'now' });
  await tab.reads(/Since the server’s start\s+Meaning\s+connect_unknown_key\s+0\/s\s+3\s+a connection named a key that no app has/);
  await (await openWire(t, own.url(undefined, 'no-such-key'))).end();
  await tab.reads(/connect_unknown_key\s+\S+\s+4\s/);
});

test('a problem is on the page within two seconds of happening', async (t) => {
  const own = await startWatched({ t });
  const tab = await openDashboard(browser, own);
  await tab.reads(/Problems/);
  await tab.evaluate(`window.shown = {};
    new MutationObserver(() => document.querySelectorAll('[data-code]').forEach((card) => (window.shown[card.dataset.code] ??= Date.now()))).observe(document.body, { childList: true, subtree: true })`);
  const stories = {
    connect_unknown_key: async () => (await openWire(t, own.url(undefined, 'no-such-key'))).end(),
    app_id_as_key: async () => (await openWire(t, own.url(undefined, app.id))).end(),
    no_upgrade: () => fetch(own.url().replace('ws:', 'http:')).then((answer) => answer.text()),
    path_not_found: () => fetch(`http://${own.host}:${own.port}/tidak/ada`).then((answer) => answer.text()),
    api_unsigned: () => fetch(`http://${own.host}:${own.port}/apps/${app.id}/events`, { method: 'POST', body: '{}' }).then((answer) => answer.text()),
  };
  const delays = [];
  for (const [code, happens] of Object.entries(stories)) {
    await happens();
    await tab.sees(`[data-code="${code}"]`);
    const { first_ms: first } = (await ask(own, 'state')).body.problems.find((problem) => problem.code === code);
    delays.push((await tab.evaluate(`window.shown.${code}`)) - first);
  }
  // By the clock that browser and server share. A machine that is busy may delay some of them, but not each.
  assert.ok(Math.min(...delays) <= 2000, `after ${delays.join(', ')} ms`);
});

test('a flood of events draws at most 60 rows a second, and the rest is counted', async (t) => {
  const own = await startWatched({ t });
  const tab = await openDashboard(browser, own, { panel: 'live' });
  await tab.reads(/Nothing yet/);
  await tab.evaluate(`window.drawn = 0; window.began = performance.now();
    new MutationObserver((changes) => changes.forEach(({ addedNodes }) => addedNodes.forEach((node) => (window.drawn += Number(node.classList?.contains('row') ?? false))))).observe(document.querySelector('main tbody'), { childList: true })`);
  const batch = Array.from({ length: 10 }, (_, n) => ({ channel: 'banjir', name: 'a', data: { n } }));
  let published = 0;
  const seconds = () => tab.evaluate('(performance.now() - window.began) / 1000');
  while ((await seconds()) < 5 || published < 2_000) {
    await Promise.all(Array.from({ length: 20 }, () => own.api.triggerBatch(batch)));
    published += 200;
  }
  await tab.reads(/\d+ more rows did not fit into 50 a second/);
  const { drawn, took } = await tab.evaluate('({ drawn: window.drawn, took: (performance.now() - window.began) / 1000 })');
  assert.ok(drawn > 0 && drawn <= 60 * (took + 1), `${drawn} rows in ${took} s, of ${published} events`);
  assert.ok((await tab.evaluate(`document.querySelectorAll('.row').length`)) <= 500);
  assert.deepEqual(tab.page.errors, []);
  const viewer = await ask(own, 'state', { token: VIEWER });
  assert.equal(viewer.status, 200);
});
