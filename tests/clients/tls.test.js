// Pages and their back end over TLS. The certificate's authority is one that Node hears of at its start only, so each
// page is a process of its own.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { startGema } from './gema.js';
import { LIMIT_MS, test } from './wait.js';

const here = import.meta.dirname;
const file = (name) => join(here, '../it/tls', name);

const gema = await startGema({
  env: {
    SOKETI_SSL_CERT: file('certificate.pem'),
    SOKETI_SSL_KEY: file('encrypted.key'),
    SOKETI_SSL_PASS: 'hush',
    GEMA_LIMITS_REQUIRE_TLS: 'true',
  },
});

for (const version of ['7', '8']) {
  test(`publishing by pusher reaches pusher-js with forceTLS [pusher-js ${version}]`, async () => {
    const env = { ...process.env, NODE_EXTRA_CA_CERTS: file('certificate.pem') };
    const page = [join(here, 'secure_page.js'), version, String(gema.port), JSON.stringify(gema.app)];
    const { stdout } = await promisify(execFile)(process.execPath, page, { env, timeout: 2 * LIMIT_MS });
    assert.deepEqual(JSON.parse(stdout), { text: 'over TLS' });
  });
}
