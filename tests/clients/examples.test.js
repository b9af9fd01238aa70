// The examples, started as their README says: their gema.toml, their application, and their pages in a DOM.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { after } from 'node:test';
import { JSDOM } from 'jsdom';
import { startGema } from './gema.js';
import { test, until, within } from './wait.js';

const folder = new URL('../../examples/', import.meta.url);
const read = (name) => readFileSync(new URL(name, folder), 'utf8');

/** Starts gema and the application of an example; answers how a page is opened. */
async function startExample(name, id) {
  const app = { id, key: `${id}-key`, secret: 'change-this-secret' };
  const config = read(`${name}/gema.toml`);
  for (const value of Object.values(app)) assert.ok(config.includes(`= "${value}"`), `${name}/gema.toml has no ${value}`);
  const env = { SOKETI_PORT: '0' };
  const gema = await startGema({ config, app, env, t: { after } });
  const script = new URL(`${name}/server.js`, folder).pathname;
  const child = spawn(process.execPath, [script], {
    env: { PATH: process.env.PATH, PORT: '0', GEMA_PORT: String(gema.port) },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  after(() => child.kill('SIGTERM'));
  const line = new Promise((resolve) => createInterface({ input: child.stdout }).once('line', resolve));
  const url = await within(line, `${name}/server.js says where it is`, 20_000);
  return { gema, url, open: (t) => openPage(t, url) };
}

/** A page with its scripts, as a browser loads it. */
async function openPage(t, url) {
  const dom = await JSDOM.fromURL(url, {
    runScripts: 'dangerously',
    resources: 'usable',
    // The one thing that jsdom lacks.
    beforeParse: (window) => (window.fetch = (path, options) => fetch(new URL(path, url), options)),
  });
  const { window } = dom;
  t.after(() => window.close());
  await until(() => window.document.readyState === 'complete', 'the page is loaded');
  return new Page(window);
}

class Page {
  constructor(window) {
    this.window = window;
    this.document = window.document;
  }

  text(selector) {
    return this.document.querySelector(selector).textContent;
  }

  texts(selector) {
    return [...this.document.querySelectorAll(selector)].map(({ textContent }) => textContent);
  }

  fill(selector, value) {
    const field = this.document.querySelector(selector);
    field.value = value;
    field.dispatchEvent(new this.window.Event('input', { bubbles: true }));
  }

  submit(selector) {
    this.document.querySelector(`${selector} button`).click();
  }

  /** Waits until the elements have these texts. */
  async shows(selector, texts) {
    await until(() => String(this.texts(selector)) === String(texts), `${selector} shows ${texts}`).catch((error) => {
      throw new Error(`${error.message}, not ${this.texts(selector)}; state: ${this.text('#state')}`);
    });
  }
}

const chat = await startExample('chat', 'chat');

async function enter(t, name) {
  const page = await chat.open(t);
  page.fill('#enter input', name);
  page.submit('#enter');
  await until(() => page.texts('#members li').includes(name), `${name} is here`);
  return page;
}

test('the chat shows who is here, who types and what is said', async (t) => {
  const ada = await enter(t, 'Ada');
  await ada.shows('#members li', ['Ada']);
  const budi = await enter(t, 'Budi');
  for (const page of [ada, budi]) await page.shows('#members li', ['Ada', 'Budi']);
  assert.equal(ada.text('#count'), '2');
  assert.equal(ada.text('#state'), 'connected');

  budi.fill('#say input', '<b>Halo</b>');
  await ada.shows('#typing', ['Budi is typing …']);
  assert.equal(budi.text('#typing'), '');
  budi.submit('#say');
  for (const page of [ada, budi]) await page.shows('#messages li', ['Budi<b>Halo</b>']);
  ada.fill('#say input', 'Hi');
  ada.submit('#say');
  for (const page of [ada, budi]) await page.shows('#messages li', ['Budi<b>Halo</b>', 'AdaHi']);

  budi.window.close();
  await ada.shows('#members li', ['Ada']);
});

test('the chat lets nobody in who has not entered', async () => {
  const body = 'socket_id=1.1&channel_name=presence-chat';
  const headers = { 'Content-Type': 'application/x-www-form-urlencoded' };
  const ask = (token) =>
    fetch(`${chat.url}/broadcasting/auth`, { method: 'POST', body, headers: { ...headers, Authorization: `Bearer ${token}` } });
  assert.equal((await ask('made-up')).status, 403);
});

const clinics = await startExample('clinics', 'clinics');

async function signIn(t, name) {
  const page = await clinics.open(t);
  page.fill('#sign-in select', name);
  page.submit('#sign-in');
  await until(() => page.text('#state') === 'connected', `${name} is connected`);
  return page;
}

test('a warehouse sees the requests of its group, a clinic its own', async (t) => {
  const pages = {};
  for (const name of ['K001', 'K002', 'K003', 'gudang A', 'gudang B']) pages[name] = await signIn(t, name);
  const request = async (clinic, goods) => {
    pages[clinic].fill('#request input', goods);
    pages[clinic].submit('#request');
    await until(() => pages[clinic].texts('td').includes(goods), `${clinic} sees its request`);
  };
  await request('K001', 'gloves');
  await request('K002', 'masks');
  await request('K003', 'soap');
  const first = ['1', 'K001', 'gloves', 'requested'];
  const second = ['2', 'K002', 'masks', 'requested'];
  const third = ['3', 'K003', 'soap', 'requested'];
  const seenByWarehouse = (row) => [...row.slice(0, 3), 'Send'];
  await pages['gudang A'].shows('td', [...seenByWarehouse(second), ...seenByWarehouse(first)]);
  await pages['gudang B'].shows('td', seenByWarehouse(third));
  await pages.K001.shows('td', first);
  await pages.K002.shows('td', second);
  await pages.K003.shows('td', third);

  pages['gudang A'].document.querySelector('#request-1 button').click();
  await pages.K001.shows('td', ['1', 'K001', 'gloves', 'sent']);
  await pages['gudang A'].shows('#request-1 td', ['1', 'K001', 'gloves', 'sent']);
  // Who comes later finds all of it in the database.
  const later = await signIn(t, 'gudang A');
  await later.shows('td', [...seenByWarehouse(second), '1', 'K001', 'gloves', 'sent']);
});

test('a clinic hears neither another clinic nor a warehouse', async (t) => {
  const { token } = await (
    await fetch(`${clinics.url}/sign-in`, {
      method: 'POST',
      body: JSON.stringify({ name: 'K001' }),
      headers: { 'Content-Type': 'application/json' },
    })
  ).json();
  const page = await clinics.open(t);
  const echo = new page.window.Echo.default({
    broadcaster: 'pusher',
    key: clinics.gema.app.key,
    cluster: 'mt1',
    wsHost: '127.0.0.1',
    wsPort: clinics.gema.port,
    forceTLS: false,
    enabledTransports: ['ws'],
    authEndpoint: '/broadcasting/auth',
    bearerToken: token,
  });
  t.after(() => echo.disconnect());
  const status = (channel) => within(new Promise((resolve) => channel.error((error) => resolve(error.status))), 'a refusal');
  // The application refuses what is signed, gema's rule what is not.
  for (const name of ['permintaan-barang.K002', 'gudang.A']) {
    assert.equal(await status(echo.private(name)), 403, name);
    assert.equal(await status(echo.channel(name)), 403, name);
  }
});
