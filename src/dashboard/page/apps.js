// Apps with their limits as bars; webhooks with their queues.

import { h, name, put } from './dom.js';
import { duration, number, rate, serverNow, time } from './format.js';
import { asOf, badge, bar, empty, nameOr, section, table } from './parts.js';
import { on, refresh, state } from './store.js';
import { t } from './words.js';

/** @type {OpenPanel} */
export function openApps(root) {
	const apps = h('div');
	const webhooks = h('div');
	const age = h('div');
	put(root, section('apps.title', age, apps), section('webhooks.title', webhooks));
	function draw() {
		put(age, asOf(state().now_ms, refresh));
		put(apps, appTable());
		put(webhooks, webhookTable());
	}
	draw();
	return on('state', draw);
}

function appTable() {
	const rows = state().apps.map((app) => [
		[name(app.name || app.id, 28), app.name && h('span.muted', ' ', name(app.id, 20))],
		app.key ? h('code', name(app.key, 24)) : '–',
		app.enabled ? badge('ok', t('apps.on')) : badge('quiet', t('apps.off')),
		bar('figure.connections', app.connections, app.connections_max),
		number(app.channels),
		limited('apps.publishes', app.publishes_per_second, app.publishes_max),
		limited('figure.client_events', app.client_events_per_second, app.client_events_max),
		limited('apps.reads', app.reads_per_second, app.reads_max),
	]);
	return rows.length
		? table('apps.title', ['where.app', 'apps.key', 'nodes.state', 'figure.connections', '#figure.channels', 'apps.publishes', 'apps.client_events', 'apps.reads'], rows)
		: empty(t('apps.none'), ' ', h('code', '[[apps]]'));
}

/** A rate against its limit; where the rate is not known, only the limit. */
function limited(label, value, max) {
	if (value !== null && value !== undefined) return max ? bar(label, value, max) : h('span', rate(value), h('span.muted', ` ${t('no.limit')}`));
	return h('span', { class: max ? null : 'muted' }, max ? `≤ ${rate(max)}` : t('no.limit'));
}

function webhookTable() {
	const rows = state().webhooks.map((webhook) => [
		name(webhook.url, 36),
		name(webhook.app, 20),
		bar('webhooks.waiting', webhook.waiting, webhook.waiting_max),
		statusOf(webhook),
		time(webhook.last_ms),
		webhook.next_try_ms ? time(webhook.next_try_ms, until) : '–',
		number(webhook.delivered),
		number(webhook.failed),
		number(webhook.given_up),
		nameOr(webhook.error, 80),
	]);
	return rows.length
		? table('webhooks.title', ['where.endpoint', 'where.app', 'webhooks.waiting', 'webhooks.last', 'webhooks.when', 'webhooks.next', '#webhooks.delivered', '#webhooks.failed', '#webhooks.given_up', 'webhooks.error'], rows)
		: empty(t('webhooks.none'), ' ', h('code', '[[apps.webhooks]]'));
}

const until = (at) => (at <= serverNow() ? t('time.now') : t('time.in', { time: duration((at - serverNow()) / 1000) }));

/** @param {Webhook} webhook */
function statusOf({ last_status: status, error }) {
	if (status === null || status === undefined) return error ? badge('bad', t('webhooks.no_answer')) : badge('quiet', t('webhooks.never'));
	return badge(status >= 200 && status < 300 ? 'ok' : 'bad', String(status));
}
