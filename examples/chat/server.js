// The chat's application: it says who a page is, signs its subscription, and publishes its messages.

import { randomUUID } from 'node:crypto';
import Pusher from 'pusher';
import { Refusal, serve } from '../web.js';

const CHANNEL = 'presence-chat';
const app = { appId: 'chat', key: 'chat-key', secret: 'change-this-secret' };
const port = process.env.GEMA_PORT ?? '6001';
const gema = new Pusher({ ...app, host: '127.0.0.1', port, useTLS: false });

/** Who has entered, by token. An application has its sessions for this. */
const users = new Map();

function user(token) {
  const found = users.get(token);
  if (!found) throw new Refusal(403, 'enter first');
  return found;
}

/** A text of the page, without white space at its ends. */
function text(value, lengthMax) {
  if (typeof value !== 'string' || !value.trim() || value.length > lengthMax) {
    throw new Refusal(422, `a text of at most ${lengthMax} letters is needed`);
  }
  return value.trim();
}

serve(import.meta.url, ['index.html', 'chat.js', 'chat.css'], {
  'POST /enter': ({ name }) => {
    const token = randomUUID();
    users.set(token, { id: String(users.size + 1), name: text(name, 30) });
    return { token, key: app.key, port };
  },
  // Where pusher-js asks for the signature of a subscription.
  'POST /broadcasting/auth': ({ socket_id, channel_name }, token) => {
    const { id, name } = user(token);
    if (channel_name !== CHANNEL) throw new Refusal(403, 'there is no such channel');
    return gema.authorizeChannel(socket_id, CHANNEL, { user_id: id, user_info: { id, name } });
  },
  'POST /messages': async (body, token) => {
    const { name } = user(token);
    // Everybody gets it, the sender too, so all pages show the same order.
    await gema.trigger(CHANNEL, 'message', { name, text: text(body.text, 500) });
  },
});
