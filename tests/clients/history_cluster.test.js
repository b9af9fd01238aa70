// History of several nodes: a known user who comes back to any node gets what he has missed, with unmodified clients.

import assert from 'node:assert/strict';
import { startCluster } from './cluster.js';
import { EVENT, pause, presencePage, privatePage } from './history.js';
import { startLaravel } from './laravel.js';
import { startLine } from './line.js';
import { everyPusher, fresh, withEcho, withPusher } from './pages.js';
import { RedisClient } from './redis.js';
import { test, until } from './wait.js';

const rules = [
  { match: 'few-*', seconds: 600, events_max: 2 },
  { match: 'last-*', seconds: 600, replay: { last: 3 } },
  { match: 'pair-*', seconds: 600, replay: { last: 2 } },
  { match: 'room-*', seconds: 600 },
];
const env = { GEMA_LIMITS_HISTORY_RULES: JSON.stringify(rules) };
const cluster = await startCluster(2, { env });
const [a, b] = cluster.nodes;
const laravel = await startLaravel(a);
laravel.channel('room-{number}', (user) => ({ id: user.id }));

/** Publishes numbers by way of a node, and waits until Redis has them. */
async function publish(node, channel, numbers, { sequence = 'a', ...options } = {}) {
  for (const number of numbers) await node.api.trigger(channel, EVENT, { sequence, number }, options);
  await isStored(node);
}

const isStored = (node) =>
  until(async () => (await node.metric('gema_cluster_waiting')) === 0, 'Redis has everything from the node');

/** A user with one page, on a line of its own that leads to one node at a time. */
class User {
  static async on(node, t, channel, load) {
    const user = new User();
    user.node = node;
    user.channel = channel;
    user.line = await startLine(t, () => user.node);
    user.page = await load(user.line);
    return user;
  }

  /** The user of a private channel. */
  static open(node, { t, open }, channel, name = 'siti') {
    return User.on(node, t, channel, (line) => privatePage(open, line, { api: node.api, name: channel, user: name }));
  }

  get pusher() {
    return this.page.pusher;
  }

  /** What the page has been shown on its present connection. */
  get shown() {
    return this.page.shown();
  }

  /** The line is gone. The page does not try again by itself, which it would do seconds later. */
  cut() {
    this.line.down();
    this.pusher.disconnect();
  }

  /** The page is back, by way of another line. */
  async back(node) {
    this.node = node;
    this.line.mend();
    this.pusher.connect();
    await until(() => this.page.channel.subscribed, 'the page is back');
  }

  sees(number) {
    return until(() => this.shown.includes(number), `${number} is shown; so far: ${this.shown}`);
  }
}

/** Cuts off all of them, and waits until the nodes know. */
async function cut(...users) {
  const { node, channel } = users[0];
  const before = await subscribers(node, channel);
  for (const user of users) user.cut();
  await until(async () => (await subscribers(node, channel)) === before - users.length, 'the node knows of the cut');
}

async function subscribers(node, channel) {
  const answer = await node.api.get({ path: `/channels/${channel}`, params: { info: 'subscription_count' } });
  return (await answer.json()).subscription_count ?? 0;
}

/** A page in place of one that was cut off may have an event twice that it had not confirmed. */
const withoutFirst = (shown) => shown.filter((item, index) => index > 0 || item !== 0);

withPusher('a user who was cut off on one node gets what he has missed on another', a, async (page) => {
  const channel = fresh('private-room');
  const user = await User.open(a, page, channel);
  await publish(a, channel, [0]);
  await user.sees(0);
  await cut(user);
  await publish(a, channel, [1, 2, 3]);
  await user.back(b);
  await publish(a, channel, [4]);
  await user.sees(4);
  assert.deepEqual(withoutFirst(user.shown), [1, 2, 3, 4]);
});

withEcho('so does a member of a presence channel, whichever node had the events', laravel, async ({ t, open }) => {
  const room = fresh('room');
  const channel = `presence-${room}`;
  const user = await User.on(a, t, channel, (line) => presencePage(open, line, { name: room, user: 'siti' }));
  await cut(user);
  await publish(b, channel, [1, 2]);
  await publish(a, channel, [3]);
  await user.back(b);
  await publish(b, channel, [4]);
  await user.sees(4);
  assert.deepEqual(user.shown, [1, 2, 3, 4]);
});

