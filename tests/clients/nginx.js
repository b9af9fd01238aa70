// nginx without being root, and with sites of a test's own.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { newFolder, runProgram } from './program.js';

/** Where nginx may write. */
export const OWN_PATHS = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
  .map((name) => `${name}_temp_path ${name};`)
  .join('\n');

/** Starts nginx with the main file `nginx.conf` of a folder. */
export function nginxCommand(folder) {
  return ['nginx', '-p', folder, '-c', 'nginx.conf', '-e', 'stderr', '-g', 'daemon off; pid nginx.pid;'];
}

/** Starts nginx with sites as somebody else wrote them, one of which listens on `port`; ends it after the file's tests. */
export async function startSites(sites, port) {
  const folder = newFolder('nginx');
  writeFileSync(join(folder, 'nginx.conf'), `events {}\nhttp {\naccess_log off;\n${OWN_PATHS}\n${sites}\n}\n`);
  await runProgram(nginxCommand(folder), { folder, port });
}
