// The live log: the newest row on top, a filter that the URL shares, and a pause under the pointer.

import { h, put, visible } from './dom.js';
import { number } from './format.js';
import { at, button, empty, scrolling, section, share } from './parts.js';
import { nodeName } from './node.js';
import { KINDS, rowElements } from './row.js';
import { on, state, watch } from './store.js';
import { wordField } from './suggest.js';
import { t } from './words.js';

const ROWS_MAX = 500;
/** Names that the suggestions remember. */
const SEEN_MAX = 200;
/** The server's bound for a filter. */
const FILTER_BYTES_MAX = 512;
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
	const isOneOfMany = state().nodes.length > 1;
	const long = h('p', { class: 'muted', role: 'alert' });
	put(root, section('live.title', h('div.live-head', field.element, list.controls), long, isOneOfMany && h('p.muted', t('live.own', { node: visible(nodeName(state().node)) })), list.element));

	function filterBy(filter) {
		share(at('live', filter));
		list.clear();
		const isLong = new TextEncoder().encode(filter).length > FILTER_BYTES_MAX;
		put(long, isLong && t('long'));
		// No stream takes such a filter.
		watch(isLong ? undefined : filter);
	}
	const end = on('rows', (/** @type {{ rows: Row[], left_out?: number }} */ { rows, left_out: leftOut }) => {
		for (const row of rows) for (const word in seen) if (row[word] && seen[word].size < SEEN_MAX) seen[word].add(row[word]);
		list.add(rows, leftOut ?? 0);
	});
	filterBy(query);
	return () => {
		end();
		watch(undefined);
	};
}

function rowList() {
	const body = h('tbody');
	const columns = /** @type {const} */ (['time', 'kind', 'where.app', 'where.channel', 'live.event', 'detail']);
	const head = h('thead', h('tr', columns.map((column) => h('th', { scope: 'col' }, t(column)))));
	const scroll = scrolling(t('live.title'), h('table', head, body));
	const none = empty(t('live.none'), ' ', h('a', { href: '#try' }, t('tab.try')), ' · ', h('code', 'broadcast(new OrderShipped($order));'));
	const fresh = button('', () => (held.clear(), pause(false)), 'fresh', { hidden: true });
	const pauseButton = button('', () => pause(!held.has('button')), '');
	const clearButton = button(t('clear'), clear, '');
	const dropped = h('p.muted');
	/** Why rows wait. @type {Set<string>} */
	const held = new Set();
	let waiting = [];
	const opened = new Set();
	let leftOut = 0;

	function pause(on) {
		hold('button', on);
		pauseButton.setAttribute('aria-pressed', String(on));
		put(pauseButton, on ? `▶ ${t('go')}` : `‖ ${t('pause')}`);
	}
	function hold(reason, on) {
		if (on) held.add(reason);
		else held.delete(reason);
		if (!held.size) show(waiting.splice(0));
		count();
	}
	function add(rows, more) {
		leftOut += more;
		put(dropped, leftOut > 0 && t('left_out', { n: number(leftOut) }));
		if (!held.size) return show(rows);
		waiting = [...waiting, ...rows].slice(-ROWS_MAX);
		count();
	}
	function count() {
		fresh.hidden = !waiting.length;
		put(fresh, t('new', { n: number(waiting.length) }));
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
	function toggled(row, open) {
		if (open) opened.add(row);
		else opened.delete(row);
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
