// Letting in: by the form, or by a token in the fragment of the URL, which is removed at once.

import { post } from './api.js';
import { decoded, h } from './dom.js';
import { answerPlace, labelled } from './parts.js';
import { t } from './words.js';

const MARK = 'gema.signed_in';

/** The token of `#token=…`, taken out of the URL and of the browser's history. */
export function tokenOfUrl() {
	const token = /^#token=(.+)$/.exec(location.hash)?.[1];
	if (token) history.replaceState(null, '', location.pathname + location.search);
	return token && decoded(token);
}

export async function login(token) {
	await post('login', { token });
	// The cookie is invisible here.
	localStorage.setItem(MARK, '1');
}

export const isSignedIn = () => localStorage.getItem(MARK) !== null;
export const forget = () => localStorage.removeItem(MARK);

/** @param {string} [failure] of an attempt before */
export function loginForm(done, failure) {
	const field = h('input', { type: 'password', name: 'token', autocomplete: 'current-password', required: true });
	const button = h('button', { type: 'submit' }, t('login.act'));
	const answer = answerPlace();
	async function submit(event) {
		event.preventDefault();
		button.disabled = true;
		try {
			await login(field.value.trim());
			done();
		} catch (error) {
			answer.fail(error);
			field.select();
		}
		button.disabled = false;
	}
	if (failure) answer.say('bad', failure);
	const form = h('form', { class: 'panel login', onsubmit: submit }, h('h1', t('login.title')), h('p.muted', t('login.help'), ' ', h('code', 'dashboard.token')), labelled('token', field), button, answer.element);
	queueMicrotask(() => field.focus());
	return form;
}
