// The page: the sentence on top, tabs that are links, and the panel that the URL names.

import { openApps } from './apps.js';
import { openChannels } from './channels.js';
import { openConnections } from './connections.js';
import { h, put } from './dom.js';
import { duration, number, serverNow, tick } from './format.js';
import { openLive } from './live.js';
import { forget, isSignedIn, login, loginForm, tokenOfUrl } from './login.js';
import { openNow } from './now.js';
import { openOverview } from './overview.js';
import { button, ICONS } from './parts.js';
import { openSettings } from './settings.js';
import { checkStream, on, refresh, start, state, store } from './store.js';
import { openTry } from './try.js';
import { glanceWords, language, t } from './words.js';

/** @type {Record<string, [Word, OpenPanel]>} */
const PANELS = {
	overview: ['tab.overview', openOverview],
	now: ['tab.now', openNow],
	live: ['tab.live', openLive],
	channels: ['tab.channels', openChannels],
	connections: ['tab.connections', openConnections],
	apps: ['tab.apps', openApps],
	try: ['tab.try', openTry],
	settings: ['tab.settings', openSettings],
};

/** From this age on, a panel that is opened asks for the state again. */
const STALE_MS = 3000;

const sentence = h('section', { class: 'glance quiet', 'aria-label': t('glance.label'), role: 'status' });
const link = h('p', { class: 'link-state', role: 'status' });
const menu = button('', () => openMenu(!nav.classList.contains('open')), 'menu', { 'aria-expanded': 'false', 'aria-controls': 'tabs' });
const nav = h('nav', { id: 'tabs', 'aria-label': t('tabs') });
const panel = h('main', { id: 'panel', tabindex: -1 });

/** @type {Close | void} */
let close;
/** The panel on the page. */
let opened = '';

document.documentElement.lang = language;
put(document.body, h('a', { class: 'skip', href: '#panel', onclick: skip }, t('skip')), h('header', h('span.brand', 'gema'), nav, link, menu), sentence, panel);
on('glance', showGlance);
on('link', showLink);
on('state', () => opened || route());
window.addEventListener('hashchange', route);
document.addEventListener('keydown', (event) => event.key === 'Escape' && openMenu(false));
setInterval(() => {
	checkStream();
	tick();
	if (store.link === 'lost') showLink('lost');
}, 1000);
begin();

async function begin() {
	const token = tokenOfUrl();
	if (token) {
		try {
			await login(token);
		} catch (error) {
			return lock(error.message);
		}
	}
	if (!isSignedIn()) return lock();
	await start();
}

/** Opens the panel of the URL. */
function route() {
	const token = tokenOfUrl();
	if (token) return void login(token).then(start, (error) => lock(error.message));
	if (!store.state || store.link === 'locked') return;
	const [key, ...query] = location.hash.slice(1).split('?');
	const known = Object.hasOwn(PANELS, key) ? key : 'overview';
	close?.();
	opened = known;
	put(nav, Object.entries(PANELS).map(([name, [word]]) => h('a', { href: `#${name}`, 'aria-current': name === known ? 'page' : null }, t(word))));
	put(menu, `☰ ${t(PANELS[known][0])}`);
	openMenu(false);
	put(panel);
	// Panels show what the stream does not carry as it is now.
	if (serverNow() - store.state.now_ms > STALE_MS) refresh();
	close = PANELS[known][1](panel, decoded(query.join('?'), known));
	window.scrollTo(0, 0);
}

/** Panels with fields of their own read them themselves. */
function decoded(query, key) {
	if (key === 'channels' || key === 'try') return query;
	try {
		return decodeURIComponent(query);
	} catch {
		return query;
	}
}

function openMenu(open) {
	nav.classList.toggle('open', open);
	menu.setAttribute('aria-expanded', String(open));
}

function skip(event) {
	event.preventDefault();
	panel.focus();
}

/** @param {Glance | null} glance before the first second there is none */
function showGlance(glance) {
	if (!glance) return;
	const { level } = glance;
	const words = glanceWords(glance, shown(glance.values), state().problems);
	const before = sentence.querySelector('h1')?.textContent;
	document.title = `${ICONS[level] ?? ''} gema · ${words}`;
	sentence.className = `glance ${level}`;
	if (before !== words) put(sentence, h('span', { class: 'icon', 'aria-hidden': 'true' }, ICONS[level] ?? '○'), h('h1', h('bdi', words)));
}

/** @param {Record<string, unknown>} values */
function shown(values) {
	const entries = Object.entries(values ?? {}).map(([key, value]) => [key, typeof value === 'number' ? (key.endsWith('seconds') ? duration(value) : number(value)) : value]);
	return Object.fromEntries(entries);
}

/** @param {Link} is */
function showLink(is) {
	if (is === 'locked') return lock();
	const seconds = Math.max(0, Math.ceil((store.retryAt - Date.now()) / 1000));
	const words = is === 'open' ? '' : is === 'lost' ? t('link.lost', { s: seconds }) : t('link.opening');
	if (link.textContent !== words) put(link, words);
	document.body.classList.toggle('disconnected', is === 'lost');
	if (is === 'lost') document.title = `✕ gema · ${words}`;
	// The countdown is for eyes; read out each second it would drown everything else.
	link.setAttribute('aria-live', is === 'lost' && seconds > 0 ? 'off' : 'polite');
}

function lock(failure) {
	forget();
	close?.();
	close = undefined;
	opened = '';
	put(nav);
	put(menu);
	put(link);
	sentence.className = 'glance hidden';
	put(panel, loginForm(start, failure));
}

