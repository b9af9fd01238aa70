// The page: the sentence on top, tabs that are links, and the panel that the URL names.

import { openApps } from './apps.js';
import { openChannels } from './channels.js';
import { openConnections } from './connections.js';
import { decoded, h, put } from './dom.js';
import { duration, number, serverNow, tick } from './format.js';
import { openLive } from './live.js';
import { forget, isSignedIn, login, loginForm, tokenOfUrl } from './login.js';
import { openNow } from './now.js';
import { openOverview } from './overview.js';
import { button, ICONS } from './parts.js';
import { openSettings } from './settings.js';
import { checkStream, on, refresh, start, state, stop, store } from './store.js';
import { openTry } from './try.js';
import { glanceWords, language, maybe, t } from './words.js';

/** @type {Record<string, OpenPanel>} */
const PANELS = {
	overview: openOverview,
	now: openNow,
	live: openLive,
	channels: openChannels,
	connections: openConnections,
	apps: openApps,
	try: openTry,
	settings: openSettings,
};

/** A panel that is opened asks for a state of this age again. */
const STALE_MS = 3000;

const sentence = h('section', { class: 'glance quiet', 'aria-label': t('glance.label'), role: 'status' });
const link = h('p', { class: 'link-state', role: 'status' });
const menu = button('', () => openMenu(!nav.classList.contains('open')), 'menu', { 'aria-expanded': 'false', 'aria-controls': 'tabs' });
const tabs = Object.keys(PANELS).map((name) => h('a', { href: `#${name}` }, maybe(`tab.${name}`)));
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
addEventListener('hashchange', route);
addEventListener('refused', stop);
addEventListener('keydown', (event) => event.key === 'Escape' && openMenu(false));
setInterval(() => {
	checkStream();
	tick();
	if (store.link === 'lost') showLink('lost');
}, 1000);
begin();

function begin() {
	if (enterByUrl()) return;
	if (isSignedIn()) start();
	else lock();
}

/** Logs in with the token of the URL, if it has one. */
function enterByUrl() {
	const token = tokenOfUrl();
	if (!token) return false;
	login(token).then(start, (error) => {
		stop();
		lock(error.message);
	});
	return true;
}

/** Opens the panel of the URL. */
function route() {
	if (enterByUrl()) return;
	if (!store.state || store.link === 'locked') return;
	const [key, ...query] = location.hash.slice(1).split('?');
	const known = Object.hasOwn(PANELS, key) ? key : 'overview';
	close?.();
	opened = known;
	// The same elements each time, so that one keeps the focus.
	if (!nav.firstChild) put(nav, tabs);
	for (const tab of tabs) tab.removeAttribute('aria-current');
	tabs.find(({ hash }) => hash === `#${known}`)?.setAttribute('aria-current', 'page');
	put(menu, `☰ ${maybe(`tab.${known}`)}`);
	openMenu(false);
	const isInside = panel.contains(document.activeElement);
	put(panel);
	if (isInside) panel.focus();
	if (serverNow() - store.state.now_ms > STALE_MS) refresh();
	const words = query.join('?');
	// The others read their fields themselves.
	close = PANELS[known](panel, known === 'live' || known === 'connections' ? decoded(words) : words);
	scrollTo(0, 0);
}

function openMenu(open) {
	nav.classList.toggle('open', open);
	menu.setAttribute('aria-expanded', String(open));
}

function skip(event) {
	event.preventDefault();
	panel.focus();
}

/** @param {Glance} glance */
function showGlance(glance) {
	if (store.link === 'locked') return;
	const { level } = glance;
	const words = glanceWords(glance, shown(glance.values), state().problems);
	const before = sentence.querySelector('h1')?.textContent;
	document.title = `${ICONS[level] ?? ''} gema · ${words}`;
	sentence.className = `glance ${level}`;
	if (before !== words) put(sentence, h('span', { class: 'icon', 'aria-hidden': 'true' }, ICONS[level] ?? '○'), h('h1', h('bdi', words)));
}

function shown(values) {
	const entries = Object.entries(values ?? {}).map(([key, value]) => [key, typeof value === 'number' ? (key.endsWith('seconds') ? duration(value) : number(value)) : value]);
	return Object.fromEntries(entries);
}

/** @param {Link} is */
function showLink(is) {
	document.body.classList.toggle('disconnected', is === 'lost');
	if (is === 'locked') return lock();
	const seconds = Math.ceil((store.retryAt - Date.now()) / 1000);
	const words = is === 'open' ? '' : is === 'lost' && seconds > 0 ? t('link.lost', { s: seconds }) : t('link.opening');
	if (link.textContent !== words) put(link, words);
	if (is === 'lost') document.title = `✕ gema · ${words}`;
	// The countdown is for eyes.
	link.setAttribute('aria-live', is === 'lost' && seconds > 0 ? 'off' : 'polite');
}

function lock(failure) {
	forget();
	document.title = 'gema';
	close?.();
	close = undefined;
	opened = '';
	put(nav);
	put(menu);
	put(link);
	sentence.className = 'glance hidden';
	put(panel, loginForm(start, failure));
}

