// A headless Chromium, told over its own DevTools protocol what to open. It reaches nothing but this machine.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import WebSocket from 'ws';
import { within } from './wait.js';

const FLAGS = [
  '--headless=new',
  '--remote-debugging-port=0',
  '--no-first-run',
  '--disable-gpu',
  // As on a phone and in pictures: they take no room.
  '--hide-scrollbars',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--disable-dev-shm-usage',
  '--window-size=900,700',
  // Tests may run as root, and no page is a stranger's.
  '--no-sandbox',
  // A page that comes from no address would have to ask before it may speak to this machine.
  '--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets',
];

/** How long a browser may take to start on a busy machine. */
const START_MS = 120_000;

/**
 * Opens a page and closes it after the test. `files` answers the page's requests by their whole URLs, each with its type
 * and its text. `hosts` says which address a host and port of the page stand for.
 */
export async function openPage(t, { url, files, hosts }) {
  const browser = await startBrowser(t, { hosts });
  return browser.open(url, files);
}

/** Starts a browser for a test, or for the tests of a file if `t` is what `node:test` exports. */
export async function startBrowser(t, { hosts = {}, language = 'en' } = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'gema-chromium-'));
  const maps = Object.entries(hosts).map(([host, address]) => `MAP ${host} ${address}`);
  const rules = [...maps, 'MAP * ~NOTFOUND', 'EXCLUDE 127.0.0.1'].join(', ');
  const own = [`--user-data-dir=${folder}`, `--host-resolver-rules=${rules}`, `--accept-lang=${language}`];
  const child = spawn('chromium', [...FLAGS, ...own], { stdio: ['ignore', 'ignore', 'pipe'] });
  const kill = () => child.kill('SIGKILL');
  process.once('exit', kill);
  const ended = new Promise((resolve) => child.once('close', resolve));
  t.after(async () => {
    kill();
    await ended;
    process.removeListener('exit', kill);
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  });
  const lines = createInterface({ input: child.stderr });
  const address = new Promise((resolve, reject) => {
    lines.on('line', (line) => line.startsWith('DevTools listening on ') && resolve(line.split(' ').at(-1)));
    child.once('error', reject);
    child.once('exit', (code) => reject(new Error(`Chromium ended with ${code}`)));
  });
  const browser = new Devtools(await within(address, 'Chromium starts', START_MS));
  await once(browser.socket, 'open');
  t.after(() => browser.socket.terminate());
  return browser;
}

class Devtools {
  #calls = new Map();
  #last = 0;
  listeners = [];
  #tabs = [];

  constructor(address) {
    this.socket = new WebSocket(address, { perMessageDeflate: false });
    this.socket.on('message', (text) => {
      const message = JSON.parse(text);
      const call = this.#calls.get(message.id);
      this.#calls.delete(message.id);
      if (!call) return this.listeners.forEach((listen) => listen(message));
      if (message.error) call.reject(new Error(`${call.method}: ${message.error.message}`));
      else call.resolve(message.result);
    });
  }

  /** Opens a page in a tab of its own. Without `files` it gets what the servers of this machine answer. */
  async open(url, files) {
    const { targetId } = await this.call('Target.createTarget', { url: 'about:blank' });
    this.#tabs.push(targetId);
    const { sessionId } = await this.call('Target.attachToTarget', { targetId, flatten: true });
    return new Page(this, sessionId).open(url, files);
  }

