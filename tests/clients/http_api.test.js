// The HTTP API as the official server library for Node uses it (G-205).

import assert from 'node:assert/strict';
import Pusher from 'pusher';
import { Gema, app, startGema } from './gema.js';
import { fresh, hear, join, openEveryPusher } from './pages.js';
import { PhpPusher } from './php.js';
import { test } from './wait.js';

const gema = await startGema();
const api = gema.api;

/** One page is enough where the library on the other side is what is tested. */
const open = (t, options) => openEveryPusher(t, gema, options).at(-1);

const json = async (answer) => {
  const { status, headers } = await answer;
  assert.equal(status, 200);
  assert.equal(headers.get('content-type'), 'application/json');
  return (await answer).json();
};

const refusedWith = (status) => (error) => {
  assert.ok(error instanceof Pusher.RequestError);
  assert.equal(error.status, status, error.body);
  // One plain sentence, as developers will read it.
  assert.match(error.body, /^[^\n{]+\n?$/);
  assert.ok(!error.body.includes(app.secret));
  return true;
};

test('trigger() publishes to one channel and to a hundred (G-205)', async (t) => {
  const pusher = open(t);
  const names = Array.from({ length: 100 }, () => fresh('public'));
  const channels = await Promise.all(names.map((name) => join(pusher, name)));
  const heard = channels.map(hear);
  assert.deepEqual(await json(api.trigger(names[0], 'one', { n: 1 })), {});
  assert.deepEqual(await json(api.trigger(names, 'all', { n: 2 })), {});
  assert.deepEqual(await heard[0].data('one'), { n: 1 });
  for (const inbox of heard) assert.deepEqual(await inbox.data('all'), { n: 2 });
});

test('trigger() answers the attributes asked for (G-205)', async (t) => {
  const [presence, idle] = [fresh('presence'), fresh('public')];
  const budi = () => open(t, { user: 'budi' });
  for (const pusher of [open(t, { user: 'siti' }), budi(), budi()]) await join(pusher, presence);
  const answer = api.trigger([presence, idle], 'e', {}, { info: 'user_count,subscription_count' });
  assert.deepEqual(await json(answer), {
    channels: { [presence]: { user_count: 2, subscription_count: 3 }, [idle]: { subscription_count: 0 } },
  });
});

test('triggerBatch() publishes in order (G-205)', async (t) => {
  const name = fresh('public');
  const heard = hear(await join(open(t), name));
  const batch = Array.from({ length: 10 }, (_, n) => ({ channel: name, name: 'n', data: { n } }));
  assert.deepEqual(await json(api.triggerBatch(batch)), {});
  await api.trigger(name, 'fence', {});
  await heard.take('fence');
  assert.deepEqual(heard.all.slice(0, 10).map(({ data }) => data.n), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
});

test('triggerBatch() answers attributes in the order of the events (G-205)', async (t) => {
  const [presence, name] = [fresh('presence'), fresh('public')];
  await join(open(t), presence);
  const batch = [
    { channel: presence, name: 'e', data: {}, info: 'user_count' },
    { channel: name, name: 'e', data: {} },
    { channel: name, name: 'e', data: {}, info: 'subscription_count' },
  ];
  assert.deepEqual(await json(api.triggerBatch(batch)), {
    batch: [{ user_count: 1 }, {}, { subscription_count: 0 }],
  });
});

test('sendToUser() is accepted for users who are away (G-205)', async () => {
  assert.deepEqual(await json(api.sendToUser('nobody-here', 'hello', {})), {});
});

test('the list of channels holds the occupied ones, with counts when asked (G-205)', async (t) => {
  const pusher = open(t, { user: 'siti' });
  const start = fresh('presence-list');
  const names = [`${start}-a`, `${start}-b`];
  for (const name of [...names, fresh('public')]) await join(pusher, name);
  await join(open(t, { user: 'budi' }), names[0]);

  const all = (await json(api.get({ path: '/channels' }))).channels;
  for (const name of names) assert.deepEqual(all[name], {});
  const params = { filter_by_prefix: start, info: 'user_count' };
  assert.deepEqual(await json(api.get({ path: '/channels', params })), {
    channels: { [names[0]]: { user_count: 2 }, [names[1]]: { user_count: 1 } },
  });
  const none = { filter_by_prefix: fresh('nothing-here') };
  assert.deepEqual(await json(api.get({ path: '/channels', params: none })), { channels: {} });
});

test('one channel is described, occupied or not (G-205)', async (t) => {
  const name = fresh('presence');
  const describe = (path) => json(api.get({ path, params: { info: 'user_count,subscription_count' } }));
  assert.deepEqual(await describe(`/channels/${name}`), { occupied: false, user_count: 0, subscription_count: 0 });
  await join(open(t), name);
  assert.deepEqual(await describe(`/channels/${name}`), { occupied: true, user_count: 1, subscription_count: 1 });
});

test('the users of a presence channel are listed once each (G-205)', async (t) => {
  const name = fresh('presence');
  assert.deepEqual(await json(api.get({ path: `/channels/${name}/users` })), { users: [] });
  for (const user of ['siti', 'budi', 'budi', 10]) await join(open(t, { user }), name);
  const { users } = await json(api.get({ path: `/channels/${name}/users` }));
  assert.deepEqual(users.map(({ id }) => id).sort(), ['10', 'budi', 'siti']);
});

test('a name that has to be escaped in a path is found', async (t) => {
  const name = fresh('presence-@=,;.x');
  await join(open(t), name);
  const { users } = await json(api.get({ path: `/channels/${name}/users` }));
  assert.deepEqual(users, [{ id: 'ada' }]);
});

test('a user id with a space, which is signed unescaped, can be terminated', async () => {
  assert.deepEqual(await json(api.terminateUserConnections('siti nur')), {});
});

test('a wrong secret is refused with 401 and nothing is delivered', async (t) => {
  const name = fresh('public');
  const heard = hear(await join(open(t), name));
  const stranger = new Pusher({ ...server(), secret: 'wrong' });
  await assert.rejects(stranger.trigger(name, 'forged', {}), refusedWith(401));
  await api.trigger(name, 'fence', {});
  await heard.take('fence');
  assert.deepEqual(heard.names(), ['fence']);
});

test('a refusal reaches whoever is still sending', async () => {
  const stranger = new Pusher({ ...server(), secret: 'wrong' });
  const tooLarge = 'x'.repeat(11_000_000);
  for (let times = 0; times < 5; times += 1) {
    await assert.rejects(stranger.trigger('c', 'e', 'x'.repeat(100_000)), refusedWith(401));
    await assert.rejects(stranger.trigger('c', 'e', tooLarge), refusedWith(401));
    await assert.rejects(api.trigger('c', 'e', tooLarge), refusedWith(413));
  }
});

test('an unknown key and an unknown app are refused', async () => {
  await assert.rejects(new Pusher({ ...server(), key: 'unknown' }).trigger('c', 'e', {}), refusedWith(401));
  await assert.rejects(new Pusher({ ...server(), appId: '999' }).trigger('c', 'e', {}), refusedWith(404));
});

test('what the library lets through and the protocol does not is refused with the right status', async (t) => {
  const limited = await startGema({ t, env: { SOKETI_EVENT_MAX_SIZE_IN_KB: '10' } });
  const big = 'x'.repeat(10 * 1024);
  await limited.api.trigger('c', 'e', big);
  await assert.rejects(limited.api.trigger('c', 'e', `${big}x`), refusedWith(413));
  const eleven = Array.from({ length: 11 }, () => ({ channel: 'c', name: 'e', data: {} }));
  await assert.rejects(api.triggerBatch(eleven), refusedWith(400));
  await assert.rejects(api.trigger('c', 'pusher:fake', {}), refusedWith(400));
  await assert.rejects(api.get({ path: '/channels', params: { info: 'user_count' } }), refusedWith(400));
  await assert.rejects(api.get({ path: '/channels/public/users' }), refusedWith(400));
});

test('what is within a limit per second tells what is left, what is beyond it is refused with 429 (G-274)', async (t) => {
  const env = { SOKETI_DEFAULT_APP_MAX_BACKEND_EVENTS_PER_SEC: '5', SOKETI_DEFAULT_APP_MAX_READ_REQ_PER_SEC: '0' };
  const limited = await startGema({ t, env });
  const { status, headers } = await limited.api.trigger(['a', 'b'], 'e', {});
  assert.equal(status, 200);
  assert.deepEqual(['limit', 'remaining'].map((name) => headers.get(`x-ratelimit-${name}`)), ['5', '3']);
  await assert.rejects(limited.api.trigger(['a', 'b', 'c', 'd', 'e', 'f'], 'e', {}), refusedWith(429));
  await assert.rejects(limited.api.get({ path: '/channels' }), refusedWith(429));
});

function server() {
  return { appId: app.id, key: app.key, secret: app.secret, host: gema.host, port: gema.port, useTLS: false };
}

for (const [how, options] of [['on a kept connection', {}], ['on a connection each', { keepAlive: false }]]) {
  test(`requests ${how} are answered or find the port closed when a server leaves, none is cut off`, async (t) => {
    const leaving = await new Gema({}).start();
    const publisher = new PhpPusher(leaving, options);
    t.after(() => publisher.close());
    await publisher.trigger('orders', 'e', {});
    const stopped = leaving.stop();
    const untilRefused = async () => {
      for (;;) await publisher.trigger('orders', 'e', {});
    };
    await assert.rejects(untilRefused(), { code: 'ECONNREFUSED', syscall: 'connect' });
    await stopped;
  });
}
