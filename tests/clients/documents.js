// Examples of README.md and docs/, ready to be done to the letter.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';

/** The text of a document. */
export const text = (document) => readFileSync(new URL(`../../docs/${document}`, import.meta.url), 'utf8');

/** The code blocks of a document in a language. */
export function blocks(document, language) {
  return text(document).split('```' + language + '\n').slice(1).map((rest) => rest.split('```')[0]);
}

/** The first code block of a document that contains `text`. */
export function block(document, language, text) {
  const found = blocks(document, language).find((code) => code.includes(text));
  assert.ok(found, `docs/${document} has no ${language} block with ${text}`);
  return found;
}

/** Runs lines of a page; answers the value of `result`. */
export function run(code, result, names) {
  const body = `${code.replace(/^import .*$/gm, '')}; return ${result};`;
  return new Function(...Object.keys(names), body)(...Object.values(names));
}
