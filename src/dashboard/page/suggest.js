// A text field of words such as `kind:refusal`, with suggestions for the word at the cursor.

import { h, name, put } from './dom.js';

/** Suggestions that are shown at once. */
const SHOWN = 8;

/** @param {WordFieldOptions} options */
export function wordField({ label, value, placeholder, words, changed, pauseMs }) {
	const list = h('ul', { class: 'suggestions', id: 'suggestions', role: 'listbox', hidden: true });
	const input = h('input', {
		type: 'search',
		'aria-label': label,
		placeholder,
		role: 'combobox',
		'aria-expanded': 'false',
		'aria-controls': 'suggestions',
		'aria-autocomplete': 'list',
		autocomplete: 'off',
		autocapitalize: 'off',
		spellcheck: 'false',
	});
	input.value = value;
	/** @type {string[]} */
	let offered = [];
	let chosen = -1;
	/** @type {ReturnType<typeof setTimeout> | undefined} */
	let pause;

	const atCursor = () => /\S*$/.exec(input.value.slice(0, input.selectionStart ?? undefined))?.[0] ?? '';
	const hide = () => show([]);
	function show(next) {
		offered = next;
		chosen = -1;
		list.hidden = next.length === 0;
		input.setAttribute('aria-expanded', String(!list.hidden));
		input.removeAttribute('aria-activedescendant');
		const option = (text, index) =>
			h('li', { role: 'option', id: `suggestion-${index}`, 'aria-selected': 'false', onpointerdown: (event) => (event.preventDefault(), take(text)) }, name(text, 60));
		put(list, next.map(option));
	}
	function choose(index) {
		chosen = (index + offered.length) % offered.length;
		[...list.children].forEach((child, at) => child.setAttribute('aria-selected', String(at === chosen)));
		input.setAttribute('aria-activedescendant', `suggestion-${chosen}`);
	}
	function take(text) {
		const before = input.value.slice(0, input.selectionStart ?? undefined);
		const start = before.slice(0, before.length - atCursor().length) + text;
		const isWhole = !text.endsWith(':');
		input.value = start + (isWhole ? ' ' : '') + input.value.slice(before.length).trimStart();
		input.setSelectionRange(start.length + Number(isWhole), start.length + Number(isWhole));
		if (isWhole) changed(input.value.trim());
		show(isWhole ? [] : suggestions(text, words));
	}
	input.addEventListener('input', () => {
		show(suggestions(atCursor(), words));
		clearTimeout(pause);
		if (pauseMs && !input.value.endsWith(':')) pause = setTimeout(() => changed(input.value.trim()), pauseMs);
	});
	input.addEventListener('focus', () => input.value === '' && show(suggestions('', words)));
	input.addEventListener('blur', hide);
	input.addEventListener('keydown', (event) => {
		if (event.key === 'ArrowDown' && list.hidden) show(suggestions(atCursor(), words));
		else if (event.key === 'ArrowDown' && offered.length) choose(chosen + 1);
		else if (event.key === 'ArrowUp' && offered.length) choose(Math.max(chosen, 0) - 1);
		else if (event.key === 'Escape' && !list.hidden) hide();
		else if (event.key === 'Enter' && chosen >= 0) take(offered[chosen]);
		else if (event.key === 'Enter') {
			clearTimeout(pause);
			hide();
			return changed(input.value.trim());
		} else return;
		event.preventDefault();
	});
	return { element: h('div.word-field', input, list), input };
}

/** @param {Record<string, () => string[]>} words */
function suggestions(word, words) {
	const colon = word.indexOf(':');
	const key = word.slice(0, colon);
	const all = colon < 0 ? Object.keys(words).map((known) => `${known}:`) : Object.hasOwn(words, key) ? words[key]().map((value) => `${key}:${value}`) : [];
	return all.filter((text) => text.startsWith(word) && text !== word).slice(0, SHOWN);
}
