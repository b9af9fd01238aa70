// Nodes by their names, and panels with the things of one node.

import { get } from './api.js';
import { h } from './dom.js';
import { answerPlace, labelled, select, share } from './parts.js';
import { on, refresh, state } from './store.js';

export const nodeName = (id) => state().nodes.find((node) => node.id === id)?.name || id;

/**
 * With several nodes, a field chooses whose things `content` has, and the URL names that node. `draw` fills it in, and
 * gets what asks once more.
 * @param {(of: State, again: () => void) => void} draw
 */
export function ofNode(panel, query, content, draw) {
	const { node: own, nodes } = state();
	const choice = select('node', nodes.map(({ id }) => id), nodeName);
	const answer = answerPlace();
	choice.value = new URLSearchParams(query).get('node') ?? own;
	// The node of an old link is gone.
	if (!choice.value) choice.value = own;
	async function show() {
		const id = choice.value;
		content.hidden = id !== own;
		answer.clear();
		try {
			const found = id === own ? state() : await get('state', { node: id });
			if (id !== choice.value) return;
			draw(found, id === own ? refresh : show);
			content.hidden = false;
		} catch (error) {
			if (id === choice.value) answer.fail(error);
		}
	}
	choice.addEventListener('change', () => {
		share(`#${panel}?${new URLSearchParams({ node: choice.value })}`);
		show();
	});
	show();
	return {
		element: nodes.length > 1 && h('div.form-row', labelled('where.node', choice), answer.element),
		end: on('state', () => choice.value === own && show()),
	};
}
