// The validators of the official server libraries take every webhook.

import assert from 'node:assert/strict';
import http from 'node:http';
import { app, startGema } from './gema.js';
import { sha256 } from './php.js';
import { callPython } from './python.js';
import { test, until } from './wait.js';
import { openWire } from './wire.js';

const KINDS = [
  'channel_occupied',
  'channel_vacated',
  'member_added',
  'member_removed',
  'client_event',
  'cache_miss',
  'subscription_count',
];

/** An application's endpoint that keeps what it gets. */
async function startEndpoint(t) {
  const requests = [];
  const server = http.createServer(async (request, answer) => {
    let rawBody = '';
    for await (const part of request.setEncoding('utf8')) rawBody += part;
    requests.push({ headers: request.headers, rawHeaders: request.rawHeaders, rawBody });
    answer.end();
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => server.close());
  return { requests, url: `http://127.0.0.1:${server.address().port}/webhooks` };
}

/** What the libraries for PHP, Ruby and Go, which do not run here, make of a request. */
const OTHERS = {
  PHP: ({ rawHeaders, rawBody }) => {
    const header = (name) => rawHeaders[rawHeaders.indexOf(name) + 1];
    return header('X-Pusher-Key') === app.key && header('X-Pusher-Signature') === sha256(app.secret, rawBody);
  },
  Ruby: ({ headers, rawBody }) =>
    headers['content-type'] === 'application/json' && headers['x-pusher-signature'] === sha256(app.secret, rawBody),
  Go: ({ headers, rawBody }) => {
    const { time_ms, events } = JSON.parse(rawBody);
    const texts = ['name', 'channel', 'event', 'data', 'socket_id', 'user_id'];
    const fits = (event) => texts.every((name) => event[name] === undefined || typeof event[name] === 'string');
    return headers['x-pusher-key'] === app.key && Number.isInteger(time_ms) && events.every(fits);
  },
};

for (const batching of ['true', 'false']) {
  test(`every library accepts webhooks, batching ${batching} (G-294)`, async (t) => {
    const endpoint = await startEndpoint(t);
    const gema = await startGema({
      t,
      env: {
        SOKETI_DEFAULT_APP_WEBHOOKS: JSON.stringify([{ url: endpoint.url, event_types: KINDS }]),
        SOKETI_WEBHOOKS_BATCHING: batching,
        GEMA_WEBHOOKS_LEAVE_DELAY_SECONDS: '0',
        GEMA_LIMITS_ENABLE_SUBSCRIPTION_COUNT: 'true',
      },
    });
    const wire = await openWire(t, gema.url());
    const socketId = await wire.socketId();
    const presence = 'presence-cache-zoe';
    await wire.join(presence, gema.api.authorizeChannel(socketId, presence, { user_id: 'Zoë "7"' }));
    await wire.join('public');
    wire.send('client-typing', { name: 'é/😀' }, presence);
    wire.send('pusher:unsubscribe', { channel: presence });
    const events = () => endpoint.requests.flatMap(({ rawBody }) => JSON.parse(rawBody).events);
    await until(() => events().some(({ name }) => name === 'channel_vacated'), 'the last webhook');
    assert.deepEqual(new Set(events().map(({ name }) => name)), new Set(KINDS));
    for (const request of endpoint.requests) {
      assert.ok(gema.api.webhook(request).isValid(), request.rawBody);
      const { 'x-pusher-key': key, 'x-pusher-signature': signature } = request.headers;
      const accepted = await callPython(gema, 'validate_webhook', key, signature, request.rawBody);
      assert.deepEqual(accepted, JSON.parse(request.rawBody));
      for (const [library, accepts] of Object.entries(OTHERS)) assert.ok(accepts(request), `${library}: ${request.rawBody}`);
    }
  });
}
