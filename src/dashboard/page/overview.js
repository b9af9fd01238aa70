// The first panel: four figures with their plots, problems, nodes.

import { h, name, put } from './dom.js';
import { bytes, duration, milliseconds, number, percent, rate, serverNow, short, time } from './format.js';
import { history, loadHistory } from './history.js';
import { answerPlace, asOf, badge, button, carefulButton, section, table } from './parts.js';
import { plot } from './plot.js';
import { post } from './api.js';
import { problemList } from './problems.js';
import { isOperator, on, refresh, state } from './store.js';
import { maybe, t } from './words.js';

/** @type {OpenPanel} */
export function openOverview(root) {
	const plots = plotSection('rate', fourPlots());
	const problems = problemList();
	const nodes = nodePart();
	put(root, plots.element, section('overview.problems', problems.element), nodes.element);
	plots.draw();
	problems.draw(state().problems);
	nodes.draw();
	const ends = [on('now', plots.draw), on('history', plots.draw), on('problems', problems.draw), on('state', nodes.draw)];
	return () => ends.forEach((end) => end());
}

/** @returns {PlotOptions[]} */
function fourPlots() {
	const all = [
		{ title: t('tab.connections'), keys: ['connections'], format: short, limit: connectionsMax },
		{ title: t('figure.events'), keys: ['events'], format: rate },
		{ title: t('figure.deliveries'), keys: ['deliveries'], format: rate },
		latency,
	];
	return all.map((options) => ({ ...options, marks: true }));
}

export const connectionsMax = () => state().limits.connections_max;

/** @type {PlotOptions} */
export const latency = { title: t('figure.latency'), keys: ['latency_p99_ms', 'latency_p50_ms'], names: ['p99', 'p50'], format: milliseconds };

/** Plots under one title. @param {Word} title @param {PlotOptions[]} options */
export function plotSection(title, options, ...more) {
	const all = options.map(plot);
	const draw = () => document.hidden || all.forEach(({ draw }) => draw());
	const head = h('div.panel-head', h('h2', t(title)), rangeSwitch(draw));
	return { element: h('section.panel', head, ...more, h('div.plots', all.map(({ element }) => element))), draw };
}

const RANGES = /** @type {const} */ (['15m', '24h']);

/** 15 minutes or 24 hours. */
function rangeSwitch(changed) {
	const group = h('div.switch', { role: 'group', 'aria-label': t('range') });
	const show = () => put(group, RANGES.map((range) => button(t(`range.${range}`), () => choose(range), 'small', { 'aria-pressed': String(history.range === range) })));
	async function choose(range) {
		await loadHistory(range).catch(() => undefined);
		show();
		changed();
		/** @type {HTMLElement | null} */ (group.querySelector('[aria-pressed=true]'))?.focus();
	}
	show();
	return group;
}

function nodePart() {
	const place = h('div');
	const answer = answerPlace();
	const element = section('nodes.title', place, answer.element);
	const drain = (node) => post('drain', { node }).then(() => answer.say('ok', t('draining')), answer.fail);
	function draw() {
		const { nodes, redis, warnings, version } = state();
		const rows = nodes.map((node) => [
			[name(node.name || node.id, 28), node.this && h('span.muted', ` ${t('this')}`)],
			stateOf(node),
			number(node.connections),
			number(node.channels),
			rate(node.events_per_second),
			rate(node.deliveries_per_second),
			percent(node.cpu),
			bytes(node.memory_bytes),
			node.started_ms ? time(node.started_ms, (at) => duration((serverNow() - at) / 1000)) : '–',
			node.version ?? version,
			carefulButton(t('drain'), t('drain.sure'), () => drain(node.id)),
		]);
		const items = warnings.map((warning) => h('li', badge('warn', t('level.warn')), ' ', name(warning, 400)));
		put(place, asOf(state().now_ms, refresh), redisLine(redis), table('nodes.title', ['where.node', 'state', '#tab.connections', '#tab.channels', '#figure.events', '#figure.deliveries', '#cpu', '#memory', '#up', 'version', isOperator() && 'nodes.act'], rows), items.length > 0 && [h('h3', t('warnings.title')), h('ul', items)]);
	}
	return { element, draw };
}

/** @param {ClusterNode} node */
function stateOf({ state: is, seen_ms: seen }) {
	const level = is === 'up' ? 'ok' : is === 'lost' ? 'bad' : 'warn';
	const word = badge(level, maybe(`node.${is}`) ?? is);
	return is === 'lost' && seen ? [word, h('span.muted', ' ', t('seen'), ' ', time(seen))] : word;
}

/** @param {State['redis']} redis */
function redisLine({ used, linked, since_ms: since, outage_buffer: buffer }) {
	if (!used) return h('p', badge('quiet', 'Redis'), ' ', t('redis.unused'));
	const [look, words] = linked ? /** @type {const} */ (['ok', t('redis.linked')]) : /** @type {const} */ (['bad', t('redis.lost')]);
	return h('p', badge(look, 'Redis'), ' ', words, ' ', time(since), !linked && (buffer ?? 0) > 0 && ` · ${t('redis.buffer', { share: percent(buffer) })}`);
}
