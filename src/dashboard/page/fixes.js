// The lines that end a problem, with the place that they belong to.

import { state } from './store.js';
import { t } from './words.js';

const ENV = 'Laravel · .env';
const NGINX = 'nginx · location';
const TOML = 'gema.toml';

const UPGRADE = [NGINX, 'proxy_http_version 1.1;\nproxy_set_header Upgrade $http_upgrade;\nproxy_set_header Connection "upgrade";'];
const ADDRESS = [NGINX, 'proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\nproxy_set_header X-Forwarded-Proto $scheme;'];
/** The secret itself is never on this page. */
const SECRET = [ENV, 'PUSHER_APP_SECRET=…\n# then: php artisan config:clear'];
const KEY = ({ key }) => key && [ENV, `PUSHER_APP_KEY=${key}\nVITE_PUSHER_APP_KEY="\${PUSHER_APP_KEY}"`];
const ID = ({ id, key }) => key && [ENV, `PUSHER_APP_ID=${id}\nPUSHER_APP_KEY=${key}`];
const ENABLED = [TOML, 'enabled = true'];
const limit = (setting) => [TOML, `${setting} = 1000   # or -1 for no limit`];

/** Place and text by cause, or how to make them of the app and the place. @type {Record<string, any>} */
const FIXES = {
	tls_on_plain_port: [ENV, 'PUSHER_SCHEME=http'],
	plain_on_tls_port: [ENV, 'PUSHER_SCHEME=https'],
	no_upgrade: UPGRADE,
	websocket_key: UPGRADE,
	connect_path: [NGINX, 'proxy_pass http://gema_pages;   # no slash at the end'],
	connect_tls: ADDRESS,
	address_handshakes: ADDRESS,
	address_connections: ADDRESS,
	app_id_as_key: KEY,
	connect_unknown_key: KEY,
	subscribe_unknown_key: KEY,
	sign_in_unknown_key: KEY,
	api_unknown_key: ID,
	api_unknown_app: ID,
	api_signature: SECRET,
	subscribe_signature: SECRET,
	sign_in_signature: SECRET,
	subscribe_no_auth: ['resources/js/echo.js', "authEndpoint: '/broadcasting/auth',"],
	connect_origin: (_, { origin }) => origin && [TOML, `# ${t('fix.origin')}\nallowed_origins = [${JSON.stringify(origin)}]`],
	client_events_disabled: [TOML, 'enable_client_messages = true'],
	api_event_rate: limit('max_backend_events_per_second'),
	api_read_rate: limit('max_read_requests_per_second'),
	client_event_rate: limit('max_client_events_per_second'),
	connect_app_full: limit('max_connections'),
	connect_disabled: ENABLED,
	api_disabled: ENABLED,
	api_expired: ['shell', 'sudo timedatectl set-ntp true'],
};

/** @param {Problem} problem @returns {string[] | undefined} */
export function fixFor({ code, where }) {
	const fix = Object.hasOwn(FIXES, code) && FIXES[code];
	if (typeof fix !== 'function') return fix || undefined;
	const { apps } = state();
	return fix(apps.find(({ id }) => id === where?.app) ?? (apps.length === 1 ? apps[0] : {}), where ?? {}) || undefined;
}
