// Laravel Echo against a small Laravel: channels, presence, whispers, notifications, signing in.

import assert from 'node:assert/strict';
import { startGema } from './gema.js';
import { startLaravel } from './laravel.js';
import { connected, fresh, hear, listener, ready, whisper, withEcho } from './pages.js';
import { Inbox, until } from './wait.js';

const NAMES = { 1: 'Ada', 2: 'Budi', 3: 'Zoë 😀 / Siti' };

const gema = await startGema();
const laravel = await startLaravel(gema);
laravel
  .channel('orders-{id}', () => true)
  .channel('secret-{id}', () => true)
  .channel('cache-{id}', () => true)
  .channel('room-{id}', (user) => ({ id: Number(user.id), name: NAMES[user.id] }))
  .channel('plain-{id}', () => true)
  .channel('closed-{id}', () => false)
  .channel('App.Models.User.{id}', (user, id) => user.id === id);

withEcho('listen() finds an event by its class name (G-304)', laravel, async ({ open }) => {
  const name = fresh('orders');
  const [callback, heard] = listener('shipped');
  await ready(open().echo.channel(name).listen('OrderShipped', callback).listen('Orders.Shipped', callback));
  await laravel.broadcast([name], 'App\\Events\\OrderShipped', { orderId: 7 });
  await laravel.broadcast([name], 'App\\Events\\Orders\\Shipped', { orderId: 8 });
  assert.deepEqual(await heard.data('shipped'), { orderId: 7 });
  assert.deepEqual(await heard.data('shipped'), { orderId: 8 });
});

withEcho('listen() finds an event by its broadcastAs() name (G-305)', laravel, async ({ open }) => {
  const name = fresh('orders');
  const [callback, heard] = listener('shipped');
  await ready(open().echo.private(name).listen('.order.shipped', callback));
  await laravel.broadcast([`private-${name}`], 'order.shipped', { name: 'é/😀' });
  assert.deepEqual(await heard.data('shipped'), { name: 'é/😀' });
});

withEcho('listenToAll() hears every event with its name', laravel, async ({ open }) => {
  const name = fresh('orders');
  const heard = new Inbox();
  await ready(open().echo.channel(name).listenToAll((event, data) => heard.push(event, data)));
  await laravel.broadcast([name], 'App\\Events\\OrderShipped', { n: 1 });
  await laravel.broadcast([name], 'order.shipped', { n: 2 });
  assert.deepEqual(await heard.data('OrderShipped'), { n: 1 });
  assert.deepEqual(await heard.data('.order.shipped'), { n: 2 });
});

withEcho('toOthers() leaves out the sending browser and no other tab (G-306)', laravel, async ({ open }) => {
  const name = fresh('orders');
  const [sender, tab] = [open('1'), open('1')];
  const inboxes = [];
  for (const { echo } of [sender, tab]) {
    const [callback, heard] = listener('e');
    inboxes.push(heard);
    await ready(echo.private(name).listen('.to-others', callback).listen('.to-all', callback));
  }
  // The request carries X-Socket-Id, as Echo's interceptor put it there.
  await sender.axios.post('/broadcast-to-others', { event: 'to-others', channels: [`private-${name}`], payload: { n: 1 } });
  await laravel.broadcast([`private-${name}`], 'to-all', { n: 2 });
  assert.deepEqual(await inboxes[1].data('e'), { n: 1 });
  assert.deepEqual(await inboxes[1].data('e'), { n: 2 });
  await inboxes[0].take('e');
  assert.deepEqual(inboxes[0].all.map(({ data }) => data), [{ n: 2 }]);
  assert.match(laravel.requests.at(-1).headers['x-socket-id'], /^\d+\.\d+$/);
});

withEcho('an event on an EncryptedPrivateChannel is decrypted (G-308)', laravel, async ({ open }) => {
  const name = fresh('secret');
  const [callback, heard] = listener('e');
  await ready(open().echo.encryptedPrivate(name).listen('.order.shipped', callback));
  await laravel.broadcast([`private-encrypted-${name}`], 'order.shipped', { text: 'é/😀' });
  assert.deepEqual(await heard.data('e'), { text: 'é/😀' });
});

