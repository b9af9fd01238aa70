// Pieces that several panels are made of: tables, buttons, notes, badges, fields.

import { h, name, put, visible } from './dom.js';
import { number, time } from './format.js';
import { t } from './words.js';

/** How long a button says that it has done its work. */
const DONE_MS = 2000;

/** States are told apart by their icons, not only by colour. @type {Record<Look, string>} */
export const ICONS = { ok: '✓', warn: '▲', bad: '✕', quiet: '○' };

/** A sign for eyes; the word beside it says the same. */
export const icon = (sign) => h('span', { 'aria-hidden': 'true' }, `${sign} `);

/** @param {Look} level */
export const badge = (level, word) => h('span', { class: `badge ${level}` }, icon(ICONS[level]), word);

/** @param {Word} title @param {...Children} children */
export const section = (title, ...children) => h('section.panel', h('h2', t(title)), ...children);

/** What an empty table teaches. @param {...Children} children */
export const empty = (...children) => h('p.empty', ...children);

/**
 * A table that scrolls sideways by itself where it is too wide. A column that begins with `#` has numbers; one without a
 * word is left out.
 * @param {Word} caption for screen readers
 * @param {(Word | `#${Word}` | false)[]} columns
 * @param {Children[][]} rows
 */
export function table(caption, columns, rows) {
	const kind = (index) => ({ class: String(columns[index]).startsWith('#') && 'number' });
	const cells = (row, cellOf) => h('tr', row.map((cell, index) => columns[index] && cellOf(cell, index)));
	const head = cells(columns, (word, index) => h('th', { scope: 'col', ...kind(index) }, t(word.replace('#', ''))));
	const body = rows.map((row) => cells(row, (cell, index) => h('td', kind(index), cell)));
	return scrolling(t(caption), h('table', h('thead', head), h('tbody', body)));
}

export const scrolling = (caption, content) => h('div.scroll', { tabindex: 0, role: 'region', 'aria-label': caption }, content);

/** A button that submits nothing. @param {any} content @param {() => void} onclick */
export const button = (content, onclick, kind = 'small', more = {}) => h('button', { type: 'button', class: kind, onclick, ...more }, content);

export const submitButton = (label) => h('button', { type: 'submit' }, label);

/** A text field that corrects nothing. */
export function textField(value = '', more = {}) {
	const field = h('input', { autocomplete: 'off', autocapitalize: 'off', spellcheck: 'false', ...more });
	field.value = value;
	return field;
}

/** A field with its label. @param {Word} label @param {HTMLElement} field @param {Word} [hint] */
export const labelled = (label, field, hint) => h('label.field', h('span', t(label)), field, hint && h('small', t(hint)));

/** A select with its choices. @param {string[]} choices */
export const select = (key, choices, wordOf = (choice) => choice) =>
	h('select', { name: key }, choices.map((choice) => h('option', { value: choice }, wordOf(choice))));

/** A button that copies a text. */
export function copyButton(text, label = t('copy')) {
	const own = button(label, copy);
	async function copy() {
		const isDone = await navigator.clipboard?.writeText(text).then(() => true, () => false);
		own.textContent = t(isDone || copySelected(text) ? 'copied' : 'copy.failed');
		setTimeout(() => (own.textContent = label), DONE_MS);
	}
	return own;
}

/** On a page without TLS there is no clipboard but the one of the selection. */
function copySelected(text) {
	const field = h('textarea.unseen');
	const focused = /** @type {HTMLElement | null} */ (document.activeElement);
	field.value = text;
	document.body.append(field);
	field.select();
	const isDone = document.execCommand('copy');
	field.remove();
	focused?.focus();
	return isDone;
}

/** Lines to copy, with the place that they belong to. */
export const snippet = (place, text) =>
	h('div.snippet', h('p', h('span.muted', place), copyButton(text)), h('pre', { tabindex: 0 }, h('code', text.split('\n').map(visible).join('\n'))));

/** A value against its limit: a bar, and both in figures. @param {Word} label @param {number | null} [value] @param {number | null} [max] */
export function bar(label, value, max) {
	if (!max) return h('span', number(value), h('span.muted', ` ${t('no.limit')}`));
	const share = Math.min((value ?? 0) / max, 1);
	const level = share >= 0.95 ? 'bad' : share >= 0.8 ? 'warn' : 'ok';
	const fill = h('span', { class: level });
	fill.style.setProperty('--share', String(share));
	const words = `${number(value)} / ${number(max)}`;
	return h('span', { role: 'img', 'aria-label': `${t(label)}: ${words}` }, h('span.bar', fill), level !== 'ok' && `${ICONS[level]} `, words);
}

/** A place for an answer that screen readers read out. */
export function answerPlace() {
	const element = h('div', { role: 'status' });
	/** @param {Look} level @param {...Children} children */
	const say = (level, ...children) => put(element, h('p', { class: `note ${level}` }, icon(ICONS[level]), ...children));
	return { element, say, fail: (error) => say('bad', error.message), clear: () => put(element) };
}

/** A button that asks once more in its own place before it acts; no dialog. @param {() => void} act */
export function carefulButton(label, question, act) {
	const ask = button(label, () => show(no, yes));
	const yes = button(question, () => (show(ask), act()), 'small danger');
	const no = button(t('no'), () => show(ask));
	const place = h('span.careful', ask);
	function show(...buttons) {
		put(place, buttons.reverse());
		buttons.at(-1).focus();
	}
	return place;
}

/** When the figures of a panel were asked for, with a button to ask again. @param {() => void} again */
export const asOf = (atMs, again) => h('p.muted', t('as.of'), ' ', time(atMs), ' ', button(t('refresh'), again));

/** @param {string | null} [value] @param {number} [max] */
export const nameOr = (value, max) => (value ? name(value, max) : '–');

/** The address of a panel with its filter. */
export const at = (panel, words) => `#${panel}${words && `?${encodeURIComponent(words)}`}`;

/** A link that looks like a button. */
export const linkButton = (href, label) => h('a.button.small', { href }, label);

/** How many of all are shown, if not all. */
export const shownOf = (shown, total) => total > shown && h('p.muted', t('shown.of', { n: number(shown), total: number(total) }));

/** Keeps the URL in step with a panel's fields, without a new entry in the browser's history. */
export const share = (href) => history.replaceState(null, '', href);
