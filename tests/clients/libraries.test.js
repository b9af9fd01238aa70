// Requests of server libraries that do not run here, as they were recorded (protocol.md, D.2, D.11 and F.2): each with
// its own way of writing the query and its own headers.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { app, startGema } from './gema.js';
import { fresh } from './pages.js';
import { request, rfc3986, sha256 } from './php.js';
import { test } from './wait.js';
import { openWire } from './wire.js';

const gema = await startGema();

const raw = (text) => text;
/** `application/x-www-form-urlencoded`: a space is a plus. */
const form = (text) => new URLSearchParams([['', text]]).toString().slice(1);

const sorted = (pairs) => [...pairs].sort(([a], [b]) => (a < b ? -1 : 1));

/**
 * `encode`: how values stand in the query; `arrange`: where the signature and the rest stand in it; `emptyMd5`: a GET
 * has the MD5 of its empty body, too.
 */
const LIBRARIES = {
  PHP: {
    encode: rfc3986,
    arrange: (pairs, signature) => [...sorted(pairs), signature],
    headers: { 'User-Agent': 'GuzzleHttp/7', 'Content-Type': 'application/json', 'X-Pusher-Library': 'pusher-http-php 7.2.6' },
  },
  Node: {
    encode: raw,
    arrange: (pairs, signature) => [...sorted(pairs), signature],
    headers: { 'x-pusher-library': 'pusher-http-node 5.3.4', 'content-type': 'application/json', Accept: '*/*' },
  },
  Python: {
    encode: raw,
    arrange: (pairs, signature) => sorted([...pairs, signature]),
    headers: { 'X-Pusher-Library': 'pusher-http-python 3.3.4', 'Content-Type': 'application/json' },
    emptyMd5: true,
  },
  Ruby: {
    encode: form,
    arrange: (pairs, signature) => [...pairs, signature],
    headers: { 'X-Pusher-Library': 'pusher-http-ruby 2.1.0', 'Content-Type': 'application/json' },
  },
  Go: {
    encode: raw,
    arrange: (pairs, signature) => sorted([...pairs, signature]),
    headers: { 'Content-Type': 'application/json', 'X-Pusher-Library': 'pusher-http-go 5.1.1', 'Accept-Encoding': 'gzip' },
  },
  Java: {
    encode: form,
    arrange: (pairs, signature) => [...pairs, signature],
    headers: { 'Content-Type': 'application/json' },
  },
  '.NET': {
    encode: raw,
    arrange: (pairs, signature) => [signature, ...pairs],
    headers: {
      Accept: 'application/json',
      'Pusher-Library-Name': 'pusher-http-dotnet',
      'Pusher-Library-Version': '5.0.0',
      'Content-Type': 'application/json; charset=utf-8',
    },
  },
};

// Bodies, each with the `data` that has to arrive.
const RECORDED = {
  'PHP, one channel': [
    String.raw`{"name":"ev","data":"{\"a\":\"\\u00e9\\\/\\ud83d\\ude00\"}","channel":"my-channel"}`,
    String.raw`{"a":"\u00e9\/\ud83d\ude00"}`,
  ],
  'PHP, a string on two channels': [
    String.raw`{"name":"ev","data":"\"plain string\"","channels":["my-channel","c2"],"socket_id":"1234.1234","info":"subscription_count,user_count"}`,
    '"plain string"',
  ],
  'PHP, Laravel’s public event': [
    String.raw`{"name":"OrderShipped","data":"{\"orderId\":7,\"name\":\"\\u00e9\\\/\\ud83d\\ude00\"}","channel":"my-channel"}`,
    String.raw`{"orderId":7,"name":"\u00e9\/\ud83d\ude00"}`,
  ],
  'PHP, Laravel’s toOthers() on private and presence channels': [
    String.raw`{"name":"App\\Events\\OrderShipped","data":"{\"id\":7}","channels":["my-channel","private-a","presence-b"],"socket_id":"1234.1234"}`,
    '{"id":7}',
  ],
  'PHP, Laravel’s empty payload (G-307)': ['{"name":"order.shipped","data":"[]","channel":"my-channel"}', '[]'],
  'Node, one channel': ['{"name":"ev","data":"{\\"a\\":\\"é/😀\\"}","channels":["my-channel"]}', '{"a":"é/😀"}'],
  'Node, options': [
    '{"name":"ev","data":"plain string","channels":["my-channel","c2"],"socket_id":"1234.1234","info":"subscription_count,user_count"}',
    'plain string',
  ],
  'Python, spaces and surrogate pairs': [
    String.raw`{"name": "ev", "channels": ["my-channel"], "data": "{\"a\": \"\u00e9/\ud83d\ude00\"}"}`,
    '{"a": "é/😀"}',
  ],
  'Python, options': [
    '{"name": "ev", "channels": ["my-channel", "c2"], "data": "plain string", "socket_id": "1234.1234"}',
    'plain string',
  ],
  'Ruby, options first': [
    '{"socket_id":"1234.1234","info":"subscription_count,user_count","name":"ev","channels":["my-channel","c2"],"data":"plain string"}',
    'plain string',
  ],
  'Go, alphabetical': ['{"channels":["my-channel"],"data":"{\\"a\\":\\"é/😀\\"}","name":"ev"}', '{"a":"é/😀"}'],
  'Go, options': [
    '{"channels":["my-channel","c2"],"data":"plain string","info":"subscription_count,user_count","name":"ev","socket_id":"1234.1234"}',
    'plain string',
  ],
  'Java, channels first': ['{"channels":["my-channel"],"name":"ev","data":"{\\"a\\":\\"é/😀\\"}"}', '{"a":"é/😀"}'],
  '.NET, options': [
    '{"name":"ev","data":"plain string","channels":["my-channel","c2"],"socket_id":"1234.1234","info":"subscription_count,user_count"}',
    'plain string',
  ],
};