withEcho('a notification reaches notification() (G-309)', laravel, async ({ open }) => {
  const [callback, heard] = listener('notification');
  await ready(open('1').echo.private('App.Models.User.1').notification(callback));
  const payload = { invoice: 3, id: '8f2c5a1e', type: 'App\\Notifications\\InvoicePaid' };
  await laravel.broadcast(['private-App.Models.User.1'],
    'Illuminate\\Notifications\\Events\\BroadcastNotificationCreated', payload);
  assert.deepEqual(await heard.data('notification'), payload);
});

withEcho('every guarded channel asks /broadcasting/auth (G-310)', laravel, async ({ open }) => {
  const { echo } = open('1');
  const before = laravel.requests.length;
  const channels = [
    echo.private(fresh('orders')), echo.join(fresh('room')), echo.encryptedPrivate(fresh('secret')),
    echo.private(fresh('cache')), echo.join(fresh('room')),
  ];
  await Promise.all([...channels, echo.channel(fresh('orders'))].map(ready));
  const asked = laravel.requests.slice(before).map(({ path, body, headers }) => {
    assert.equal(path, '/broadcasting/auth');
    assert.equal(headers.authorization, 'Bearer 1');
    return new URLSearchParams(body).get('channel_name');
  });
  assert.deepEqual(asked.sort(), channels.map(({ name }) => name).sort());
});

withEcho('private(), channel() and join() of a cache channel get the last event (G-310)', laravel, async ({ open }) => {
  const { echo } = open();
  const calls = { '': 'channel', 'private-': 'private', 'presence-': 'join' };
  for (const [prefix, call] of Object.entries(calls)) {
    const name = fresh('cache');
    await laravel.broadcast([`${prefix}${name}`], 'App\\Events\\Price', { n: 1 });
    const [callback, heard] = listener('e');
    echo[call](name).listen('Price', callback);
    assert.deepEqual(await heard.data('e'), { n: 1 }, `${prefix}${name}`);
  }
});

withEcho('a 403 reaches error() and leaves the connection up (G-311)', laravel, async ({ open }) => {
  const { echo, pusher } = open();
  const [callback, heard] = listener('refused');
  echo.private(fresh('closed')).error(callback);
  const refusal = await heard.data('refused');
  assert.equal(refusal.type, 'AuthError');
  assert.equal(refusal.status, 403);
  assert.equal(pusher.connection.state, 'connected');
  await ready(echo.private(fresh('orders')));
});

withEcho('a signature that the server refuses reaches error(), too (G-311)', laravel, async ({ open }) => {
  const { echo, pusher } = open('1', { auth: { headers: {} }, authorizer: (channel) => ({
    authorize: (_, answer) => answer(null, { auth: `${gema.app.key}:${'0'.repeat(64)}` }),
  }) });
  const [callback, heard] = listener('refused');
  echo.private(fresh('orders')).error(callback);
  const refusal = await heard.data('refused');
  assert.equal(refusal.type, 'AuthError');
  assert.equal(refusal.status, 401);
  assert.equal(pusher.connection.state, 'connected');
});

