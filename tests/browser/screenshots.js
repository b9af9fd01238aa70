// Pictures of the operator's page: see `screenshots`. Clinics and their warehouse have an ordinary day, with some mistakes.

import { writeFileSync } from 'node:fs';
import http from 'node:http';
import { join } from 'node:path';
import { startBrowser } from '../clients/chromium.js';
import { openDashboard, startWatched } from '../clients/dashboard.js';
import { app } from '../clients/gema.js';
import { openWire } from '../clients/wire.js';
import { until } from '../clients/wait.js';

const folder = process.argv[2];
const SIZES = { desktop: { width: 1440, height: 900 }, phone: { width: 360, height: 780 } };
const PANELS = {
  overview: 'overview',
  figures: 'now',
  live: 'live',
  channels: 'channels?app=1001&name=presence-ruang.gudang',
  connections: `connections?${encodeURIComponent('channel:presence-ruang.gudang')}`,
  apps: 'apps',
  try: 'try',
  settings: 'settings',
};
/** How much of a day the plots show, in seconds. */
const TRAFFIC_SECONDS = Number(process.env.TRAFFIC_SECONDS ?? 75);
const READING = 'scada.data.received';

/** What is to be done at the end, in the place of a test. */
const ends = [];
const t = { after: (end) => ends.unshift(end) };

const endpoint = http.createServer((request, answer) => answer.writeHead(request.url === '/ok' ? 200 : 503).end());
await new Promise((resolve) => endpoint.listen(0, '127.0.0.1', resolve));
ends.push(() => endpoint.close());
const hook = (path) => ({ url: `http://127.0.0.1:${endpoint.address().port}${path}`, event_types: ['channel_occupied'] });

const gema = await startWatched({
  t,
  env: {
    GEMA_LIMITS_FLOW_RULES: JSON.stringify([{ match: 'scada-*', conflate: { key: 'tag', window_ms: 250 } }]),
    GEMA_LIMITS_CHANNEL_RULES: JSON.stringify([{ match: 'permintaan-*', require: 'private' }]),
    GEMA_LIMITS_MAX_CONNECTIONS: '100',
    GEMA_LIMITS_ALLOWED_ORIGINS: '["*"]',
    SOKETI_DEFAULT_APP_WEBHOOKS: JSON.stringify([hook('/ok'), hook('/busy')]),
  },
});

const clinics = Array.from({ length: 40 }, (_, index) => `K${String(index + 1).padStart(3, '0')}`);
for (const clinic of clinics) {
  const wire = await openWire(t, gema.url());
  const socket = await wire.socketId();
  const own = `private-permintaan-barang.${clinic}`;
  await wire.join(own, gema.api.authorizeChannel(socket, own));
  const room = 'presence-ruang.gudang';
  await wire.join(room, gema.api.authorizeChannel(socket, room, { user_id: `apoteker-${clinic}`, user_info: {} }));
  await wire.join('scada-suhu');
}

/** A second of the day: requests of clinics, readings, and a mistake now and then. */
async function second(number) {
  const batch = Array.from({ length: 10 }, (_, tag) => ({ channel: 'scada-suhu', name: READING, data: { tag, value: number } }));
  for (let n = 0; n < 3; n += 1) await gema.api.triggerBatch(batch);
  for (let n = 0; n < 3 + (number % 4); n += 1) {
    await gema.api.trigger(`private-permintaan-barang.${clinics[(7 * number + n) % 40]}`, 'App\\Events\\PermintaanDikirim', { number });
  }
  if (number % 60 === 5) await (await openWire(t, gema.url(undefined, app.id))).end();
  if (number % 45 === 9) await mistaken('permintaan-barang.K002');
  if (number % 90 === 11) await mistaken('private-gudang');
  if (number % 120 === 63) await fetch(`http://127.0.0.1:${gema.port}/app/${app.key}`).then((answer) => answer.text());
}

/** A page that may not join. */
async function mistaken(channel) {
  const wire = await openWire(t, gema.url());
  await wire.socketId();
  wire.send('pusher:subscribe', { channel });
  await wire.frames.take('pusher:subscription_error');
  wire.socket.close();
}

let number = 0;
const aSecond = () => Promise.all([second((number += 1)), new Promise((resolve) => setTimeout(resolve, 1000))]);
while (number < TRAFFIC_SECONDS) await aSecond();
let isOver = false;
/** The day goes on while pictures are made. */
const afterwards = (async () => {
  while (!isOver) await aSecond();
})();

async function pictures(language, sizes) {
  const tab = await openDashboard(await startBrowser(t, { language }), gema);
  for (const [size, pixels] of Object.entries(sizes)) {
    for (const scheme of ['light', 'dark']) {
      await tab.page.show({ ...pixels, scheme });
      for (const [name, panel] of Object.entries(PANELS)) {
        await tab.turn(panel);
        await use(tab, name);
        await tab.evaluate('scrollTo(0, 0)');
        const file = `${name}-${size}-${scheme}-${language}.png`;
        writeFileSync(join(folder, file), await tab.page.picture({ whole: true }));
        console.log(file);
      }
    }
  }
}

/** Brings a panel into a state that shows what it can do. */
async function use(tab, panel) {
  if (panel === 'live') {
    await until(() => tab.evaluate(`document.querySelectorAll('.row').length > 8`), 'rows');
    await tab.evaluate(`[...document.querySelectorAll('.kind-publish')].at(0)?.closest('tr').querySelector('.opener').click()`);
  }
  if (panel === 'channels' || panel === 'connections') await tab.reads(/apoteker-/);
  if (panel === 'try') {
    await tab.evaluate(`document.querySelector('form').requestSubmit()`);
    await until(() => tab.evaluate(`document.querySelectorAll('.steps li').length > 5`), 'all steps');
    await tab.evaluate(`document.querySelectorAll('form')[1].requestSubmit()`);
    await until(() => tab.evaluate(`document.querySelector('.note') !== null`), 'the answer');
  }
}

/** The pictures of README and docs: what a window shows of the first panel. */
async function picturesOfDocuments() {
  const tab = await openDashboard(await startBrowser(t), gema);
  for (const [name, pixels] of Object.entries({ dashboard: { width: 1280, height: 960 }, 'dashboard-phone': { ...SIZES.phone, scheme: 'dark' } })) {
    await tab.page.show(pixels);
    await tab.reads(/What to do:/);
    writeFileSync(join(folder, `${name}.webp`), await tab.page.picture({ format: 'webp' }));
  }
}

await picturesOfDocuments();
await pictures('en', SIZES);
await pictures('id', { phone: SIZES.phone });
isOver = true;
await afterwards;
for (const end of ends) await end();
process.exit(0);
