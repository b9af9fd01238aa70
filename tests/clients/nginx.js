// nginx: with the configuration that is shipped in front of several nodes, or with sites of a test's own.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import Pusher from 'pusher';
import { masterKey } from './gema.js';
import { until, within } from './wait.js';

const project = new URL('../../', import.meta.url);
const shipped = (name) => readFileSync(new URL(name, project), 'utf8');
const certificate = (name) => new URL(`tests/it/tls/${name}`, project).pathname;

/**
 * Starts nginx for two nodes or more and ends it after the tests of the file (or of the test, if called inside one).
 * To its clients it is a server as each of them.
 */
export async function startNginx(nodes, { workers = 1, tls = false, t } = {}) {
  const port = await freePort();
  const folder = newFolder();
  mkdirSync(join(folder, 'conf.d'));
  writeFileSync(join(folder, 'conf.d', 'gema.conf'), site(nodes, port, tls && folder));
  const main = shipped('config/nginx-main.conf')
    .replace('worker_processes auto;', `worker_processes ${workers};\npid nginx.pid;`)
    .replace('http {', `http {\n${TEMPORARY_PATHS}`)
    .replaceAll('/etc/nginx/', `${folder}/`);
  const { app, host } = nodes.find(({ app }) => app);
  await run(folder, main, port, t);
  const { id: appId, key, secret } = app;
  const api = new Pusher({ appId, key, secret, host, port, useTLS: tls, encryptionMasterKeyBase64: masterKey });
  return { app, host, port, api, log: () => readFileSync(join(folder, 'error.log'), 'utf8') };
}

/** Starts nginx with sites as somebody else wrote them, one of which listens on `port`; ends it after the file's tests. */
export async function startSites(sites, port) {
  const main = `pid nginx.pid;\nevents {}\nhttp {\naccess_log off;\n${TEMPORARY_PATHS}\n${sites}\n}\n`;
  await run(newFolder(), main, port);
}

const newFolder = () => mkdtempSync(join(tmpdir(), 'gema-nginx-'));

/** Where nginx may write without being root. */
const TEMPORARY_PATHS = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
  .map((name) => `${name}_temp_path ${name};`)
  .join('\n');

/** Runs nginx in a folder until the tests have ended; resolves when it answers on `port`. */
async function run(folder, main, port, t = { after }) {
  writeFileSync(join(folder, 'nginx.conf'), main);
  const child = spawn('nginx', ['-p', folder, '-c', 'nginx.conf', '-e', 'error.log', '-g', 'daemon off;'], { stdio: 'ignore' });
  let failed;
  child.once('error', (error) => (failed = error));
  t.after(async () => {
    child.kill('SIGTERM');
    await until(() => failed || child.exitCode !== null || child.signalCode !== null, 'nginx is gone');
    rmSync(folder, { recursive: true, force: true });
  });
  await until(() => failed || answers('127.0.0.1', port), 'nginx answers');
  if (failed) throw new Error(`nginx is needed on the PATH: ${failed.message}`);
}

/** The shipped file for these nodes; those beyond the second stand wherever that does. */
function site(nodes, port, tlsFolder) {
  const [first, ...others] = nodes.map((node) => `${node.host}:${node.port}`);
  const lines = shipped('config/nginx.conf').replaceAll('gema-1:6001', first).split('\n');
  const own = lines.flatMap((line) =>
    line.includes('server gema-2:6001') ? others.map((other) => line.replace('gema-2:6001', other)) : [line]);
  let listen = `listen 127.0.0.1:${port};`;
  if (tlsFolder) {
    const passphrase = join(tlsFolder, 'passphrase');
    writeFileSync(passphrase, 'hush\n');
    listen = `listen 127.0.0.1:${port} ssl; ssl_password_file ${passphrase};
      ssl_certificate ${certificate('certificate.pem')}; ssl_certificate_key ${certificate('encrypted.key')};`;
  }
  return own.join('\n').replace('listen 80;', listen);
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

/** Has a queue of one connection, which it fills and never takes from: whoever comes now gets no answer. */
const SILENT = `
import socket, sys
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen(0)
waiting = []
while True:
    client = socket.socket()
    client.settimeout(0.5)
    try:
        client.connect(listener.getsockname())
    except socket.timeout:
        break
    waiting.append(client)
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
`;

/** The address of a node whose machine is gone: it does not answer, not even with a refusal. */
export async function startSilence(t) {
  const child = spawn('python3', ['-c', SILENT], { stdio: ['pipe', 'pipe', 'inherit'] });
  t.after(() => child.kill('SIGKILL'));
  const [port] = await within(once(child.stdout, 'data'), 'nobody answers any more');
  return { host: '127.0.0.1', port: Number(port) };
}
