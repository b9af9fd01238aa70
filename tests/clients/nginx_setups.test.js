// nginx as people set it up before Soketi, which needs no more than `Sec-WebSocket-Key`.

import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { startGema } from './gema.js';
import { connected, fresh, hear, subscribed, withPusher } from './pages.js';
import { until, within } from './wait.js';
import { openWire } from './wire.js';

const gema = await startGema();

/** What stands in the location, and whether it speaks to gema over connections that it keeps. */
const SETUPS = {
  'plain proxy_pass': '',
  'only proxy_http_version 1.1': 'proxy_http_version 1.1;',
  'upgrade headers without proxy_http_version 1.1':
    'proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";',
  'Connection "" for kept connections': 'proxy_http_version 1.1; proxy_set_header Connection "";',
};

const upstream = `upstream kept { server 127.0.0.1:${gema.port}; keepalive 8; }`;
const setups = [];
for (const [name, lines] of Object.entries(SETUPS)) {
  const port = await freePort();
  const target = name.includes('kept') ? 'kept' : `127.0.0.1:${gema.port}`;
  setups.push({ name, port, site: `server { listen 127.0.0.1:${port}; location / { proxy_pass http://${target}; ${lines} } }` });
}
await serve([upstream, ...setups.map(({ site }) => site)].join('\n'), setups[0].port);

/** Starts nginx with these sites and ends it after the tests. */
async function serve(sites, port) {
  const folder = mkdtempSync(join(tmpdir(), 'gema-nginx-'));
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'];
  for (const name of temporary) mkdirSync(join(folder, name));
  const paths = temporary.map((name) => `${name}_temp_path ${name};`).join('\n');
  const whole = `pid nginx.pid;\nevents {}\nhttp {\naccess_log off;\n${paths}\n${sites}\n}\n`;
  writeFileSync(join(folder, 'nginx.conf'), whole);
  const words = ['-p', folder, '-c', 'nginx.conf', '-e', 'error.log', '-g', 'daemon off;'];
  const child = spawn('nginx', words, { stdio: 'ignore' });
  let failed;
  child.once('error', (error) => (failed = error));
  after(async () => {
    child.kill('SIGTERM');
    await until(() => failed || child.exitCode !== null || child.signalCode !== null, 'nginx is gone');
    rmSync(folder, { recursive: true, force: true });
  });
  await until(async () => failed || (await fetch(`http://127.0.0.1:${port}/`).then(() => true, () => false)), 'nginx answers');
  if (failed) throw new Error(`nginx is needed on the PATH: ${failed.message}`);
}

function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

for (const { name, port } of setups) {
  const through = { app: gema.app, api: gema.api, host: gema.host, port };

  test(`a handshake of bytes gets its answer [${name}]`, async (t) => {
    const key = randomBytes(16).toString('base64');
    const socket = connect(port, gema.host);
    t.after(() => socket.destroy());
    socket.write(
      `GET /app/${gema.app.key}?protocol=7 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
        `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\n\r\n`,
    );
    let text = '';
    const established = new Promise((resolve) => {
      socket.on('data', (bytes) => {
        text += bytes.toString('latin1');
        if (text.includes('pusher:connection_established')) resolve();
      });
    });
    await within(established, `the connection is established: ${text}`);
    const accept = createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
    assert.match(text, /^HTTP\/1.1 101 /);
    assert.ok(text.includes(`\r\nSec-WebSocket-Accept: ${accept}\r\n`), text);
  });

  test(`ws works in both directions [${name}]`, async (t) => {
    const channel = fresh('news');
    const wire = await openWire(t, `ws://${gema.host}:${port}/app/${gema.app.key}?protocol=7`);
    await wire.join(channel);
    await gema.api.trigger(channel, 'e', { n: 1 });
    assert.deepEqual(JSON.parse(await wire.frames.data('e')), { n: 1 });
  });

  withPusher(`pusher-js hears and publishing works through it [${name}]`, through, async ({ open }) => {
    const channel = fresh('news');
    const pusher = open();
    await connected(pusher);
    const subscription = pusher.subscribe(channel);
    await subscribed(subscription);
    const heard = hear(subscription);
    await gema.api.trigger(channel, 'e', { n: 2 });
    assert.deepEqual(await heard.data('e'), { n: 2 });
  });
}
