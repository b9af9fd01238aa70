// A Laravel application as the server sees it: it authorises channels at /broadcasting/auth, signs users in at
// /broadcasting/user-auth, and broadcasts events with the `pusher` driver (protocol.md, F.1, F.2, F.4 and F.5).

import http from 'node:http';
import { after } from 'node:test';
import { masterKey } from './gema.js';
import { PhpPusher, phpJson } from './php.js';

/** Laravel sends an event on more channels in several requests. */
const CHANNELS_PER_REQUEST = 100;

/** Starts the application and stops it after the tests of the file. */
export async function startLaravel(gema, options) {
  const laravel = new Laravel(gema, options);
  await laravel.listen();
  after(() => laravel.close());
  return laravel;
}

class Laravel {
  /** Channel patterns of `routes/channels.php`, `{name}` being anything without a dot. */
  #channels = [];
  /** The same for what the application's own `/broadcasting/auth` grants besides. */
  #grants = [];
  /** What the browser asked for, newest last. */
  requests = [];

  constructor(gema, options) {
    this.gema = gema;
    this.pusher = new PhpPusher(gema, { masterKey, ...options });
    this.server = http.createServer((request, answer) => this.#serve(request, answer));
  }

  listen() {
    return new Promise((resolve) => {
      this.server.listen(0, '127.0.0.1', () => {
        this.url = `http://127.0.0.1:${this.server.address().port}`;
        resolve();
      });
    });
  }

  close() {
    this.pusher.close();
    this.server.closeAllConnections();
    return new Promise((resolve) => this.server.close(resolve));
  }

  /** `Broadcast::channel`: `callback(user, ...parameters)` answers false, true or the member's `user_info`. */
  channel(pattern, callback) {
    this.#channels.push({ pattern: routePattern(pattern), callback });
    return this;
  }

  /** A group view, as docs/laravel.md has it: `callback(user, ...parameters)` answers `{ grant, exp }`. */
  grant(pattern, callback) {
    this.#grants.push({ pattern: routePattern(pattern), callback });
    return this;
  }

  /** `Broadcast::resolveAuthenticatedUserUsing`. */
  resolveAuthenticatedUser = (user) => ({ id: user.id });

  /** One event on many channels, as PusherBroadcaster sends it. `socket` is what `toOthers()` puts there. */
  async broadcast(channels, event, payload, { socket } = {}) {
    for (let first = 0; first < channels.length; first += CHANNELS_PER_REQUEST) {
      const some = channels.slice(first, first + CHANNELS_PER_REQUEST);
      await this.pusher.trigger(some, event, payload, { socket_id: socket });
    }
  }

  async #serve(request, answer) {
    const body = await text(request);
    // Middleware `auth`: the token is the user's id.
    const user = request.headers.authorization && { id: request.headers.authorization.replace('Bearer ', '') };
    this.requests.push({ path: request.url, body, headers: request.headers });
    try {
      const result = await this.#route(request, body, user);
      const status = result ? 200 : 403;
      answer.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(result || { message: '' }));
    } catch (error) {
      answer.writeHead(500).end(String(error));
    }
  }

  #route(request, body, user) {
    if (request.url === '/broadcasting/auth') return user && this.#authorize(new URLSearchParams(body), user);
    if (request.url === '/broadcasting/user-auth') return user && this.#authenticate(new URLSearchParams(body), user);
    if (request.url === '/broadcast-to-others') return this.#broadcastToOthers(request, JSON.parse(body));
    return undefined;
  }

  #authorize(form, user) {
    const [socketId, name] = [form.get('socket_id'), form.get('channel_name')];
    const route = name.replace(/^(private-encrypted-|private-|presence-)/, '');
    const result = first(this.#channels, route, user);
    if (!result) return undefined;
    if (name.startsWith('presence-')) return this.pusher.authorizePresenceChannel(name, socketId, user.id, result);
    const grant = name.startsWith('private-') && first(this.#grants, route, user);
    return this.pusher.authorizeChannel(name, socketId, grant ? phpJson(grant) : undefined);
  }

  #authenticate(form, user) {
    return this.pusher.authenticateUser(form.get('socket_id'), this.resolveAuthenticatedUser(user));
  }

  /** A controller that ends with `broadcast(new Event)->toOthers()`. */
  async #broadcastToOthers(request, { channels, event, payload }) {
    await this.broadcast(channels, event, payload, { socket: request.headers['x-socket-id'] });
    return { ok: true };
  }
}

function routePattern(pattern) {
  const parts = pattern.split(/\{\w+\}/).map((part) => part.replace(/[.$^*+?()[\]|\\]/g, '\\$&'));
  return new RegExp(`^${parts.join('([^.]+)')}$`);
}

/** What the first route that fits says. */
function first(routes, name, user) {
  const route = routes.find(({ pattern }) => pattern.test(name));
  return route?.callback(user, ...route.pattern.exec(name).slice(1));
}

async function text(request) {
  let body = '';
  for await (const part of request) body += part;
  return body;
}
