// Group views: Laravel signs into `channel_data` which other channels a private subscription sees.

import assert from 'node:assert/strict';
import { startGema } from './gema.js';
import { startLaravel } from './laravel.js';
import { fresh, hear, join, listener, ready, withEcho, withPusher } from './pages.js';
import { phpJson } from './php.js';
import { until } from './wait.js';

/** Until a connection has been asked to come back, and has done so: the first grant, its spread, a new connection. */
const BACK_MS = 60_000;

const inSeconds = (seconds) => Math.floor(Date.now() / 1000) + seconds;
const clinics = (group) => [`permintaan-barang.${group}-K001`, `permintaan-barang.${group}-K002`, `stok.${group}-*`];

const gema = await startGema();
const laravel = await startLaravel(gema);
/** How long the next grant of a group lasts, in seconds. */
const lasting = new Map();
/** Grants that a group has been given. */
const granted = new Map();
laravel
  .channel('gudang.{group}', (user, group) => !group.startsWith('closed'))
  .grant('gudang.{group}', (user, group) => {
    granted.set(group, (granted.get(group) ?? 0) + 1);
    const seconds = lasting.get(group) ?? 3600;
    lasting.delete(group);
    const named = group.startsWith('named') ? { channel_as: 'channel' } : {};
    return { grant: clinics(group), exp: inSeconds(seconds), ...named };
  });

withEcho('private().listen() hears what the clinics of its group are sent', laravel, async ({ open }) => {
  const group = fresh('group');
  const [callback, heard] = listener('dikirim');
  const channel = open().echo.private(`gudang.${group}`).listen('.dikirim', callback).listen('Dikirim', callback);
  await ready(channel);
  for (const prefix of ['', 'private-', 'presence-']) {
    await laravel.broadcast([`${prefix}permintaan-barang.${group}-K001`], 'dikirim', { text: 'é/😀', prefix });
    assert.deepEqual(await heard.data('dikirim'), { text: 'é/😀', prefix });
  }
  await laravel.broadcast([`permintaan-barang.${group}-K009`], 'dikirim', { n: 1 });
  await laravel.broadcast([`stok.${group}-K009`], 'App\\Events\\Dikirim', { n: 2 });
  assert.deepEqual(await heard.data('dikirim'), { n: 2 });
  await laravel.broadcast([`private-gudang.${group}`], 'dikirim', { n: 3 });
  assert.deepEqual(await heard.data('dikirim'), { n: 3 });
});

withEcho('whispers of a clinic reach the warehouse that sees its room', laravel, async ({ open }) => {
  const group = fresh('group');
  laravel.channel(`stok.${group}-{room}`, () => true);
  const [callback, heard] = listener('typing');
  await ready(open('1').echo.private(`gudang.${group}`).listenForWhisper('typing', callback));
  const clinic = open('2').echo.private(`stok.${group}-room`);
  await ready(clinic);
  clinic.whisper('typing', { name: 'Siti' });
  assert.deepEqual(await heard.data('typing'), { name: 'Siti' });
});

withEcho('a page whose grant ends comes back with a new one by itself', laravel, async ({ open }) => {
  const group = fresh('group');
  // Long enough for the page to subscribe, also on a busy machine.
  lasting.set(group, 8);
  const [callback, heard] = listener('dikirim');
  const channel = open().echo.private(`gudang.${group}`).listen('.dikirim', callback);
  await ready(channel);
  await laravel.broadcast([`permintaan-barang.${group}-K001`], 'dikirim', { n: 1 });
  assert.deepEqual(await heard.data('dikirim'), { n: 1 });
  const isBack = () => granted.get(group) === 2 && channel.subscription.subscribed;
  await until(isBack, 'the page has come back with a second grant', BACK_MS);
  await laravel.broadcast([`permintaan-barang.${group}-K002`], 'dikirim', { n: 2 });
  assert.deepEqual(await heard.data('dikirim'), { n: 2 });
});

withEcho('who is not let in gets no grant', laravel, async ({ open }) => {
  const group = fresh('closed');
  const [callback, heard] = listener('refused');
  open().echo.private(`gudang.${group}`).error(callback);
  assert.equal((await heard.data('refused')).status, 403);
  assert.equal(granted.get(group), undefined);
});

withPusher('pusher-js hands on what the endpoint has signed', gema, async ({ open }) => {
  const group = fresh('group');
  const authorize = ({ socketId, channelName }, answer) => {
    const grant = phpJson({ grant: clinics(group), exp: inSeconds(60) });
    answer(null, laravel.pusher.authorizeChannel(channelName, socketId, grant));
  };
  const pusher = open({ channelAuthorization: { customHandler: authorize } });
  const heard = hear(await join(pusher, `private-gudang.${group}`));
  await laravel.broadcast([`stok.${group}-K001`], 'dikirim', { n: 1 });
  assert.deepEqual(await heard.data('dikirim'), { n: 1 });
});

withEcho('listen() is told the channel that an event comes from', laravel, async ({ open }) => {
  const group = fresh('named');
  const [callback, heard] = listener('dikirim');
  await ready(open().echo.private(`gudang.${group}`).listen('.dikirim', callback));
  await laravel.broadcast([`private-permintaan-barang.${group}-K001`], 'dikirim', { text: 'é/😀' });
  const channel = `private-permintaan-barang.${group}-K001`;
  assert.deepEqual(await heard.data('dikirim'), { text: 'é/😀', channel });
  await laravel.broadcast([`stok.${group}-K007`], 'dikirim', []);
  assert.deepEqual(await heard.data('dikirim'), { channel: `stok.${group}-K007` });
});

withPusher('a grant that cannot be used reaches pusher:subscription_error', gema, async ({ open }) => {
  const grant = phpJson({ grant: ['private-stok.K001'], exp: inSeconds(60) });
  const authorize = ({ socketId, channelName }, answer) =>
    answer(null, laravel.pusher.authorizeChannel(channelName, socketId, grant));
  const pusher = open({ channelAuthorization: { customHandler: authorize } });
  const refusal = await hear(pusher.subscribe(`private-${fresh('gudang')}`)).data('pusher:subscription_error');
  assert.equal(refusal.type, 'AuthError');
  assert.match(refusal.error, /^channel_data\.grant has an entry "private-stok\.K001", expected a name without/);
});
