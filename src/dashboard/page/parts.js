// Pieces of several panels: tables, buttons, notes, badges, fields.

import { h, name, put, visible } from './dom.js';
import { number, time } from './format.js';
import { t } from './words.js';

const DONE_MS = 2000;

/** States differ not only by colour. @type {Record<Look, string>} */
export const ICONS = { ok: '✓', warn: '▲', bad: '✕', quiet: '○' };

export const icon = (sign) => h('span', { 'aria-hidden': 'true' }, `${sign} `);

/** @param {Look} level */
export const badge = (level, word) => h('span', { class: `badge ${level}` }, icon(ICONS[level]), word);

/** @param {Word} title */
export const section = (title, ...children) => h('section.panel', h('h2', t(title)), ...children);

/** What an empty table teaches. */
export const empty = (...children) => h('p.empty', ...children);

/**
 * A table that scrolls sideways by itself where it is too wide. A column that begins with `#` has numbers; one without a
 * word is left out. Without rows, it is what `none` teaches.
 * @param {Word} caption for screen readers
 * @param {(Word | `#${Word}` | false)[]} columns
 * @param {Children[][]} rows
 */
export function table(caption, columns, rows, ...none) {
	if (!rows.length && none.length) return empty(...none);
	const kind = (index) => ({ class: String(columns[index]).startsWith('#') && 'number' });
	const cells = (row, cellOf) => h('tr', row.map((cell, index) => columns[index] && cellOf(cell, index)));
	const head = cells(columns, (word, index) => h('th', { scope: 'col', ...kind(index) }, t(word.replace('#', ''))));
	const body = rows.map((row) => cells(row, (cell, index) => h('td', kind(index), cell)));
	return scrolling(t(caption), h('table', h('thead', head), h('tbody', body)));
}

export const scrolling = (caption, content) => h('div.scroll', { tabindex: 0, role: 'region', 'aria-label': caption }, content);

/** A button that submits nothing. */
export const button = (content, onclick, kind = 'small', more = {}) => h('button', { type: 'button', class: kind, onclick, ...more }, content);

/** A text field that corrects nothing. */
export function textField(value = '', more = {}) {
	const field = h('input', { autocomplete: 'off', autocapitalize: 'off', spellcheck: 'false', ...more });
	field.value = value;
	return field;
}

/** A field with its label. @param {Word} label @param {Word} [hint] */
export const labelled = (label, field, hint) => h('label.field', h('span', t(label)), field, hint && h('small', t(hint)));

export const select = (key, choices, wordOf = (choice) => choice) =>
	h('select', { name: key }, choices.map((choice) => h('option', { value: choice }, wordOf(choice))));

/** Lines without characters that nobody sees. */
export const visibleLines = (text) => text.split('\n').map(visible).join('\n');

/** A button that copies a text, without anything invisible. */
export function copyButton(source, label = t('copy')) {
	const text = visibleLines(source);
	const own = button(label, copy);
	async function copy() {
		const isDone = await navigator.clipboard?.writeText(text).then(() => true, () => false);
		own.textContent = t(isDone || copySelected(text) ? 'copied' : 'copy.failed');
		setTimeout(() => (own.textContent = label), DONE_MS);
	}
	return own;
}

/** A page without TLS has no other clipboard. */
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
	h('div.snippet', h('p', h('span.muted', place), copyButton(text)), h('pre', { tabindex: 0 }, h('code', visibleLines(text))));

/** A value against its limit: a bar, and both in figures. @param {Word} label */
export function bar(label, value, max) {
	if (!max) return h('span', number(value), h('span.muted', ` ${t('no.limit')}`));
	const share = Math.min((value ?? 0) / max, 1);
	const level = share >= 0.95 ? 'bad' : share >= 0.8 ? 'warn' : 'ok';
	const fill = h('span', { class: level });
	fill.style.setProperty('--share', String(share));
	const words = `${number(value)} / ${number(max)}`;
	return h('span', { role: 'img', 'aria-label': `${t(label)}: ${words}` }, h('span.bar', fill), level !== 'ok' && `${ICONS[level]} `, words);
}

export function answerPlace() {
	const element = h('div', { role: 'status' });
	/** @param {Look} level */
	const say = (level, ...children) => put(element, h('p', { class: `note ${level}` }, icon(ICONS[level]), ...children));
	return { element, say, fail: (error) => say('bad', error.message), clear: () => put(element) };
}

/** A button that asks once more in its own place before it acts. */
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

/** When a panel has asked, with a button to ask again. */
export const asOf = (atMs, again) => h('p.muted', t('as.of'), ' ', time(atMs), ' ', button(t('refresh'), again));

export const nameOr = (value, max) => (value ? name(value, max) : '–');

/** The address of a panel with its filter. */
export const at = (panel, words) => `#${panel}${words && `?${encodeURIComponent(words)}`}`;

export const linkButton = (href, label) => h('a.button.small', { href }, label);

/** How many of all are shown, if not all. */
export const shownOf = (shown, total) => total > shown && h('p.muted', t('shown.of', { n: number(shown), total: number(total) }));

/** Keeps the URL in step with the fields of the panel, unless it has been left. */
export function share(href) {
	if (location.hash.split('?')[0] === href.split('?')[0]) history.replaceState(null, '', href);
}

/**
 * Shows the answers to questions in a place, unless a later question has overtaken them.
 * @param {ReturnType<typeof answerPlace>} answer
 */
export function asker(place, answer) {
	let last = 0;
	return async (question, shown) => {
		const own = (last += 1);
		const [found, error] = await question.then((found) => [found], (error) => [undefined, error]);
		if (own !== last) return;
		if (error) return answer.fail(error);
		answer.clear();
		put(place, shown(found));
	};
}

/**
 * A form in a row that is busy while it acts on the values of its fields.
 * @param {HTMLElement[]} fields
 */
export function form(label, fields, { fail }, act) {
	const submit = h('button', { type: 'submit' }, label);
	async function onsubmit(event) {
		event.preventDefault();
		submit.disabled = true;
		const values = [...new FormData(event.target)].map(([key, value]) => [key, String(value).trim()]);
		await act(Object.fromEntries(values)).catch(fail);
		submit.disabled = false;
	}
	return h('form.form-row', { onsubmit }, fields, submit);
}
