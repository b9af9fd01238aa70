// Connections, found by user, socket, address, channel or app.

import { get, post } from './api.js';
import { nodeName } from './node.js';
import { h, name, put } from './dom.js';
import { bytes, duration, number, serverNow } from './format.js';
import { answerPlace, asker, asOf, at, badge, button, carefulButton, nameOr, section, share, shownOf, table } from './parts.js';
import { isOperator, state } from './store.js';
import { wordField } from './suggest.js';
import { t } from './words.js';

const LIMIT = 100;
const WORDS = ['user', 'socket', 'address', 'channel', 'app'];
const CHANNELS_SHOWN = 2;

/** @type {OpenPanel} */
export function openConnections(root, query) {
	const field = wordField({
		label: t('find'),
		value: query,
		placeholder: 'user:42   socket:123.456   address:10.0.0.7   channel:orders',
		words: Object.fromEntries(WORDS.map((word) => [word, () => (word === 'app' ? state().apps.map(({ id }) => id) : [])])),
		changed: find,
	});
	const place = h('div');
	const answer = answerPlace();
	const ask = asker(place, answer);
	const again = () => find(field.input.value.trim());
	put(root, section('tab.connections', h('div.live-head', field.element, button(t('search'), again, '')), answer.element, place));

	async function find(words) {
		share(at('connections', words));
		if (!words) return put(place);
		await ask(get('connections', { ...criteria(words), limit: LIMIT }), ({ connections, total, silent_nodes: silent }) => [
			asOf(serverNow(), again),
			connectionTable(connections, close),
			shownOf(connections.length, total),
			silent?.length > 0 && h('p', badge('warn', t('connections.silent')), ' ', name(silent.map(nodeName).join(', '), 200)),
		]);
	}
	async function close(whom) {
		try {
			const { closed } = await post('disconnect', whom);
			await again();
			answer.say('ok', t('try.closed', { n: number(closed) }));
		} catch (error) {
			answer.fail(error);
		}
	}
	find(query);
}

/** `user:42 orders` → what the API asks for. A word alone is guessed. */
export function criteria(words) {
	/** @type {Record<string, string>} */
	const found = {};
	for (const word of words.split(/\s+/)) {
		const [, key, value] = /^(user|socket|address|channel|app):(.+)$/.exec(word) ?? [];
		if (key) found[key] = value;
		else if (/^\d+\.\d+$/.test(word)) found.socket = word;
		else if (/^(\d+\.){3}\d+$|^[\da-f]*:[\da-f:]+$/i.test(word)) found.address = word;
		else found.user = word;
	}
	return found;
}

/** @param {Connection[]} connections */
function connectionTable(connections, close) {
	const rows = connections.map((connection) => [
		h('code', connection.socket),
		connection.user ? h('a', { href: at('live', `user:${connection.user}`) }, name(connection.user, 24)) : '–',
		nameOr(connection.address),
		duration(connection.age_seconds),
		nameOr(connection.library, 24),
		connection.protocol ?? '–',
		nameOr(connection.origin, 32),
		bytes(connection.waiting_bytes),
		channelNames(connection),
		name(connection.app, 16),
		name(nodeName(connection.node), 16),
		carefulButton(t('close'), t('close.sure'), () => close({ app: connection.app, socket: connection.socket })),
	]);
	return table('tab.connections', ['where.socket', 'where.user', 'where.address', '#age', 'library', '#protocol', 'where.origin', '#waiting', 'tab.channels', 'where.app', 'where.node', isOperator() && 'nodes.act'], rows, t('connections.none'));
}

/** @param {Connection} connection */
function channelNames({ channels, channels_total: total, app }) {
	if (!channels.length) return '–';
	const links = channels
		.slice(0, CHANNELS_SHOWN)
		.map((channel, index) => [index ? ', ' : '', h('a', { href: `#channels?${new URLSearchParams({ app, match: channel, name: channel })}` }, name(channel, 24))])
		.flat();
	return total > CHANNELS_SHOWN ? [...links, h('span.muted', ` +${number(total - CHANNELS_SHOWN)}`)] : links;
}
