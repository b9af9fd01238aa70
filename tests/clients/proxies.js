// The proxies that have files in config/, with these files in front of several nodes.

import { spawn } from 'node:child_process';
import { createPrivateKey } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import Pusher from 'pusher';
import { masterKey } from './gema.js';
import { nginxCommand, OWN_PATHS } from './nginx.js';
import { freePort, newFolder, runProgram } from './program.js';
import { within } from './wait.js';

const project = new URL('../../', import.meta.url);
const read = (name) => readFileSync(new URL(name, project), 'utf8');

/** How each proxy is started with its files: `write` puts them into the folder. */
const PROXIES = {
  nginx: {
    write({ folder, listen, tls, nodes, workers }) {
      mkdirSync(join(folder, 'conf.d'));
      const line = tls
        ? `listen ${listen} ssl; ssl_certificate ${tls.certificate}; ssl_certificate_key ${tls.key};`
        : `listen ${listen};`;
      writeFileSync(join(folder, 'conf.d/gema.conf'), shipped('config/nginx.conf', nodes, { 'listen 80;': line }));
      const main = shipped('config/nginx-main.conf', [], {
        'worker_processes auto;': `worker_processes ${workers};`,
        'http {': `http {\n${OWN_PATHS}`,
        '/etc/nginx/': `${folder}/`,
      });
      writeFileSync(join(folder, 'nginx.conf'), main);
    },
    command: nginxCommand,
  },
  haproxy: {
    write({ folder, listen, tls, nodes }) {
      const words = { 'user haproxy': '', 'group haproxy': '', 'maxconn 50000': 'maxconn 1000' };
      words['bind :80'] = tls ? `bind ${listen} ssl crt ${tls.both} alpn http/1.1` : `bind ${listen}`;
      writeFileSync(join(folder, 'haproxy.cfg'), shipped('config/haproxy.cfg', nodes, words));
    },
    command: (folder) => ['haproxy', '-W', '-f', join(folder, 'haproxy.cfg')],
  },
};

export const KINDS = Object.keys(PROXIES);

/**
 * Starts a proxy for two nodes or more and ends it after the tests of the file (or of the test, if called inside one).
 * To its clients it is a server as each of them.
 */
export async function startProxy(kind, nodes, { tls = false, workers = 1, t } = {}) {
  const port = await freePort();
  const folder = newFolder(kind);
  const listen = `127.0.0.1:${port}`;
  PROXIES[kind].write({ folder, listen, tls: tls && certificate(folder), nodes, workers });
  const { log, signal } = await runProgram(PROXIES[kind].command(folder), { folder, port, t });
  const { app, host } = nodes.find(({ app }) => app);
  const { id: appId, key, secret } = app;
  const api = new Pusher({ appId, key, secret, host, port, useTLS: tls, encryptionMasterKeyBase64: masterKey });
  return { kind, app, host, port, api, log, signal };
}

/** A file of the project with `words` exchanged and for these nodes; those beyond the second stand wherever that does. */
function shipped(name, nodes, words) {
  const [first, ...others] = nodes.map((node) => `${node.host}:${node.port}`);
  let text = read(name);
  if (first) {
    const named = (line, address, index) => line.replace('gema-2:6001', address).replace('gema-2', `gema-${index + 2}`);
    text = exchange(name, text, 'gema-1:6001', first).split('\n').flatMap((line) =>
      line.includes('gema-2:6001') ? others.map((address, index) => named(line, address, index)) : [line]).join('\n');
  }
  return Object.entries(words).reduce((text, [word, own]) => exchange(name, text, word, own), text);
}

function exchange(name, text, word, own) {
  if (!text.includes(word)) throw new Error(`${name} has no ${word}`);
  return text.replaceAll(word, own);
}

/** The certificate, its key, and both in one, as files in the folder. */
function certificate(folder) {
  const files = { certificate: 'certificate.pem', key: 'key.pem', both: 'both.pem' };
  const text = read('tests/it/tls/certificate.pem');
  const encrypted = read('tests/it/tls/encrypted.key');
  const key = createPrivateKey({ key: encrypted, passphrase: 'hush' }).export({ type: 'pkcs8', format: 'pem' });
  writeFileSync(join(folder, files.certificate), text);
  writeFileSync(join(folder, files.key), key);
  writeFileSync(join(folder, files.both), text + key);
  return Object.fromEntries(Object.entries(files).map(([name, file]) => [name, join(folder, file)]));
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
