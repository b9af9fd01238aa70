// nginx with the configuration that is shipped, in front of several nodes.

import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import Pusher from 'pusher';
import { masterKey } from './gema.js';
import { until } from './wait.js';

const site = readFileSync(new URL('../../config/nginx.conf', import.meta.url), 'utf8');

/** Starts nginx for two nodes and ends it after the tests of the file. To its clients it is a server as each of them. */
export async function startNginx([first, second]) {
  const port = await freePort();
  const folder = mkdtempSync(join(tmpdir(), 'gema-nginx-'));
  const own = site
    .replace('listen 80;', `listen 127.0.0.1:${port};`)
    .replace('gema-1:6001', `127.0.0.1:${first.port}`)
    .replace('gema-2:6001', `127.0.0.1:${second.port}`);
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'];
  for (const name of temporary) mkdirSync(join(folder, name));
  const paths = temporary.map((name) => `${name}_temp_path ${name};`).join('\n');
  const whole = `pid nginx.pid;\nevents {}\nhttp {\naccess_log off;\n${paths}\n${own}\n}\n`;
  writeFileSync(join(folder, 'nginx.conf'), whole);
  const child = spawn('nginx', ['-p', folder, '-c', 'nginx.conf', '-e', 'error.log', '-g', 'daemon off;'], { stdio: 'ignore' });
  let failed;
  child.once('error', (error) => (failed = error));
  const { app, host } = first;
  const { id: appId, key, secret } = app;
  const api = new Pusher({ appId, key, secret, host, port, useTLS: false, encryptionMasterKeyBase64: masterKey });
  after(async () => {
    child.kill('SIGTERM');
    await until(() => child.exitCode !== null || child.signalCode !== null, 'nginx is gone');
    rmSync(folder, { recursive: true, force: true });
  });
  await until(async () => failed || (await fetch(`http://${host}:${port}/`).then(() => true, () => false)), 'nginx answers');
  if (failed) throw new Error(`nginx is needed on the PATH: ${failed.message}`);
  return { app, host, port, api };
}

function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}