withPusher('two tabs of a user come back to two nodes', a, async (page) => {
  const channel = fresh('private-room');
  const tabs = [await User.open(a, page, channel), await User.open(a, page, channel)];
  await cut(...tabs);
  await publish(a, channel, [1, 2, 3]);
  await tabs[0].back(a);
  await tabs[1].back(b);
  await publish(b, channel, [4]);
  for (const tab of tabs) {
    await tab.sees(4);
    assert.deepEqual(tab.shown, [1, 2, 3, 4]);
  }
});

withPusher('a user whose node is killed gets what he has missed on another', a, async (page) => {
  const channel = fresh('private-room');
  const user = await User.open(a, page, channel);
  await publish(a, channel, [0]);
  await user.sees(0);
  await cluster.kill(a);
  page.t.after(() => cluster.replace(a));
  user.cut();
  await publish(b, channel, [1, 2, 3]);
  await user.back(b);
  await publish(b, channel, [4]);
  await user.sees(4);
  assert.deepEqual(withoutFirst(user.shown), [1, 2, 3, 4]);
});

withPusher('a user who goes from node to node gets nothing twice that he has confirmed', a, async (page) => {
  const channel = fresh('private-room');
  const user = await User.open(a, page, channel);
  await cut(user);
  await publish(a, channel, [1, 2, 3]);
  await user.back(b);
  await user.sees(3);
  // A page confirms soon, but not at once.
  let [number, isConfirmed] = [3, false];
  const move = async (node) => {
    await cut(user);
    await user.back(node);
    number += 1;
    await publish(node, channel, [number]);
    await user.sees(number);
    return user.shown.every((number) => number > 3);
  };
  for (let wait = 100; !isConfirmed; wait += 100) {
    assert.ok(wait < 3_000, 'never confirmed');
    await pause(wait);
    isConfirmed = await move(b);
  }
  for (const node of [a, b, b, a]) assert.ok(await move(node), `${user.shown}`);
  const seen = user.page.connections.flat().map(({ number }) => number);
  assert.deepEqual([...new Set(seen)], Array.from({ length: number }, (_, n) => n + 1), 'nothing is missing');
});

for (const [what, leave] of [
  ['unsubscribes', (user) => user.pusher.unsubscribe(user.channel)],
  ['closes the connection', (user) => user.pusher.disconnect()],
]) {
  withPusher(`a user who ${what} on one node has missed nothing on another`, a, async (page) => {
    const channel = fresh('private-room');
    // For somebody else the events are kept.
    const other = await User.open(a, page, channel, 'budi');
    await cut(other);
    const user = await User.open(a, page, channel);
    leave(user);
    await until(async () => (await subscribers(a, channel)) === 0, 'the user has left');
    await publish(a, channel, [1, 2, 3]);
    const again = await User.open(b, page, channel);
    await publish(a, channel, [4]);
    await again.sees(4);
    assert.deepEqual(again.shown, [4]);
    await other.back(b);
    await other.sees(4);
    assert.deepEqual(other.shown, [1, 2, 3, 4]);
  });
}

withPusher('a user who missed more than is kept is told on another node how much', a, async (page) => {
  const channel = fresh('private-few');
  const user = await User.open(a, page, channel);
  await cut(user);
  await publish(a, channel, [1, 2, 3, 4, 5]);
  await user.back(b);
  await user.sees(5);
  assert.deepEqual(user.shown, ['gap of 3', 4, 5]);
});

withPusher('an event that excludes its sender is not replayed to it on another node', a, async (page) => {
  const channel = fresh('private-room');
  const [sender, other] = [await User.open(a, page, channel, 'siti'), await User.open(a, page, channel, 'budi')];
  const socketId = sender.pusher.connection.socket_id;
  await cut(sender, other);
  await publish(a, channel, [1], { socket_id: socketId });
  await publish(a, channel, [2]);
  for (const user of [sender, other]) {
    await user.back(b);
    await user.sees(2);
  }
  assert.deepEqual([sender.shown, other.shown], [[2], [1, 2]]);
});

