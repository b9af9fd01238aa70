// Settings: lines to paste elsewhere, every value and who set it, more log for a while, leaving.

import { post } from './api.js';
import { h, name, put } from './dom.js';
import { absolute } from './format.js';
import { answerPlace, button, labelled, section, select, snippet, submitButton, table, textField } from './parts.js';
import { isOperator, on, state } from './store.js';
import { t } from './words.js';

/** @type {OpenPanel} */
export function openSettings(root) {
	const snippets = h('div.snippets');
	const values = h('div');
	const filter = textField('', { type: 'search', placeholder: 'connections.', oninput: draw });
	const isOwn = h('input', { type: 'checkbox', checked: true, onchange: draw });
	put(
		root,
		section('snippets.title', h('p.muted', t('snippets.help')), snippets),
		section('settings.title', h('div.form-row', labelled('settings.filter', filter), h('label.check', isOwn, ' ', t('settings.own'))), values),
		isOperator() && logForm(),
		h('section.panel', h('p.muted', `gema ${state().version} · `, t(`role.${state().role}`)), button(t('logout'), logout)),
	);
	function draw() {
		put(snippets, Object.entries(state().snippets).map(([kind, text]) => snippet(PLACES[kind] ?? kind, text)));
		const rows = state()
			.settings.filter(({ key, origin }) => key.includes(filter.value.trim()) && !(isOwn.checked && origin === 'default'))
			.map(({ key, value, origin }) => [h('code', name(key, 60)), h('code', name(value, 80)), origin === 'default' ? h('span.muted', t('settings.default')) : name(origin, 60)]);
		put(values, table('settings.title', ['settings.key', 'settings.value', 'settings.origin'], rows));
	}
	draw();
	return on('state', draw);
}

/** @type {Record<string, string>} */
const PLACES = { env: 'Laravel · .env', echo: 'resources/js/echo.js', nginx: 'nginx' };

async function logout() {
	await post('logout').catch(() => undefined);
	location.reload();
}

function logForm() {
	const level = select('level', ['debug', 'trace']);
	const minutes = textField('10', { type: 'number', min: 1, max: 1440, required: true });
	const scope = select('scope', ['', 'app', 'channel', 'user'], (choice) => (choice ? t(/** @type {Word} */ (`where.${choice}`)) : t('log.all')));
	const value = textField();
	const answer = answerPlace();
	async function submit(event) {
		event.preventDefault();
		const only = { app: null, channel: null, user: null, ...(scope.value && { [scope.value]: value.value.trim() }) };
		await post('log', { level: level.value, minutes: Number(minutes.value), ...only }).then(
			({ until_ms: until }) => answer.say('ok', t('log.until', { time: absolute(until) })),
			answer.fail,
		);
	}
	const form = h('form.form-row', { onsubmit: submit }, labelled('log.level', level), labelled('log.minutes', minutes), labelled('log.scope', scope), labelled('log.value', value), submitButton(t('log.act')));
	return section('log.title', form, answer.element);
}
