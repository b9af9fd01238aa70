// Channels: the largest ones; members, subscribers per node, the rule that applies.

import { get } from './api.js';
import { h, name, put } from './dom.js';
import { number, rate, serverNow, time } from './format.js';
import { answerPlace, asker, asOf, at, button, form, labelled, linkButton, nameOr, section, select, share, shownOf, table, textField } from './parts.js';
import { echoLine } from './echo.js';
import { nodeName } from './node.js';
import { state } from './store.js';
import { t } from './words.js';

const LIMIT = 100;

/** @type {OpenPanel} */
export function openChannels(root, query) {
	const wanted = new URLSearchParams(query);
	const match = textField(wanted.get('match') ?? '', { type: 'search', name: 'match', placeholder: 'permintaan-*' });
	const app = select('app', ['', ...state().apps.map(({ id }) => id)], (id) => id || t('all.apps'));
	app.value = wanted.get('app') ?? '';
	const sort = select('sort', ['subscribers', 'events'], (by) => t(by === 'events' ? 'busiest' : 'largest'));
	sort.value = wanted.get('sort') ?? 'subscribers';
	const place = h('div');
	const one = h('div');
	const answer = answerPlace();
	const askList = asker(place, answer);
	const askOne = asker(one, answer);
	app.addEventListener('change', list);
	sort.addEventListener('change', list);
	const fields = [labelled('match', match), labelled('where.app', app), labelled('sort', sort)];
	put(root, section('tab.channels', form(t('search'), fields, answer, list), answer.element, place), one);

	async function list() {
		const asked = { match: match.value.trim(), app: app.value, sort: sort.value };
		share(`#channels?${new URLSearchParams(asked)}`);
		await askList(get('channels', { ...asked, limit: LIMIT }), ({ channels, total }) => [
			asOf(serverNow(), list),
			channelTable(channels, openOne),
			shownOf(channels.length, total),
		]);
	}
	async function openOne(appId, channel) {
		await askOne(get('channel', { app: appId, name: channel }), (found) => oneChannel(found, appId, channel));
		one.querySelector('h2')?.scrollIntoView({ block: 'nearest' });
	}
	const chosen = wanted.get('name');
	list().then(() => void (chosen && openOne(wanted.get('app') ?? state().apps[0]?.id ?? '', chosen)));
}

/** @param {Channel[]} channels */
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
		nameOr(channel.flow, 64),
		perNode(channel),
	]);
	return table('tab.channels', ['where.channel', 'where.app', '#subscribers', '#members', '#figure.events', 'channels.last', 'where.rule', 'channels.flow', nodes && 'per_node'], rows, t('channels.none'), ' ', h('code', "Echo.channel('orders')"));
}

/** @param {Channel} channel */
function perNode({ nodes }) {
	return (nodes ?? []).map(({ node, subscribers }, index) => [index ? ' · ' : '', name(nodeName(node), 16), ` ${number(subscribers)}`]).flat();
}

function oneChannel(channel, app, whole) {
	const rows = (channel.members ?? []).map(({ id, info }) => [
		h('a', { href: at('connections', `app:${app} user:${id}`) }, name(id)),
		info ? name(info, 120) : '–',
	]);
	return h(
		'section.panel',
		h('h2', name(whole, 60)),
		h('p', t('hears'), ' ', h('code', name(echoLine(whole, null), 120))),
		h(
			'p.actions',
			linkButton(at('connections', `app:${app} channel:${whole}`), t('connections')),
			linkButton(at('live', `channel:${whole}`), t('problem.live')),
			linkButton(`#try?${new URLSearchParams({ app, channel: whole })}`, t('channels.publish')),
		),
		rows.length > 0 && table('members', ['where.user', 'channels.info'], rows),
		shownOf(rows.length, channel.members_total ?? 0),
	);
}
