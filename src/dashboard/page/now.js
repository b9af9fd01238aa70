// All figures, each with its plot; causes of drops and refusals; thinning by flow rules.

import { h, name, put } from './dom.js';
import { byteRate, number, rate, short } from './format.js';
import { asOf, at, nameOr, section, table } from './parts.js';
import { connectionsMax, latency, plotSection } from './overview.js';
import { on, refresh, state } from './store.js';
import { causeWords, t } from './words.js';

/** @type {[Word, string, PlotOptions['format']][]} */
const FIGURES = [
	['tab.connections', 'connections', short],
	['tab.channels', 'channels', short],
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
	const figures = FIGURES.map(([title, key, format]) => ({ title: t(title), keys: [key], format, limit: key === 'connections' ? connectionsMax : undefined }));
	const peak = h('p.muted');
	const plots = plotSection('now.title', [...figures, latency], peak);
	const causes = h('div');
	const flow = h('div');
	put(root, plots.element, section('causes', causes), section('now.flow', flow));
	function draw() {
		plots.draw();
		put(peak, t('peak', { peak: number(state().now.connections_peak) }));
		// A link that one points at stays where it is.
		if (!causes.matches(':hover, :focus-within')) put(causes, causeTable());
	}
	const drawFlow = () => put(flow, asOf(state().now_ms, refresh), flowTable());
	draw();
	drawFlow();
	const ends = [on('now', draw), on('history', draw), on('state', drawFlow)];
	return () => ends.forEach((end) => end());
}

/** Causes of this second, and what the server has counted before. */
function causeTable() {
	const { now, problems } = state();
	const rates = now.causes ?? {};
	/** @type {Record<string, number>} */
	const sums = {};
	/** @type {Record<string, string>} */
	const meanings = {};
	for (const problem of problems) {
		const { code, count, live, where } = problem;
		meanings[code] = causeWords(problem)[0];
		// The number of an app has those of its rules in it.
		if (live?.startsWith('kind:refusal') && !where?.rule) sums[code] = (sums[code] ?? 0) + count;
	}
	const rows = Object.keys({ ...rates, ...sums })
		.sort((a, b) => (rates[b] ?? 0) - (rates[a] ?? 0) || (sums[b] ?? 0) - (sums[a] ?? 0))
		.map((cause) => [
			h('a', { href: at('live', `cause:${cause}`) }, h('code', cause)),
			rate(rates[cause] ?? 0),
			number(sums[cause]),
			nameOr(meanings[cause], 120),
		]);
	return table('causes', ['where.cause', '#rate', '#since_start', 'meaning'], rows, t('causes.none'));
}

function flowTable() {
	const rows = state().flow_rules.map((rule) => [
		name(rule.rule),
		name(rule.app, 24),
		h('code', rule.kind),
		`${rate(rule.in_per_second)} → ${rate(rule.out_per_second)}`,
		name(rule.text ?? '', 200),
	]);
	return table('now.flow', ['where.rule', 'where.app', 'kind', '#thinning', 'text'], rows, t('flow.none'), ' ', h('code', 'kind = "conflate"'));
}
