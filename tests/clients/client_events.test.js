// Events that pages send to each other.

import assert from 'node:assert/strict';
import { startGema } from './gema.js';
import { errorCode, fresh, hear, join, withPusher } from './pages.js';
import { Inbox } from './wait.js';

const gema = await startGema();

/** Records one event together with its metadata, which `bind_global` does not tell. */
function hearWithSender(channel, name) {
  const inbox = new Inbox();
  channel.bind(name, (data, metadata) => inbox.push(name, data, { sender: metadata?.user_id }));
  return inbox;
}

withPusher('a client event reaches everybody else on a private channel', gema, async ({ open }) => {
  const name = fresh('private');
  const sender = await join(open(), name);
  const [own, ...others] = [sender, await join(open(), name), await join(open(), name)].map(hear);
  for (const data of [{ name: 'x' }, 'text', ['list'], 0, null, undefined]) {
    sender.trigger('client-typing', data);
    // A value that is absent arrives as JSON's null.
    for (const inbox of others) assert.deepEqual(await inbox.data('client-typing'), data ?? null);
  }
  await gema.api.trigger(name, 'fence', {});
  await own.take('fence');
  assert.equal(own.count('client-typing'), 0);
});

withPusher('on a presence channel the receiver learns who sent it', gema, async ({ open }) => {
  const name = fresh('presence');
  const sender = await join(open({ user: 'siti' }), name);
  const heard = hearWithSender(await join(open({ user: 'budi' }), name), 'client-typing');
  sender.trigger('client-typing', { on: true });
  const { data, sender: who } = await heard.take('client-typing');
  assert.deepEqual(data, { on: true });
  assert.equal(who, 'siti');
});

withPusher('the sender’s other tab does get the event', gema, async ({ open }) => {
  const name = fresh('presence-cache');
  const sender = await join(open({ user: 'siti' }), name);
  const heard = hear(await join(open({ user: 'siti' }), name));
  sender.trigger('client-typing', {});
  await heard.take('client-typing');
});

withPusher('a client event on a public channel is refused and reaches nobody', gema, async ({ open }) => {
  const name = fresh('public');
  const pusher = open();
  const [errors, sender] = [hear(pusher.connection), await join(pusher, name)];
  const heard = hear(await join(open(), name));
  sender.trigger('client-typing', {});
  assert.equal(errorCode(await errors.data('error')), null);
  await gema.api.trigger(name, 'fence', {});
  await heard.take('fence');
  assert.deepEqual(heard.names(), ['fence']);
  assert.equal(pusher.connection.state, 'connected');
});

withPusher('the eleventh client event within a second is refused with 4301', gema, async ({ t, open }) => {
  const limited = await startGema({ t, env: { SOKETI_DEFAULT_APP_MAX_CLIENT_EVENTS_PER_SEC: '10' } });
  const [first, second] = [open({ wsPort: limited.port }), open({ wsPort: limited.port })];
  const errors = hear(first.connection);
  const sender = await join(first, 'private-orders');
  const heard = hear(await join(second, 'private-orders'));
  for (let n = 0; n < 11; n += 1) sender.trigger('client-n', n);
  assert.equal(errorCode(await errors.data('error')), 4301);
  await limited.api.trigger('private-orders', 'fence', {});
  await heard.take('fence');
  assert.deepEqual(heard.all.map(({ data }) => data).slice(0, -1), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  assert.equal(first.connection.state, 'connected');
});

withPusher('client events are refused for an app that has them switched off', gema, async ({ t, open }) => {
  const silent = await startGema({ t, env: { SOKETI_DEFAULT_APP_ENABLE_CLIENT_MESSAGES: 'false' } });
  const [first, second] = [open({ wsPort: silent.port }), open({ wsPort: silent.port })];
  const errors = hear(first.connection);
  const sender = await join(first, 'private-orders');
  const heard = hear(await join(second, 'private-orders'));
  sender.trigger('client-typing', {});
  assert.equal(errorCode(await errors.data('error')), null);
  await silent.api.trigger('private-orders', 'fence', {});
  await heard.take('fence');
  assert.deepEqual(heard.names(), ['fence']);
});
