// What README.md tells a newcomer to do, done to the letter: only ports are exchanged.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { promisify } from 'node:util';
import Echo1 from 'laravel-echo-1';
import Echo2 from 'laravel-echo-2';
import Publisher from 'pusher';
import Pusher7 from 'pusher-js-7';
import Pusher8 from 'pusher-js-8';
import { startGema } from './gema.js';
import { test, until } from './wait.js';

const readme = readFileSync(new URL('../../README.md', import.meta.url), 'utf8');
const gema = await startGema({ app: { id: 'app-id', key: 'app-key', secret: 'app-secret' } });

/** The code block that contains `text`, made to reach the server of this test. */
function block(language, text) {
  const blocks = readme.split('```' + language + '\n').slice(1).map((rest) => rest.split('```')[0]);
  const found = blocks.find((code) => code.includes(text));
  assert.ok(found, `README.md has no ${language} block with ${text}`);
  return found.replaceAll('localhost', '127.0.0.1').replaceAll('6001', gema.port);
}

/** Runs the Echo snippet as a page does; answers what it logs. */
async function openPage(t, Echo, Pusher) {
  const logged = [];
  const code = block('js', 'new Echo').replace(/^import .*$/gm, '');
  const run = new Function('Echo', 'Pusher', 'window', 'console', `${code}; return echo;`);
  globalThis.window = globalThis; // as in a browser
  const echo = run(Echo, Pusher, globalThis.window, { log: (value) => logged.push(value) });
  t.after(() => echo.disconnect());
  const { pusher } = echo.connector;
  await until(() => pusher.channel('scada-realtime')?.subscribed, 'the page listens');
  return logged;
}

const publishers = {
  pusher: () => new Function('require', block('js', 'pusher.trigger'))(createRequire(import.meta.url)),
  curl: () => promisify(execFile)('bash', ['-euc', block('bash', 'curl -d')]),
};

for (const [name, publish] of Object.entries(publishers)) {
  for (const [version, Echo, Pusher] of [['1.19.0', Echo1.default ?? Echo1, Pusher7], ['2.5.0', Echo2, Pusher8]]) {
    test(`the README's page gets what the README's ${name} lines publish [laravel-echo ${version}]`, async (t) => {
      const logged = await openPage(t, Echo, Pusher);
      await publish();
      await until(() => logged.length > 0, 'the event');
      assert.deepEqual(logged, [{ value: 42 }]);
    });
  }
}

/** What `config/broadcasting.php` makes of `.env`, both as in the README. */
function laravelsSettings() {
  const lines = block('env', 'PUSHER_APP_ID').split('\n').map((line) => line.split('#')[0].trim().split('='));
  const env = Object.fromEntries(lines.filter(([name]) => name));
  const php = block('php', "'driver' => 'pusher'");
  const setting = (name) => {
    const [, variable, fallback] = php.match(new RegExp(`'${name}' => env\\('(\\w+)'(?:, '?([^')]+)'?)?\\)`));
    return env[variable] ?? fallback;
  };
  const [appId, key, secret, host, port] = ['app_id', 'key', 'secret', 'host', 'port'].map(setting);
  assert.equal(env.BROADCAST_CONNECTION, 'pusher');
  return { appId, key, secret, host, port, useTLS: setting('useTLS') === 'https' };
}

test("the README's settings of Laravel reach a server with the same app", async (t) => {
  const { appId: id, key, secret, ...address } = laravelsSettings();
  const server = await startGema({ t, app: { id, key, secret } });
  assert.equal(address.port, String(gema.port), 'the port is that of the README');
  const publisher = new Publisher({ appId: id, key, secret, ...address, port: server.port });
  const page = new Pusher8(key, { cluster: 'mt1', wsHost: address.host, wsPort: server.port, forceTLS: address.useTLS });
  t.after(() => page.disconnect());
  const heard = [];
  page.subscribe('orders').bind('shipped', (data) => heard.push(data));
  await until(() => page.channel('orders').subscribed, 'the page listens');
  await publisher.trigger('orders', 'shipped', { id: 7 });
  await until(() => heard.length > 0, 'the event');
  assert.deepEqual(heard, [{ id: 7 }]);
});