for (const [title, [recorded, data]] of Object.entries(RECORDED)) {
  test(`a recorded event is delivered character for character: ${title} (G-205)`, async (t) => {
    const name = fresh('public');
    const wire = await openWire(t, gema.url());
    await wire.join(name);
    const body = recorded.replace('my-channel', name);
    const answer = await send(title.split(',')[0], 'POST', '/events', { body });
    if (!body.includes('"info"')) assert.deepEqual(answer, {});
    else assert.deepEqual(answer, { channels: { [name]: { subscription_count: 1 }, c2: { subscription_count: 0 } } });
    const frame = await wire.frames.take(JSON.parse(body).name);
    assert.equal(frame.data, data);
    assert.equal(frame.channel, name);
    assert.equal(frame.user_id, undefined);
  });
}

for (const library of Object.keys(LIBRARIES)) {
  test(`questions as ${library} writes them are answered (G-205)`, async (t) => {
    const name = fresh('presence-@=');
    const wire = await openWire(t, gema.url());
    await wire.join(name, gema.api.authorizeChannel(await wire.socketId(), name, { user_id: 'ada' }));
    const counts = { user_count: 1, subscription_count: 1 };
    const ask = (path, params) => send(library, 'GET', path, { params });
    assert.deepEqual(await ask('/channels', { filter_by_prefix: name, info: 'user_count,subscription_count' }),
      { channels: { [name]: counts } });
    assert.deepEqual(await ask('/channels', { filter_by_prefix: 'a space é' }), { channels: {} });
    assert.deepEqual(await ask(`/channels/${name}`, { info: 'user_count,subscription_count' }),
      { occupied: true, ...counts });
    assert.deepEqual(await ask(`/channels/${name}/users`), { users: [{ id: 'ada' }] });
  });

  test(`a batch as ${library} writes it is delivered (G-205)`, async (t) => {
    const name = fresh('public');
    const wire = await openWire(t, gema.url());
    await wire.join(name);
    const body = JSON.stringify({ batch: [{ channel: name, name: 'e1', data: '{"x":1}' }, { channel: name, name: 'e2', data: 's' }] });
    assert.deepEqual(await send(library, 'POST', '/batch_events', { body }), {});
    assert.equal(await wire.frames.data('e1'), '{"x":1}');
    assert.equal(await wire.frames.data('e2'), 's');
  });
}

/** Sends a request as the library would, and expects success. */
async function send(library, method, path, { params = {}, body = '' }) {
  const { encode, arrange, headers, emptyMd5 } = LIBRARIES[library];
  const full = `/apps/${app.id}${path}`;
  const pairs = Object.entries({
    ...params,
    auth_key: app.key,
    auth_timestamp: String(Math.floor(Date.now() / 1000)),
    auth_version: '1.0',
    ...((body || emptyMd5) && { body_md5: createHash('md5').update(body).digest('hex') }),
  });
  const text = sorted(pairs).map((pair) => pair.join('=')).join('&');
  const signature = ['auth_signature', sha256(app.secret, `${method}\n${full}\n${text}`)];
  const query = arrange(pairs, signature).map(([name, value]) => `${encode(name)}=${encode(value)}`).join('&');
  // What no library leaves in a request line.
  const url = `${full}?${query}`.replace(/[ \u0080-\uffff]/gu, encodeURIComponent);
  const { status, text: answer } = await request({ host: gema.host, port: gema.port, method, path: url, headers }, body);
  assert.equal(status, 200, answer);
  return JSON.parse(answer);
}
