// Elements without markup: texts become text nodes, so no name can become part of the page.

const HOVER_MAX = 2000;

/**
 * An element: `h('p.muted', { title: '…' }, 'text')`. `props` are attributes and `on…` listeners, and may be left out.
 * `null` and `false` set nothing.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T | `${T}.${string}`} tag with classes
 * @returns {HTMLElementTagNameMap[T]}
 */
export function h(tag, ...rest) {
	const [type, ...classes] = tag.split('.');
	const element = document.createElement(type);
	element.classList.add(...classes);
	return /** @type {any} */ (fill(element, rest));
}

/** The same for SVG, without classes in the tag. */
export const svg = (tag, ...rest) => fill(document.createElementNS('http://www.w3.org/2000/svg', tag), rest);

function fill(element, rest) {
	const hasProps = Object.getPrototypeOf(rest[0] ?? '') === Object.prototype;
	const [props, ...children] = hasProps ? rest : [{}, ...rest];
	for (const [key, value] of Object.entries(props)) {
		if (value == null || value === false) continue;
		if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
		else element.setAttribute(key, value === true ? '' : String(value));
	}
	element.append(...nodes(children));
	return element;
}

/** @returns {(Node | string)[]} */
function nodes(children) {
	return children
		.flat(2)
		.filter((child) => child != null && child !== false)
		.map((child) => (child instanceof Node ? child : String(child)));
}

/** Puts new children into an element. */
export function put(element, ...children) {
	element.replaceChildren(...nodes(children));
}

/**
 * A name from outside: isolated from the direction of the text around it, cut in the middle, whole on hover.
 * @param {number} [max] characters
 */
export function name(value, max = 40) {
	const whole = visible(value);
	const cut = cutMiddle(whole, max);
	return h('bdi', { class: 'name', title: cut === whole ? null : whole.slice(0, HOVER_MAX) }, cut);
}

/** Characters that would be invisible or turn the text around, as escapes. */
export function visible(value) {
	const text = typeof value === 'string' ? value : JSON.stringify(value) ?? '';
	// Controls, and Unicode's marks of direction and width.
	return text.replace(
		/[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
		(character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
	);
}

/** A part of the URL as somebody has written it. */
export function decoded(text) {
	try {
		return decodeURIComponent(text);
	} catch {
		return text;
	}
}

function cutMiddle(text, max) {
	if (text.length <= max) return text;
	// By characters, so that none is cut in two.
	const characters = Array.from(text.length > 4 * max ? text.slice(0, 2 * max) + text.slice(-2 * max) : text);
	if (characters.length <= max) return text;
	const tail = Math.floor((max - 1) / 2);
	return `${characters.slice(0, max - 1 - tail).join('')}…${characters.slice(characters.length - tail).join('')}`;
}
