// Try: publish an event, disconnect a user, and test the connection from this browser.

import { post } from './api.js';
import { h, name, put } from './dom.js';
import { number } from './format.js';
import { nodeName } from './node.js';
import { answerPlace, badge, form, labelled, section, select, textField } from './parts.js';
import { echoLine } from './echo.js';
import { probe } from './probe.js';
import { isOperator, state } from './store.js';
import { t } from './words.js';

/** @type {OpenPanel} */
export function openTry(root, query) {
	const wanted = new URLSearchParams(query);
	put(root, connectionTest(), isOperator() ? [publishForm(wanted), disconnectForm(wanted)] : section('try.publish', h('p.empty', t('viewer'), ' ', h('code', 'dashboard.operator_token'))));
}

const appSelect = () => select('app', state().apps.map(({ id }) => id), (id) => state().apps.find((app) => app.id === id)?.name || id);

/** @param {Word} label */
const field = (label, key, value, more = {}) => labelled(label, textField(value, { name: key, ...more }));
const required = { required: true };

function publishForm(wanted) {
	const app = appSelect();
	app.value = wanted.get('app') ?? app.value;
	const answer = answerPlace();
	async function publish(values) {
		const { nodes, thinned_by: rule } = await post('publish', { ...values, except: null });
		const sockets = nodes.reduce((sum, node) => sum + node.sockets, 0);
		const each = nodes.map((node, index) => [index ? ' · ' : ' ', name(nodeName(node.node), 20), ` ${number(node.sockets)}`]);
		answer.say(
			sockets ? 'ok' : 'quiet',
			t('reached', { n: number(sockets) }),
			nodes.length > 1 && each.flat(),
			rule && [h('br'), t('thinned'), ' ', name(rule)],
			!sockets && [h('br'), t('nobody')],
			h('br'),
			t('hears'),
			' ',
			h('code', name(echoLine(values.channel, values.event), 200)),
		);
	}
	const fields = [
		labelled('where.app', app),
		field('where.channel', 'channel', wanted.get('channel') ?? 'orders', required),
		field('where.event', 'event', wanted.get('event') ?? 'order.shipped', required),
		labelled('data', h('textarea', { name: 'data', rows: 3, spellcheck: 'false' }, '{"id": 17}')),
	];
	return section('try.publish', form(t('publish.act'), fields, answer, publish), answer.element);
}

function disconnectForm(wanted) {
	const answer = answerPlace();
	async function disconnect({ app, user }) {
		const { closed } = await post('disconnect', { app, [/^\d+\.\d+$/.test(user) ? 'socket' : 'user']: user });
		answer.say(closed ? 'ok' : 'quiet', t('try.closed', { n: number(closed) }));
	}
	const fields = [labelled('where.app', appSelect()), field('user', 'user', wanted.get('user') ?? '', required)];
	return section('disconnect', form(t('close'), fields, answer, disconnect), answer.element);
}

function connectionTest() {
	const { public: open, apps } = state();
	const app = appSelect();
	const key = textField(apps[0]?.key ?? '', { name: 'key', required: true });
	app.addEventListener('change', () => (key.value = apps.find(({ id }) => id === app.value)?.key ?? key.value));
	const scheme = select('scheme', ['ws', 'wss'], (value) => (value === 'wss' ? 'wss:// (TLS)' : 'ws://'));
	scheme.value = open.tls ? 'wss' : 'ws';
	const steps = h('ol', { class: 'steps', 'aria-live': 'polite' });
	const answer = answerPlace();
	async function run(values) {
		put(steps);
		answer.clear();
		// One slash before the path, and none behind it.
		const path = values.path.replace(/^\/*(.*?)\/*$/, '/$1').replace(/^\/$/, '');
		await probe({ ...values, path, tls: values.scheme === 'wss', publish: isOperator() }, (level, words, cause) =>
			steps.append(h('li', { class: level }, badge(level, t(`probe.${level}`)), ' ', name(words, 240), cause && h('p.cause', cause))),
		);
	}
	const fields = [
		labelled('where.app', app),
		labelled('apps.key', key),
		labelled('scheme', scheme),
		field('host', 'host', open.host || location.hostname, required),
		field('port', 'port', open.port ?? 6001, { ...required, inputmode: 'numeric' }),
		field('path', 'path', open.path ?? '', { placeholder: '/ws' }),
		field('test.auth', 'auth', '', { placeholder: 'https://app.example.com/broadcasting/auth', inputmode: 'url' }),
		field('private', 'channel', '', { placeholder: 'private-orders.1' }),
	];
	return section('test.title', h('p.muted', t('test.help')), form(t('test.act'), fields, answer, run), answer.element, steps);
}
