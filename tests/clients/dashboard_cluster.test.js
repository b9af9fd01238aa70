// The operator's page of one node shows them all: three nodes over Redis.

import assert from 'node:assert/strict';
import * as file from 'node:test';
import { startBrowser } from './chromium.js';
import { startCluster } from './cluster.js';
import { ask, openDashboard, tokens } from './dashboard.js';
import { openWire } from './wire.js';
import { test, until } from './wait.js';

const { nodes } = await startCluster(3, { env: tokens });
const [first, second, third] = nodes;
const browser = await startBrowser(file);
file.afterEach(() => browser.closeTabs());

/** Presses a button until the panel reads so: figures of other nodes come once a second. */
async function readsAfter(tab, button, pattern) {
  await until(async () => {
    await tab.click(button);
    return pattern.test(await tab.text());
  }, `${pattern} after ${button}`).catch(async (error) => {
    throw new Error(`${error.message}; it reads:\n${await tab.text()}`);
  });
}

test('the sentence and Nodes count every node', async (t) => {
  for (const node of nodes) await openWire(t, node.url()).then((wire) => wire.join('bersama'));
  const tab = await openDashboard(browser, first);
  await tab.reads(/^All well: 3 nodes, 3 pages connected/, 'h1');
  await readsAfter(tab, 'Refresh', /✓ up[^]*✓ up[^]*✓ up/);
  assert.equal((await tab.text()).match(/\(this one\)/g).length, 1);
  await tab.turn('channels?match=bersama');
  await tab.reads(/bersama\s+1001\s+3[^]*1 · [^]*1 · [^]*1/);
  assert.deepEqual(tab.page.errors, []);
});

test('a user is found, an event counted and a problem named on whichever node it is', async (t) => {
  const wire = await openWire(t, third.url());
  const channel = 'presence-jauh';
  await wire.join(channel, third.api.authorizeChannel(await wire.socketId(), channel, { user_id: 'jauh' }));
  const tab = await openDashboard(browser, first, { panel: 'connections?user%3Ajauh' });
  await readsAfter(tab, 'Search', /jauh\s+127\.0\.0\.1/);
  await tab.turn(`try?channel=${channel}`);
  await readsAfter(tab, 'Publish', /1 socket got the event/);
  await (await openWire(t, second.url(undefined, 'no-such-key'))).end();
  await tab.turn('overview');
  assert.match(await tab.problem('connect_unknown_key'), /use the key of one of the apps/);
  assert.deepEqual(tab.page.errors, []);
});

test('Settings and Apps are those of the node that one chooses, and the URL names it', async () => {
  const tab = await openDashboard(browser, first, { panel: 'settings' });
  await tab.reads(new RegExp(`PUSHER_PORT=${first.port}`));
  const { body } = await ask(second, 'state');
  await tab.fill('Node', body.node);
  await tab.reads(new RegExp(`PUSHER_PORT=${second.port}`));
  assert.equal(await tab.evaluate('location.hash'), `#settings?node=${body.node}`);
  await tab.turn(`apps?node=${body.node}`);
  assert.equal(await tab.evaluate(`document.querySelector('select').value`), body.node);
  await tab.reads(/1001\s+clients-key\s+✓ enabled/);
  // The node of an old link: what is shown is this one's.
  await tab.turn('settings?node=gone');
  await tab.reads(new RegExp(`PUSHER_PORT=${first.port}`));
  // Rows of Live are of one node, and the page says of which.
  await tab.turn('live');
  await tab.reads(/Rows of .+ only\./);
  assert.deepEqual(tab.page.errors, []);
});

test('a node that dies shows as lost within 15 seconds, in the sentence and in Nodes', async () => {
  const own = await startCluster(2, { env: tokens });
  const tab = await openDashboard(browser, own.nodes[0]);
  await tab.reads(/^All well: 2 nodes/, 'h1');
  await tab.reads(/✓ up[^]*✓ up/);
  await tab.evaluate(`new MutationObserver(() => /✕ lost/.test(document.querySelector('main').innerText) && (window.lostAt ??= Date.now())).observe(document.body, { childList: true, subtree: true })`);
  await own.nodes[1].kill();
  await tab.reads(/does not report any more/, 'h1');
  // Nobody has to ask for it.
  await tab.reads(/✕ lost/);
  const { seen_ms: seen } = (await ask(own.nodes[0], 'state')).body.nodes.find(({ state }) => state === 'lost');
  const after = (await tab.evaluate('window.lostAt')) - seen;
  assert.ok(after <= 15_000, `${after} ms after its last status`);
  // Its end is a good one, as that of each server here.
  await own.nodes[1].start();
});
