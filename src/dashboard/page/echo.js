// The line of Laravel Echo that hears an event.

import { visible } from './dom.js';

export function echoLine(channel, event) {
	const [kind, name] = kindOf(channel);
	return `Echo.${kind}(${quoted(name)})${event ? listenerOf(event) : ''}`;
}

/** @returns {[string, string]} */
function kindOf(channel) {
	const kinds = { 'private-encrypted-': 'encryptedPrivate', 'private-': 'private', 'presence-': 'join' };
	for (const [prefix, kind] of Object.entries(kinds)) {
		if (channel.startsWith(prefix)) return [kind, channel.slice(prefix.length)];
	}
	return ['channel', channel];
}

function listenerOf(event) {
	if (event.startsWith('client-')) return `.listenForWhisper(${quoted(event.slice(7))}, (data) => …)`;
	// Echo puts its namespace before a name, unless a dot begins it.
	const own = event.startsWith('App\\Events\\') ? event.slice(11).replaceAll('\\', '.') : `.${event}`;
	return `.listen(${quoted(own)}, (data) => …)`;
}

/** The escapes of invisible characters are those of JavaScript, too. */
const quoted = (text) => `'${visible(text.replaceAll('\\', '\\\\').replaceAll("'", "\\'"))}'`;
