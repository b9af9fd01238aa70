// One row of the live log: fixed columns, and its fields when it is opened.

import { h, name, put, visible } from './dom.js';
import { absolute, clock } from './format.js';
import { button, copyButton, icon } from './parts.js';
import { echoLine } from './echo.js';
import { t } from './words.js';

/** @type {Record<string, string>} */
const ICONS = {
	connect: '→',
	disconnect: '←',
	subscribe: '+',
	unsubscribe: '−',
	publish: '↑',
	client_event: '⇄',
	sign_in: '●',
	refusal: '✕',
	webhook: '↗',
	log: '≡',
};
const FIELD_MAX = 2048;

export const KINDS = Object.keys(ICONS);

/** Rows of before a restart of the server have the same numbers. */
let made = 0;

export function rowElements(row, toggled) {
	const id = `row-${(made += 1)}`;
	const opener = button(clock(row.at_ms, true), () => {}, 'plain opener', { 'aria-expanded': 'false', 'aria-controls': id });
	const cells = [
		h('td', { title: absolute(row.at_ms) }, opener),
		h('td', h('span', { class: `kind kind-${row.kind}` }, icon(ICONS[row.kind] ?? '·'), row.kind)),
		h('td', cell(row.app, 16)),
		h('td', cell(row.channel, 30)),
		h('td', cell(row.event ?? row.user, 28)),
		h('td', name(row.text, 90)),
	];
	const line = h('tr', { class: `row level-${row.level ?? 'info'}`, onclick: toggle }, cells);
	const inside = h('td', { colspan: cells.length });
	const fields = h('tr', { class: 'fields', id, hidden: true }, inside);
	function toggle() {
		// Somebody selects a text to copy it.
		if (String(getSelection())) return;
		fields.hidden = !fields.hidden;
		opener.setAttribute('aria-expanded', String(!fields.hidden));
		if (!fields.hidden) put(inside, opened(row));
		toggled(row, !fields.hidden);
	}
	return { line, fields };
}

const cell = (value, max) => (value ? name(value, max) : '');

function opened(row) {
	const { id: _, at_ms: at, kind, text, fields, ...known } = row;
	const all = Object.entries({ ...known, ...fields }).filter(([, value]) => (value ?? '') !== '');
	const time = ['time', new Date(at).toISOString()];
	// Each on a line of its own, whatever is in it.
	const plain = [time, ['kind', kind], ['text', text], ...all].map(([key, value]) => `${key}: ${visible(value)}`);
	const pairs = all.map(([key, value]) => [h('dt', key), h('dd', name(value, FIELD_MAX))]);
	const hears = row.channel && row.event ? echoLine(row.channel, row.event) : undefined;
	return [
		h('dl.pairs', h('dt', t('time')), h('dd', absolute(at)), h('dt', t('text')), h('dd', name(text, FIELD_MAX)), pairs.flat()),
		hears && h('p', `${t('hears')} `, h('code', name(hears, 300)), ' ', copyButton(hears)),
		h('p.actions', copyButton(plain.join('\n'))),
	];
}
