// A server of somebody else, run in a folder of its own on a free port until the tests have ended.

import { spawn } from 'node:child_process';
import { chmodSync, closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { until } from './wait.js';

/** A folder of the test's own, where a program may look around that has become another user. */
export function newFolder(name) {
  const folder = mkdtempSync(join(tmpdir(), `gema-${name}-`));
  chmodSync(folder, 0o755);
  return folder;
}

/** Whatever still runs ends with the tests. */
const running = new Set();
process.once('exit', () => running.forEach((child) => child.kill('SIGTERM')));

/** Runs `[program, ...arguments]` in a folder, which goes with it; resolves when it answers on `port`. */
export async function runProgram([program, ...args], { folder, port, t = { after } }) {
  const file = join(folder, 'output.log');
  const output = openSync(file, 'w');
  // Some would keep files in the home of whoever runs the tests.
  const env = { PATH: process.env.PATH, HOME: folder };
  const child = spawn(program, args, { cwd: folder, stdio: ['ignore', output, output], env });
  closeSync(output);
  const log = () => readFileSync(file, 'utf8');
  let failed;
  child.once('error', (error) => (failed = error));
  const ended = () => failed || child.exitCode !== null || child.signalCode !== null;
  running.add(child);
  t.after(async () => {
    child.kill('SIGTERM');
    await until(ended, `${program} is gone`);
    running.delete(child);
    rmSync(folder, { recursive: true, force: true });
  });
  await until(() => ended() || answers('127.0.0.1', port), `${program} answers`);
  if (failed) throw new Error(`${program} is needed on the PATH: ${failed.message}`);
  if (ended()) throw new Error(`${program} ended: ${log()}`);
  /** Sends a signal at which the program starts a new worker beside the old one; resolves when that is there. */
  const newWorker = async (signal) => {
    const workers = () => readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').split(' ').filter(Boolean);
    const before = workers();
    child.kill(signal);
    await until(() => workers().some((pid) => !before.includes(pid)), `${program} has a new worker`);
  };
  return { log, newWorker };
}

function answers(host, port) {
  return new Promise((resolve) => {
    const socket = createConnection(port, host, () => resolve(true));
    socket.once('error', () => resolve(false)).once('connect', () => socket.destroy());
  });
}

/** Below the ports that Linux gives to outgoing connections, so that none of those takes one in between. */
const PORTS = { first: 20_000, count: 12_000 };

export function freePort() {
  return new Promise((resolve) => {
    const port = PORTS.first + Math.floor(Math.random() * PORTS.count);
    const server = createServer().once('error', () => resolve(freePort()));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(port)));
  });
}
