// Laravel Echo, bare sockets and publishers through each proxy that has a file in config/, to two nodes.

import assert from 'node:assert/strict';
import { startCluster } from './cluster.js';
import { startLaravel } from './laravel.js';
import { fresh, listener, ready, whisper, withEcho } from './pages.js';
import { KINDS, startProxy } from './proxies.js';
import { until } from './wait.js';

const cluster = await startCluster(2);

for (const kind of KINDS) {
  const proxy = await startProxy(kind, cluster.nodes);
  const laravel = await startLaravel(proxy);
  laravel.channel('orders-{id}', () => true).channel('room-{id}', (user) => ({ id: Number(user.id) }));

  withEcho(`public, private and presence channels work through ${kind}`, laravel, async ({ open }) => {
    const [news, orders, room] = [fresh('news'), fresh('orders'), fresh('room')];
    const pages = ['1', '2', '3', '4'].map((user) => ({ user, ...open(user), here: [] }));
    for (const page of pages) {
      const [callback, heard] = listener('shipped');
      page.heard = heard;
      await ready(page.echo.channel(news).listen('.order.shipped', callback));
      await ready(page.echo.private(orders).listen('.order.shipped', callback));
      await ready(page.echo.join(room).here((members) => page.here.push(...members)).joining((member) => page.here.push(member)));
    }
    const ids = ({ here }) => here.map(({ id }) => id).sort();
    await until(() => pages.every((page) => page.here.length === pages.length), 'everybody sees everybody');
    for (const page of pages) assert.deepEqual(ids(page), [1, 2, 3, 4]);
    for (const [n, channel] of [news, `private-${orders}`].entries()) {
      await laravel.broadcast([channel], 'order.shipped', { n });
      for (const { heard } of pages) assert.deepEqual(await heard.data('shipped'), { n });
    }
  });

  withEcho(`whispers work through ${kind}`, laravel, ({ open }) => whisper(open('1'), open('2')));
}
