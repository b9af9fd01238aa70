// Numbers with thin spaces and units; times by the server's clock.

import { h } from './dom.js';
import { language, t } from './words.js';

const COMMA = language === 'id' ? ',' : '.';
/** Narrow, and no line ends there. */
const THIN = '\u202f';

/** 1204 → 1 204, 0.123 → 0.12. */
export function number(value) {
	if (value == null || Number.isNaN(value)) return '–';
	const size = Math.abs(value);
	const digits = size >= 100 || Number.isInteger(value) ? 0 : size >= 10 ? 1 : 2;
	const [whole, rest] = value.toFixed(digits).split('.');
	const grouped = whole.replace(/\B(?=(\d{3})+$)/g, THIN);
	const decimals = rest?.replace(/0+$/, '');
	return decimals ? grouped + COMMA + decimals : grouped;
}

/** 2,400,000 → 2.4 M, for axes and other narrow places. */
export function short(value) {
	return scaled(value, 1000, ['', 'k', 'M', 'G'], 10_000);
}

function scaled(value, base, units, from) {
	if (value == null || value < from) return joined(number(value), units[0]);
	let step = 0;
	while (value >= base && step < units.length - 1) {
		value /= base;
		step += 1;
	}
	return joined(number(Math.round(value * 10) / 10), units[step]);
}

const joined = (digits, unit) => (unit && digits !== '–' ? digits + THIN + unit : digits);

export const bytes = (value) => scaled(value == null ? value : Math.round(value), 1000, ['B', 'kB', 'MB', 'GB'], 1000);

export const rate = (value) => (value == null ? '–' : `${short(value)}/s`);

export const byteRate = (value) => (value == null ? '–' : `${bytes(value)}/s`);

export const milliseconds = (value) => scaled(value, 1000, ['ms', 's'], 10_000);

/** 0.18 → 18 %. */
export const percent = (share) => (share == null ? '–' : joined(number(Math.round(share * 100)), '%'));

/** 42 → 42 s, 4000 → 1 h 6 min. */
export function duration(seconds) {
	const whole = Math.max(0, Math.round(seconds));
	if (whole < 60) return `${whole} ${t('unit.s')}`;
	if (whole < 3600) return `${Math.floor(whole / 60)} ${t('unit.min')}`;
	const [unit, word, small, smallWord] = whole < 86_400 ? [3600, t('unit.h'), 60, t('unit.min')] : [86_400, t('unit.d'), 3600, t('unit.h')];
	const rest = Math.floor((whole % unit) / small);
	return `${Math.floor(whole / unit)} ${word}${rest ? ` ${rest} ${smallWord}` : ''}`;
}

/** The server's clock minus the browser's. */
let ahead = 0;

export function setClock(nowMs) {
	ahead = nowMs - Date.now();
}

export const serverNow = () => Date.now() + ahead;

const absoluteFormat = new Intl.DateTimeFormat(language === 'id' ? 'id' : 'en-GB', {
	dateStyle: 'medium',
	timeStyle: 'long',
});

export const absolute = (ms) => absoluteFormat.format(ms);

/** 14:03 or 14:03:25. */
export function clock(ms, seconds = false) {
	const at = new Date(ms);
	const parts = [at.getHours(), at.getMinutes(), ...(seconds ? [at.getSeconds()] : [])];
	return parts.map((part) => String(part).padStart(2, '0')).join(':');
}

export function ago(ms) {
	const seconds = (serverNow() - ms) / 1000;
	return seconds < 1 ? t('time.now') : t('time.ago', { time: duration(seconds) });
}

/** Times that stay relative while one looks. @type {Map<Element, () => string>} */
const ticking = new Map();

/** @param {(ms: number) => string} [wordsOf] */
export function time(ms, wordsOf = ago) {
	if (!ms) return h('span', '–');
	const at = ms;
	const element = h('time', { datetime: new Date(at).toISOString(), title: absolute(at) }, wordsOf(at));
	ticking.set(element, () => wordsOf(at));
	return element;
}

/** Brings all times of the page up to date. */
export function tick() {
	for (const [element, words] of ticking) {
		if (!element.isConnected) ticking.delete(element);
		else if (element.textContent !== words()) element.textContent = words();
	}
}
