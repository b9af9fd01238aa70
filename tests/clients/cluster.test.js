// Two nodes as one server: pages on node A, what the application asks and publishes goes to node B.

import assert from 'node:assert/strict';
import { startCluster } from './cluster.js';
import { Gema } from './gema.js';
import { startLaravel } from './laravel.js';
import { connected, errorCode, fresh, hear, join, listener, ready, whisper, withEcho, withPusher } from './pages.js';
import { callPython } from './python.js';
import { farAway } from './redis.js';
import { Inbox, test, until } from './wait.js';
import { openWire } from './wire.js';

/** How long the members of a node that died without a word may stay: its lease, and the finding out. */
const DEAD_NODE_MS = 30_000;

/** How long an event may take from node to node; on a quiet machine it is a millisecond. */
const AT_ONCE_MS = 2_000;

const NAMES = { 1: 'Ada', 2: 'Budi', 3: 'Zoë 😀 / Siti' };

const cluster = await startCluster(2);
const [a, b] = cluster.nodes;
const laravel = await startLaravel(b);
laravel
  .channel('orders-{id}', () => true)
  .channel('secret-{id}', () => true)
  .channel('room-{id}', (user) => ({ id: Number(user.id), name: NAMES[user.id] }));

/** A page's options that take it to a node. */
const on = (node) => ({ wsPort: node.port });

let users = 0;
/** A user id that no other test uses. */
const freshUser = () => `user-${(users += 1)}`;

/** Signs a page in and waits until it can hear events to its user. */
async function signIn(pusher) {
  pusher.signin();
  await until(() => pusher.user.serverToUserChannel?.subscribed, 'the user is signed in');
  return pusher.user;
}

/** What a node says of a channel. */
async function info(node, name, params) {
  return (await node.api.get({ path: `/channels/${name}`, params })).json();
}

/** The server libraries, publishing through B. `socket` is left out, if given. */
const LIBRARIES = {
  PHP: (channel, event, data, socket) => laravel.broadcast([channel], event, data, { socket }),
  Node: (channel, event, data, socket) => b.api.trigger(channel, event, data, { socket_id: socket }),
  Python: (channel, event, data, socket) => callPython(b, 'trigger', channel, event, data, socket ?? null),
};

for (const [library, publish] of Object.entries(LIBRARIES)) {
  withEcho(`what ${library} publishes through B arrives at Echo on A, once (G-179)`, laravel, async ({ open }) => {
    const name = fresh('orders');
    const [callback, heard] = listener('e');
    const { echo } = open('1', on(a));
    await ready(echo.private(name).listen('.shipped', callback).listen('.fence', callback));
    await publish(`private-${name}`, 'shipped', { text: 'é/😀' });
    await laravel.broadcast([`private-${name}`], 'fence', { n: 1 });
    assert.deepEqual(await heard.data('e'), { text: 'é/😀' });
    assert.deepEqual(await heard.data('e'), { n: 1 });
    assert.equal(heard.all.length, 2);
  });

  withEcho(`the socket id that ${library} gives to B leaves out that page on A and no other (G-179)`, laravel, async ({ open }) => {
    const name = fresh('orders');
    // The same user each time: it is the connection that is left out.
    const pages = [open('1', on(a)), open('1', on(a)), open('1', on(b))];
    const inboxes = [];
    for (const { echo } of pages) {
      const [callback, heard] = listener('e');
      inboxes.push(heard);
      await ready(echo.private(name).listen('.to-others', callback).listen('.fence', callback));
    }
    await publish(`private-${name}`, 'to-others', { n: 1 }, pages[0].echo.socketId());
    await laravel.broadcast([`private-${name}`], 'fence', { n: 2 });
    for (const other of inboxes.slice(1)) {
      assert.deepEqual(await other.data('e'), { n: 1 });
      assert.deepEqual(await other.data('e'), { n: 2 });
    }
    assert.deepEqual(await inboxes[0].data('e'), { n: 2 });
  });
}

withEcho('toOthers() of an application behind B leaves out its page on A (G-179)', laravel, async ({ open }) => {
  const name = fresh('orders');
  const [sender, tab] = [open('1', on(a)), open('1', on(a))];
  const inboxes = [];
  for (const { echo } of [sender, tab]) {
    const [callback, heard] = listener('e');
    inboxes.push(heard);
    await ready(echo.private(name).listen('.to-others', callback).listen('.fence', callback));
  }
  // The request carries X-Socket-Id, as Echo's interceptor put it there.
  await sender.axios.post('/broadcast-to-others', { event: 'to-others', channels: [`private-${name}`], payload: { n: 1 } });
  await laravel.broadcast([`private-${name}`], 'fence', { n: 2 });
  assert.deepEqual(await inboxes[1].data('e'), { n: 1 });
  assert.deepEqual(await inboxes[1].data('e'), { n: 2 });
  assert.deepEqual(await inboxes[0].data('e'), { n: 2 });
});

