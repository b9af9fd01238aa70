// Laravel Echo through nginx, to two nodes.

import assert from 'node:assert/strict';
import { startCluster } from './cluster.js';
import { startLaravel } from './laravel.js';
import { startNginx } from './nginx.js';
import { fresh, listener, ready, whisper, withEcho } from './pages.js';
import { until } from './wait.js';

const cluster = await startCluster(2);
const nginx = await startNginx(cluster.nodes);
const laravel = await startLaravel(nginx);
laravel.channel('orders-{id}', () => true).channel('room-{id}', (user) => ({ id: Number(user.id) }));

withEcho('private and presence channels work through nginx', laravel, async ({ open }) => {
  const [orders, room] = [fresh('orders'), fresh('room')];
  const pages = ['1', '2', '3', '4'].map((user) => ({ user, ...open(user), here: [] }));
  for (const page of pages) {
    const [callback, heard] = listener('shipped');
    page.heard = heard;
    await ready(page.echo.private(orders).listen('.order.shipped', callback));
    await ready(page.echo.join(room).here((members) => page.here.push(...members)).joining((member) => page.here.push(member)));
  }
  const ids = ({ here }) => here.map(({ id }) => id).sort();
  await until(() => pages.every((page) => page.here.length === pages.length), 'everybody sees everybody');
  for (const page of pages) assert.deepEqual(ids(page), [1, 2, 3, 4]);
  await laravel.broadcast([`private-${orders}`], 'order.shipped', { n: 1 });
  for (const { heard } of pages) assert.deepEqual(await heard.data('shipped'), { n: 1 });
});

withEcho('whispers work through nginx', laravel, ({ open }) => whisper(open('1'), open('2')));
