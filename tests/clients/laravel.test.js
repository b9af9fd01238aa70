// What Laravel's `pusher` and `reverb` drivers send, byte for byte, and what pusher-php-server makes of the answers.

import assert from 'node:assert/strict';
import { block } from './documents.js';
import { app, startGema } from './gema.js';
import { startLaravel } from './laravel.js';
import { fresh, hear, join, openEveryEcho, openEveryPusher, subscribed } from './pages.js';
import { ApiError, PhpPusher, phpJson } from './php.js';
import { test, until } from './wait.js';
import { openWire } from './wire.js';

const gema = await startGema();
const laravel = await startLaravel(gema);
const php = laravel.pusher;

test('the recorded batch of PHP is accepted and answered with attributes', async (t) => {
  const wire = await openWire(t, gema.url());
  const names = [fresh('public'), fresh('public')];
  for (const name of names) await wire.join(name);
  const body = String.raw`{"batch":[{"name":"e1","data":"{\"x\":1}","channel":"c1"},{"name":"e2","data":"\"s\"","channel":"c2","info":"user_count","socket_id":"1.2"}]}`
    .replace('c1', names[0]).replace('c2', names[1]);
  assert.deepEqual(await php.post('/batch_events', body), { batch: [{}, {}] });
  assert.equal(await wire.frames.data('e1'), '{"x":1}');
  assert.equal(await wire.frames.data('e2'), '"s"');
});

test('our PHP writes what the real one wrote', () => {
  const recorded = String.raw`{"name":"ev","data":"{\"a\":\"\\u00e9\\\/\\ud83d\\ude00\"}","channel":"my-channel"}`;
  assert.equal(phpJson({ name: 'ev', data: phpJson({ a: 'é/😀' }), channel: 'my-channel' }), recorded);
});

test('an event with an idempotency key as laravel.md shows it comes once', async (t) => {
  const code = block('laravel.md', 'php', 'idempotency_key');
  const [, channel, name, field, value, key] = code.match(
    /trigger\('(.+?)', '(.+?)', \['(.+?)' => (\d+)\], \['idempotency_key' => '(.+?)'\]\);/,
  );
  const wire = await openWire(t, gema.url());
  await wire.join(channel, php.authorizeChannel(channel, await wire.socketId()));
  const trigger = (data) => php.trigger(channel, name, data, { idempotency_key: key });
  const data = { [field]: Number(value) };
  assert.deepEqual([await trigger(data), await trigger(data)], [{}, {}]);
  await assert.rejects(trigger({}), (error) => error instanceof ApiError && error.status === 409);
  await php.trigger(channel, 'fence', {});
  await wire.frames.take('fence');
  assert.equal(wire.frames.count(name), 1);
  assert.equal(await wire.frames.data(name), phpJson(data));
});

test('an event on 205 channels reaches a subscriber of any of them once (G-303)', async (t) => {
  const start = fresh('many');
  const names = Array.from({ length: 205 }, (_, n) => `${start}-${n}`);
  // The edges of the three requests.
  const watched = [0, 99, 100, 199, 200, 204].map((n) => names[n]);
  const wire = await openWire(t, gema.url());
  for (const name of watched) await wire.join(name);
  await laravel.broadcast(names, 'App\\Events\\Announced', { n: 1 });
  await laravel.broadcast(watched, 'fence', {});
  for (const _ of watched) await wire.frames.take('fence');
  const reached = wire.frames.all.filter(({ name }) => name === 'App\\Events\\Announced').map(({ channel }) => channel);
  assert.deepEqual(reached.sort(), [...watched].sort());
});

test('an event with an empty payload arrives as an empty list (G-307)', async (t) => {
  const name = fresh('orders');
  const pages = [
    ...openEveryPusher(t, gema).map((pusher) => pusher.subscribe(name)),
    ...openEveryEcho(t, laravel).map(({ echo }) => echo.channel(name).subscription),
  ];
  await Promise.all(pages.map(subscribed));
  const heard = pages.map(hear);
  await laravel.broadcast([name], 'order.shipped', []);
  for (const inbox of heard) assert.deepEqual(await inbox.data('order.shipped'), []);
});

