// Cache channels: the last event waits for newcomers.

import assert from 'node:assert/strict';
import { startGema } from './gema.js';
import { fresh, hear, join, withPusher } from './pages.js';

const gema = await startGema();

const KINDS = ['cache', 'private-cache', 'presence-cache', 'private-encrypted-cache'];

withPusher('an empty cache channel says pusher:cache_miss', gema, async ({ open }) => {
  const pusher = open();
  for (const kind of KINDS) {
    const heard = hear(pusher.subscribe(fresh(kind)));
    await heard.take('pusher:cache_miss');
    assert.deepEqual(heard.names(), ['pusher:subscription_succeeded', 'pusher:cache_miss'], kind);
  }
});

withPusher('a newcomer gets the last event right after the success', gema, async ({ open }) => {
  const pusher = open();
  for (const kind of KINDS) {
    const name = fresh(kind);
    await gema.api.trigger(name, 'price', { n: 1 });
    await gema.api.trigger(name, 'price', { n: 2 });
    const heard = hear(pusher.subscribe(name));
    assert.deepEqual(await heard.data('price'), { n: 2 }, kind);
    assert.deepEqual(heard.names(), ['pusher:subscription_succeeded', 'price'], kind);
  }
});

withPusher('the event outlives the last subscriber', gema, async ({ open }) => {
  const name = fresh('cache');
  const first = open();
  const heard = hear(await join(first, name));
  // Left out as its sender, which changes nothing for those who come later.
  await gema.api.trigger(name, 'price', { n: 1 }, { socket_id: first.connection.socket_id });
  first.unsubscribe(name);
  assert.deepEqual(await hear(open().subscribe(name)).data('price'), { n: 1 });
  assert.equal(heard.count('price'), 0);
});

withPusher('what pages send to each other is not cached', gema, async ({ open }) => {
  const name = fresh('private-cache');
  const sender = await join(open(), name);
  const receiver = hear(await join(open(), name));
  sender.trigger('client-typing', {});
  await receiver.take('client-typing');
  await hear(open().subscribe(name)).take('pusher:cache_miss');
});

withPusher('the API tells what is cached', gema, async ({ open }) => {
  const name = fresh('cache');
  await join(open(), name);
  const ask = async () => (await gema.api.get({ path: `/channels/${name}`, params: { info: 'cache' } })).json();
  assert.deepEqual(await ask(), { occupied: true, cache: null });
  await gema.api.trigger(name, 'price', { n: 1 });
  const { cache } = await ask();
  assert.equal(cache.data, '{"n":1}');
  assert.ok(Number.isInteger(cache.ttl) && cache.ttl > 0);
});
