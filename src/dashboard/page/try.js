// Try: publish an event, disconnect a user, and test the connection from this browser.

import { post } from './api.js';
import { nodeName } from './channels.js';
import { h, name, put } from './dom.js';
import { number } from './format.js';
import { answerPlace, badge, labelled, section, select, submitButton, textField } from './parts.js';
import { echoLine } from './echo.js';
import { probe } from './probe.js';
import { isOperator, state } from './store.js';
import { t } from './words.js';

/** @type {OpenPanel} */
export function openTry(root, query) {
	const wanted = new URLSearchParams(query);
	put(root, connectionTest(), isOperator() ? [publishForm(wanted), disconnectForm(wanted)] : section('try.publish', h('p.empty', t('try.viewer'), ' ', h('code', 'dashboard.operator_token'))));
}

const appSelect = () => select('app', state().apps.map(({ id }) => id), (id) => state().apps.find((app) => app.id === id)?.name || id);

/** A form that shows what its action answers, and is busy meanwhile. @param {HTMLElement[]} fields @param {() => Promise<void>} act */
function form(label, fields, act) {
	const submit = submitButton(label);
	async function onsubmit(event) {
		event.preventDefault();
		submit.disabled = true;
		await act();
		submit.disabled = false;
	}
	return h('form.form-row', { onsubmit }, fields, submit);
}

/** @param {URLSearchParams} wanted */
function publishForm(wanted) {
	const app = appSelect();
	if (wanted.get('app')) app.value = wanted.get('app') ?? '';
	const channel = textField(wanted.get('channel') ?? 'orders', { name: 'channel', required: true });
	const event = textField(wanted.get('event') ?? 'order.shipped', { name: 'event', required: true });
	const data = h('textarea', { name: 'data', rows: 3, spellcheck: 'false' });
	data.value = '{"id": 17}';
	const answer = answerPlace();
	async function publish() {
		try {
			const { nodes, thinned_by: rule } = await post('publish', { app: app.value, channel: channel.value, event: event.value, data: data.value, except: null });
			const sockets = nodes.reduce((sum, node) => sum + node.sockets, 0);
			const each = nodes.map((node, index) => [index ? ' · ' : ' ', name(nodeName(node.node), 20), ` ${number(node.sockets)}`]);
			answer.say(
				sockets ? 'ok' : 'quiet',
				t('try.reached', { n: number(sockets) }),
				nodes.length > 1 && each.flat(),
				rule && [h('br'), t('try.thinned'), ' ', name(rule)],
				!sockets && [h('br'), t('try.nobody')],
				h('br'),
				t('live.hears'),
				' ',
				h('code', name(echoLine(channel.value, event.value), 200)),
			);
		} catch (error) {
			answer.fail(error);
		}
	}
	const fields = [labelled('where.app', app), labelled('where.channel', channel), labelled('where.event', event), labelled('try.data', data)];
	return section('try.publish', form(t('try.publish.act'), fields, publish), answer.element);
}

/** @param {URLSearchParams} wanted */
function disconnectForm(wanted) {
	const app = appSelect();
	const user = textField(wanted.get('user') ?? '', { name: 'user', required: true });
	const answer = answerPlace();
	async function disconnect() {
		const value = user.value.trim();
		const whom = /^\d+\.\d+$/.test(value) ? { socket: value } : { user: value };
		await post('disconnect', { app: app.value, ...whom }).then(
			({ closed }) => answer.say(closed ? 'ok' : 'quiet', t('try.closed', { n: number(closed) })),
			answer.fail,
		);
	}
	const fields = [labelled('where.app', app), labelled('try.user', user)];
	return section('try.disconnect', form(t('try.disconnect.act'), fields, disconnect), answer.element);
}

function connectionTest() {
	const { public: open } = state();
	const app = appSelect();
	const host = textField(open.host || location.hostname, { name: 'host', required: true });
	const port = textField(String(open.port ?? 6001), { name: 'port', required: true, inputmode: 'numeric' });
	const scheme = select('scheme', ['ws', 'wss'], (value) => (value === 'wss' ? 'wss:// (TLS)' : 'ws://'));
	scheme.value = open.tls ? 'wss' : 'ws';
	const path = textField(open.path ?? '', { name: 'path', placeholder: '/ws' });
	const key = textField(state().apps[0]?.key ?? '', { name: 'key', required: true });
	app.addEventListener('change', () => (key.value = state().apps.find(({ id }) => id === app.value)?.key ?? key.value));
	const auth = textField('', { name: 'auth', placeholder: 'https://app.example.com/broadcasting/auth', inputmode: 'url' });
	const channel = textField('', { name: 'private', placeholder: 'private-orders.1' });
	const steps = h('ol', { class: 'steps', 'aria-live': 'polite' });
	async function run() {
		put(steps);
		const target = {
			host: host.value.trim(),
			port: Number(port.value),
			tls: scheme.value === 'wss',
			path: path.value.trim().replace(/\/$/, ''),
			key: key.value.trim(),
			app: app.value,
			auth: auth.value.trim(),
			channel: channel.value.trim(),
			publish: isOperator(),
		};
		await probe(target, (level, words, cause) =>
			steps.append(h('li', { class: level }, badge(level, t(`probe.${level}`)), ' ', name(words, 240), cause && h('p.cause', cause))),
		);
	}
	const fields = [
		labelled('where.app', app),
		labelled('apps.key', key),
		labelled('test.scheme', scheme),
		labelled('test.host', host),
		labelled('test.port', port),
		labelled('test.path', path),
		labelled('test.auth', auth),
		labelled('test.private', channel),
	];
	return section('test.title', h('p.muted', t('test.help')), form(t('test.act'), fields, run), steps);
}
