// A text field of words such as `kind:refusal`, with suggestions for the word at the cursor.

import { h, name, put } from './dom.js';
import { textField } from './parts.js';

const SHOWN = 8;

/** @param {WordFieldOptions} options */
export function wordField({ label, value, placeholder, words, changed, pauseMs }) {
	const list = h('ul', { class: 'suggestions', id: 'suggestions', role: 'listbox', hidden: true });
	const known = { 'aria-label': label, 'aria-expanded': 'false', 'aria-controls': 'suggestions', 'aria-autocomplete': 'list' };
	const input = textField(value, { type: 'search', role: 'combobox', placeholder, ...known });
	let offered = [];
	let chosen = -1;
	let pause;

	const before = () => input.value.slice(0, input.selectionStart ?? undefined);
	const atCursor = () => /\S*$/.exec(before())?.[0] ?? '';
	const change = () => changed(input.value.trim());
	function show(next) {
		offered = next;
		chosen = -1;
		list.hidden = !next.length;
		input.setAttribute('aria-expanded', String(!list.hidden));
		input.removeAttribute('aria-activedescendant');
		const option = (text, index) =>
			h('li', { role: 'option', id: `suggestion-${index}`, onpointerdown: (event) => (event.preventDefault(), take(text)) }, name(text, 60));
		put(list, next.map(option));
	}
	function choose(index) {
		chosen = (index + offered.length) % offered.length;
		[...list.children].forEach((child, at) => child.setAttribute('aria-selected', String(at === chosen)));
		input.setAttribute('aria-activedescendant', `suggestion-${chosen}`);
	}
	function take(text) {
		const [head, word] = [before(), atCursor()];
		const isWhole = !text.endsWith(':');
		const start = head.slice(0, head.length - word.length) + text + (isWhole ? ' ' : '');
		input.value = start + input.value.slice(head.length).trimStart();
		input.setSelectionRange(start.length, start.length);
		if (isWhole) change();
		show(isWhole ? [] : suggestions(text, words));
	}
	function search() {
		clearTimeout(pause);
		show([]);
		change();
	}
	input.addEventListener('input', () => {
		show(suggestions(atCursor(), words));
		clearTimeout(pause);
		// By then somebody may have left the panel.
		if (pauseMs && !input.value.endsWith(':')) pause = setTimeout(() => input.isConnected && change(), pauseMs);
	});
	input.addEventListener('focus', () => input.value || show(suggestions('', words)));
	input.addEventListener('blur', () => show([]));
	input.addEventListener('keydown', (event) => {
		if (event.key === 'ArrowDown' && list.hidden) show(suggestions(atCursor(), words));
		else if (event.key === 'ArrowDown') choose(chosen + 1);
		else if (event.key === 'ArrowUp' && offered.length) choose(Math.max(chosen, 0) - 1);
		else if (event.key === 'Escape' && !list.hidden) show([]);
		else if (event.key === 'Enter' && chosen >= 0) take(offered[chosen]);
		else if (event.key === 'Enter') search();
		else return;
		event.preventDefault();
	});
	return { element: h('div.word-field', input, list), input };
}

/** @param {Record<string, () => string[]>} words */
function suggestions(word, words) {
	const [key, ...rest] = word.split(':');
	const values = Object.hasOwn(words, key) ? words[key]() : [];
	const all = rest.length ? values.map((value) => `${key}:${value}`) : Object.keys(words).map((known) => `${known}:`);
	return all.filter((text) => text.startsWith(word) && text !== word).slice(0, SHOWN);
}
