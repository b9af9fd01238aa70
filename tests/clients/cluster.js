// Several gema processes that are one server, over a Redis of their own.

import { after } from 'node:test';
import { startGema } from './gema.js';
import { startRedis } from './redis.js';

/** Starts that many nodes and stops them after the tests of the file. */
export async function startCluster(count, { env } = {}) {
  const cluster = new Cluster(await startRedis(), env);
  for (let n = 0; n < count; n += 1) {
    const node = await cluster.add();
    await node.linked();
    cluster.nodes.push(node);
  };
  after(() => cluster.redis.stop());
  return cluster;
}

class Cluster {
  nodes = [];

  constructor(redis, env) {
    this.redis = redis;
    this.env = {
      GEMA_CLUSTER_DRIVER: 'redis',
      GEMA_CLUSTER_NAME: 'clients',
      ...env,
    };
  }

  /** Starts another node, perhaps by way of another port to the same Redis. */
  add(t, redis = this.redis) {
    return startGema({ env: { ...this.env, GEMA_REDIS_PORT: String(redis.port) }, t });
  }
}