withPusher('a batch through B arrives on A in its order, each event without its own sender (G-179)', a, async ({ open }) => {
  const name = fresh('private');
  const pages = [open(), open()];
  const heard = [];
  for (const page of pages) heard.push(hear(await join(page, name)));
  const excepted = pages[0].connection.socket_id;
  const batch = Array.from({ length: 10 }, (_, n) =>
    ({ channel: name, name: 'n', data: n, ...(n % 3 === 0 && { socket_id: excepted }) }));
  await b.api.triggerBatch(batch);
  await b.api.trigger(name, 'fence', {});
  for (const inbox of heard) await inbox.take('fence');
  const numbers = heard.map((inbox) => inbox.all.filter((item) => item.name === 'n').map(({ data }) => data));
  assert.deepEqual(numbers, [[1, 2, 4, 5, 7, 8], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]]);
});

withEcho('a user with a tab on each node joins once and leaves once, for watchers on both (G-178, G-312)', laravel, async ({ open }) => {
  const name = fresh('room');
  const ada = { id: 1, name: 'Ada' };
  const siti = { id: 3, name: 'Zoë 😀 / Siti' };
  const watch = async (page) => {
    const heard = new Inbox();
    await ready(page.echo.join(name)
      .here((members) => heard.push('here', members))
      .joining((member) => heard.push('joining', member))
      .leaving((member) => heard.push('leaving', member)));
    return heard;
  };
  const watchers = [await watch(open('1', on(a))), await watch(open('1', on(b)))];
  for (const heard of watchers) assert.deepEqual(await heard.data('here'), [ada]);

  for (const [first, second] of [[a, b], [b, a]]) {
    const tabs = [open('3', on(first)), open('3', on(second))];
    for (const tab of tabs) {
      const here = await (await watch(tab)).data('here');
      assert.deepEqual(here.sort((x, y) => x.id - y.id), [ada, siti]);
    }
    for (const heard of watchers) assert.deepEqual(await heard.data('joining'), siti);
    tabs[0].echo.disconnect();
    const three = async () =>
      (await info(second, `presence-${name}`, { info: 'subscription_count' })).subscription_count === 3;
    await until(three, 'the first tab is gone');
    tabs[1].echo.disconnect();
    for (const heard of watchers) assert.deepEqual(await heard.data('leaving'), siti);
  }
  for (const heard of watchers) {
    assert.deepEqual(heard.names(), ['here', 'joining', 'leaving', 'joining', 'leaving']);
  }
});

withEcho('two tabs of a user that come to two nodes at once are one member (G-178)', laravel, async ({ open }) => {
  const name = fresh('room');
  const heard = new Inbox();
  await ready(open('1', on(b)).echo.join(name)
    .joining(({ id }) => heard.push('joining', id))
    .leaving(({ id }) => heard.push('leaving', id)));
  const tabs = [open('2', on(a)), open('2', on(b))];
  await Promise.all(tabs.map(({ echo }) => ready(echo.join(name))));
  await heard.take('joining');
  for (const { echo } of tabs) echo.disconnect();
  await heard.take('leaving');
  await ready(open('3', on(a)).echo.join(name));
  await heard.take('joining');
  assert.deepEqual(heard.all.map(({ name, data }) => `${name} ${data}`), ['joining 2', 'leaving 2', 'joining 3']);
});

withEcho('whisper() crosses the nodes both ways and does not come back (G-180, G-314)', laravel, ({ open }) =>
  whisper(open('1', on(a)), open('2', on(b))));

withPusher('on a presence channel the receiver on B learns who on A has sent it (G-180)', a, async ({ open }) => {
  const name = fresh('presence');
  const sender = await join(open({ user: 'siti' }), name);
  const heard = new Inbox();
  const channel = await join(open({ user: 'budi', ...on(b) }), name);
  channel.bind('client-typing', (data, metadata) => heard.push('typing', data, { sender: metadata?.user_id }));
  sender.trigger('client-typing', { on: true });
  const { data, sender: who } = await heard.take('typing');
  assert.deepEqual(data, { on: true });
  assert.equal(who, 'siti');
});

withEcho('an event on an EncryptedPrivateChannel through B is decrypted on A (G-142, G-308)', laravel, async ({ open }) => {
  const name = fresh('secret');
  const [callback, heard] = listener('e');
  await ready(open('1', on(a)).echo.encryptedPrivate(name).listen('.shipped', callback));
  for (const publish of Object.values(LIBRARIES)) {
    await publish(`private-encrypted-${name}`, 'shipped', { text: 'é/😀' });
    assert.deepEqual(await heard.data('e'), { text: 'é/😀' });
  }
});

