// The proxies that have files in config/, with these files in front of several nodes.

import { execFile, spawn } from 'node:child_process';
import { createPrivateKey } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import Pusher from 'pusher';
import { masterKey } from './gema.js';
import { nginxCommand, OWN_PATHS } from './nginx.js';
import { freePort, newFolder, runProgram } from './program.js';
import { until, within } from './wait.js';

const here = import.meta.dirname ?? new URL('.', import.meta.url).pathname;
const project = new URL('../../', import.meta.url);
const read = (name) => readFileSync(new URL(name, project), 'utf8');

/** How each proxy is started with its files, which `write` puts into the folder; `reload` has it read them again. */
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
    reload: ({ newWorker }) => newWorker('SIGHUP'),
  },
  haproxy: {
    write({ folder, listen, tls, nodes }) {
      const words = { 'user haproxy': '', 'group haproxy': '', 'maxconn 50000': 'maxconn 1000' };
      words['bind :80'] = tls ? `bind ${listen} ssl crt ${tls.both} alpn http/1.1` : `bind ${listen}`;
      writeFileSync(join(folder, 'haproxy.cfg'), shipped('config/haproxy.cfg', nodes, words));
    },
    command: (folder) => ['haproxy', '-W', '-f', join(folder, 'haproxy.cfg')],
    reload: ({ newWorker }) => newWorker('SIGUSR2'),
  },
  caddy: {
    write({ folder, listen, tls, nodes }) {
      const own = tls ? `https://${listen} {\ntls ${tls.certificate} ${tls.key}` : `http://${listen} {`;
      const text = shipped('config/Caddyfile', nodes, { '\ngema.example {': `\n${own}` });
      // Its port for orders would be the same for each Caddy of the machine.
      const options = `{\nadmin unix/${folder}/admin\nauto_https disable_redirects\n}`;
      writeFileSync(join(folder, 'Caddyfile'), `${options}\n${text}`);
    },
    command: (folder) => ['caddy', 'run', '--config', join(folder, 'Caddyfile')],
    reload: ({ folder }) => promisify(execFile)('caddy', ['reload', '--force', '--config', join(folder, 'Caddyfile')]),
  },
  traefik: {
    write({ folder, listen, tls, nodes }) {
      mkdirSync(join(folder, 'dynamic'));
      const address = `address: "${listen}"${tls ? '\n    http: { tls: {} }' : ''}`;
      const words = { 'address: ":80"': address, '/etc/traefik/dynamic': join(folder, 'dynamic') };
      // Pages may be there when the test ends.
      words['graceTimeOut: 10s'] = 'graceTimeOut: 0s';
      writeFileSync(join(folder, 'traefik.yaml'), shipped('config/traefik.yaml', [], words));
      const pair = tls ? `tls: { certificates: [{ certFile: ${tls.certificate}, keyFile: ${tls.key} }] }\n` : '';
      writeFileSync(join(folder, 'dynamic/gema.yaml'), shipped('config/traefik-gema.yaml', nodes, {}) + pair);
    },
    command: (folder) => [installed('traefik'), `--configFile=${join(folder, 'traefik.yaml')}`],
    async reload({ folder, url }) {
      const file = join(folder, 'dynamic/gema.yaml');
      writeFileSync(file, exchange(file, readFileSync(file, 'utf8'), 'PathPrefix(`/apps/`)', 'PathPrefix(`/`)'));
      await until(async () => (await fetch(`${url}/ready`)).ok, 'Traefik leads to another path, too');
    },
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
  const program = await runProgram(PROXIES[kind].command(folder), { folder, port, t });
  const { log } = program;
  const { app, host } = nodes.find(({ app }) => app);
  const { id: appId, key, secret } = app;
  const api = new Pusher({ appId, key, secret, host, port, useTLS: tls, encryptionMasterKeyBase64: masterKey });
  // Some listen before they have read where their nodes are.
  const answers = () => api.get({ path: '/channels' }).then(({ status }) => status === 200, () => false);
  await until(answers, `gema answers through ${kind}`).catch((error) => {
    throw new Error(`${error.message}\n${log()}`);
  });
  const reload = () => PROXIES[kind].reload({ ...program, folder, url: `http://${listen}` });
  return { kind, app, host, port, api, log, reload };
}

/** A program that came with the packages for Python. */
function installed(name) {
  const places = ['.venv/bin', '.venv/packages/bin'].map((place) => join(here, place, name));
  const file = places.find((place) => existsSync(place));
  if (!file) throw new Error(`${name} is needed: tests/clients/run installs it`);
  return file;
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
