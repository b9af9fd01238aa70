// nginx as people set it up before Soketi, which needs no more than `Sec-WebSocket-Key`.

import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { connect } from 'node:net';
import { startGema } from './gema.js';
import { startSites } from './nginx.js';
import { connected, fresh, hear, subscribed, withPusher } from './pages.js';
import { freePort } from './program.js';
import { test, within } from './wait.js';
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
await startSites([upstream, ...setups.map(({ site }) => site)].join('\n'), setups[0].port);

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