withPusher('a newcomer gets the last events on a node that did not have the channel', a, async (page) => {
  const channel = fresh('private-last');
  await publish(a, channel, [1, 2, 3, 4, 5]);
  const user = await User.open(b, page, channel);
  await publish(a, channel, [6]);
  await user.sees(6);
  assert.deepEqual(user.shown, [3, 4, 5, 6]);
});

withPusher('a page whose node is cut off from Redis gets later what it has missed', a, async (page) => {
  const channel = fresh('private-room');
  const toRedis = await startLine(page.t, () => cluster.redis);
  const c = await cluster.add(page.t, toRedis);
  await c.linked();
  const [far, near] = [await User.open(c, page, channel), await User.open(a, page, channel, 'budi')];
  await publish(a, channel, [1]);
  await far.sees(1);
  toRedis.down();
  await until(async () => (await c.metric('gema_redis_up')) === 0, 'the node has no link');
  await publish(a, channel, [2, 3, 4]);
  // These wait on their node.
  for (const number of [11, 12]) await c.api.trigger(channel, EVENT, { sequence: 'c', number });
  toRedis.mend();
  await far.sees(4);
  await isStored(c);
  await publish(a, channel, [5]);
  await publish(c, channel, [13], { sequence: 'c' });
  for (const user of [far, near]) {
    await user.sees(5);
    await user.sees(13);
    const from = (first) => user.shown.filter((number) => (number > 10) === first > 10);
    assert.deepEqual([from(1), from(11)], [[1, 2, 3, 4, 5], [11, 12, 13]], `${user.shown}`);
    assert.equal(user.page.connections.length, 1, 'the page has stayed connected');
  }
});

withPusher('a user who was told of a gap on a dead line is told again', a, async (page) => {
  const channel = fresh('private-room');
  const toRedis = await startLine(page.t, () => cluster.redis);
  const c = await cluster.add(page.t, toRedis);
  await c.linked();
  const user = await User.open(a, page, channel);
  const other = await User.open(c, page, channel, 'budi');
  user.cut();
  await until(async () => (await subscribers(a, channel)) === 1, 'the node knows of the cut');
  await publish(a, channel, [1, 2, 3]);
  await other.sees(3);
  toRedis.down();
  await until(async () => (await c.metric('gema_redis_up')) === 0, 'the node has no link');
  // This node knows nothing of the user now, and what it finds out later does not arrive.
  await user.back(c);
  user.line.stall();
  toRedis.mend();
  await until(async () => (await c.metric('gema_history_gaps_total')) === 1, 'the node tells of a gap');
  user.line.abandon();
  user.line.bury();
  user.cut();
  await user.back(b);
  await publish(b, channel, [4]);
  await user.sees(4);
  assert.ok([[1, 2, 3, 4].join(), 'gap of 3,4'].includes(user.shown.join()), `${user.shown}`);
});

/** A user with every pusher-js. */
function everyUser(t, node, channel) {
  return Promise.all(everyPusher(t, node).map((open, n) => User.open(node, { t, open }, channel, `user-${n}`)));
}

/** Users with every pusher-js that are cut off, and return when Redis has been restarted. */
async function restartOfRedis(t, { keepsData }) {
  const own = await startCluster(2, { t, env, keepsData });
  const [a, b] = own.nodes;
  const channel = fresh('private-room');
  const users = await everyUser(t, a, channel);
  await cut(...users);
  await publish(a, channel, [1, 2, 3]);
  await own.restartRedis();
  for (const user of users) await user.back(b);
  await publish(b, channel, [4]);
  for (const user of users) await user.sees(4);
  return users.map(({ shown }) => shown);
}

test('users come back when Redis has been restarted with its data, and get what they have missed', async (t) => {
  for (const shown of await restartOfRedis(t, { keepsData: true })) assert.deepEqual(shown, [1, 2, 3, 4]);
});

test('users come back when Redis has lost everything, and are told that something may be missing', async (t) => {
  for (const shown of await restartOfRedis(t, { keepsData: false })) {
    // The nodes may know how many, and they may have them.
    const missing = [1, 2, 3].filter((number) => !shown.includes(number)).length;
    assert.ok([`gap of ${missing}`, 'gap of null'].includes(shown[0]), `${shown}`);
    assert.equal(shown.at(-1), 4);
  }
});

