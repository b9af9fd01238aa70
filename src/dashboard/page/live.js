// The live log: the newest row on top, a filter of words that the URL shares, and a pause under the pointer.

import { h, put } from './dom.js';
import { number } from './format.js';
import { at, button, empty, scrolling, section, share } from './parts.js';
import { KINDS, rowElements } from './row.js';
import { on, state, watch } from './store.js';
import { wordField } from './suggest.js';
import { t } from './words.js';

/** Rows on the page. Older ones leave it. */
const ROWS_MAX = 500;
/** Channels, events and users that the suggestions remember. */
const SEEN_MAX = 200;
/** From the last letter to the new filter. */
const TYPING_MS = 400;

/** @type {OpenPanel} */
export function openLive(root, query) {
	/** What rows have named, for the suggestions. @type {Record<string, Set<string>>} */
	const seen = Object.fromEntries(['channel', 'event', 'user', 'socket', 'address'].map((word) => [word, new Set()]));
	const field = wordField({
		label: t('live.filter'),
		value: query,
		placeholder: 'channel:permintaan-* kind:refusal user:42',
		words: {
			kind: () => KINDS,
			app: () => state().apps.map(({ id }) => id),
			cause: () => [...new Set(state().problems.map(({ code }) => code))],
			level: () => ['debug', 'info', 'warn', 'error'],
			...Object.fromEntries(Object.entries(seen).map(([word, values]) => [word, () => [...values]])),
		},
		changed: filterBy,
		pauseMs: TYPING_MS,
	});
	const list = rowList();
	put(root, section('live.title', h('div.live-head', field.element, list.controls), list.element));

	function filterBy(filter) {
		share(at('live', filter));
		list.clear();
		watch(filter);
	}
	const end = on('rows', (/** @type {{ rows: Row[], left_out?: number }} */ { rows, left_out: leftOut }) => {
		for (const row of rows) for (const word in seen) if (row[word] && seen[word].size < SEEN_MAX) seen[word].add(row[word]);
		list.add(rows, leftOut ?? 0);
	});
	watch(query);
	return () => {
		end();
		watch(undefined);
	};
}

function rowList() {
	const body = h('tbody');
	const columns = /** @type {const} */ (['live.time', 'live.kind', 'where.app', 'where.channel', 'live.event', 'live.detail']);
	const table = h('table', h('thead', h('tr', columns.map((column) => h('th', { scope: 'col' }, t(column))))), body);
	const scroll = scrolling(t('live.title'), table);
	const none = empty(t('live.none'), ' ', h('a', { href: '#try' }, t('tab.try')), ' · ', h('code', 'broadcast(new OrderShipped($order));'));
	const fresh = button('', () => (held.clear(), pause(false)), 'fresh', { hidden: true });
	const pauseButton = button('', () => pause(!held.has('button')), '');
	const clearButton = button(t('live.clear'), clear, '');
	const dropped = h('p', { class: 'muted', role: 'status' });
	/** Why rows wait: the pointer, an opened row, the focus or the button. @type {Set<string>} */
	const held = new Set();
	/** @type {Row[]} */
	let waiting = [];
	/** @type {Set<number>} */
	const opened = new Set();
	let leftOut = 0;

	function pause(on) {
		hold('button', on);
		pauseButton.setAttribute('aria-pressed', String(on));
		put(pauseButton, on ? `▶ ${t('live.go')}` : `‖ ${t('live.pause')}`);
	}
	function hold(reason, on) {
		if (on) held.add(reason);
		else held.delete(reason);
		if (!held.size) show(waiting.splice(0));
		count();
	}
	/** @param {Row[]} rows */
	function add(rows, more) {
		leftOut += more;
		put(dropped, leftOut > 0 && t('live.left_out', { n: number(leftOut) }));
		if (!held.size) return show(rows);
		waiting = [...waiting, ...rows].slice(-ROWS_MAX);
		count();
	}
	function count() {
		fresh.hidden = !waiting.length;
		put(fresh, t('live.new', { n: number(waiting.length) }));
	}
	/** @param {Row[]} rows oldest first */
	function show(rows) {
		for (const row of rows) {
			const { line, fields } = rowElements(row, toggled);
			body.prepend(line, fields);
		}
		// Two elements for each row.
		while (body.childElementCount > 2 * ROWS_MAX) body.lastElementChild?.remove();
		none.hidden = body.childElementCount > 0;
		scroll.hidden = !none.hidden;
	}
	/** @param {Row} row */
	function toggled({ id }, open) {
		if (open) opened.add(id);
		else opened.delete(id);
		hold('opened', opened.size > 0);
	}
	function clear() {
		waiting = [];
		leftOut = 0;
		opened.clear();
		held.delete('opened');
		put(body);
		put(dropped);
		count();
		show([]);
	}
	scroll.addEventListener('pointerenter', () => hold('pointer', true));
	scroll.addEventListener('pointerleave', (event) => event.pointerType === 'mouse' && hold('pointer', false));
	scroll.addEventListener('focusin', () => hold('focus', true));
	scroll.addEventListener('focusout', () => hold('focus', false));
	pause(false);
	clear();
	return { element: h('div', dropped, none, scroll), controls: h('div.live-controls', fresh, pauseButton, clearButton), add, clear };
}
