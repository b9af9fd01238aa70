// A connection test that runs in this browser, through the public address, step by step.

import { parsed, post } from './api.js';
import { t } from './words.js';

const STEP_MS = 8000;

/** @param {Say} say */
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

/** One step. It says what came of it, and with a failure the likely cause. */
async function step(say, act, right, wrong, cause) {
	const started = performance.now();
	try {
		const found = await act();
		say('ok', right(Math.round(performance.now() - started), found));
		return found;
	} catch (error) {
		const why = words(error);
		say('bad', wrong(why), cause(why));
		return undefined;
	}
}

/** Name, port and TLS: any answer will do. */
function reach({ host, port, tls }, say) {
	const url = `${tls ? 'https' : 'http'}://${host}:${port}/`;
	const ask = () => fetch(url, { mode: 'no-cors', cache: 'no-store', credentials: 'omit', signal: AbortSignal.timeout(STEP_MS) });
	return step(say, ask, (ms) => t('reach', { url, ms }), () => t('reach.failed', { url }), () => t(tls ? 'reach.tls' : 'reach.plain'));
}

/** @param {Target} target @returns {Promise<Wire | undefined>} */
function upgrade({ host, port, tls, path, key }, say) {
	const url = `${tls ? 'wss' : 'ws'}://${host}:${port}${path}/app/${encodeURIComponent(key)}`;
	async function connect() {
		const wire = open(`${url}?protocol=7&client=gema-dashboard&version=1`);
		await wire.next('open').catch((error) => {
			wire.socket.close();
			throw error;
		});
		return wire;
	}
	return step(say, connect, (ms) => t('upgrade', { ms }), () => t('upgrade.failed', { url }), () => t('upgrade.why'));
}

/** The server's greeting, which is where a wrong key shows. @param {Wire} wire */
function greet(wire, { key }, say) {
	async function hear() {
		const { event, data } = await wire.next('pusher:connection_established', 'pusher:error');
		if (event === 'pusher:error') throw new Error(`${data.code ?? ''} ${data.message ?? ''}`);
		return data.socket_id;
	}
	const cause = (why) => t({ 4005: 'upgrade.why', 4009: 'probe.origin' }[parseInt(why)] ?? 'probe.key.why');
	return step(say, hear, (_, socket) => t('probe.key', { key, socket }), (why) => t('probe.key.failed', { why }), cause);
}

function join(wire, subscription, say) {
	const { channel } = subscription;
	async function subscribe() {
		wire.socket.send(JSON.stringify({ event: 'pusher:subscribe', data: subscription }));
		const { event, data } = await wire.next('pusher_internal:subscription_succeeded', 'pusher:subscription_error', 'pusher:error');
		if (event !== 'pusher_internal:subscription_succeeded') throw new Error(data.error ?? data.message ?? event);
		return true;
	}
	return step(say, subscribe, () => t('joined', { channel }), (why) => t('joined.failed', { channel, why }), () => t('joined.why'));
}

async function authorize(wire, { auth, channel }, socketId, say) {
	if (!auth || !channel) return say('quiet', t('auth.skipped'));
	let granted;
	try {
		const body = new URLSearchParams({ socket_id: socketId, channel_name: channel });
		const answer = await fetch(auth, { method: 'POST', body, credentials: 'include', headers: { Accept: 'application/json' }, signal: AbortSignal.timeout(STEP_MS) });
		granted = parsed(await answer.text());
		if (!answer.ok || !granted?.auth) return say('bad', t('auth.failed', { why: `HTTP ${answer.status}` }), t('auth.why'));
	} catch (error) {
		return say('bad', t('auth.failed', { why: words(error) }), t('auth.cors'));
	}
	say('ok', t('probe.auth', { channel }));
	await join(wire, { ...granted, channel }, say);
}

/** Through the server and back: by an event where that is allowed, else by a ping. @param {Wire} wire */
function roundTrip(wire, { publish, app }, channel, say) {
	async function send() {
		const heard = wire.next(publish ? 'gema-test' : 'pusher:pong');
		if (publish) await Promise.all([heard, post('publish', { app, channel, event: 'gema-test', data: '{}', except: null })]);
		else wire.socket.send(JSON.stringify({ event: 'pusher:ping', data: {} }));
		await heard;
	}
	return step(say, send, (ms) => t(publish ? 'probe.event' : 'ping', { ms }), (why) => t('trip.failed', { why }), () => t('trip.why'));
}

const words = (error) => (error instanceof Error ? error.message : String(error)).trim();

/** @returns {Wire} */
function open(url) {
	const socket = new WebSocket(url);
	/** Messages that nobody has waited for yet. @type {{ event: string, data: any }[]} */
	const arrived = [];
	/** @type {(() => void) | undefined} */
	let notify;
	const push = (event, data) => (arrived.push({ event, data }), notify?.());
	socket.onopen = () => push('open');
	socket.onclose = ({ code, reason }) => push('close', t('probe.closed', { code, reason }));
	socket.onmessage = ({ data }) => {
		const message = parsed(data);
		push(message?.event, (typeof message?.data === 'string' ? parsed(message.data) : message?.data) ?? {});
	};
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
	return { socket, next };
}
