// Every kind of channel, and what arrives on it.

import assert from 'node:assert/strict';
import { app, startGema } from './gema.js';
import { errorCode, fresh, hear, join, subscribed, withPusher } from './pages.js';
import { test, until } from './wait.js';
import { openWire } from './wire.js';

const gema = await startGema();

const KINDS = [
  'public', 'privateer', 'cache', 'private', 'private-cache', 'private-encrypted', 'private-encrypted-cache',
  'presence', 'presence-cache', 'presence-encrypted', 'my-private-x',
];

withPusher('every kind of channel is joined with what the Node library signed (G-203)', gema, async ({ open }) => {
  const pusher = open({ info: { name: 'Ada' } });
  const errors = hear(pusher.connection);
  const channels = await Promise.all(KINDS.map((kind) => join(pusher, fresh(kind))));
  for (const channel of channels) {
    const heard = hear(channel);
    await gema.api.trigger(channel.name, 'greeting', { to: channel.name });
    assert.deepEqual(await heard.data('greeting'), { to: channel.name });
  }
  assert.equal(errors.count('error'), 0);
});

withPusher('a name with every allowed character is joined', gema, async ({ open }) => {
  const pusher = open();
  for (const start of ['', 'private-', 'presence-']) {
    const channel = await join(pusher, `${start}${fresh('AZaz09_-=@,.;')}`);
    const heard = hear(channel);
    await gema.api.trigger(channel.name, 'e', {});
    await heard.take('e');
  }
});

withPusher('event names and data arrive as they were published', gema, async ({ open }) => {
  const channel = await join(open(), fresh('public'));
  const heard = hear(channel);
  const events = [
    ['App\\Events\\OrderShipped', { id: 7, nested: { list: [1, 2.5, null, true] } }],
    ['order.shipped', ['a', 'b']],
    ['plain', 'hello, not JSON'],
    ['empty', ''],
    ['number', 42],
    ['unicode é 😀', { text: 'é/😀 "\\ \u2028 \u0000 <&>' }],
  ];
  for (const [name, data] of events) {
    await gema.api.trigger(channel.name, name, data);
    assert.deepEqual(await heard.data(name), data, name);
  }
});

withPusher('events published one after the other arrive in that order', gema, async ({ open }) => {
  const channel = await join(open(), fresh('public'));
  const heard = hear(channel);
  for (let n = 0; n < 100; n += 1) await gema.api.trigger(channel.name, 'n', n);
  await until(() => heard.count('n') === 100, '100 events');
  assert.deepEqual(heard.all.map(({ data }) => data), [...Array(100).keys()]);
});

withPusher('a publisher’s own socket is left out on every channel of the request', gema, async ({ open }) => {
  const names = [fresh('public'), fresh('public')];
  const [sender, other] = [open(), open()];
  const [own, theirs] = [[], []];
  for (const name of names) {
    own.push(hear(await join(sender, name)));
    theirs.push(hear(await join(other, name)));
  }
  await gema.api.trigger(names, 'to-others', {}, { socket_id: sender.connection.socket_id });
  await gema.api.trigger(names, 'to-all', {});
  for (const inbox of theirs) await inbox.take('to-others');
  for (const inbox of own) {
    await inbox.take('to-all');
    assert.deepEqual(inbox.names(), ['to-all']);
  }
});

withPusher('nothing arrives after unsubscribe(), and subscribe() brings it back', gema, async ({ open }) => {
  const pusher = open();
  const [left, kept] = [await join(pusher, fresh('private')), await join(pusher, fresh('private'))];
  const [goneHeard, keptHeard] = [hear(left), hear(kept)];
  pusher.unsubscribe(left.name);
  await until(async () => !(await occupied(left.name)), 'the server has forgotten the subscription');

  await gema.api.trigger([left.name, kept.name], 'first', {});
  await keptHeard.take('first');
  assert.equal(goneHeard.count('first'), 0);

  const again = await join(pusher, left.name);
  const againHeard = hear(again);
  await gema.api.trigger(left.name, 'second', {});
  await againHeard.take('second');
});

withPusher('unsubscribe() and subscribe() at once end subscribed', gema, async ({ open }) => {
  const pusher = open();
  const name = fresh('public');
  await join(pusher, name);
  pusher.unsubscribe(name);
  const channel = await join(pusher, name);
  const heard = hear(channel);
  await gema.api.trigger(name, 'e', {});
  await heard.take('e');
});

withPusher('a wrong signature is told to the channel and costs nothing else', gema, async ({ open }) => {
  const authorize = ({ socketId, channelName }, answer) => {
    const { auth } = gema.api.authorizeChannel(socketId, channelName);
    answer(null, { auth: channelName.includes('forged') ? `${app.key}:${'0'.repeat(64)}` : auth });
  };
  const pusher = open({ channelAuthorization: { customHandler: authorize } });
  const [good, bad] = [await join(pusher, fresh('private')), pusher.subscribe(fresh('private-forged'))];
  const [goodHeard, badHeard, errors] = [hear(good), hear(bad), hear(pusher.connection)];

  const refusal = await badHeard.data('pusher:subscription_error');
  assert.equal(refusal.type, 'AuthError');
  assert.equal(refusal.status, 401);
  assert.match(refusal.error, /signature/i);
  assert.equal(errorCode(await errors.data('error')), null);

  assert.equal(bad.subscribed, false);
  assert.equal(pusher.connection.state, 'connected');
  await gema.api.trigger(good.name, 'still-here', {});
  await goodHeard.take('still-here');
});

withPusher('pusher:subscription_count reaches every subscriber where it is switched on', gema, async ({ t, open }) => {
  const counting = await startGema({
    t,
    config: `[[apps]]
id = "${app.id}"
key = "${app.key}"
secret = "${app.secret}"
enable_subscription_count = true
`,
  });
  const [first, second] = [open({ wsPort: counting.port }), open({ wsPort: counting.port })];
  const channel = await join(first, 'orders');
  const heard = hear(channel);
  await until(() => channel.subscriptionCount === 1, 'the first counts itself');
  const other = await join(second, 'orders');
  await until(() => channel.subscriptionCount === 2 && other.subscriptionCount === 2, 'both count two');
  second.unsubscribe('orders');
  await until(() => channel.subscriptionCount === 1, 'one is left');
  assert.equal((await heard.data('pusher:subscription_count')).subscription_count > 0, true);
});

test('without it, no subscription_count is ever sent', async (t) => {
  const wire = await openWire(t, gema.url());
  const name = fresh('public');
  await wire.join(name);
  await gema.api.trigger(name, 'e', {});
  await wire.frames.take('e');
  assert.deepEqual(wire.frames.names(),
    ['pusher:connection_established', 'pusher_internal:subscription_succeeded', 'e']);
});

withPusher('a channel subscribed to before the connection stands is joined with it', gema, async ({ open }) => {
  const pusher = open();
  assert.notEqual(pusher.connection.state, 'connected');
  await subscribed(pusher.subscribe(fresh('private')));
});

async function occupied(name) {
  return (await (await gema.api.get({ path: `/channels/${name}` })).json()).occupied;
}