withEcho('here(), joining() and leaving() get the members’ user_info (G-312)', laravel, async ({ open }) => {
  const name = fresh('room');
  const heard = new Inbox();
  const watch = (page) => page.echo.join(name)
    .here((members) => heard.push('here', members))
    .joining((member) => heard.push('joining', member))
    .leaving((member) => heard.push('leaving', member));
  await ready(watch(open('1')));
  assert.deepEqual(await heard.data('here'), [{ id: 1, name: 'Ada' }]);

  const other = open('3');
  const [here, otherHeard] = listener('here');
  await ready(other.echo.join(name).here(here));
  assert.deepEqual((await otherHeard.data('here')).sort((a, b) => a.id - b.id),
    [{ id: 1, name: 'Ada' }, { id: 3, name: 'Zoë 😀 / Siti' }]);
  assert.deepEqual(await heard.data('joining'), { id: 3, name: 'Zoë 😀 / Siti' });

  other.echo.leave(name);
  assert.deepEqual(await heard.data('leaving'), { id: 3, name: 'Zoë 😀 / Siti' });
  await ready(other.echo.join(name));
  await heard.take('joining');
  other.echo.disconnect();
  await heard.take('leaving');
  assert.deepEqual(heard.names(), ['here', 'joining', 'leaving', 'joining', 'leaving']);
});

withEcho('a second tab of a member joins in silence (G-312)', laravel, async ({ open }) => {
  const name = fresh('room');
  const heard = new Inbox();
  await ready(open('1').echo.join(name).joining((member) => heard.push('joining', member)));
  await ready(open('1').echo.join(name));
  await ready(open('2').echo.join(name));
  await heard.take('joining');
  assert.deepEqual(heard.all.map(({ data }) => data.id), [2]);
});

withEcho('a presence callback that returns true gives the value true (G-313)', laravel, async ({ open }) => {
  const name = fresh('plain');
  const heard = new Inbox();
  const { echo, pusher } = open('1');
  const errors = hear(pusher.connection);
  await ready(echo.join(name).here((members) => heard.push('here', members))
    .joining((member) => heard.push('joining', member)));
  assert.deepEqual(await heard.data('here'), [true]);
  await ready(open('2').echo.join(name));
  assert.equal(await heard.data('joining'), true);
  assert.equal(errors.count('error'), 0);
});

withEcho('whisper() reaches the others, with and without data (G-314)', laravel, ({ open }) =>
  whisper(open('1'), open('2')));

withEcho('leave() unsubscribes, and a following private() subscribes again (G-315)', laravel, async ({ open }) => {
  const name = fresh('orders');
  const { echo } = open();
  const [first, firstHeard] = listener('e');
  await ready(echo.private(name).listen('.e', first));
  echo.leave(name);
  const left = async () => !(await gema.api.get({ path: `/channels/private-${name}` }).then((a) => a.json())).occupied;
  await until(left, 'the server has forgotten the subscription');

  const [second, secondHeard] = listener('e');
  await ready(echo.private(name).listen('.e', second));
  await laravel.broadcast([`private-${name}`], 'e', { n: 1 });
  await laravel.broadcast([`private-${name}`], 'e', { n: 2 });
  assert.deepEqual(await secondHeard.data('e'), { n: 1 });
  assert.deepEqual(await secondHeard.data('e'), { n: 2 });
  assert.equal(firstHeard.all.length, 0);
});

withEcho('leave() and private() at once end subscribed (G-315)', laravel, async ({ open }) => {
  const name = fresh('orders');
  const { echo } = open();
  await ready(echo.private(name));
  echo.leave(name);
  const [callback, heard] = listener('e');
  await ready(echo.private(name).listen('.e', callback));
  await laravel.broadcast([`private-${name}`], 'e', { n: 1 });
  await heard.take('e');
});

withEcho('signin() asks /broadcasting/user-auth, and the user hears what is sent to them (G-171)', laravel, async ({ open }) => {
  const { echo, pusher } = open('2');
  echo.connector.signin();
  await until(() => pusher.user.serverToUserChannel?.subscribed, 'the user is signed in');
  const heard = hear(pusher.user);
  await laravel.pusher.sendToUser('2', 'hello', { m: 'é/😀' });
  assert.deepEqual(await heard.data('hello'), { m: 'é/😀' });
});

withEcho('the broadcaster "pusher" with a cluster finds a server of one’s own', laravel, async ({ open }) => {
  const { echo, pusher } = open('1', { broadcaster: 'pusher' });
  const socketId = await connected(pusher);
  assert.equal(echo.socketId(), socketId);
});
