// The page's words, in the browser's language.

import { causes, glances } from './causes_id.js';
import { first } from './words_a.js';
import { last } from './words_n.js';

/** Malay readers understand Indonesian better than English. */
const INDONESIAN = /^(id|ms|jv|su)\b/;

/** The first of the browser's languages that the page has. */
export const language = navigator.languages.map(known).find((found) => found) ?? 'en';

function known(tag) {
	return INDONESIAN.test(tag) ? 'id' : tag.startsWith('en') ? 'en' : undefined;
}

const place = language === 'id' ? 1 : 0;
/** @type {Record<string, string>} */
const words = { ...first, ...last };

/**
 * A sentence with its values.
 * @param {Word} word
 */
export const t = (word, values = {}) => filled(words[word].split('|')[place], values);

const filled = (text, values) =>
	text.replace(/\{(\w+)(?:\?([^/}]*)\/([^}]*))?\}/g, (_, key, one, many) =>
		many === undefined ? String(values[key] ?? '–') : String(values[key]) === '1' ? one : many,
	);

/** Like `t` for a word that may be unknown. @returns {string | undefined} */
export const maybe = (word) => words[word]?.split('|')[place];

/** The sentence and the remedy of a cause: translated, or the server's. @param {Problem} problem */
export function causeWords({ code, sentence, remedy }) {
	const [translated, todo] = (language === 'id' && causes[code]?.split('|')) || [sentence, remedy ?? ''];
	return [translated, todo ?? remedy?.replace(/^raise/, 'naikkan').replace(' or ', ' atau ').replace(' of the app', ' aplikasi') ?? ''];
}

/** The sentence on top. @param {Glance} glance @param {Record<string, unknown>} values as they are shown @param {Problem[]} problems */
export function glanceWords({ code, text }, values, problems) {
	const translated = language === 'id' && glances[code];
	if (!translated) return text.replace(/(\d),(?=\d{3})/g, '$1\u202f');
	const problem = problems.find(({ sentence }) => sentence === values.sentence);
	return filled(translated, problem ? { ...values, sentence: causeWords(problem)[0] } : values);
}
