// Requests to the API beside this page.

import { t } from './words.js';

const BASE = new URL('./api/', import.meta.url);
/** A server that hangs is one that does not answer. */
const ANSWER_MS = 20_000;

export class ApiError extends Error {
	/** @param {number} status 0 if there was no answer */
	constructor(status, message) {
		super(message);
		this.status = status;
	}
}

/** @param {Record<string, string | number | null | undefined>} [query] */
export function address(path, query = {}) {
	const url = new URL(path, BASE);
	for (const [key, value] of Object.entries(query)) {
		if (value !== null && value !== undefined && value !== '') url.searchParams.set(key, String(value));
	}
	return url;
}

/** @param {Record<string, string | number | null | undefined>} [query] */
export const get = (path, query) => request(path, query);

export const post = (path, body = {}) =>
	request(path, {}, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });

/**
 * Without the right to look, it also says so to the page: `refused`.
 * @returns {Promise<any>}
 */
async function request(path, query, init) {
	const signal = AbortSignal.timeout(ANSWER_MS);
	const [answer, text] = await fetch(address(path, query), { ...init, signal, credentials: 'same-origin', redirect: 'error' })
		.then(async (answer) => /** @type {const} */ ([answer, await answer.text()]))
		.catch(() => {
			throw new ApiError(0, t('no.answer'));
		});
	const json = parsed(text);
	if (answer.ok) return json;
	if (answer.status === 401 && path !== 'login') dispatchEvent(new Event('refused'));
	throw new ApiError(answer.status, json?.error ?? (text || answer.statusText));
}

/** JSON, or nothing. */
export function parsed(text) {
	try {
		return JSON.parse(text);
	} catch {
		return undefined;
	}
}
