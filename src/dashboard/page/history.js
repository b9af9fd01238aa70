// The figures of 15 minutes by second, or of 24 hours by minute. Loaded once, then continued by the stream.

import { get } from './api.js';

const LENGTH = { '15m': 900, '24h': 1440 };

/** @type {{ range: Span, data: Figures }} */
export const history = { range: '15m', data: { step_seconds: 1, end_ms: 0, series: {} } };

/** The seconds of the minute that has not ended, of a range by minute. @type {Now[]} */
let minute = [];

/** @param {Span} [range] */
export async function loadHistory(range = history.range) {
	const data = await get('history', { range });
	history.range = range;
	history.data = data;
	minute = [];
}

/** @param {Now} now */
export function addNow(now) {
	const { step_seconds: step, end_ms: end } = history.data;
	if (step === 1) return append(now.at_ms, (key) => figure(now, key));
	minute.push(now);
	if (now.at_ms < end + step * 1000) return;
	const samples = minute;
	minute = [];
	append(now.at_ms, (key) => mean(samples.map((sample) => figure(sample, key))));
}

/** @param {Now} now @returns {number | null} */
function figure(now, key) {
	const value = /** @type {Record<string, any>} */ (now)[key];
	return key === 'thinned' ? thinned(now) : (value ?? null);
}

/** Events that flow rules kept from pages. @param {Now} now */
function thinned({ thinned_in: before, thinned_out: after }) {
	return before == null ? null : Math.max(0, before - (after ?? 0));
}

function mean(values) {
	const known = values.filter((value) => value !== null);
	return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}

function append(atMs, valueOf) {
	const { data, range } = history;
	const step = data.step_seconds * 1000;
	// Steps without a sample stay empty; none is doubled.
	const steps = data.end_ms ? Math.round((atMs - data.end_ms) / step) : 1;
	if (steps < 1) return;
	const missing = Math.min(steps - 1, LENGTH[range]);
	for (const [key, values] of Object.entries(data.series)) {
		for (let index = 0; index < missing; index += 1) values.push(null);
		values.push(valueOf(key));
		if (values.length > LENGTH[range]) values.splice(0, values.length - LENGTH[range]);
	}
	data.end_ms += steps * step;
}
