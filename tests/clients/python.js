// The library for Python, called by tests under Node.

import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

const here = import.meta.dirname ?? new URL('.', import.meta.url).pathname;
const venv = join(here, '.venv/bin/python');

/** What a method of the library for Python answers. */
export async function callPython(gema, method, ...values) {
  const [program, env] = existsSync(venv) ? [venv, {}] : ['python3', { PYTHONPATH: join(here, '.venv/packages') }];
  const call = [join(here, 'python/call.py'), String(gema.port), method, JSON.stringify(values)];
  const { stdout } = await promisify(execFile)(program, call, { env: { PATH: process.env.PATH, ...env } });
  return JSON.parse(stdout);
}
