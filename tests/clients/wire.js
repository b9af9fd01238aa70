// A WebSocket without a library: for exact text, and for the query strings of clients that do not run here.

import WebSocket from 'ws';
import { Inbox, until } from './wait.js';

/**
 * Opens a socket on `url`; frames arrive by their event name, with `data` as the string it was on the wire. `options` are
 * those of `ws`.
 */
export async function openWire(t, url, protocols, options) {
  const wire = new Wire(url, protocols, options);
  t.after(() => wire.socket.terminate());
  await until(() => wire.socket.readyState !== WebSocket.CONNECTING, `${url} is open`);
  return wire;
}

class Wire {
  frames = new Inbox();
  /** `{ code, reason }` after the server has closed. */
  closed;
  #established;

  constructor(url, protocols, options) {
    this.socket = new WebSocket(url, protocols, options);
    this.socket.on('error', (error) => {
      this.error = error;
    });
    this.socket.on('message', (bytes) => {
      const { event, data, ...more } = JSON.parse(bytes.toString());
      this.frames.push(event, data, { ...more, text: bytes.toString() });
    });
    this.socket.on('close', (code, reason) => {
      this.closed = { code, reason: reason.toString() };
    });
  }

  async established() {
    this.#established ??= JSON.parse(await this.frames.data('pusher:connection_established'));
    return this.#established;
  }

  async socketId() {
    return (await this.established()).socket_id;
  }

  send(event, data, channel) {
    this.socket.send(JSON.stringify({ event, data, channel }));
  }

  /** Subscribes with the fields that an auth endpoint answered. */
  async join(channel, fields = {}) {
    await this.socketId();
    this.send('pusher:subscribe', { ...fields, channel });
    return this.frames.take('pusher_internal:subscription_succeeded');
  }

  async end() {
    await until(() => this.closed, 'the server closes');
    return this.closed;
  }
}
