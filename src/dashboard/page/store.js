// What the page knows: one request for what is slow, one stream for what moves. The stream is opened again after a loss.

import { address, ApiError, get } from './api.js';
import { setClock } from './format.js';
import { addNow, loadHistory } from './history.js';

/** Waits between attempts, in seconds; the last one repeats. */
const WAITS = [1, 2, 3, 5, 8, 15];
/** The server says something each second; a stream that is silent for this long is a broken one. */
const SILENT_MS = 20_000;
/** After so long in the background the stream is closed. */
const HIDDEN_MS = 60_000;

/** @type {Map<Topic, Set<(data: any) => void>>} */
const listeners = new Map();

/** @type {{ state: State | undefined, link: Link, retryAt: number }} */
export const store = { state: undefined, link: 'opening', retryAt: 0 };

/** @type {EventSource | undefined} */
let stream;
/** @type {string | undefined} */
let liveFilter;
let attempts = 0;
let heardAt = 0;
/** When somebody could see the page. */
let seenAt = Date.now();
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;

/** Calls `listen` from now on; the answer ends it. @param {Topic} topic @param {(data: any) => void} listen */
export function on(topic, listen) {
	const all = listeners.get(topic) ?? new Set();
	listeners.set(topic, all);
	all.add(listen);
	return () => all.delete(listen);
}

/** @param {Topic} topic @param {any} [data] */
function emit(topic, data) {
	listeners.get(topic)?.forEach((listen) => listen(data));
}

/** The state that panels may rely on: they open after it has come. */
export function state() {
	if (!store.state) throw new Error('no state yet');
	return store.state;
}

export const isOperator = () => store.state?.role === 'operator';

/** Asks for everything and opens the stream. Never throws: a failure is shown and tried again. */
export async function start() {
	clearTimeout(timer);
	stream?.close();
	if (store.link === 'locked') setLink('opening');
	try {
		const [fresh] = await Promise.all([get('state'), loadHistory()]);
		take(fresh);
		emit('history');
		openStream();
	} catch (error) {
		if (error instanceof ApiError && error.status === 401) return setLink('locked');
		if (!(error instanceof ApiError)) console.error(error);
		lose();
	}
}

/** Asks for the state once more. A failure shows in the stream, too. */
export const refresh = () => get('state').then(take, () => undefined);

/** @param {State} fresh */
function take(fresh) {
	setClock(fresh.now_ms);
	store.state = fresh;
	emit('state', fresh);
	emit('glance', fresh.glance);
	emit('problems', fresh.problems);
}

/** Sends the rows of the live log that pass `filter`, or none. */
export function watch(filter) {
	if (filter === liveFilter) return;
	liveFilter = filter;
	if (stream) openStream();
}

function openStream() {
	stream?.close();
	const query = liveFilter === undefined ? {} : { live: 1, filter: liveFilter };
	const own = new EventSource(address('stream', query));
	stream = own;
	heardAt = Date.now();
	own.onopen = () => {
		attempts = 0;
		setLink('open');
	};
	own.onerror = () => own === stream && lose();
	const take = (type, /** @type {(data: any) => void} */ use) =>
		own.addEventListener(type, (event) => {
			heardAt = Date.now();
			use(JSON.parse(event.data));
		});
	take('now', takeNow);
	take('glance', (glance) => emit('glance', (state().glance = glance)));
	take('problems', takeProblems);
	take('rows', (rows) => emit('rows', rows));
	own.addEventListener('bye', () => own === stream && lose());
}

/** @param {Now} now */
function takeNow(now) {
	setClock(now.at_ms);
	state().now = now;
	addNow(now);
	emit('now', now);
}

/** @param {Problem[]} changed */
function takeProblems(changed) {
	const ids = new Set(changed.map(({ id }) => id));
	state().problems = [...changed, ...state().problems.filter(({ id }) => !ids.has(id))];
	emit('problems', state().problems);
}

function lose() {
	stream?.close();
	stream = undefined;
	clearTimeout(timer);
	const seconds = WAITS[Math.min(attempts, WAITS.length - 1)];
	attempts += 1;
	// Up to a quarter more, so that many pages do not come back in the same moment.
	const wait = seconds * 1000 * (1 + Math.random() / 4);
	store.retryAt = Date.now() + wait;
	setLink('lost');
	timer = setTimeout(start, wait);
}

/** @param {Link} link */
function setLink(link) {
	store.link = link;
	emit('link', link);
}

/** Call it each second: it notices a stream that died without a word, and rests while nobody looks. */
export function checkStream() {
	if (!document.hidden) seenAt = Date.now();
	if (store.link !== 'open') return;
	if (Date.now() - seenAt > HIDDEN_MS) {
		// A browser has six connections to a host, and each hidden page would keep one.
		stream?.close();
		stream = undefined;
	} else if (!stream) start();
	else if (Date.now() - heardAt > SILENT_MS) lose();
}
