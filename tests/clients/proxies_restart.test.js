// Nodes behind proxies with the files of config/ are restarted one after the other: pages come back, and publishers are
// answered.

import assert from 'node:assert/strict';
import { startCluster } from './cluster.js';
import { errorCode, openEveryPusher } from './pages.js';
import { KINDS, startProxy, startSilence } from './proxies.js';
import { test, until } from './wait.js';
import { openWire } from './wire.js';

/** Of each proxy. */
const PAGES = 30;
/** How long after a node was asked to stop all pages of a proxy are there again, unless the machine has other work. */
const BACK_MS = 3_000;
/** The same with other work. A page that finds nobody is away for 15 s. */
const AWAY_MS = 14_000;

// The certificate signs itself. Node reads this for each connection.
process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0';

const cluster = await startCluster(2);

const startProxies = (nodes, { kinds = KINDS, ...options }) =>
  Promise.all(kinds.map((kind) => startProxy(kind, nodes, options)));

/** Pages behind a proxy, which are subscribed soon. */
function openPages(t, proxy, options) {
  const pages = [];
  while (pages.length < PAGES) pages.push(...openEveryPusher(t, proxy, options));
  for (const pusher of pages) {
    pusher.codes = [];
    pusher.connection.bind('error', (error) => pusher.codes.push(errorCode(error)));
    pusher.subscribe('news');
  }
  return pages;
}

async function allBack(pages, proxy) {
  const away = () => pages.filter((pusher) => !pusher.channel('news').subscribed).length;
  await until(() => away() === 0, 'all pages are there', AWAY_MS).catch((error) => {
    throw new Error(`${error.message}: ${away()} of ${pages.length} are not; ${proxy.kind} says\n${proxy.log().slice(-500)}`);
  });
}

/** Resolves when a new page gets to this node, which has fewer than the others. */
async function usesAgain(t, { kind, host, port, app }, node, scheme = 'ws') {
  const leadsThere = async () => {
    const before = await node.metric('soketi_connected');
    const wire = await openWire(t, `${scheme}://${host}:${port}/app/${app.key}?protocol=7`);
    await wire.established();
    const isThere = (await node.metric('soketi_connected')) > before;
    wire.socket.close();
    return isThere;
  };
  await until(leadsThere, `${kind} uses the node again`);
}

function rollingRestart(name, { silent = false, page, ...options }) {
  test(`all pages are back when one node after the other was restarted, without an event [${name}]`, async (t) => {
    const nodes = silent ? [await startSilence(t), ...cluster.nodes] : cluster.nodes;
    const proxies = await startProxies(nodes, { ...options, t });
    const groups = proxies.map((proxy) => ({ proxy, pages: openPages(t, proxy, page && page(proxy)), took: [] }));
    for (const { proxy, pages } of groups) await allBack(pages, proxy);
    for (const node of cluster.nodes) {
      const began = performance.now();
      const restarted = node.stop();
      const open = groups.flatMap(({ pages }) => pages);
      await until(() => open.some((pusher) => !pusher.channel('news').subscribed), 'the node closes connections');
      await restarted;
      // Pages that are back now are on the other node.
      const back = groups.map(async ({ proxy, pages, took }) => {
        await allBack(pages, proxy);
        took.push(Math.round(performance.now() - began));
      });
      await Promise.all(back);
      await node.start();
      await node.linked();
      for (const { proxy } of groups) await usesAgain(t, proxy, node, options.tls ? 'wss' : 'ws');
    }
    for (const { proxy, pages, took } of groups) {
      t.diagnostic(`${proxy.kind}: all back ${took.join(', ')} ms after the node was asked to stop`);
      for (const { codes } of pages) assert.deepEqual(codes.filter((code) => code !== 4200), [], proxy.kind);
      assert.ok(Math.min(...took) < BACK_MS, `${proxy.kind}: ${took} ms`);
    }
  });
}

const overTls = ({ port }) => ({ wssPort: port, forceTLS: true, enabledTransports: ['ws', 'wss'] });

rollingRestart('one worker', {});
rollingRestart('four workers, over TLS', { workers: 4, tls: true, page: overTls });
rollingRestart('beside a node that does not answer', { workers: 2, silent: true });

/**
 * Restarts the nodes while a publisher of each proxy sends one event after the other: as fast as they can and twice, or
 * with a `wait` before the next one.
 */
async function restartUnderLoad(t, { nodes }, kinds, wait) {
  const stop = new AbortController();
  const publishers = (await startProxies(nodes, { kinds, workers: 2, t })).map((proxy) => ({ proxy, answers: new Map() }));
  const count = ({ answers }) => [...answers.values()].reduce((sum, count) => sum + count, 0);
  const published = Promise.all(publishers.map(async ({ proxy, answers }) => {
    while (!stop.signal.aborted) {
      const sent = proxy.api.trigger('news', 'e', 1);
      const answer = await sent.then(({ status }) => status, ({ status, message }) => status ?? message);
      answers.set(answer, (answers.get(answer) ?? 0) + 1);
    }
  }));
  for (const node of wait ? nodes : [...nodes, ...nodes]) {
    const before = publishers.map(count);
    await node.stop();
    await node.start();
    await until(() => publishers.every((publisher, nth) => count(publisher) > before[nth] + 5), 'events go on');
    if (wait) for (const { proxy } of publishers) await wait(t, proxy, node);
  }
  stop.abort();
  await published;
  for (const { proxy, answers } of publishers) {
    t.diagnostic(`${proxy.kind} answered: ${[...answers].map(([answer, count]) => `${count} × ${answer}`).join(', ')}`);
    assert.deepEqual([...answers.keys()], [200], `${proxy.kind}: ${proxy.log().slice(-1_500)}`);
  }
}

test('publishers are answered while the nodes are restarted as fast as they can', (t) =>
  restartUnderLoad(t, cluster, ['nginx', 'haproxy']));

// These ask the nodes each second. Between two answers they could take both nodes for gone.
const asking = 'publishers are answered while a node is restarted as soon as the proxy uses the other one again';

test(`${asking} [traefik]`, (t) => restartUnderLoad(t, cluster, ['traefik'], usesAgain));

// Caddy 2.6 does not repeat a POST even if a node has not taken its connection, so it has to know before.
test(`${asking} [caddy, with notice]`, async (t) => {
  const env = { GEMA_SERVER_DRAIN_NOTICE_SECONDS: '2', SOKETI_SHUTDOWN_GRACE_PERIOD: '3000' };
  await restartUnderLoad(t, await startCluster(2, { env, t }), ['caddy'], usesAgain);
});

test('a node that does not answer delays a publisher once, not each event', async (t) => {
  const proxies = await startProxies([await startSilence(t), ...cluster.nodes], { t });
  await Promise.all(proxies.map(async ({ kind, api }) => {
    const began = performance.now();
    for (let n = 0; n < 100; n += 1) await api.trigger('news', 'e', n);
    const took = performance.now() - began;
    t.diagnostic(`${kind}: 100 events in ${took.toFixed(0)} ms`);
    assert.ok(took < 20_000, `${kind}: 100 events took ${took} ms`);
  }));
});
