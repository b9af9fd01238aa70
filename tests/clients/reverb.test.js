// gema in the place of Laravel Reverb: configured by nothing but the `.env` that Reverb's installer writes, with Echo's
// broadcaster `reverb` and Laravel's driver of that name, on one node and on two.

import assert from 'node:assert/strict';
import { after } from 'node:test';
import { app, startGema } from './gema.js';
import { startLaravel } from './laravel.js';
import { address, connected, fresh, listener, ready, whisper, withEcho } from './pages.js';
import { startRedis } from './redis.js';
import { test } from './wait.js';

/** The lines of `php artisan reverb:install`, and others besides. */
const dotenv = (...others) => [
  'APP_NAME=Shop',
  'BROADCAST_CONNECTION=reverb',
  '',
  `REVERB_APP_ID=${app.id}`,
  `REVERB_APP_KEY=${app.key}`,
  `REVERB_APP_SECRET=${app.secret}`,
  'REVERB_HOST="localhost"',
  'REVERB_PORT=8080',
  'REVERB_SCHEME=http',
  '',
  'VITE_REVERB_APP_KEY="${REVERB_APP_KEY}"',
  'VITE_REVERB_HOST="${REVERB_HOST}"',
  'REVERB_SERVER_HOST=127.0.0.1',
  'REVERB_SERVER_PORT=0',
  ...others,
  '',
].join('\n');

const routes = (laravel) => laravel
  .channel('orders-{id}', () => true)
  .channel('room-{id}', (user) => ({ id: Number(user.id), name: `User ${user.id}` }));

const gema = await startGema({ dotenv: dotenv() });
const laravel = routes(await startLaravel(gema));

const redis = await startRedis();
const scaled = dotenv('REVERB_SCALING_ENABLED=true', 'REVERB_SCALING_CHANNEL=shop', 'REDIS_HOST=127.0.0.1', `REDIS_PORT=${redis.port}`);
const nodes = [await startGema({ dotenv: scaled }), await startGema({ dotenv: scaled })];
for (const node of nodes) await node.linked();
after(() => redis.stop());
const ofNodes = routes(await startLaravel(nodes[0]));

/** Pages of two users, one on each node; Laravel publishes to the first. */
const pages = (open) => nodes.map((node, n) => open(String(n + 1), address(node)));

test('the log says that the names of Reverb count', () => {
  assert.ok(gema.said().some((line) => /^Reverb's variables such as REVERB_APP_KEY configure this server/.test(line)));
});

withEcho('public, private and presence channels and whispers work by the names of Reverb alone', laravel, async ({ open }) => {
  const [ada, budi] = [open('1'), open('2')];
  const [orders, room] = [fresh('orders'), fresh('room')];
  const [onPublic, ofPublic] = listener('shipped');
  await ready(ada.echo.channel(orders).listen('OrderShipped', onPublic));
  const [onPrivate, ofPrivate] = listener('shipped');
  await ready(ada.echo.private(orders).listen('.order.shipped', onPrivate));
  await laravel.broadcast([orders], 'App\\Events\\OrderShipped', { n: 1 });
  await laravel.broadcast([`private-${orders}`], 'order.shipped', { n: 2 });
  assert.deepEqual(await ofPublic.data('shipped'), { n: 1 });
  assert.deepEqual(await ofPrivate.data('shipped'), { n: 2 });

  const [onJoin, joined] = listener('joining');
  await ready(ada.echo.join(room).joining(onJoin));
  const [onHere, here] = listener('here');
  await ready(budi.echo.join(room).here(onHere));
  assert.deepEqual(await joined.data('joining'), { id: 2, name: 'User 2' });
  assert.deepEqual((await here.data('here')).map(({ id }) => id).sort(), [1, 2]);
  await whisper(ada, budi);
});

withEcho('presence, whispers and toOthers() cross two nodes by the names of Reverb alone', ofNodes, async ({ open }) => {
  const [ada, budi] = pages(open);
  const [orders, room] = [fresh('orders'), fresh('room')];
  const inboxes = [];
  for (const { echo } of [ada, budi]) {
    const [callback, heard] = listener('e');
    inboxes.push(heard);
    await ready(echo.private(orders).listen('.to-others', callback).listen('.to-all', callback));
  }
  await connected(budi.pusher);
  // Laravel publishes to the node of the other page.
  await budi.axios.post('/broadcast-to-others', { event: 'to-others', channels: [`private-${orders}`], payload: { n: 1 } });
  await ofNodes.broadcast([`private-${orders}`], 'to-all', { n: 2 });
  assert.deepEqual(await inboxes[0].data('e'), { n: 1 });
  assert.deepEqual(await inboxes[0].data('e'), { n: 2 });
  assert.deepEqual(await inboxes[1].data('e'), { n: 2 });
  assert.deepEqual(inboxes[1].all.map(({ data }) => data), [{ n: 2 }]);

  await ready(ada.echo.join(room));
  const [onHere, here] = listener('here');
  await ready(budi.echo.join(room).here(onHere));
  assert.deepEqual((await here.data('here')).map(({ id }) => id).sort(), [1, 2]);
  await whisper(ada, budi);
});