withPusher('a page on an encrypted channel hears of a gap on its connection', a, async (page) => {
  const user = await User.open(a, page, fresh('private-encrypted-few'));
  const gaps = [];
  user.pusher.bind('gema:history_gap', (gap) => gaps.push(gap));
  await cut(user);
  await publish(a, user.channel, [1, 2, 3, 4, 5]);
  await user.back(a);
  await user.sees(5);
  assert.deepEqual(gaps.map(({ channel, missed }) => [channel, missed]), [[user.channel, 3]]);
  assert.deepEqual(user.shown, [4, 5]);
});

withPusher('a page that came first while its node had no link is told of a gap', a, async (page) => {
  const channel = fresh('private-room');
  const toRedis = await startLine(page.t, () => cluster.redis);
  const c = await cluster.add(page.t, toRedis);
  await c.linked();
  const near = await User.open(a, page, channel, 'budi');
  toRedis.down();
  await until(async () => (await c.metric('gema_redis_up')) === 0, 'the node has no link');
  const far = await User.open(c, page, channel);
  await publish(a, channel, [1, 2, 3]);
  await near.sees(3);
  toRedis.mend();
  await far.sees('gap of null');
  await publish(a, channel, [4]);
  await far.sees(4);
  assert.deepEqual(far.shown, ['gap of null', 4]);
});

/** Two nodes with a Redis of their own, and a connection to it. */
async function startOwnCluster(t) {
  const own = await startCluster(2, { t, env });
  const redis = await RedisClient.connect(own.redis);
  t.after(() => redis.close());
  return { nodes: own.nodes, redis };
}

test('users who were away while Redis had no memory left are told on another node', async (t) => {
  const { nodes: [a, b], redis } = await startOwnCluster(t);
  const channel = fresh('private-room');
  const users = await everyUser(t, a, channel);
  await cut(...users);
  // Behind it Redis has their places.
  await publish(a, channel, [0]);
  await redis.command('CONFIG', 'SET', 'maxmemory', '1');
  await publish(a, channel, [1, 2, 3]);
  await redis.command('CONFIG', 'SET', 'maxmemory', '0');
  for (const user of users) {
    await user.back(b);
    await user.sees('gap of null');
  }
  await publish(b, channel, [4]);
  for (const user of users) {
    await user.sees(4);
    assert.equal(user.shown.at(-1), 4);
  }
});

test('users who were away while Redis was cleared are told on another node', async (t) => {
  const { nodes: [a, b], redis } = await startOwnCluster(t);
  const channel = fresh('private-room');
  const users = await everyUser(t, a, channel);
  await cut(...users);
  await publish(a, channel, [1, 2, 3]);
  await redis.command('FLUSHALL');
  await publish(a, channel, [4]);
  for (const user of users) await user.back(b);
  await publish(b, channel, [5]);
  for (const user of users) {
    await user.sees(5);
    // Perhaps late: the node where they were has to write their places again.
    await user.sees('gap of null');
  }
});

test('a newcomer gets the last events, and no gap that was announced among them', async (t) => {
  const own = await startCluster(2, { t, env });
  const [a] = own.nodes;
  const channel = fresh('private-pair');
  const [open] = everyPusher(t, a);
  const witness = await User.open(a, { t, open }, channel, 'budi');
  await publish(a, channel, [1, 2, 3]);
  await witness.sees(3);
  await own.restartRedis();
  await witness.sees('gap of null');
  await publish(a, channel, [4]);
  await witness.sees(4);
  const user = await User.open(a, { t, open }, channel);
  await publish(a, channel, [5]);
  await user.sees(5);
  assert.deepEqual(user.shown, [3, 4, 5]);
});

test('pages get what another node publishes after Redis was cleared', async (t) => {
  const { nodes: [a, b], redis } = await startOwnCluster(t);
  const channel = fresh('private-room');
  const user = await User.open(a, { t, open: everyPusher(t, a)[0] }, channel);
  await publish(b, channel, [1, 2, 3]);
  await user.sees(3);
  await redis.command('FLUSHALL');
  await publish(b, channel, [4]);
  await user.sees(4);
});
