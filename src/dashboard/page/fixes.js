// The line that ends a problem, ready to paste, with the place that it belongs to. The server's remedy says it in words.

import { state } from './store.js';

/** @typedef {{ place: string, text: string }} Fix */

const LARAVEL = 'Laravel · .env';
const NGINX = 'nginx · location';
const PAGE = 'resources/js/echo.js';
const GEMA = 'gema.toml';

const PASS_UPGRADE = [
  'proxy_http_version 1.1;',
  'proxy_set_header Upgrade $http_upgrade;',
  'proxy_set_header Connection "upgrade";',
].join('\n');
const PASS_PATH = 'proxy_pass http://gema_pages;   # no slash at the end';
const PASS_ADDRESS = 'proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\nproxy_set_header X-Forwarded-Proto $scheme;';

/** @type {Record<string, (problem: Problem) => Fix | undefined>} */
const FIXES = {
  tls_on_plain_port: () => ({ place: LARAVEL, text: 'PUSHER_SCHEME=http' }),
  plain_on_tls_port: () => ({ place: LARAVEL, text: 'PUSHER_SCHEME=https' }),
  no_upgrade: () => ({ place: NGINX, text: PASS_UPGRADE }),
  websocket_key: () => ({ place: NGINX, text: PASS_UPGRADE }),
  connect_path: () => ({ place: NGINX, text: PASS_PATH }),
  connect_tls: () => ({ place: NGINX, text: PASS_ADDRESS }),
  address_handshakes: () => ({ place: NGINX, text: PASS_ADDRESS }),
  address_connections: () => ({ place: NGINX, text: PASS_ADDRESS }),
  app_id_as_key: ({ where }) => keyLine(where?.app),
  connect_unknown_key: () => keyLine(null),
  subscribe_unknown_key: ({ where }) => keyLine(where?.app),
  sign_in_unknown_key: ({ where }) => keyLine(where?.app),
  api_unknown_key: ({ where }) => idAndKey(where?.app),
  api_unknown_app: () => idAndKey(null),
  api_signature: () => secretLine(),
  subscribe_signature: () => secretLine(),
  sign_in_signature: () => secretLine(),
  subscribe_no_auth: () => ({ place: PAGE, text: "authEndpoint: '/broadcasting/auth'," }),
  connect_origin: ({ where }) => where?.origin ? { place: GEMA, text: `allowed_origins = [${quoted(where.origin)}]` } : undefined,
  client_events_disabled: () => ({ place: GEMA, text: 'enable_client_messages = true' }),
  api_event_rate: ({ where }) => limit(where?.app, 'max_backend_events_per_second'),
  api_read_rate: ({ where }) => limit(where?.app, 'max_read_requests_per_second'),
  client_event_rate: ({ where }) => limit(where?.app, 'max_client_events_per_second'),
  connect_app_full: ({ where }) => limit(where?.app, 'max_connections'),
  connect_disabled: () => ({ place: GEMA, text: 'enabled = true' }),
  api_disabled: () => ({ place: GEMA, text: 'enabled = true' }),
  api_expired: () => ({ place: 'shell', text: 'sudo timedatectl set-ntp true' }),
};

/** @param {Problem} problem */
export const fixFor = (problem) => (Object.hasOwn(FIXES, problem.code) ? FIXES[problem.code](problem) : undefined);

function appOf(id) {
  const { apps } = state();
  return apps.find((app) => app.id === id) ?? (apps.length === 1 ? apps[0] : undefined);
}

function keyLine(id) {
  const key = appOf(id)?.key;
  return key ? { place: LARAVEL, text: `PUSHER_APP_KEY=${key}\nVITE_PUSHER_APP_KEY="\${PUSHER_APP_KEY}"` } : undefined;
}

function idAndKey(id) {
  const app = appOf(id);
  return app?.key ? { place: LARAVEL, text: `PUSHER_APP_ID=${app.id}\nPUSHER_APP_KEY=${app.key}` } : undefined;
}

/** The secret itself is never on this page. */
function secretLine() {
  return { place: LARAVEL, text: 'PUSHER_APP_SECRET=…   # as in the server’s settings\n# then: php artisan config:clear' };
}

function limit(id, setting) {
  return { place: id ? `${GEMA} · app ${id}` : GEMA, text: `${setting} = 1000   # or -1 for no limit` };
}

/** A TOML string. */
const quoted = (text) => JSON.stringify(text);
