// Settings: lines to paste elsewhere, every value and who set it, more log for a while, leaving.

import { post } from './api.js';
import { h, name, put } from './dom.js';
import { absolute } from './format.js';
import { answerPlace, button, form, labelled, section, select, snippet, table, textField } from './parts.js';
import { forget } from './login.js';
import { ofNode } from './node.js';
import { isOperator, state } from './store.js';
import { t } from './words.js';

/** @type {OpenPanel} */
export function openSettings(root, query) {
	const snippets = h('div.snippets');
	const values = h('div');
	const filter = textField('', { type: 'search', placeholder: 'connections.', oninput: drawValues });
	const isOwn = h('input', { type: 'checkbox', checked: true, onchange: drawValues });
	/** @type {State['settings']} */
	let settings = [];
	const content = h(
		'div.contents',
		section('snippets.title', h('p.muted', t('snippets.help')), snippets),
		section('tab.settings', h('div.form-row', labelled('settings.filter', filter), h('label.check', isOwn, ' ', t('settings.own'))), values),
	);
	const { element, end } = ofNode('settings', query, content, (of) => {
		put(snippets, Object.entries(of.snippets).map(([kind, text]) => snippet(PLACES[kind] ?? kind, text)));
		settings = of.settings;
		drawValues();
	});
	const { version, role } = state();
	put(root, element, content, isOperator() && logForm(), h('section.panel', h('p.muted', `gema ${version} · `, t(`role.${role}`)), button(t('logout'), logout)));
	function drawValues() {
		const rows = settings
			.filter(({ key, origin }) => key.includes(filter.value.trim()) && !(isOwn.checked && origin === 'default'))
			.map(({ key, value, origin }) => [h('code', name(key, 60)), h('code', name(value, 80)), origin === 'default' ? h('span.muted', t('default')) : name(origin, 60)]);
		put(values, table('tab.settings', ['settings.key', 'settings.value', 'settings.origin'], rows));
	}
	return end;
}

/** @type {Record<string, string>} */
const PLACES = { env: 'Laravel · .env', echo: 'resources/js/echo.js', nginx: 'nginx' };

async function logout() {
	await post('logout').catch(() => undefined);
	forget();
	location.reload();
}

function logForm() {
	const answer = answerPlace();
	const fields = [
		labelled('level', select('level', ['debug', 'trace'])),
		labelled('minutes', textField('10', { name: 'minutes', type: 'number', min: 1, max: 1440, required: true })),
		labelled('scope', select('scope', ['', 'app', 'channel', 'user'], (choice) => (choice ? t(/** @type {Word} */ (`where.${choice}`)) : t('all')))),
		labelled('log.value', textField('', { name: 'value' })),
	];
	async function act({ level, minutes, scope, value }) {
		const only = { app: null, channel: null, user: null, ...(scope && { [scope]: value }) };
		const { until_ms: until } = await post('log', { level, minutes: Number(minutes), ...only });
		answer.say('ok', t('until', { time: absolute(until) }));
	}
	return section('log.title', form(t('log.act'), fields, answer, act), answer.element);
}
