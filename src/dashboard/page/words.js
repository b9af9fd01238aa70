// The page's words, in the browser's language.

import { causes } from './causes_id.js';
import { first } from './words_a.js';
import { last } from './words_n.js';

/** @typedef {keyof typeof first | keyof typeof last} Word */

/** Malay readers understand Indonesian better than English. */
const INDONESIAN = /^(id|ms|jv|su)\b/;

/** The first of the browser's languages that the page has. */
export const language = navigator.languages.map(known).find((found) => found) ?? 'en';

function known(tag) {
  return INDONESIAN.test(tag) ? 'id' : tag.startsWith('en') ? 'en' : undefined;
}

const place = language === 'id' ? 1 : 0;
/** @type {Record<string, string[]>} */
const words = { ...first, ...last };

/**
 * A sentence with its values: `{name}` is the value, `{name?page|pages}` the word for one or for many.
 * @param {Word} word
 * @param {Record<string, unknown>} [values]
 */
export function t(word, values = {}) {
  return words[word][place].replace(/\{(\w+)(?:\?([^|}]*)\|([^}]*))?\}/g, (_, key, one, many) => {
    const value = values[key];
    return many === undefined ? String(value ?? '–') : String(value) === '1' ? one : many;
  });
}

/** Like `t` for a word that may be unknown, such as the server's code. @param {Record<string, unknown>} [values] */
export const maybe = (word, values) => (Object.hasOwn(words, word) ? t(/** @type {Word} */ (word), values) : undefined);

/** The sentence and the remedy of a cause: translated, or the server's. @param {Problem} problem @returns {string[]} */
export function causeWords({ code, sentence, remedy }) {
  return (language === 'id' && causes[code]) || [sentence, remedy ?? ''];
}
