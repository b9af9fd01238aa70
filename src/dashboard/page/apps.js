// Apps with their limits as bars; webhooks with their queues.

import { h, name, put } from './dom.js';
import { duration, number, rate, serverNow, time } from './format.js';
import { asOf, badge, bar, nameOr, section, table } from './parts.js';
import { ofNode } from './node.js';
import { t } from './words.js';

/** @type {OpenPanel} */
export function openApps(root, query) {
	const content = h('div.contents');
	const { element, end } = ofNode('apps', query, content, ({ apps, webhooks, now_ms: now }, again) =>
		put(content, section('tab.apps', asOf(now, again), appTable(apps)), section('webhooks.title', webhookTable(webhooks))),
	);
	put(root, element, content);
	return end;
}

/** @param {App[]} apps */
function appTable(apps) {
	const rows = apps.map((app) => [
		[name(app.name || app.id, 28), app.name && h('span.muted', ' ', name(app.id, 20))],
		app.key ? h('code', name(app.key, 24)) : '–',
		app.enabled ? badge('ok', t('on')) : badge('quiet', t('off')),
		bar('tab.connections', app.connections, app.connections_max),
		number(app.channels),
		bar('publishes', app.publishes_per_second, app.publishes_max),
		limited(app.client_events_max),
		limited(app.reads_max),
	]);
	return table('tab.apps', ['where.app', 'apps.key', 'state', 'tab.connections', '#tab.channels', 'publishes', 'client_events', 'reads'], rows, t('apps.none'), ' ', h('code', '[[apps]]'));
}

/** Their rate is not known. */
const limited = (max) => (max ? `≤ ${rate(max)}` : h('span.muted', t('no.limit')));

/** @param {Webhook[]} webhooks */
function webhookTable(webhooks) {
	const rows = webhooks.map((webhook) => [
		name(webhook.url, 36),
		name(webhook.app, 20),
		bar('waiting', webhook.waiting, webhook.waiting_max),
		statusOf(webhook),
		time(webhook.last_ms),
		webhook.next_try_ms ? time(webhook.next_try_ms, until) : '–',
		number(webhook.delivered),
		number(webhook.failed),
		number(webhook.given_up),
		nameOr(webhook.error, 80),
	]);
	return table('webhooks.title', ['where.endpoint', 'where.app', 'waiting', 'webhooks.last', 'webhooks.when', 'next', '#delivered', '#probe.bad', '#given_up', 'error'], rows, t('webhooks.none'), ' ', h('code', '[[apps.webhooks]]'));
}

const until = (at) => (at <= serverNow() ? t('time.now') : t('time.in', { time: duration((at - serverNow()) / 1000) }));

/** @param {Webhook} webhook */
function statusOf({ last_status: status, error }) {
	if (status == null) return error ? badge('bad', t('no_answer')) : badge('quiet', t('never'));
	return badge(status >= 200 && status < 300 ? 'ok' : 'bad', String(status));
}
