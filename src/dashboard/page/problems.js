// Problems, newest change first. Each is a card: what, since when and how often, where, what to do.

import { nodeName } from './node.js';
import { fixFor } from './fixes.js';
import { h, name, put, visible } from './dom.js';
import { number, time } from './format.js';
import { at, badge, button, copyButton, empty, linkButton, snippet } from './parts.js';
import { causeWords, maybe, t } from './words.js';

const SHOWN = 20;

export function problemList() {
	const list = h('ol.cards');
	const more = button('', showAll, 'small', { hidden: true });
	const none = h('div');
	let limit = SHOWN;
	/** @type {Problem[]} */
	let all = [];
	/** Each problem as it was last drawn. @type {Map<string, { card: HTMLElement, drawn: string }>} */
	const cards = new Map();

	function showAll() {
		limit = Infinity;
		draw(all);
	}
	/** @param {Problem[]} problems */
	function draw(problems) {
		const before = all.map(({ id }) => id);
		all = [...problems].sort((a, b) => Number(a.resolved) - Number(b.resolved) || b.last_ms - a.last_ms);
		// Cards stay where they are while somebody works in one; new ones come on top.
		if (list.matches(':hover, :focus-within')) all.sort((a, b) => before.indexOf(a.id) - before.indexOf(b.id));
		const some = all.slice(0, limit);
		const shown = some.map(cardOf);
		const ids = new Set(some.map(({ id }) => id));
		for (const id of cards.keys()) if (!ids.has(id)) cards.delete(id);
		// Unchanged cards stay the elements that they are, with focus and selection.
		if (shown.some((card, index) => list.children[index] !== card) || list.children.length !== shown.length) {
			const focused = document.activeElement;
			put(list, shown);
			if (focused instanceof HTMLElement && list.contains(focused)) focused.focus();
		}
		more.hidden = all.length <= shown.length;
		more.textContent = t('more', { n: number(all.length - shown.length) });
		put(none, all.length ? null : empty(t('problems.none')));
	}
	/** @param {Problem} problem */
	function cardOf(problem) {
		const drawn = JSON.stringify(problem);
		const known = cards.get(problem.id);
		if (known?.drawn === drawn) return known.card;
		const card = known?.card ?? h('li', { 'data-code': problem.code });
		card.className = `card ${problem.resolved ? 'resolved' : levelOf(problem)}`;
		put(card, ...contents(problem));
		cards.set(problem.id, { card, drawn });
		return card;
	}
	return { element: h('div', none, list, more), draw };
}

/** @param {Problem} problem */
const levelOf = ({ level }) => (level === 'error' ? 'bad' : 'warn');

/** @param {Problem} problem */
function contents(problem) {
	const [sentence, remedy] = causeWords(problem);
	const { code, detail, live } = problem;
	const fix = fixFor(problem);
	const level = levelOf(problem);
	return [
		h('p.card-head', problem.resolved ? badge('quiet', t('problem.resolved')) : badge(level, t(`level.${level}`)), whenOf(problem)),
		h('h3', visible(sentence.charAt(0).toUpperCase() + sentence.slice(1))),
		whereOf(problem),
		detail && h('p.detail', h('span.muted', `${t('problem.detail')} `), name(detail, 400)),
		remedy && h('p.remedy', h('strong', `${t('problem.todo')} `), h('bdi', visible(remedy))),
		fix && snippet(fix[0], fix[1]),
		h('p.actions', remedy && !fix && copyButton(remedy, t('remedy')), linkButton(at('live', live ?? `cause:${code}`), t('problem.live'))),
	];
}

/** @param {Problem} problem */
function whenOf({ count, first_ms: first, last_ms: last }) {
	return h('span.muted', count > 1 && `${t('problem.times', { n: number(count) })} · `, time(last), count > 1 && [` · ${t('problem.since')} `, time(first)]);
}

/** @param {Problem} problem */
function whereOf({ where, code }) {
	const places = Object.entries(where ?? {}).filter(([, value]) => value);
	const pair = (word, value) => h('div', h('dt', word), h('dd', value));
	return h('dl.where', places.map(([key, value]) => pair(maybe(`where.${key}`) ?? key, name(key === 'node' ? nodeName(value) : value, 60))), pair(t('where.cause'), h('code', code)));
}
