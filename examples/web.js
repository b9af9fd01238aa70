// The web server of an example: its page, the two libraries that the page needs, and the example's own requests.

import { readFile } from 'node:fs/promises';
import http from 'node:http';
import { fileURLToPath } from 'node:url';

const fileAt = (path, base = import.meta.url) => fileURLToPath(new URL(path, base));
const libraries = {
  '/pusher.js': fileAt('node_modules/pusher-js/dist/web/pusher.min.js'),
  '/echo.js': fileAt('node_modules/laravel-echo/dist/echo.iife.js'),
};
const TYPES = { html: 'text/html', js: 'text/javascript', css: 'text/css' };
const BODY_BYTES_MAX = 16 * 1024;

/** An answer other than 200. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/**
 * Serves the files that stand beside `page`, and the routes: `'POST /path': (body, token) => answer`. A body is JSON
 * or a form, `token` is that of the header `Authorization: Bearer …`.
 */
export function serve(page, files, routes) {
  const beside = Object.fromEntries(files.map((name) => [`/${name}`, fileAt(name, page)]));
  const paths = { ...libraries, ...beside, '/': beside['/index.html'] };
  const server = http.createServer(async (request, response) => {
    try {
      const { pathname } = new URL(request.url, 'http://localhost');
      const path = request.method === 'GET' && paths[pathname];
      if (path) return response.writeHead(200, { 'Content-Type': TYPES[path.split('.').at(-1)] }).end(await readFile(path));
      const route = routes[`${request.method} ${pathname}`];
      if (!route) throw new Refusal(404, 'there is nothing here');
      const token = request.headers.authorization?.replace(/^Bearer /, '');
      send(response, 200, await route(await body(request), token));
    } catch (error) {
      if (!(error instanceof Refusal)) console.error(error);
      send(response, error.status ?? 500, { message: error.message });
    }
  });
  server.listen(process.env.PORT ?? 8000, '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}`));
}

function send(response, status, answer = {}) {
  response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(answer));
}

async function body(request) {
  let text = '';
  for await (const part of request) {
    text += part;
    if (text.length > BODY_BYTES_MAX) throw new Refusal(413, 'the body is too long');
  }
  if (!text) return {};
  const isJson = request.headers['content-type']?.startsWith('application/json');
  try {
    return isJson ? JSON.parse(text) : Object.fromEntries(new URLSearchParams(text));
  } catch {
    throw new Refusal(400, 'the body is no JSON');
  }
}
