// All figures of this moment, each with its plot; causes of drops and refusals; thinning by flow rules.

import { h, name, put } from './dom.js';
import { byteRate, number, rate, short } from './format.js';
import { at, empty, section, table } from './parts.js';
import { plot } from './plot.js';
import { latency, rangeSwitch } from './overview.js';
import { on, state } from './store.js';
import { causeWords, t } from './words.js';

/** @type {[Word, string, PlotOptions['format']][]} */
const FIGURES = [
	['figure.connections', 'connections', short],
	['figure.channels', 'channels', short],
	['figure.events', 'events', rate],
	['figure.client_events', 'client_events', rate],
	['figure.deliveries', 'deliveries', rate],
	['figure.bytes', 'bytes_out', byteRate],
	['figure.drops', 'drops', rate],
	['figure.refusals', 'refusals', rate],
	['figure.slow', 'slow', short],
	['figure.thinned', 'thinned', rate],
];

/** @type {OpenPanel} */
export function openNow(root) {
	const plots = [...FIGURES.map(([title, key, format]) => plot({ title: t(title), keys: [key], format, limit: limitOf(key) })), plot(latency)];
	const peak = h('p.muted');
	const causes = h('div');
	const flow = h('div');
	put(
		root,
		h(
			'section',
			{ class: 'panel' },
			h('div.panel-head', h('h2', t('now.title')), rangeSwitch(draw)),
			peak,
			h('div.plots.wide', plots.map(({ element }) => element)),
		),
		section('now.causes', causes),
		section('now.flow', flow),
	);
	/** How often each cause has come since the panel is open. @type {Map<string, { last: number, sum: number }>} */
	const seen = new Map();
	function draw() {
		if (!document.hidden) plots.forEach(({ draw }) => draw());
		const { now } = state();
		put(peak, t('now.peak', { peak: number(now.connections_peak) }));
		drawCauses(causes, seen, now.causes ?? {});
	}
	const drawFlow = () => put(flow, flowTable());
	draw();
	drawFlow();
	const ends = [on('now', draw), on('history', draw), on('state', drawFlow)];
	return () => ends.forEach((end) => end());
}

const limitOf = (key) => (key === 'connections' ? () => state().limits.connections_max : undefined);

/** @param {Map<string, { last: number, sum: number }>} seen @param {Record<string, number>} causes */
function drawCauses(place, seen, causes) {
	for (const entry of seen.values()) entry.last = 0;
	for (const [cause, count] of Object.entries(causes)) {
		seen.set(cause, { last: count, sum: (seen.get(cause)?.sum ?? 0) + count });
	}
	const words = new Map(state().problems.map((problem) => [problem.code, causeWords(problem)[0]]));
	const rows = [...seen]
		.sort(([, a], [, b]) => b.last - a.last || b.sum - a.sum)
		.map(([cause, { last, sum }]) => [
			h('a', { href: at('live', `cause:${cause}`) }, h('code', cause)),
			name(words.get(cause) ?? '–', 120),
			rate(last),
			number(sum),
		]);
	if (!rows.length) return put(place, empty(t('now.causes.none')));
	put(place, table('now.causes', ['where.cause', 'now.meaning', '#now.rate', '#now.since_open'], rows));
}

function flowTable() {
	const rules = state().flow_rules;
	if (!rules.length) return empty(t('now.flow.none'), ' ', h('code', 'kind = "conflate"'));
	const rows = rules.map((rule) => [
		name(rule.rule),
		name(rule.app, 24),
		h('code', rule.kind),
		`${rate(rule.in_per_second)} → ${rate(rule.out_per_second)}`,
		name(rule.text ?? '', 80),
	]);
	return table('now.flow', ['now.rule', 'where.app', 'now.kind', '#now.thinning', 'now.text'], rows);
}
