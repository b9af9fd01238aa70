// A connection test that runs in this browser, through the public address, step by step as a page would do it.

import { post } from './api.js';
import { t } from './words.js';

/** Longest that a step may take. */
const STEP_MS = 8000;

/** @param {Target} target @param {Say} say */
export async function probe(target, say) {
	if (!(await reach(target, say))) return;
	const wire = await upgrade(target, say);
	if (!wire) return;
	try {
		const socketId = await greet(wire, target, say);
		if (!socketId) return;
		const channel = `gema-test-${Math.random().toString(36).slice(2, 10)}`;
		if (!(await join(wire, { channel }, say))) return;
		await authorize(wire, target, socketId, say);
		await roundTrip(wire, target, channel, say);
	} finally {
		wire.socket.close(1000);
	}
}

/** Name, port and TLS: any answer will do. @param {Target} target */
async function reach({ host, port, tls }, say) {
	const url = `${tls ? 'https' : 'http'}://${host}:${port}/`;
	const started = performance.now();
	try {
		await fetch(url, { mode: 'no-cors', cache: 'no-store', credentials: 'omit', signal: AbortSignal.timeout(STEP_MS) });
		say('ok', t('probe.reach', { url, ms: Math.round(performance.now() - started) }));
		return true;
	} catch {
		say('bad', t('probe.reach.failed', { url }), t(tls ? 'probe.reach.tls' : 'probe.reach.plain'));
		return false;
	}
}

/** @param {Target} target @param {Say} say @returns {Promise<Wire | undefined>} */
async function upgrade({ host, port, tls, path, key }, say) {
	const url = `${tls ? 'wss' : 'ws'}://${host}:${port}${path}/app/${encodeURIComponent(key)}?protocol=7&client=gema-dashboard&version=1`;
	const wire = open(url);
	try {
		await wire.next('open');
		say('ok', t('probe.upgrade', { ms: wire.ms() }));
		return wire;
	} catch {
		say('bad', t('probe.upgrade.failed', { url: url.split('?')[0] }), t('probe.upgrade.why'));
		wire.socket.close();
		return undefined;
	}
}

/** The server's greeting, which is where a wrong key shows. @param {Wire} wire @param {Target} target */
async function greet(wire, target, say) {
	try {
		const { event, data } = await wire.next('pusher:connection_established', 'pusher:error');
		if (event === 'pusher:error') throw new Error(`${data.code ?? ''} ${data.message ?? ''}`);
		say('ok', t('probe.key', { key: target.key, socket: data.socket_id }));
		return data.socket_id;
	} catch (error) {
		say('bad', t('probe.key.failed', { why: words(error) }), t(words(error).includes('4009') ? 'probe.origin' : 'probe.key.why'));
		return undefined;
	}
}

/** @param {Wire} wire @param {Record<string, unknown>} subscription @param {Say} say */
async function join(wire, subscription, say) {
	wire.socket.send(JSON.stringify({ event: 'pusher:subscribe', data: subscription }));
	try {
		const { event, data } = await wire.next('pusher_internal:subscription_succeeded', 'pusher:subscription_error', 'pusher:error');
		if (event !== 'pusher_internal:subscription_succeeded') throw new Error(data.error ?? data.message ?? event);
		say('ok', t('probe.joined', { channel: subscription.channel }));
		return true;
	} catch (error) {
		say('bad', t('probe.joined.failed', { channel: subscription.channel, why: words(error) }), t('probe.joined.why'));
		return false;
	}
}

async function authorize(wire, { auth, channel }, socketId, say) {
	if (!auth || !channel) return say('quiet', t('probe.auth.skipped'));
	let granted;
	try {
		const body = new URLSearchParams({ socket_id: socketId, channel_name: channel });
		const answer = await fetch(auth, { method: 'POST', body, credentials: 'include', headers: { Accept: 'application/json' }, signal: AbortSignal.timeout(STEP_MS) });
		if (!answer.ok) return say('bad', t('probe.auth.failed', { why: answer.status }), t('probe.auth.why'));
		granted = await answer.json();
	} catch (error) {
		return say('bad', t('probe.auth.failed', { why: words(error) }), t('probe.auth.cors'));
	}
	say('ok', t('probe.auth', { channel }));
	await join(wire, { ...granted, channel }, say);
}

/** Through the whole server and back: by an event where that is allowed, else by a ping. @param {Wire} wire @param {Target} target */
async function roundTrip(wire, { publish, app }, channel, say) {
	const started = performance.now();
	try {
		const heard = wire.next(publish ? 'gema-test' : 'pusher:pong');
		if (publish) await Promise.all([heard, post('publish', { app, channel, event: 'gema-test', data: '{}', except: null })]);
		else wire.socket.send(JSON.stringify({ event: 'pusher:ping', data: {} }));
		await heard;
		say('ok', t(publish ? 'probe.event' : 'probe.ping', { ms: Math.round(performance.now() - started) }));
	} catch (error) {
		say('bad', t('probe.trip.failed', { why: words(error) }), t('probe.trip.why'));
	}
}

const words = (error) => (error instanceof Error ? error.message : String(error)).trim();

/** @returns {Wire} */
function open(url) {
	const started = performance.now();
	const socket = new WebSocket(url);
	/** Messages that nobody has waited for yet. @type {{ event: string, data: any }[]} */
	const arrived = [];
	/** @type {(() => void) | undefined} */
	let notify;
	const push = (event, data) => (arrived.push({ event, data }), notify?.());
	socket.onopen = () => push('open');
	socket.onclose = ({ code, reason }) => push('close', t('probe.closed', { code, reason }));
	socket.onmessage = ({ data }) => {
		const message = JSON.parse(data);
		push(message.event, typeof message.data === 'string' ? parsed(message.data) : message.data);
	};
	/** @param {...string} events */
	const next = (...events) =>
		new Promise((resolve, reject) => {
			const timer = setTimeout(() => reject(new Error(t('probe.silent', { s: STEP_MS / 1000 }))), STEP_MS);
			notify = () => {
				const index = arrived.findIndex(({ event }) => events.includes(event));
				const closed = arrived.find(({ event }) => event === 'close');
				if (index < 0 && !closed) return;
				clearTimeout(timer);
				notify = undefined;
				if (index >= 0) resolve(arrived.splice(index, 1)[0]);
				else reject(new Error(String(closed?.data)));
			};
			notify();
		});
	return { socket, next, ms: () => Math.round(performance.now() - started) };
}

function parsed(text) {
	try {
		return JSON.parse(text);
	} catch {
		return text;
	}
}
