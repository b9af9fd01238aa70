// Requests to the API beside this page.

/** The folder of this file, below whatever prefix the server has. */
const BASE = new URL('./api/', import.meta.url);

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
export const get = (path, query) => request(address(path, query), {});

export const post = (path, body = {}) =>
	request(address(path), { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });

/** @param {RequestInit} init @returns {Promise<any>} */
async function request(url, init) {
	const answer = await fetch(url, { ...init, credentials: 'same-origin', redirect: 'error' }).catch(() => {
		throw new ApiError(0, 'the server does not answer');
	});
	const text = await answer.text();
	const json = parsed(text);
	if (!answer.ok) throw new ApiError(answer.status, json?.error ?? (text || answer.statusText));
	return json;
}

function parsed(text) {
	try {
		return JSON.parse(text);
	} catch {
		return undefined;
	}
}
