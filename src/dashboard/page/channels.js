// Channels: the largest ones; members, subscribers per node, the rule that applies.

import { get } from './api.js';
import { h, name, put } from './dom.js';
import { number, rate, serverNow, time } from './format.js';
import { answerPlace, asOf, at, button, empty, labelled, linkButton, nameOr, section, select, share, shownOf, submitButton, table, textField } from './parts.js';
import { echoLine } from './echo.js';
import { state } from './store.js';
import { t } from './words.js';

/** Channels of one answer. */
const LIMIT = 100;

/** @type {OpenPanel} */
export function openChannels(root, query) {
	const wanted = new URLSearchParams(query);
	const match = textField(wanted.get('match') ?? '', { type: 'search', name: 'match', placeholder: 'permintaan-*' });
	const app = select('app', ['', ...state().apps.map(({ id }) => id)], (id) => id || t('all.apps'));
	app.value = wanted.get('app') ?? '';
	const sort = select('sort', ['subscribers', 'events'], (by) => t(by === 'events' ? 'channels.busiest' : 'channels.largest'));
	sort.value = wanted.get('sort') ?? 'subscribers';
	const place = h('div');
	const one = h('div');
	const answer = answerPlace();
	const form = h(
		'form.form-row',
		{ onsubmit: (event) => (event.preventDefault(), list()) },
		labelled('channels.match', match),
		labelled('where.app', app),
		labelled('channels.sort', sort),
		submitButton(t('search')),
	);
	app.addEventListener('change', list);
	sort.addEventListener('change', list);
	put(root, section('channels.title', form, answer.element, place), one);

	async function list() {
		const asked = { match: match.value.trim(), app: app.value, sort: sort.value };
		share(`#channels?${new URLSearchParams(asked)}`);
		try {
			const { channels, total } = await get('channels', { ...asked, limit: LIMIT });
			answer.clear();
			put(place, asOf(serverNow(), list), channels.length ? channelTable(channels, openOne) : nothing(), shownOf(channels.length, total));
		} catch (error) {
			answer.fail(error);
		}
	}
	async function openOne(appId, channel) {
		try {
			put(one, oneChannel(await get('channel', { app: appId, name: channel }), appId, channel));
			one.querySelector('h2')?.scrollIntoView({ block: 'nearest' });
		} catch (error) {
			answer.fail(error);
		}
	}
	const chosen = wanted.get('name');
	list().then(() => void (chosen && openOne(wanted.get('app') ?? state().apps[0]?.id ?? '', chosen)));
}

const nothing = () => empty(t('channels.none'), ' ', h('code', "Echo.channel('orders')"));

/** @param {Channel[]} channels @param {(app: string, channel: string) => void} open */
function channelTable(channels, open) {
	const nodes = state().nodes.length > 1;
	const rows = channels.map((channel) => [
		button(name(channel.name, 48), () => open(channel.app, channel.name), 'plain'),
		name(channel.app, 20),
		number(channel.subscribers),
		number(channel.members),
		rate(channel.events_per_second),
		time(channel.last_event_ms),
		nameOr(channel.rule, 30),
		nameOr(channel.flow, 90),
		perNode(channel),
	]);
	return table('channels.title', ['where.channel', 'where.app', '#channels.subscribers', '#channels.members', '#figure.events', 'channels.last', 'channels.rule', 'channels.flow', nodes && 'channels.per_node'], rows);
}

export const nodeName = (id) => state().nodes.find((node) => node.id === id)?.name || id;

/** @param {Channel} channel */
function perNode({ nodes }) {
	return (nodes ?? []).map(({ node, subscribers }, index) => [index ? ' · ' : '', name(nodeName(node), 16), ` ${number(subscribers)}`]).flat();
}

/** @param {any} channel */
function oneChannel(channel, app, whole) {
	const rows = (channel.members ?? []).map(({ id, info }) => [
		h('a', { href: at('connections', `app:${app} user:${id}`) }, name(id)),
		info ? name(info, 120) : '–',
	]);
	return h(
		'section.panel',
		h('h2', name(whole, 60)),
		h('p', t('live.hears'), ' ', h('code', name(echoLine(whole, null), 120))),
		h(
			'p.actions',
			linkButton(at('connections', `app:${app} channel:${whole}`), t('channels.connections')),
			linkButton(at('live', `channel:${whole}`), t('problem.live')),
			linkButton(`#try?${new URLSearchParams({ app, channel: whole })}`, t('channels.publish')),
		),
		rows.length > 0 && table('channels.members', ['where.user', 'channels.info'], rows),
	);
}
