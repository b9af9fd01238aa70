// Pages in a browser, as far as the server can tell: pusher-js and Laravel Echo in the versions that are in use.

import assert from 'node:assert/strict';
import Echo1 from 'laravel-echo-1';
import Echo2 from 'laravel-echo-2';
import Pusher7 from 'pusher-js-7';
import Pusher8 from 'pusher-js-8';
import { Inbox, test, until } from './wait.js';

const VERSIONS = [
  { version: '7.6.0', Pusher: Pusher7 },
  { version: '8.6.0', Pusher: Pusher8 },
];

/** Each Echo with the pusher-js of its time. */
const ECHO_VERSIONS = [
  { version: '1.19.0', Echo: Echo1.default ?? Echo1, Pusher: Pusher7 },
  { version: '2.5.0', Echo: Echo2, Pusher: Pusher8 },
];

/** A test for each pusher-js; `run` gets `open`, which makes a page that is closed after the test. */
export function withPusher(name, gema, run) {
  for (const { version, Pusher } of VERSIONS) {
    test(`${name} [pusher-js ${version}]`, (t) =>
      run({ t, version, open: (options) => openPusher(t, Pusher, gema, options) }));
  }
}

/** A test for each Laravel Echo, with pages that authorise themselves at `laravel`. */
export function withEcho(name, laravel, run) {
  for (const { version, Echo, Pusher } of ECHO_VERSIONS) {
    test(`${name} [laravel-echo ${version}]`, (t) =>
      run({ t, version, open: (user, options) => openEcho(t, Echo, Pusher, laravel, user, options) }));
  }
}

/** Every pusher-js at once, for tests that take long: a function for each that opens a page. */
export function everyPusher(t, gema) {
  return VERSIONS.map(({ Pusher }) => (options) => openPusher(t, Pusher, gema, options));
}

/** Every Laravel Echo at once, in the same way. */
export function everyEcho(t, laravel) {
  return ECHO_VERSIONS.map(({ Echo, Pusher }) => (user, options) => openEcho(t, Echo, Pusher, laravel, user, options));
}

/** A page with every pusher-js. */
export function openEveryPusher(t, gema, options) {
  return everyPusher(t, gema).map((open) => open(options));
}

/** A page with every Laravel Echo. */
export function openEveryEcho(t, laravel, user) {
  return everyEcho(t, laravel).map((open) => open(user));
}

/**
 * A pusher-js of the user `user`, with `info` on presence channels. The auth endpoint is the `pusher` package of
 * the server side, unless `options` name another. `signIn` is the user data of the sign-in.
 */
function openPusher(t, Pusher, gema, { user = 'ada', info, signIn, ...options } = {}) {
  const authorize = ({ socketId, channelName }, answer) => {
    const member = channelName.startsWith('presence-') ? { user_id: user, ...(info && { user_info: info }) } : undefined;
    answer(null, gema.api.authorizeChannel(socketId, channelName, member));
  };
  const authenticate = ({ socketId }, answer) => answer(null, gema.api.authenticateUser(socketId, signIn));
  const pusher = new Pusher(gema.app.key, {
    ...address(gema),
    channelAuthorization: { customHandler: authorize },
    userAuthentication: { customHandler: authenticate },
    ...options,
  });
  t.after(() => pusher.disconnect());
  return pusher;
}

/** Echo as Laravel's own scaffolding sets it up, for the user with the id `user`. */
function openEcho(t, Echo, Pusher, laravel, user = '1', options = {}) {
  const axios = fakeAxios(laravel);
  globalThis.axios = axios;
  let echo;
  try {
    echo = new Echo({
      broadcaster: 'reverb',
      Pusher,
      key: laravel.gema.app.key,
      ...address(laravel.gema),
      authEndpoint: `${laravel.url}/broadcasting/auth`,
      // Objects of its own: Echo writes the token into them, and its defaults belong to every Echo of the process.
      auth: { headers: {} },
      userAuthentication: { endpoint: `${laravel.url}/broadcasting/user-auth`, transport: 'ajax', headers: {} },
      bearerToken: user,
      ...options,
    });
  } finally {
    delete globalThis.axios;
  }
  t.after(() => echo.disconnect());
  return { echo, axios, pusher: echo.connector.pusher };
}

/** Where the server is, as users write it for a server of their own. */
export function address(gema) {
  return { cluster: 'mt1', wsHost: gema.host, wsPort: gema.port, forceTLS: false, enabledTransports: ['ws'] };
}

/** As much of axios as Echo sees: it registers an interceptor that adds `X-Socket-Id`. */
function fakeAxios(laravel) {
  const interceptors = [];
  const axios = () => {};
  axios.interceptors = { request: { use: (change) => interceptors.push(change) } };
  axios.post = async (path, body) => {
    const config = interceptors.reduce((config, change) => change(config), { headers: {} });
    const headers = { 'Content-Type': 'application/json', ...config.headers };
    const answer = await fetch(laravel.url + path, { method: 'POST', headers, body: JSON.stringify(body) });
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  };
  return axios;
}

export async function connected(pusher) {
  await until(() => pusher.connection.state === 'connected', 'pusher-js is connected');
  return pusher.connection.socket_id;
}

export async function subscribed(channel) {
  await until(() => channel.subscribed, `${channel.name} is subscribed`);
  return channel;
}

/** Subscribes and waits for the success. */
export async function join(pusher, name) {
  return subscribed(pusher.subscribe(name));
}

/** Resolves when a channel of Echo is subscribed, as `.subscribed()` tells it. */
export function ready(channel) {
  return subscribed(channel.subscription);
}

/** Records what a listener of Echo is called with. */
export function listener(name, inbox = new Inbox()) {
  return [(data) => inbox.push(name, data), inbox];
}

/** Records everything that a channel, a connection or a user emits from now on. */
export function hear(emitter) {
  const inbox = new Inbox();
  emitter.bind_global((name, data) => inbox.push(name, data));
  return inbox;
}

/** The code in an `error` of a connection; before the connection stands, pusher-js wraps it once more. */
export const errorCode = ({ data, error }) => (data ?? error.data).code;

let names = 0;
/** A channel name that no other test uses: the tests of a file share one server. */
export function fresh(start) {
  names += 1;
  return `${start}-${names}`;
}

/** Whispers on a private and on a presence channel go both ways, and do not come back. */
export async function whisper(sender, receiver) {
  const rooms = { private: fresh('orders'), join: fresh('room') };
  for (const [call, name] of Object.entries(rooms)) {
    const [own, ownHeard] = listener('typing');
    const [callback, heard] = listener('typing');
    const channel = sender.echo[call](name).listenForWhisper('typing', own);
    const other = receiver.echo[call](name).listenForWhisper('typing', callback);
    await Promise.all([ready(channel), ready(other)]);
    channel.whisper('typing', { name: 'Ada' });
    channel.whisper('typing');
    assert.deepEqual(await heard.data('typing'), { name: 'Ada' });
    await heard.take('typing');
    // The sender hears the other one's answer, and nothing of its own before it.
    other.whisper('typing', { name: 'Budi' });
    await ownHeard.take('typing');
    assert.deepEqual(ownHeard.all.map(({ data }) => data), [{ name: 'Budi' }]);
  }
}
