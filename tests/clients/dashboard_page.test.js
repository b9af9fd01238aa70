// The files of the operator's page as they are: types, sizes, and nothing that the page must not have.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { test } from './wait.js';

const here = import.meta.dirname ?? new URL('.', import.meta.url).pathname;
const folder = join(here, '../../src/dashboard/page');
const files = readdirSync(folder).map((name) => ({ name, text: readFileSync(join(folder, name), 'utf8') }));
const scripts = files.filter(({ name }) => name.endsWith('.js'));

const BYTES_MAX = 120 * 1024;
const LINES_MAX = 200;

test('the types are right', async () => {
  const tsc = join(here, 'node_modules/.bin/tsc');
  await promisify(execFile)(tsc, ['-p', join(here, '../browser')]).catch(({ stdout }) => assert.fail(stdout));
});

test('all files together are small, and each script is short', () => {
  const bytes = files.reduce((sum, { text }) => sum + Buffer.byteLength(text), 0);
  assert.ok(bytes < BYTES_MAX, `${bytes} bytes`);
  for (const { name, text } of scripts) assert.ok(text.split('\n').length <= LINES_MAX, name);
});

test('nothing makes markup of text, runs text or asks another host', () => {
  const forbidden = /innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setAttribute\('style'|\bstyle:|setTimeout\('/;
  for (const { name, text } of scripts) assert.doesNotMatch(text, forbidden, name);
  // Namespaces, and the examples that stand in fields, are no addresses of the page's own.
  const known = /http:\/\/www\.w3\.org\/2000\/svg|http:\/\/gema_pages|https:\/\/app\.example\.com\/broadcasting\/auth/g;
  for (const { name, text } of files) assert.doesNotMatch(text.replace(known, ''), /https?:\/\/[\w.]/, name);
});

test('each word stands in both languages with the same values', () => {
  const words = /^\t'?([\w.]+)'?: '(.*)\|(.*)',$/gm;
  const values = (text) => [...new Set([...text.matchAll(/\{(\w+)/g)].map(([, key]) => key))].sort();
  let count = 0;
  for (const { name, text } of files.filter(({ name }) => name.startsWith('words_'))) {
    for (const [, key, english, indonesian] of text.matchAll(words)) {
      assert.ok(english && indonesian, key);
      assert.deepEqual(values(indonesian), values(english), `${name}: ${key}`);
      count += 1;
    }
  }
  assert.ok(count > 200, `${count} words`);
});

test('each cause that is translated exists, and those of each day are', () => {
  const source = (name) => readFileSync(join(here, '../../src', name), 'utf8');
  const refusals = [...source('refusal/cause.rs').matchAll(/^ {4}\w+ "(\w+)" \[\d+\]$/gm)].map(([, code]) => code);
  const warnings = [...source('watch/kinds.rs').matchAll(/^ +(?:\("[^"]*", )?"(\w+)",/gm)].map(([, code]) => code);
  const { text } = files.find(({ name }) => name === 'causes_id.js');
  const translated = [...text.split('export const causes')[1].matchAll(/^\t(\w+): ['`]([^|\n]+)(\|.+)?['`],$/gm)].map(([, code]) => code);
  assert.ok(refusals.length > 80 && warnings.length > 15 && translated.length > 50, `${refusals.length}, ${warnings.length}, ${translated.length}`);
  for (const code of translated) assert.ok(refusals.includes(code) || warnings.includes(code), code);
  // What the stories of dashboard_stories.test.js bring about.
  const stories = readFileSync(join(here, 'dashboard_stories.test.js'), 'utf8').matchAll(/code: '(\w+)'/g);
  for (const [, code] of stories) assert.ok(translated.includes(code), `${code} is English on the Indonesian page`);
});