withPusher('newcomers on A get the last event of a cache channel that was published through B, once (G-181)', a, async ({ open }) => {
  for (const kind of ['cache', 'private-cache', 'presence-cache', 'private-encrypted-cache']) {
    const name = fresh(kind);
    const newcomers = [];
    for (const n of [1, 2]) {
      await b.api.trigger(name, 'price', { n });
      const heard = hear(open().subscribe(name));
      // While B's word is on its way to A, the one before it is the last one there.
      while ((await heard.data('price')).n !== n);
      newcomers.push(heard);
    }
    await b.api.trigger(name, 'fence', {});
    for (const heard of newcomers) {
      await heard.take('fence');
      const prices = heard.all.filter((item) => item.name === 'price').map(({ data }) => data.n);
      assert.deepEqual(prices, [...new Set(prices)].sort(), name);
    }
  }
});

withPusher('an event to a user reaches their pages on both nodes and nobody else’s (G-171, G-182)', a, async ({ open }) => {
  const [ada, budi] = [freshUser(), freshUser()];
  const pages = [open({ signIn: { id: ada } }), open({ signIn: { id: ada }, ...on(b) }), open({ signIn: { id: budi } })];
  const [first, second, other] = (await Promise.all(pages.map(signIn))).map(hear);
  await b.api.sendToUser(ada, 'hello', { m: 1 });
  await laravel.pusher.sendToUser(ada, 'hello', { m: 2 });
  await callPython(b, 'send_to_user', ada, 'hello', { m: 3 });
  await b.api.sendToUser(budi, 'fence', {});
  for (const m of [1, 2, 3]) {
    assert.deepEqual(await first.data('hello'), { m });
    assert.deepEqual(await second.data('hello'), { m });
  }
  await other.take('fence');
  assert.equal(other.count('hello'), 0);
});

withPusher('a watcher on A learns of the first sign-in and the last leaving on any node (G-182)', a, async ({ open }) => {
  const [watcher, ada, budi] = [freshUser(), freshUser(), freshUser()];
  await signIn(open({ signIn: { id: budi }, ...on(b) }));
  const pusher = open({ signIn: { id: watcher, watchlist: [ada, budi] } });
  const heard = hear(pusher.user.watchlist);
  await signIn(pusher);
  assert.deepEqual((await heard.data('online')).user_ids, [budi]);
  assert.deepEqual((await heard.data('offline')).user_ids, [ada]);

  const pages = [open({ signIn: { id: ada }, ...on(b) }), open({ signIn: { id: ada } })];
  for (const page of pages) await signIn(page);
  assert.deepEqual((await heard.data('online')).user_ids, [ada]);
  for (const page of pages) page.disconnect();
  assert.deepEqual((await heard.data('offline')).user_ids, [ada]);
  // A fence: what is told of one watched user is told in order.
  await signIn(open({ signIn: { id: ada }, ...on(b) }));
  await heard.take('online');
  assert.deepEqual(heard.names(), ['online', 'offline', 'online', 'offline', 'online']);
});

/** Who has a user's connections ended through B. */
const TERMINATORS = {
  PHP: (user) => laravel.pusher.terminateUserConnections(user),
  Node: (user) => b.api.terminateUserConnections(user),
  Python: (user) => callPython(b, 'terminate_user_connections', user),
};

for (const [library, terminate] of Object.entries(TERMINATORS)) {
  withPusher(`terminateUserConnections() of ${library} through B ends the user’s pages on A and B (G-275)`, a, async ({ open }) => {
    const [ada, budi] = [freshUser(), freshUser()];
    const pages = [open({ signIn: { id: ada } }), open({ signIn: { id: ada }, ...on(b) })];
    const other = open({ signIn: { id: budi } });
    await Promise.all([...pages, other].map(signIn));
    const errors = pages.map((page) => hear(page.connection));
    await terminate(ada);
    for (const page of pages) await until(() => page.connection.state === 'disconnected', 'the page is cut off');
    for (const inbox of errors) assert.equal(errorCode(await inbox.data('error')), 4009);

    const heard = hear(other.user);
    await b.api.sendToUser(budi, 'still-here', {});
    await heard.take('still-here');
    // They may come back at once.
    pages[0].connect();
    await connected(pages[0]);
  });
}