  /** Closes all tabs, with their connections: a browser opens six to a host at most. */
  async closeTabs() {
    for (const targetId of this.#tabs.splice(0)) await this.call('Target.closeTarget', { targetId });
  }

  call(method, params, sessionId) {
    const id = (this.#last += 1);
    const answer = new Promise((resolve, reject) => this.#calls.set(id, { method, resolve, reject }));
    this.socket.send(JSON.stringify({ id, method, params, sessionId }));
    return within(answer, method, START_MS);
  }
}

class Page {
  /** The texts that the page has written to its console, and its errors. */
  said = [];
  errors = [];
  /** The headers of the answers to its WebSocket handshakes. */
  handshakes = [];
  /** The URLs that it has asked for. */
  requests = [];
  #browser;
  #session;

  constructor(browser, session) {
    this.#browser = browser;
    this.#session = session;
  }

  #call(method, params = {}) {
    return this.#browser.call(method, params, this.#session);
  }

  async open(url, files) {
    this.#browser.listeners.push(({ method, params, sessionId }) => {
      if (sessionId !== this.#session) return;
      if (method === 'Fetch.requestPaused') this.#answer(params, files).catch((error) => this.errors.push(error.message));
      if (method === 'Network.webSocketHandshakeResponseReceived') this.handshakes.push(params.response.headers);
      if (method === 'Network.requestWillBeSent') this.requests.push(params.request.url);
      if (method === 'Network.webSocketCreated') this.requests.push(params.url);
      if (method === 'Log.entryAdded' && params.entry.level === 'error') this.errors.push(`${params.entry.text} ${params.entry.url ?? ''}`);
      if (method === 'Runtime.exceptionThrown') this.errors.push(params.exceptionDetails.exception?.description);
      if (method !== 'Runtime.consoleAPICalled') return;
      const text = params.args.map(({ value, description }) => String(value ?? description)).join(' ');
      (params.type === 'error' ? this.errors : this.said).push(text);
    });
    await this.#call('Runtime.enable');
    await this.#call('Network.enable');
    await this.#call('Page.enable');
    await this.#call('Log.enable');
    if (files) await this.#call('Fetch.enable', { patterns: [{ urlPattern: 'http*' }] });
    await this.go(url);
    return this;
  }

  async go(url) {
    await this.#call('Page.navigate', { url });
  }

  /** A screen of this size in pixels, light or dark. */
  async show({ width, height, scheme = 'light' }) {
    await this.#call('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: scheme }] });
    await this.#call('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: width < 500 });
  }

  /** Presses a key, such as `Tab`, `Enter` or `a`. */
  async press(key) {
    const code = { Tab: 9, Enter: 13, Escape: 27, ArrowLeft: 37, ArrowUp: 38, ArrowRight: 39, ArrowDown: 40 }[key];
    const text = key === 'Enter' ? '\r' : key.length === 1 ? key : undefined;
    await this.#call('Input.dispatchKeyEvent', { type: 'keyDown', key, text, windowsVirtualKeyCode: code });
    await this.#call('Input.dispatchKeyEvent', { type: 'keyUp', key, windowsVirtualKeyCode: code });
  }

  /** Moves the pointer to a place of the window. */
  async point(x, y) {
    await this.#call('Input.dispatchMouseEvent', { type: 'mouseMoved', x, y });
  }

  /** Writes a text into the element that has the focus. */
  async write(text) {
    await this.#call('Input.insertText', { text });
  }

  async #answer({ requestId, request }, files) {
    const [type, text] = files[request.url] ?? ['text/plain', undefined];
    // The browser itself wants an icon; a page that has none is no error.
    const missing = request.url.endsWith('/favicon.ico') ? 204 : 404;
    await this.#call('Fetch.fulfillRequest', {
      requestId,
      responseCode: text === undefined ? missing : 200,
      responseHeaders: [{ name: 'Content-Type', value: `${type}; charset=utf-8` }],
      body: Buffer.from(text ?? '').toString('base64'),
    });
  }

  /** The value of an expression in the page. */
  async evaluate(expression) {
    const options = { expression, returnByValue: true, awaitPromise: true };
    const { result, exceptionDetails } = await this.#call('Runtime.evaluate', options);
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  /** A picture of the page as PNG, also of what is below the window if it is to be `whole`. */
  async picture({ whole = false, format = 'png' } = {}) {
    const { cssContentSize } = await this.#call('Page.getLayoutMetrics');
    const clip = whole ? { clip: { ...cssContentSize, scale: 1 }, captureBeyondViewport: true } : {};
    const { data } = await this.#call('Page.captureScreenshot', { format, ...clip });
    return Buffer.from(data, 'base64');
  }
}
