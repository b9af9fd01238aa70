// History of several nodes: known users, each connection to any node, miss nothing that no gap tells, while lines are
// cut, nodes are killed and Redis is restarted at random. Longer, more often and once more: see history.test.js.

import { startCluster } from './cluster.js';
import { app } from './gema.js';
import { choose, pause, presencePage, privatePage, runs, scenario } from './history.js';
import { startLaravel } from './laravel.js';
import { everyEcho, everyPusher, fresh } from './pages.js';
import { test, until } from './wait.js';

const rule = { match: '*', seconds: 120, events_max: 20_000, bytes_max: 8_388_608 };
const env = {
  GEMA_LIMITS_HISTORY_RULES: JSON.stringify([rule]),
  // Redis is away for longer now and then, so that publishers get 503.
  GEMA_CLUSTER_BUFFER_SECONDS: '0.5',
};
/** Longest that Redis and a node are away. */
const AWAY_MS = 1_500;
/** Commands that may still wait for Redis when a node is killed; its tail is lost with it. */
const WAITING_MAX = 10;

// It only signs, and asks no node.
const laravel = await startLaravel({ app });
laravel.channel('room-{number}', (user) => ({ id: user.id }));

/** Kills a node and starts another in its place. */
async function killNode(cluster, chance) {
  const node = choose(cluster.living(), chance);
  await cluster.kill(node);
  await pause(AWAY_MS * chance());
  await cluster.replace(node);
}

async function restartRedis(cluster, chance) {
  await cluster.restartRedis(AWAY_MS * chance());
  // A node that is killed now would take along what has waited for Redis.
  const waiting = async () => Math.max(...await Promise.all(cluster.nodes.map((node) => node.metric('gema_cluster_waiting'))));
  await until(async () => (await waiting()) < WAITING_MAX, 'nothing waits for Redis any more');
}

const CASES = [
  { name: 'two nodes', nodes: 2, breaks: [] },
  { name: 'three nodes that are killed', nodes: 3, breaks: [killNode] },
  { name: 'two nodes whose Redis is restarted with its data', nodes: 2, breaks: [restartRedis], keepsData: true },
  // A user whose node is killed as well is known to nobody any more.
  { name: 'three nodes whose Redis loses its data', nodes: 3, breaks: [restartRedis] },
];

for (const { suffix, seed } of runs) {
  for (const { name, nodes, breaks, keepsData } of CASES) {
    test(`known users miss nothing on ${name}${suffix}`, async (t) => {
      const cluster = await startCluster(nodes, { t, env, keepsData });
      const room = fresh('room');
      const { api } = cluster.nodes[0];
      const open = [
        ...everyPusher(t, cluster.nodes[0]).map((open, n) => (line) =>
          privatePage(open, line, { api, name: `private-${room}`, user: `pusher-${n}` })),
        ...everyEcho(t, laravel).map((open, n) => (line) => presencePage(open, line, { name: room, user: `echo-${n}` })),
      ];
      /** One break after the other, each kind in its turn. */
      const breakNodes = async (chance, isOver) => {
        for (let turn = 0; breaks.length > 0 && !isOver(); turn += 1) {
          await pause(1_000 * chance());
          await breaks[turn % breaks.length](cluster, chance);
        }
      };
      const channels = [`private-${room}`, `presence-${room}`];
      const mayBeLate = breaks.includes(restartRedis);
      await scenario(t, seed, { channels, open, living: () => cluster.living(), breakNodes, isEarly: true, mayBeLate });
    });
  }
}
