// Nodes behind the shipped nginx are restarted one after the other: pages come back, and publishers are answered.

import assert from 'node:assert/strict';
import { startCluster } from './cluster.js';
import { errorCode, openEveryPusher } from './pages.js';
import { startProxy, startSilence } from './proxies.js';
import { test, until } from './wait.js';

const PAGES = 30;
/**
 * How long a page may be without its channel. It returns at once, or after a second that nginx waits for a node that
 * does not answer; the rest is for a machine with other work. A page that finds nobody is away for 15 s.
 */
const AWAY_MS = 14_000;

// The certificate signs itself. Node reads this for each connection.
process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0';

const cluster = await startCluster(2);

/** Pages behind nginx, all subscribed. */
async function openPages(t, nginx, options) {
  const pages = [];
  while (pages.length < PAGES) pages.push(...openEveryPusher(t, nginx, options));
  for (const pusher of pages) {
    pusher.codes = [];
    pusher.connection.bind('error', (error) => pusher.codes.push(errorCode(error)));
    pusher.subscribe('news');
  }
  await allBack(pages, nginx);
  return pages;
}

async function allBack(pages, nginx) {
  const away = () => pages.filter((pusher) => !pusher.channel('news').subscribed).length;
  await until(() => away() === 0, 'all pages are there', AWAY_MS).catch((error) => {
    throw new Error(`${error.message}: ${away()} of ${pages.length} are not; nginx says\n${nginx.log().slice(-500)}`);
  });
}

async function restart(node, pages, nginx) {
  const began = performance.now();
  await node.stop();
  await node.start();
  await node.linked();
  await allBack(pages, nginx);
  return performance.now() - began;
}

function rollingRestart(name, { silent = false, page, ...options }) {
  test(`all pages are back when one node after the other was restarted, without an event [${name}]`, async (t) => {
    const nodes = silent ? [await startSilence(t), ...cluster.nodes] : cluster.nodes;
    const nginx = await startProxy('nginx', nodes, { ...options, t });
    const pages = await openPages(t, nginx, page && page(nginx));
    for (const node of [...cluster.nodes, cluster.nodes[0]]) {
      t.diagnostic(`all back ${(await restart(node, pages, nginx)).toFixed(0)} ms after the node was told to stop`);
    }
    for (const { codes } of pages) assert.deepEqual(codes.filter((code) => code !== 4200), []);
  });
}

const overTls = ({ port }) => ({ wssPort: port, forceTLS: true, enabledTransports: ['ws', 'wss'] });

rollingRestart('one worker', {});
rollingRestart('four workers', { workers: 4 });
rollingRestart('over TLS', { workers: 4, tls: true, page: overTls });
rollingRestart('beside a node that does not answer', { workers: 2, silent: true });

test('publishers are answered while the nodes are restarted as fast as they can', async (t) => {
  const nginx = await startProxy('nginx', cluster.nodes, { workers: 2, t });
  const statuses = new Map();
  let stop = false;
  const publisher = (async () => {
    while (!stop) {
      const status = await nginx.api.trigger('news', 'e', 1).then(({ status }) => status, ({ status, message }) => status ?? message);
      statuses.set(status, (statuses.get(status) ?? 0) + 1);
    }
  })();
  const published = () => [...statuses.values()].reduce((sum, count) => sum + count, 0);
  for (const node of [...cluster.nodes, ...cluster.nodes]) {
    const before = published();
    await node.stop();
    await node.start();
    await until(() => published() > before + 5, 'events go on');
  }
  stop = true;
  await publisher;
  t.diagnostic(`answers: ${[...statuses].map(([status, count]) => `${count} × ${status}`).join(', ')}`);
  assert.deepEqual([...statuses.keys()], [200]);
});

test('a node that does not answer delays a publisher once, not each event', async (t) => {
  const nginx = await startProxy('nginx', [await startSilence(t), ...cluster.nodes], { t });
  const began = performance.now();
  for (let n = 0; n < 100; n += 1) await nginx.api.trigger('news', 'e', n);
  const took = performance.now() - began;
  assert.ok(took < 20_000, `100 events took ${took} ms`);
});