test('triggerBatch(), sendToUser() and terminateUserConnections() of PHP succeed (G-205)', async (t) => {
  const pusher = openEveryPusher(t, gema, { signIn: { id: 'php-user' } }).at(-1);
  const heard = hear(await join(pusher, fresh('public')));
  const [name] = Object.keys(pusher.channels.channels);
  pusher.signin();
  await until(() => pusher.user.serverToUserChannel?.subscribed, 'the user is signed in');
  const user = hear(pusher.user);

  assert.deepEqual(await php.triggerBatch([{ channel: name, name: 'b', data: 's', info: 'subscription_count' }]),
    { batch: [{ subscription_count: 1 }] });
  assert.equal(await heard.data('b'), 's');
  assert.deepEqual(await php.sendToUser('php-user', 'hello', { n: 1 }), {});
  assert.deepEqual(await user.data('hello'), { n: 1 });
  assert.deepEqual(await php.terminateUserConnections('php-user'), {});
  await until(() => pusher.connection.state === 'disconnected', 'the user is cut off');
});

test('getChannels() returns an object of channels, also when there are none (G-218, G-316)', async (t) => {
  const start = fresh('presence-shapes');
  assert.deepEqual(await php.getChannels({ filter_by_prefix: start }), { channels: {} });
  await join(openEveryPusher(t, gema).at(-1), start);
  assert.deepEqual(await php.getChannels({ filter_by_prefix: start }), { channels: { [start]: {} } });
  // One string is sent with %2C; a PHP array is sent as info[0]=…&info[1]=… and signed as a list with commas.
  for (const info of ['user_count,subscription_count', ['user_count', 'subscription_count']]) {
    assert.deepEqual(await php.getChannels({ filter_by_prefix: start, info }),
      { channels: { [start]: { user_count: 1, subscription_count: 1 } } });
  }
});

test('getChannelInfo() and getPresenceUsers() return the documented shapes (G-316)', async (t) => {
  const name = fresh('presence');
  assert.deepEqual(await php.getChannelInfo(name), { occupied: false });
  assert.deepEqual(await php.getPresenceUsers(name), { users: [] });
  for (const pusher of openEveryPusher(t, gema, { user: 10 })) await join(pusher, name);
  assert.deepEqual(await php.getChannelInfo(name, { info: 'user_count,subscription_count' }),
    { occupied: true, user_count: 1, subscription_count: 2 });
  assert.deepEqual(await php.getPresenceUsers(name), { users: [{ id: '10' }] });
});

test('a refused event is a BroadcastException with a sentence for the developer', async () => {
  const refused = (status) => (error) => {
    assert.ok(error instanceof ApiError);
    assert.equal(error.status, status);
    assert.match(error.message, /^[^\n{]+\n?$/);
    return true;
  };
  const stranger = new PhpPusher({ ...gema, app: { ...app, secret: 'wrong' } });
  await assert.rejects(stranger.trigger(['orders'], 'e', {}), refused(401));
  stranger.close();
  // The library checks neither of these.
  await assert.rejects(php.trigger(['private-encrypted-a', 'private-encrypted-b'], 'e', {}), refused(400));
  await assert.rejects(php.trigger(['not a channel'], 'e', {}), refused(400));
});

test('the option `path` of PHP finds a server behind a path prefix (G-219)', async (t) => {
  const prefixed = await startGema({ t, env: { SOKETI_PATH_PREFIX: '/ws' } });
  const behind = new PhpPusher(prefixed, { path: '/ws' });
  t.after(() => behind.close());
  const wire = await openWire(t, prefixed.url().replace('/app/', '/ws/app/'));
  await wire.join('orders');
  await behind.trigger(['orders'], 'e', { n: 1 });
  assert.equal(await wire.frames.data('e'), '{"n":1}');
  assert.deepEqual(await behind.getChannels(), { channels: { orders: {} } });
});

test('what PHP signs for private, presence and encrypted channels and for users is accepted (G-203)', async (t) => {
  const wire = await openWire(t, gema.url());
  const socketId = await wire.socketId();
  const room = fresh('presence');
  for (const name of [fresh('private'), fresh('private-cache'), fresh('private-encrypted')]) {
    await wire.join(name, { auth: php.authorizeChannel(name, socketId).auth });
  }
  await wire.join(room, php.authorizePresenceChannel(room, socketId, '1', { name: 'é/😀' }));
  const fields = php.authenticateUser(socketId, { id: '1', user_info: { url: 'a/b' } });
  wire.send('pusher:signin', fields);
  assert.equal(JSON.parse(await wire.frames.data('pusher:signin_success')).user_data, fields.user_data);
});
