// Laravel's `redis` driver: what it publishes in Redis is heard by Echo and pusher-js as if the `pusher` driver had
// sent it (protocol.md, F.3).

import assert from 'node:assert/strict';
import { after } from 'node:test';
import { app, startGema } from './gema.js';
import { startLaravel } from './laravel.js';
import { fresh, hear, join, listener, ready, withEcho, withPusher } from './pages.js';
import { phpJson } from './php.js';
import { RedisClient, startRedis } from './redis.js';

const PREFIX = 'laravel_database_';

/** As Laravel has it. */
const SCRIPT = `for i = 2, #ARGV do
  redis.call('publish', ARGV[i], ARGV[1])
end`;

const redis = await startRedis();
const gema = await startGema({
  env: { GEMA_INGEST_PREFIXES: `${PREFIX}=${app.id}`, GEMA_REDIS_PORT: String(redis.port) },
});
after(() => redis.stop());
const client = await RedisClient.connect(redis);
after(() => client.close());

// Channels are authorised as ever: the redis driver signs nothing.
const laravel = await startLaravel(gema);
laravel.channel('orders-{id}', () => true).channel('room-{id}', (user) => ({ id: Number(user.id) }));

/** As RedisBroadcaster sends it. `socket` is what `toOthers()` puts there. */
async function broadcast(channels, event, payload, { socket = null } = {}) {
  const message = phpJson({ event, data: { ...payload, socket }, socket });
  await client.command('EVAL', SCRIPT, '0', message, ...channels.map((channel) => PREFIX + channel));
}

withEcho('listen() hears what the redis driver publishes (G-317, G-318)', laravel, async ({ open }) => {
  const name = fresh('orders');
  const [callback, heard] = listener('shipped');
  await ready(open().echo.private(name).listen('OrderShipped', callback).listen('.order.shipped', callback));
  await broadcast([`private-${name}`], 'App\\Events\\OrderShipped', { orderId: 7, name: 'é/😀' });
  await broadcast([`private-${name}`], 'order.shipped', {});
  assert.deepEqual(await heard.data('shipped'), { orderId: 7, name: 'é/😀' });
  // PHP's empty array.
  assert.deepEqual(await heard.data('shipped'), []);
});

withEcho('toOthers() of the redis driver leaves out the sending browser (G-319)', laravel, async ({ open }) => {
  const name = fresh('room');
  const [sender, tab] = [open('1'), open('2')];
  const inboxes = [];
  for (const { echo } of [sender, tab]) {
    const [callback, heard] = listener('e');
    inboxes.push(heard);
    await ready(echo.join(name).listen('.to-others', callback).listen('.to-all', callback));
  }
  await broadcast([`presence-${name}`], 'to-others', { n: 1 }, { socket: sender.echo.socketId() });
  await broadcast([`presence-${name}`], 'to-all', { n: 2 });
  assert.deepEqual(await inboxes[1].data('e'), { n: 1 });
  assert.deepEqual(await inboxes[1].data('e'), { n: 2 });
  await inboxes[0].take('e');
  assert.deepEqual(inboxes[0].all.map(({ data }) => data), [{ n: 2 }]);
});

withPusher('one event on many channels reaches each of them once', gema, async ({ open }) => {
  const names = [fresh('public'), fresh('public'), fresh('public')];
  const pusher = open();
  const heard = [];
  for (const name of names) heard.push(hear(await join(pusher, name)));
  await broadcast(names, 'e', { n: 1 });
  await broadcast(names, 'fence', {});
  for (const inbox of heard) {
    await inbox.take('fence');
    assert.deepEqual(inbox.all, [{ name: 'e', data: { n: 1 } }, { name: 'fence', data: [] }]);
  }
});
