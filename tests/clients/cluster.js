// Several gema processes that are one server, over a Redis of their own.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { startGema } from './gema.js';
import { freePort } from './program.js';
import { startRedis } from './redis.js';
import { until } from './wait.js';

/**
 * Starts that many nodes and stops them after the tests of the file, or of the test `t`. `keepsData`: their Redis does,
 * when it is restarted.
 */
export async function startCluster(count, { env, keepsData, t = { after } } = {}) {
  const folder = keepsData && mkdtempSync(join(tmpdir(), 'gema-clients-redis-'));
  const cluster = new Cluster(await startRedis({ folder }), env);
  for (let n = 0; n < count; n += 1) {
    const node = await cluster.add(t);
    await node.linked();
    cluster.nodes.push(node);
  }
  t.after(async () => {
    await cluster.redis.stop();
    if (folder) rmSync(folder, { recursive: true, force: true });
  });
  return cluster;
}

class Cluster {
  nodes = [];
  #killed = new Set();

  constructor(redis, env) {
    this.redis = redis;
    this.env = {
      GEMA_CLUSTER_DRIVER: 'redis',
      GEMA_CLUSTER_NAME: 'clients',
      GEMA_METRICS_ENABLED: 'true',
      ...env,
    };
  }

  /** Starts another node, perhaps by way of another port to the same Redis. When it is restarted its ports are free. */
  async add(t, redis = this.redis) {
    const ports = [await freePort(), await freePort()];
    return startGema({ env: { ...this.env, GEMA_REDIS_PORT: String(redis.port) }, ports, t });
  }

  /** The nodes that were not killed. */
  living() {
    return this.nodes.filter((node) => !this.#killed.has(node));
  }

  /** Ends a node as a crash would. */
  kill(node) {
    this.#killed.add(node);
    return node.kill();
  }

  /** Starts a node in place of one that was killed. */
  async replace(node) {
    await node.start();
    await node.linked();
    this.#killed.delete(node);
  }

  /** Ends Redis as a crash would, for this time. */
  async restartRedis(pauseMs = 0) {
    await this.redis.stop();
    await this.#becomesLinked(0);
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
    await this.redis.start();
    await this.#becomesLinked(1);
  }

  #becomesLinked(up) {
    return Promise.all(this.living().map((node) =>
      until(async () => (await node.metric('gema_redis_up')) === up, `gema_redis_up is ${up}`)));
  }
}
