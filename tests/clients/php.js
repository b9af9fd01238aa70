// pusher-php-server 7.2.6, byte for byte (protocol.md, D.2, D.11 and F.2): what Laravel's `pusher` and `reverb`
// drivers put on the wire, and where the library throws.

import { createHash, createHmac } from 'node:crypto';
import http from 'node:http';
import nacl from 'tweetnacl';

/** `json_encode`: slashes and everything beyond ASCII escaped. */
export function phpJson(value) {
  return JSON.stringify(value)
    .replaceAll('/', '\\/')
    .replace(/[\u0080-\uffff]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

export const sha256 = (secret, text) => createHmac('sha256', secret).update(text).digest('hex');

export class PhpPusher {
  #agent;

  /** `path` is put before `/apps/…` on the wire and is not signed, as the option of that name. */
  constructor(gema, { masterKey, path = '', keepAlive = true } = {}) {
    this.#agent = new http.Agent({ keepAlive, maxSockets: 1 });
    this.gema = gema;
    this.masterKey = masterKey;
    this.path = path;
  }

  /** `params` become members of the body, whatever they are. */
  trigger(channels, name, data, params = {}) {
    return this.post('/events', phpJson(this.#event([channels].flat(), name, data, params)));
  }

  triggerBatch(batch) {
    const events = batch.map(({ channel, name, data, info, socket_id }) =>
      this.#event([channel], name, data, { info, socket_id }));
    return this.post('/batch_events', phpJson({ batch: events }));
  }

  sendToUser(userId, name, data) {
    return this.trigger(`#server-to-user-${userId}`, name, data);
  }

  terminateUserConnections(userId) {
    return this.post(`/users/${userId}/terminate_connections`, '{}');
  }

  async getChannels(params) {
    const result = await this.get('/channels', params);
    return { ...result, channels: objectVars(result.channels) };
  }

  getChannelInfo(channel, params) {
    return this.get(`/channels/${channel}`, params);
  }

  getPresenceUsers(channel) {
    return this.get(`/channels/${channel}/users`);
  }

  get(path, params = {}) {
    return this.#send('GET', path, '', params);
  }

  post(path, body) {
    return this.#send('POST', path, body);
  }

  authorizeChannel(channel, socketId, channelData) {
    const { key, secret } = this.gema.app;
    const signed = [socketId, channel, ...(channelData ? [channelData] : [])].join(':');
    return {
      auth: `${key}:${sha256(secret, signed)}`,
      ...(channelData && { channel_data: channelData }),
      ...(channel.startsWith('private-encrypted-') && { shared_secret: this.#sharedSecret(channel).toString('base64') }),
    };
  }

  authorizePresenceChannel(channel, socketId, userId, userInfo) {
    const member = { user_id: userId, ...(userInfo && { user_info: userInfo }) };
    return this.authorizeChannel(channel, socketId, phpJson(member));
  }

  authenticateUser(socketId, user) {
    const { key, secret } = this.gema.app;
    const userData = phpJson(user);
    return { auth: `${key}:${sha256(secret, `${socketId}::user::${userData}`)}`, user_data: userData };
  }

  close() {
    this.#agent.destroy();
  }

  #event(channels, name, data, more) {
    const encrypted = channels.some((channel) => channel.startsWith('private-encrypted-'));
    const event = { name, data: encrypted ? this.#encrypt(channels[0], phpJson(data)) : phpJson(data) };
    if (channels.length === 1) event.channel = channels[0];
    else event.channels = channels;
    // `undefined` leaves the key out; the caller's order stays.
    return { ...event, ...more };
  }

  #sharedSecret(channel) {
    const master = Buffer.from(this.masterKey, 'base64');
    return createHash('sha256').update(Buffer.concat([Buffer.from(channel), master])).digest();
  }

  #encrypt(channel, text) {
    const nonce = nacl.randomBytes(24);
    const ciphertext = nacl.secretbox(Buffer.from(text), nonce, this.#sharedSecret(channel));
    const base64 = (bytes) => Buffer.from(bytes).toString('base64');
    return phpJson({ nonce: base64(nonce), ciphertext: base64(ciphertext) });
  }

  async #send(method, path, body, params = {}) {
    const signedPath = `/apps/${this.gema.app.id}${path}`;
    const query = this.#signedQuery(method, signedPath, body, params);
    const headers = {
      'User-Agent': 'GuzzleHttp/7',
      'Content-Type': 'application/json',
      'X-Pusher-Library': 'pusher-http-php 7.2.6',
    };
    const { host, port } = this.gema;
    const url = { host, port, method, path: `${this.path}${signedPath}?${query}`, headers, agent: this.#agent };
    const { status, text } = await request(url, body);
    if (status !== 200) throw new ApiError(status, text);
    return guzzleObject(text);
  }

  /** Signed with the values as they are and arrays as comma lists; sent percent-encoded, arrays as `name[0]=…`. */
  #signedQuery(method, path, body, params) {
    const { key, secret } = this.gema.app;
    const all = {
      ...params,
      auth_key: key,
      auth_timestamp: String(Math.floor(Date.now() / 1000)),
      auth_version: '1.0',
      ...(body && { body_md5: createHash('md5').update(body).digest('hex') }),
    };
    const sorted = Object.entries(all).sort(([a], [b]) => (a < b ? -1 : 1));
    const text = sorted.map(([name, value]) => `${name}=${[value].flat().join(',')}`).join('&');
    const signature = sha256(secret, `${method}\n${path}\n${text}`);
    return [...sorted, ['auth_signature', signature]]
      .flatMap(([name, value]) =>
        Array.isArray(value) ? value.map((one, index) => [`${name}[${index}]`, one]) : [[name, value]])
      .map((pair) => pair.map(rfc3986).join('='))
      .join('&');
  }
}

/** What the library throws for every status but 200. Laravel adds `Pusher error: {message}.` */
export class ApiError extends Error {
  constructor(status, body) {
    super(body);
    this.status = status;
  }
}

/** The types of the library's signatures: anything but an object is a TypeError there. */
function guzzleObject(text) {
  const value = JSON.parse(text);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new TypeError(`the library expects a JSON object, not ${text}`);
  }
  return value;
}

function objectVars(value) {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new TypeError('get_object_vars(): Argument #1 ($object) must be of type object');
  }
  return value;
}

export const rfc3986 = (text) =>
  encodeURIComponent(text).replace(/[!'()*]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`);

/** One HTTP request; answers its status and text. */
export function request(options, body) {
  return new Promise((resolve, reject) => {
    const headers = { ...options.headers, ...(body && { 'Content-Length': Buffer.byteLength(body) }) };
    const sent = http.request({ ...options, headers }, (answer) => {
      let text = '';
      answer.setEncoding('utf8');
      answer.on('data', (part) => (text += part));
      answer.on('end', () => resolve({ status: answer.statusCode, text }));
      answer.on('error', reject);
    });
    sent.on('error', reject);
    sent.end(body);
  });
}
