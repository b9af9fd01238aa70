// One gema process for a test file: started on free ports, stopped by SIGTERM, which it has to leave with 0.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { after } from 'node:test';
import Pusher from 'pusher';
import { until, within } from './wait.js';

const here = import.meta.dirname ?? new URL('.', import.meta.url).pathname;
/** The server under test. */
export const binary = process.env.GEMA_BINARY
  ? resolve(process.env.GEMA_BINARY)
  : join(here, '../../target/debug/gema');

/** Digits only: the libraries for Python and Go accept no other app id. */
export const app = { id: '1001', key: 'clients-key', secret: 'clients-secret' };

/** 32 bytes 0, 1, … 31: the master key of protocol.md, C.5. */
export const masterKey = 'AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=';

// The runner ends a file that takes too long by SIGTERM; its servers end with it.
process.once('SIGTERM', () => process.exit(143));

/** How long a server may take to print its ready line, or to leave. */
const START_STOP_MS = 20_000;

/** Starts a server and stops it after the tests of the file (or of the test, if called inside one). */
export async function startGema(options = {}) {
  const gema = new Gema(options);
  await gema.start();
  (options.t ?? { after }).after(() => gema.stop());
  return gema;
}

export class Gema {
  host = '127.0.0.1';
  /** Its port, or the free one that the server took; it keeps it when started again. */
  port;
  /** The same for its metrics port. */
  metricsPort;
  /** When it was killed last, by `performance.now()`. */
  killedAt = 0;
  #child;
  /** Resolves with the exit code or the signal. */
  #ended;
  #env;
  #config;
  #dotenv;
  #folder;
  #log = [];

  /**
   * `env`: variables besides the app's; `config`: text of a TOML file, which then has to name the apps;
   * `app`: another id, key and secret; `ports`: its port and its metrics port; `dotenv`: text of a `.env` in its folder,
   * which then names app, host and port.
   */
  constructor({ env = {}, config, app: own = app, ports: [port, metricsPort] = [0, 0], dotenv }) {
    this.app = own;
    this.port = port;
    this.metricsPort = metricsPort;
    this.#config = config;
    this.#dotenv = dotenv;
    this.#env = config || dotenv ? env : { ...appEnv(own), ...env };
  }

  async start() {
    this.#log = [];
    this.#child = spawn(binary, ['start', ...this.#configArgument()], {
      cwd: this.#laravelFolder(),
      env: {
        PATH: process.env.PATH,
        ...(!this.#dotenv && { SOKETI_HOST: this.host, SOKETI_PORT: String(this.port) }),
        SOKETI_METRICS_SERVER_PORT: String(this.metricsPort),
        // Nobody waits for clients that have left; a stop is a matter of milliseconds.
        SOKETI_SHUTDOWN_GRACE_PERIOD: '500',
        GEMA_LOG_FORMAT: 'json',
        ...this.#env,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const kill = () => this.#child.kill('SIGKILL');
    process.once('exit', kill);
    this.#ended = new Promise((resolve) => {
      this.#child.once('error', (error) => resolve(`could not be started: ${error.message}`));
      this.#child.once('exit', (code, signal) => resolve(signal ?? code));
    }).finally(() => process.removeListener('exit', kill));
    const ready = await within(
      Promise.race([this.#readyLine(), this.#ended.then((how) => this.#fail(`ended before it was ready: ${how}`))]),
      `${binary} prints its ready line`,
      START_STOP_MS,
    ).catch((error) => {
      kill();
      throw error;
    });
    this.port = Number(ready.address.split(':').at(-1));
    this.metricsPort = Number(ready.metrics_address?.split(':').at(-1) ?? 0);
    this.api = new Pusher({
      appId: this.app.id,
      key: this.app.key,
      secret: this.app.secret,
      host: this.host,
      port: this.port,
      useTLS: false,
      encryptionMasterKeyBase64: masterKey,
    });
    return this;
  }

  /** Asks the server to leave, and expects it to leave well. */
  async stop() {
    if (this.#child.exitCode === null && this.#child.signalCode === null) this.#child.kill('SIGTERM');
    const how = await within(this.#ended, 'the server leaves after SIGTERM', START_STOP_MS);
    if (this.#folder) rmSync(this.#folder, { recursive: true, force: true });
    this.#folder = undefined;
    assert.equal(how, 0, `exit code of the server; its last lines:\n${this.#log.slice(-20).join('\n')}`);
  }

  /** Resolves when the server has found the other nodes of its cluster. */
  linked() {
    return until(() => this.#log.some((line) => parsed(line).message === 'linked to the cluster'), 'the node is linked');
  }

  /** The sum of what the metrics of this name show, with GEMA_METRICS_ENABLED; 0 if there is none so far. */
  async metric(name) {
    const answer = await fetch(`http://${this.host}:${this.metricsPort}/metrics`);
    assert.ok(answer.ok, `/metrics: ${answer.status}`);
    const lines = (await answer.text()).split('\n').filter((line) => line.split(/[ {]/, 1)[0] === name);
    return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
  }

  /** Ends the server as a crash would. */
  async kill() {
    this.killedAt = performance.now();
    this.#child.kill('SIGKILL');
    await within(this.#ended, 'the server is gone after SIGKILL');
  }

  /** Makes the server hang, until `thaw`. */
  freeze() {
    this.#child.kill('SIGSTOP');
  }

  thaw() {
    this.#child.kill('SIGCONT');
  }

  /** The address of a WebSocket, as a client without library writes it. */
  url(query = 'protocol=7&client=js&version=8.6.0&flash=false', key = this.app.key) {
    return `ws://${this.host}:${this.port}/app/${key}${query ? `?${query}` : ''}`;
  }

  /** What the log of this run has said so far. */
  said() {
    return this.#log.map((line) => parsed(line).message ?? line);
  }

  #configArgument() {
    if (!this.#config) return [];
    return [`--config=${this.#write('gema.toml', this.#config)}`];
  }

  #laravelFolder() {
    if (!this.#dotenv) return undefined;
    this.#write('.env', this.#dotenv);
    return this.#folder;
  }

  #write(name, text) {
    this.#folder ??= mkdtempSync(join(tmpdir(), 'gema-clients-'));
    const file = join(this.#folder, name);
    writeFileSync(file, text);
    return file;
  }

  #readyLine() {
    createInterface({ input: this.#child.stderr }).on('line', (line) => this.#log.push(line));
    return new Promise((resolve) => {
      createInterface({ input: this.#child.stdout }).on('line', (line) => {
        this.#log.push(line);
        const said = parsed(line);
        if (said.message === 'ready') resolve(said);
      });
    });
  }

  #fail(what) {
    throw new Error(`${binary} ${what}\n${this.#log.slice(-20).join('\n')}`);
  }
}

function appEnv({ id, key, secret }) {
  return {
    SOKETI_DEFAULT_APP_ID: id,
    SOKETI_DEFAULT_APP_KEY: key,
    SOKETI_DEFAULT_APP_SECRET: secret,
    SOKETI_DEFAULT_APP_ENABLE_CLIENT_MESSAGES: 'true',
  };
}

/** A log line as an object; its fields may stand at the top or under `fields`. */
function parsed(line) {
  try {
    const said = JSON.parse(line);
    return { ...said, ...said.fields };
  } catch {
    return {};
  }
}
