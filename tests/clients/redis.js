// A Redis of a test file's own: on a free port, with nothing on disk, or in a folder of its own.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createConnection, createServer } from 'node:net';
import { until } from './wait.js';

/** Below the ports that Linux gives to outgoing connections, so that none of those takes one in between. */
const PORTS = { first: 20_000, count: 12_000 };

/** Starts a Redis. With a `folder` it has everything again after it was stopped and started; else it has nothing. */
export async function startRedis({ folder } = {}) {
  for (;;) {
    const port = PORTS.first + Math.floor(Math.random() * PORTS.count);
    if (!(await isFree(port))) continue;
    const redis = new Redis(port, folder);
    // Somebody else may have taken the port in between.
    if (await redis.start()) return redis;
  }
}

class Redis {
  host = '127.0.0.1';
  #disk;
  #child;
  #kill = () => this.#child.kill('SIGKILL');

  constructor(port, folder) {
    this.port = port;
    this.#disk = folder ? ['--appendonly', 'yes', '--dir', folder] : ['--appendonly', 'no'];
  }

  /** Whether it could take its port. */
  async start() {
    const child = spawn('redis-server', ['--port', this.port, '--bind', this.host, '--save', '', ...this.#disk], {
      stdio: 'ignore',
    });
    this.#child = child;
    let failed;
    child.once('error', (error) => (failed = error));
    process.once('exit', this.#kill);
    await until(async () => failed || this.#hasEnded() || (await answers(this.port)), 'redis-server answers');
    if (failed) throw new Error(`redis-server is needed on the PATH: ${failed.message}`);
    return !this.#hasEnded();
  }

  /** Ends it as a crash would. */
  async stop() {
    this.#kill();
    await until(() => this.#hasEnded(), 'redis-server is gone');
    process.removeListener('exit', this.#kill);
  }

  #hasEnded() {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }
}

/** A port at which a Redis is far away: whatever it is told or tells arrives so much later. */
export async function farAway(t, redis, delayMs) {
  const server = createServer({ noDelay: true }, (near) => {
    const far = createConnection({ port: redis.port, host: '127.0.0.1', noDelay: true });
    for (const [from, to] of [[near, far], [far, near]]) {
      from.on('data', (bytes) => setTimeout(() => to.writable && to.write(bytes), delayMs));
      from.on('error', () => to.destroy());
      from.on('close', () => to.destroy());
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => server.close());
  return { port: server.address().port };
}

function isFree(port) {
  return new Promise((resolve) => {
    const server = createServer().once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}

function answers(port) {
  return new Promise((resolve) => {
    const socket = createConnection(port, '127.0.0.1', () => socket.write('PING\r\n'));
    socket.once('data', (bytes) => {
      socket.destroy();
      resolve(bytes.toString().startsWith('+PONG'));
    });
    socket.once('error', () => resolve(false));
  });
}

/** A connection that sends commands one after the other, in plain RESP. */
export class RedisClient {
  static async connect({ port }) {
    const client = new RedisClient();
    client.#socket = createConnection(port, '127.0.0.1');
    await once(client.#socket, 'connect');
    return client;
  }

  #socket;

  /** Resolves when Redis has answered, which must not be an error. */
  async command(...words) {
    const parts = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
    this.#socket.write(`*${words.length}\r\n${parts.join('')}`);
    const [answer] = await once(this.#socket, 'data');
    if (answer.toString().startsWith('-')) throw new Error(answer.toString().trim());
  }

  close() {
    this.#socket.destroy();
  }
}