withPusher('B counts and lists what is on A (G-275, G-316)', a, async ({ open }) => {
  const start = fresh('presence-list');
  const [room, quiet] = [`${start}-room`, `${start}-quiet`];
  const members = { siti: [a, b], budi: [a], 10: [b] };
  for (const [user, nodes] of Object.entries(members)) {
    for (const node of nodes) await join(open({ user, ...on(node) }), room);
  }
  await join(open({ user: 'siti' }), quiet);
  const counts = { info: 'user_count,subscription_count' };
  // Whoever subscribes does not wait until the other nodes know how many are here.
  for (const [node, name, count] of [[a, room, 4], [b, room, 4], [b, quiet, 1]]) {
    await until(async () => (await info(node, name, counts)).subscription_count === count, `${name} is counted`);
  }

  for (const node of [a, b]) {
    assert.deepEqual(await info(node, room, counts), { occupied: true, user_count: 3, subscription_count: 4 });
    assert.deepEqual(await info(node, quiet, counts), { occupied: true, user_count: 1, subscription_count: 1 });
    assert.deepEqual(await info(node, `${start}-nobody`, counts), { occupied: false, user_count: 0, subscription_count: 0 });
    const users = await (await node.api.get({ path: `/channels/${room}/users` })).json();
    assert.deepEqual(users.users.map(({ id }) => id).sort(), ['10', 'budi', 'siti']);
    const params = { filter_by_prefix: start, info: 'user_count' };
    assert.deepEqual(await (await node.api.get({ path: '/channels', params })).json(),
      { channels: { [room]: { user_count: 3 }, [quiet]: { user_count: 1 } } });
    const answer = await node.api.trigger([room, quiet], 'e', {}, { info: counts.info });
    assert.deepEqual(await answer.json(), {
      channels: { [room]: { user_count: 3, subscription_count: 4 }, [quiet]: { user_count: 1, subscription_count: 1 } },
    });
  }
  assert.deepEqual(await laravel.pusher.getChannels({ filter_by_prefix: start }), { channels: { [room]: {}, [quiet]: {} } });
  assert.deepEqual(await laravel.pusher.getChannelInfo(quiet, { info: 'subscription_count' }),
    { occupied: true, subscription_count: 1 });
  assert.deepEqual(await callPython(b, 'channels_info', start, ['user_count']),
    { channels: { [room]: { user_count: 3 }, [quiet]: { user_count: 1 } } });
  for (const { users } of [await laravel.pusher.getPresenceUsers(room), await callPython(b, 'users_info', room)]) {
    assert.deepEqual(users.map(({ id }) => id).sort(), ['10', 'budi', 'siti']);
  }
});

test('whoever comes to a node as soon as it is ready hears what the others accept', async (t) => {
  for (const redis of [cluster.redis, await farAway(t, cluster.redis, 50)]) {
    const newcomer = await cluster.add(t, redis);
    const name = fresh('orders');
    const wire = await openWire(t, newcomer.url());
    await wire.join(name);
    await b.api.trigger(name, 'e', { n: 1 });
    assert.equal(await wire.frames.data('e'), '{"n":1}');
  }
});

test('what a node accepts as soon as it is ready reaches the others at once', async (t) => {
  const name = fresh('orders');
  const wire = await openWire(t, a.url());
  await wire.join(name);
  // The quickest counts: of the others the machine may be the cause.
  const took = [];
  for (let n = 0; n < 3; n += 1) {
    const newcomer = await cluster.add(t);
    const accepted = performance.now();
    await newcomer.api.trigger(name, 'e', { n });
    assert.equal(await wire.frames.data('e'), JSON.stringify({ n }));
    took.push(performance.now() - accepted);
  }
  assert.ok(Math.min(...took) < AT_ONCE_MS, `after ${took} ms`);
});

test('when a node dies, its members leave once, everywhere, and count no more (G-183)', async (t) => {
  const mortal = await new Gema({ env: { ...cluster.env, GEMA_REDIS_PORT: String(cluster.redis.port) } }).start();
  t.after(() => mortal.kill());
  const name = fresh('presence');
  const open = async (node, user) => {
    const wire = await openWire(t, node.url());
    await wire.join(name, node.api.authorizeChannel(await wire.socketId(), name, { user_id: user }));
    return wire;
  };
  const watchers = [await open(a, 'siti'), await open(b, 'budi')];
  await open(mortal, 'ada');
  await open(mortal, 'ada');
  // One who has a tab elsewhere stays.
  await open(mortal, 'siti');
  await mortal.kill();

  const left = (wire) => wire.frames.all.filter(({ name }) => name === 'pusher_internal:member_removed');
  await until(() => watchers.every((wire) => left(wire).length > 0), 'the survivors say that ada is gone', DEAD_NODE_MS);
  for (const node of [a, b]) {
    await until(async () => (await info(node, name, { info: 'subscription_count' })).subscription_count === 2,
      'the dead count no more');
    assert.equal((await info(node, name, { info: 'user_count' })).user_count, 2);
  }
  for (const wire of watchers) {
    wire.send('pusher:ping', {});
    await wire.frames.take('pusher:pong');
    assert.deepEqual(left(wire).map(({ data }) => JSON.parse(data).user_id), ['ada']);
  }
});
