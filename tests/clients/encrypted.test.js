// End-to-end encrypted channels: the server carries what it cannot read.

import assert from 'node:assert/strict';
import Pusher from 'pusher';
import { startGema } from './gema.js';
import { fresh, hear, join, withPusher } from './pages.js';
import { test } from './wait.js';
import { openWire } from './wire.js';

const gema = await startGema();

withPusher('an event encrypted by the Node library is decrypted (G-142)', gema, async ({ open }) => {
  const channel = await join(open(), fresh('private-encrypted'));
  const heard = hear(channel);
  const secret = { text: 'é/😀 "quoted"', list: [1, 2] };
  await gema.api.trigger(channel.name, 'secret', secret);
  await gema.api.triggerBatch([{ channel: channel.name, name: 'batched', data: secret }]);
  assert.deepEqual(await heard.data('secret'), secret);
  assert.deepEqual(await heard.data('batched'), secret);
});

test('nonce and ciphertext cross the server byte for byte (G-142)', async (t) => {
  const name = fresh('private-encrypted');
  const wire = await openWire(t, gema.url());
  await wire.join(name, { auth: gema.api.authorizeChannel(await wire.socketId(), name).auth });
  // Spaces and an escaped slash, so that a server that parses and writes anew is found out.
  const data = String.raw`{"nonce": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH","ciphertext":"lyBWhPAFV8bniccaZPnmG46a2BKsfaYl9vW3rShflw==\/"}`;
  await gema.api.post({ path: '/events', body: { name: 'secret', channels: [name], data } });
  assert.equal(await wire.frames.data('secret'), data);
});

withPusher('a page with an old key asks for the new one and reads on', gema, async ({ open }) => {
  const name = fresh('private-encrypted');
  let asked = 0;
  const authorize = ({ socketId, channelName }, answer) => {
    asked += 1;
    const fields = gema.api.authorizeChannel(socketId, channelName);
    const old = Buffer.alloc(32, 1).toString('base64');
    answer(null, asked === 1 ? { ...fields, shared_secret: old } : fields);
  };
  const heard = hear(await join(open({ channelAuthorization: { customHandler: authorize } }), name));
  await gema.api.trigger(name, 'secret', { n: 1 });
  assert.deepEqual(await heard.data('secret'), { n: 1 });
  assert.equal(asked, 2);
});

withPusher('an encrypted cache channel hands the last event to a newcomer', gema, async ({ open }) => {
  const name = fresh('private-encrypted-cache');
  await gema.api.trigger(name, 'secret', { n: 1 });
  const channel = open().subscribe(name);
  assert.deepEqual(await hear(channel).data('secret'), { n: 1 });
});

test('an encrypted channel is refused beside another one', async () => {
  const channels = [fresh('private-encrypted'), fresh('public')];
  // The library refuses by itself; the server has to as well.
  const sent = gema.api.post({ path: '/events', body: { name: 'e', channels, data: '{}' } });
  await assert.rejects(sent, (error) => error instanceof Pusher.RequestError && error.status === 400);
});
