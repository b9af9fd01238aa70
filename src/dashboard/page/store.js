// What the page knows: one request for what is slow, one stream for what moves.

import { address, ApiError, get } from './api.js';
import { serverNow, setClock } from './format.js';
import { addNow, loadHistory } from './history.js';

/** Waits between attempts, in seconds. */
const WAITS = [1, 2, 3, 5, 8, 15];
/** The server speaks each second; a stream silent for so long is broken. */
const SILENT_MS = 20_000;
/** After so long in the background the stream is closed. */
const HIDDEN_MS = 60_000;
/** The server forgets a problem after a day, and so does an open page. */
const DAY_MS = 86_400_000;
const PROBLEMS_MAX = 2000;

/** @type {Map<Topic, Set<(data: any) => void>>} */
const listeners = new Map();

/** @type {{ state: State | undefined, link: Link, retryAt: number }} */
export const store = { state: undefined, link: 'opening', retryAt: 0 };

/** @type {EventSource | undefined} */
let stream;
/** @type {string | undefined} */
let liveFilter;
let attempts = 0;
/** Counts starts: an overtaken one changes nothing. */
let runs = 0;
let heardAt = 0;
/** When somebody could see the page. */
let seenAt = Date.now();
let timer;

/** The answer ends it. @param {Topic} topic */
export function on(topic, listen) {
	const all = listeners.get(topic) ?? new Set();
	listeners.set(topic, all);
	all.add(listen);
	return () => all.delete(listen);
}

/** @param {Topic} topic */
function emit(topic, /** @type {any} */ data = null) {
	listeners.get(topic)?.forEach((listen) => listen(data));
}

/** Panels open after it has come. */
export function state() {
	if (!store.state) throw new Error('no state yet');
	return store.state;
}

export const isOperator = () => store.state?.role === 'operator';

/** Opens the stream. A failure is shown and tried again. */
export async function start() {
	closeStream();
	const own = (runs += 1);
	if (store.link !== 'lost') setLink('opening');
	try {
		const [fresh] = await Promise.all([get('state'), loadHistory()]);
		if (own !== runs) return;
		take(fresh);
		emit('history');
		openStream();
	} catch (error) {
		if (own !== runs) return;
		if (!(error instanceof ApiError)) console.error(error);
		lose();
	}
}

/** Ends everything until somebody signs in. */
export function stop() {
	closeStream();
	runs += 1;
	setLink('locked');
}

function closeStream() {
	clearTimeout(timer);
	stream?.close();
	stream = undefined;
}

/** Asks for the state. A failure shows in the stream, too. */
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
	closeStream();
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
	take('glance', takeGlance);
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

/** @param {Glance} glance */
function takeGlance(glance) {
	const before = situationOf(state().glance);
	emit('glance', (state().glance = glance));
	if (situationOf(glance) !== before) refresh();
}

/** @param {Glance} glance */
const situationOf = (glance) => `${glance.code} ${glance.values.nodes} ${glance.values.lost}`;

/** @param {Problem[]} changed */
function takeProblems(changed) {
	const ids = new Set(changed.map(({ id }) => id));
	const isKept = ({ id, last_ms: last }) => !ids.has(id) && serverNow() - last < DAY_MS;
	state().problems = [...changed, ...state().problems.filter(isKept)].slice(0, PROBLEMS_MAX);
	emit('problems', state().problems);
}

function lose() {
	closeStream();
	const seconds = WAITS[Math.min(attempts, WAITS.length - 1)];
	attempts += 1;
	// Pages should not come back in the same moment.
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

/** Call it each second: it notices a dead stream, and rests while nobody looks. */
export function checkStream() {
	const now = Date.now();
	if (!document.hidden) seenAt = now;
	if (stream && now - heardAt > SILENT_MS) lose();
	// A browser has six connections to a host; a hidden page keeps none.
	else if (stream && now - seenAt > HIDDEN_MS) closeStream();
	else if (!stream && store.link === 'open' && !document.hidden) start();
}
