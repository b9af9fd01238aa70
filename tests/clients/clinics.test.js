// The clinics: each hears its own requests, none those of another, and the main warehouse hears its group.

import assert from 'node:assert/strict';
import { startGema } from './gema.js';
import { startLaravel } from './laravel.js';
import { listener, ready, withEcho } from './pages.js';

const PREFIX = 'permintaan-barang.';
const RULES = [{ match: `${PREFIX}*`, require: 'private', on_public_publish: 'upgrade' }];
/** The users with their clinics; the third one is the warehouse. */
const CLINIC_OF = { 1: 'K001', 2: 'K002', 3: 'gudang' };

const gema = await startGema({ env: { GEMA_LIMITS_CHANNEL_RULES: JSON.stringify(RULES) } });
const laravel = await startLaravel(gema);
const own = (user, clinic) => CLINIC_OF[user.id] === clinic;
laravel
  .channel('permintaan-barang.{kode}', (user, kode) => own(user, kode) && { id: Number(user.id) })
  .channel('cache-permintaan-barang.{kode}', own)
  .channel('gudang.{group}', (user) => CLINIC_OF[user.id] === 'gudang')
  .grant('gudang.{group}', () => ({
    grant: [`${PREFIX}K001`, `${PREFIX}K002`],
    exp: Math.floor(Date.now() / 1000) + 3600,
  }));

const request = (clinic, number) => laravel.broadcast([`${PREFIX}${clinic}`], 'permintaan_baru', { number });

withEcho('a clinic hears its own requests, the warehouse those of its group', laravel, async ({ open }) => {
  const [first, heardFirst] = listener('permintaan');
  const [second, heardSecond] = listener('permintaan');
  const [warehouse, heardWarehouse] = listener('permintaan');
  await ready(open('1').echo.private(`${PREFIX}K001`).listen('.permintaan_baru', first));
  await ready(open('2').echo.private(`${PREFIX}K002`).listen('.permintaan_baru', second));
  await ready(open('3').echo.private('gudang.A').listen('.permintaan_baru', warehouse));
  // As the documents have it: on the public channel, which the rule makes the private one.
  for (const [clinic, number] of [['K001', 1], ['K002', 2], ['K003', 3], ['K001', 4]]) await request(clinic, number);
  await laravel.broadcast([`private-${PREFIX}K002`], 'permintaan_baru', { number: 5 });
  for (const number of [1, 2, 4, 5]) assert.deepEqual(await heardWarehouse.data('permintaan'), { number });
  for (const number of [1, 4]) assert.deepEqual(await heardFirst.data('permintaan'), { number });
  for (const number of [2, 5]) assert.deepEqual(await heardSecond.data('permintaan'), { number });
  assert.equal(heardFirst.all.length, 2);
  assert.equal(heardSecond.all.length, 2);
  assert.equal(heardWarehouse.all.length, 4);
});

withEcho('a clinic is refused every variant of another clinic’s name', laravel, async ({ open }) => {
  const { echo } = open('1');
  const refused = async (channel) => {
    const [callback, heard] = listener('refused');
    channel.error(callback);
    return heard.data('refused');
  };
  // gema refuses what is public, by its rule; Laravel what is signed.
  for (const name of [`${PREFIX}K002`, `cache-${PREFIX}K002`, `${PREFIX.toUpperCase()}K002`, `${PREFIX}K002.`]) {
    const refusal = await refused(echo.channel(name));
    assert.equal(refusal.status, 403, name);
    assert.match(refusal.error, /^The rule permintaan-barang\.\* does not allow the channel .*; use private-/);
  }
  for (const name of [`${PREFIX}K002`, `cache-${PREFIX}K002`, 'gudang.A']) {
    assert.equal((await refused(echo.private(name))).status, 403, name);
  }
  assert.equal((await refused(echo.join(`${PREFIX}K002`))).status, 403);
  assert.equal((await refused(echo.encryptedPrivate(`${PREFIX}K002`))).status, 403);
});
