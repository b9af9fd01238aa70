// Presence channels: who is there, who comes, who goes.

import assert from 'node:assert/strict';
import { startGema } from './gema.js';
import { fresh, hear, join, withPusher } from './pages.js';
import { PhpPusher } from './php.js';
import { test, until } from './wait.js';
import { openWire } from './wire.js';

const gema = await startGema();

const members = (channel) => {
  const list = {};
  channel.members.each(({ id, info }) => (list[id] = info));
  return list;
};

withPusher('the list holds everybody, the newcomer included', gema, async ({ open }) => {
  const name = fresh('presence');
  await join(open({ user: 'siti', info: { name: 'Siti' } }), name);
  await join(open({ user: 'budi', info: { name: 'Budi' } }), name);
  const channel = await join(open({ user: 'ada', info: { name: 'Ada' } }), name);
  assert.deepEqual(members(channel), { siti: { name: 'Siti' }, budi: { name: 'Budi' }, ada: { name: 'Ada' } });
  assert.equal(channel.members.count, 3);
  assert.deepEqual(channel.members.me, { id: 'ada', info: { name: 'Ada' } });
});

withPusher('members hear of a newcomer and of one who leaves', gema, async ({ open }) => {
  const name = fresh('presence');
  const channel = await join(open({ user: 'siti' }), name);
  const heard = hear(channel);
  const budi = open({ user: 'budi', info: { name: 'Budi' } });
  await join(budi, name);
  assert.deepEqual(await heard.data('pusher:member_added'), { id: 'budi', info: { name: 'Budi' } });

  budi.unsubscribe(name);
  assert.deepEqual(await heard.data('pusher:member_removed'), { id: 'budi', info: { name: 'Budi' } });
  await join(budi, name);
  await heard.take('pusher:member_added');
  budi.disconnect();
  await heard.take('pusher:member_removed');
  assert.deepEqual(members(channel), { siti: null });
});

withPusher('a second tab is no new member, and closing it removes nobody', gema, async ({ open }) => {
  const name = fresh('presence');
  const channel = await join(open({ user: 'siti' }), name);
  const heard = hear(channel);
  const [first, second] = [open({ user: 'budi' }), open({ user: 'budi' })];
  await join(first, name);
  assert.equal((await join(second, name)).members.count, 2);
  second.disconnect();
  await until(async () => (await subscriptions(name)) === 2, 'the second tab is gone');
  await join(open({ user: 'dewi' }), name);
  first.disconnect();
  await heard.take('pusher:member_removed');
  assert.deepEqual(
    heard.all.map(({ name, data }) => `${name} ${data.id}`),
    ['pusher:member_added budi', 'pusher:member_added dewi', 'pusher:member_removed budi'],
  );
});

withPusher('user_info of every kind comes back as it was given', gema, async ({ open }) => {
  const name = fresh('presence');
  const infos = { object: { a: { b: [1] } }, list: ['x', 2], yes: true, number: 3.5, text: 'é/😀' };
  for (const [user, info] of Object.entries(infos)) await join(open({ user, info }), name);
  const channel = await join(open({ user: 'without' }), name);
  assert.deepEqual(members(channel), { ...infos, without: null });
});

withPusher('a numeric user id is a string for everybody else', gema, async ({ open }) => {
  const name = fresh('presence');
  const heard = hear(await join(open({ user: 'siti' }), name));
  await join(open({ user: 10 }), name);
  assert.equal((await heard.data('pusher:member_added')).id, '10');
});

// What each library's JSON encoder makes of the same member; the signature is over these very characters.
const CHANNEL_DATA = {
  'Node and Ruby': '{"user_id":"u/1","user_info":{"name":"Zoë 😀 <&>"}}',
  PHP: String.raw`{"user_id":"u\/1","user_info":{"name":"Zo\u00eb \ud83d\ude00 <&>"}}`,
  Python: String.raw`{"user_id": "u/1", "user_info": {"name": "Zo\u00eb \ud83d\ude00 <&>"}}`,
  Go: String.raw`{"user_id":"u/1","user_info":{"name":"Zoë 😀 \u003c\u0026\u003e"}}`,
};

for (const [library, channelData] of Object.entries(CHANNEL_DATA)) {
  test(`channel_data as written by ${library} passes, and not with a byte changed (G-194, G-203)`, async (t) => {
    const php = new PhpPusher(gema);
    const name = fresh('presence');
    const wire = await openWire(t, gema.url());
    const fields = php.authorizeChannel(name, await wire.socketId(), channelData);
    const { data } = await wire.join(name, fields);
    assert.deepEqual(JSON.parse(data).presence, { count: 1, ids: ['u/1'], hash: { 'u/1': { name: 'Zoë 😀 <&>' } } });

    const other = fresh('presence');
    const signed = php.authorizeChannel(other, await wire.socketId(), channelData);
    wire.send('pusher:subscribe', { channel: other, auth: signed.auth, channel_data: `${channelData} ` });
    const refusal = JSON.parse(await wire.frames.data('pusher:subscription_error'));
    assert.equal(refusal.status, 401);
  });
}

async function subscriptions(name) {
  const answer = await gema.api.get({ path: `/channels/${name}`, params: { info: 'subscription_count' } });
  return (await answer.json()).subscription_count;
}
