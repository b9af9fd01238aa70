// A plot of our own: lines over time with axes, units, a limit, red ticks for drops and refusals, and a value under the
// pointer. Geometry is SVG attributes in real pixels, so texts keep their size at each width.

import { h, put, svg } from './dom.js';
import { clock, number, serverNow } from './format.js';
import { history } from './history.js';
import { t } from './words.js';

const HEIGHT = 104;
const [TOP, RIGHT, BOTTOM, LEFT] = [10, 108, HEIGHT - 20, 50];
const TICK = 9;
/** A limit further above would flatten the line. */
const LIMIT_IN_VIEW = 4;
const MARKS = /** @type {const} */ (['drops', 'refusals']);

/** @param {PlotOptions} options */
export function plot(options) {
	const drawing = svg('svg', { class: 'drawing', height: HEIGHT, width: '100%', 'aria-hidden': 'true' });
	const note = h('span.muted');
	const reading = h('output.reading', { hidden: true });
	const element = h('figure.plot', { tabindex: 0, role: 'group' }, h('figcaption', h('strong', options.title), note), drawing, reading);
	/** The sample under the pointer or the arrows. @type {number | undefined} */
	let pointed;
	/** @type {View} */
	let view;

	function draw() {
		const width = element.clientWidth;
		if (!width) return;
		view = viewOf(options, width);
		const { values, limit, last } = view;
		if (pointed !== undefined) pointed = Math.min(pointed, last);
		put(drawing, axes(view, options), options.marks && marks(view), values.map((line, index) => path(view, line, index)), present(view, options), cross(view, pointed));
		const limitWords = limit ? t('limit', { limit: options.format(limit) }) : '';
		put(note, limitWords);
		const known = values[0].filter((value) => value !== null);
		const [low, high] = known.length ? [Math.min(...known), Math.max(...known)] : [null, null];
		const summary = t('summary', { now: options.format(values[0].at(-1)), low: options.format(low), high: options.format(high) });
		element.setAttribute('aria-label', `${options.title}: ${summary} ${limitWords}`);
		reading.hidden = pointed === undefined;
		if (pointed === undefined) return;
		put(reading, readingOf(view, options, pointed));
		// Beside the cross, where there is room.
		const [x, own] = [view.x(pointed) + 8, reading.offsetWidth];
		reading.style.setProperty('--x', `${x + own < width ? x : x - own - 16}px`);
	}
	function point(index) {
		pointed = index && Math.max(index, 0);
		draw();
	}
	function pointAt({ clientX }) {
		const part = (clientX - element.getBoundingClientRect().left - LEFT) / (view.right - LEFT);
		point(Math.round(part * view.last));
	}
	element.addEventListener('pointermove', pointAt);
	element.addEventListener('pointerdown', pointAt);
	element.addEventListener('pointerleave', (event) => event.pointerType === 'mouse' && point(undefined));
	element.addEventListener('blur', () => point(undefined));
	element.addEventListener('keydown', (event) => {
		const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -60, PageDown: 60 }[event.key];
		if (event.key === 'Escape') point(undefined);
		if (!step) return;
		event.preventDefault();
		point((pointed ?? view.last + 1) + step);
	});
	new ResizeObserver(draw).observe(element);
	return { element, draw };
}

/** @param {PlotOptions} options */
export function viewOf({ keys, limit: limitOf }, width) {
	const values = keys.map((key) => history.data.series[key] ?? []);
	const last = Math.max(values[0].length - 1, 1);
	const highest = Math.max(...values.flat().map((value) => value ?? 0), 0);
	const limit = limitOf?.();
	const limitInView = limit && limit <= highest * LIMIT_IN_VIEW ? limit : 0;
	const top = niceTop(Math.max(highest, limitInView));
	const right = width - RIGHT;
	const x = (index) => LEFT + (index / last) * (right - LEFT);
	const y = (value) => BOTTOM - (value / top) * (BOTTOM - TOP);
	return { values, last, top, limit, limitInView, right, x, y };
}

/** The next round number whose half is round too. */
function niceTop(highest) {
	const power = 10 ** Math.floor(Math.log10(highest || 1));
	return [1, 2, 4, 6, 8, 10].map((step) => step * power).find((step) => step >= highest) ?? 1;
}

const line = (kind, x1, x2, y1, y2) => svg('line', { class: kind, x1, x2, y1, y2 });
const label = (x, y, anchor, text) => svg('text', { class: 'axis', x, y, 'text-anchor': anchor }, text);

function axes({ top, right, x, y, limitInView, last }, { format }) {
	const rows = [0, top / 2, top].map((value) => [line('grid', LEFT, right, y(value), y(value)), label(LEFT - 6, y(value) + 4, 'end', format(value))]);
	const end = history.data.end_ms || serverNow();
	const span = last * history.data.step_seconds * 1000;
	const parts = right > 300 ? 3 : 2;
	const times = Array.from({ length: parts + 1 }, (_, part) =>
		label(x((last * part) / parts), BOTTOM + 16, part ? (part === parts ? 'end' : 'middle') : 'start', clock(end - span * (1 - part / parts))),
	);
	return [...rows.flat(), ...times, limitInView > 0 && line('limit', LEFT, right, y(limitInView), y(limitInView))];
}

/** @param {View} view */
function path({ x, y, right }, points, place) {
	// The highest of the values that fall on one pixel: a peak of a second stays visible in a day.
	const step = Math.max(1, Math.floor(points.length / Math.max(right - LEFT, 1)));
	let d = '';
	let isOpen = false;
	for (let index = 0; index < points.length; index += step) {
		const some = points.slice(index, index + step).filter((value) => value !== null);
		if (some.length) d += `${isOpen ? 'L' : 'M'}${x(Math.min(index + step, points.length) - 1).toFixed(1)} ${y(Math.max(...some)).toFixed(1)}`;
		isOpen = some.length > 0;
	}
	return svg('path', { class: place ? 'line second' : 'line', d });
}

function marks({ x }) {
	const places = new Set(MARKS.flatMap((key) => (history.data.series[key] ?? []).map((value, index) => (value ? Math.round(x(index)) : 0))));
	places.delete(0);
	return svg('path', { class: 'mark', d: [...places].map((at) => `M${at} ${BOTTOM}v${-TICK}`).join('') });
}

function present({ values, right, y }, { format }) {
	const value = values[0].at(-1);
	const at = Math.min(Math.max(y(value ?? 0) + 6, TOP + 12), BOTTOM);
	return svg('text', { class: 'present', x: right + 6, y: at }, format(value));
}

const cross = ({ x }, index) => index !== undefined && line('cross', x(index), x(index), TOP, BOTTOM);

/** @param {View} view @param {PlotOptions} options */
function readingOf({ values, last }, { names, format, marks: wanted }, index) {
	const { step_seconds: step, end_ms: end, series } = history.data;
	const rows = values.map((line, place) => `${names?.[place] ?? ''} ${format(line[index])}`);
	for (const key of wanted ? MARKS : []) {
		if (series[key]?.[index]) rows.push(`${t(`figure.${key}`)} ${number(series[key][index])}/s`);
	}
	return [h('strong', clock(end - (last - index) * step * 1000, step < 60)), ...rows.map((row) => h('span', row))];
}
