// Pages with pusher-js for tests/chaos: they print what they see as JSON, one line each, and read the phase of the run.
// node chaos_pages.js PLAN, where the plan has the address, keys, channels and the number of pages.

import { createHmac } from 'node:crypto';
import { writeSync } from 'node:fs';
import { createInterface } from 'node:readline';
import Pusher7 from 'pusher-js-7';
import Pusher8 from 'pusher-js-8';
import WebSocket from 'ws';

const plan = JSON.parse(process.argv[2]);

/** Between two things that a page does by itself. */
const BETWEEN = [300, 6000];
/** Whoever looks at a page that is not connected loads it anew after this time: pusher-js waits up to a minute. */
const RELOAD_MS = 5000;

let phase = 'calm';
let sockets = 0;

/** Nothing is sent before it stands in the pipe. */
const print = (line) => writeSync(1, `${JSON.stringify(line)}\n`);

/** A generator of numbers below 1 that are the same for the same seed. */
function randomOf(seed) {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** A socket of a page that tells which node it reached, and what pusher-js asks for. */
class Socket extends WebSocket {
  number = (sockets += 1);
  open = false;

  constructor(url, page) {
    super(url);
    this.page = page;
    this.on('upgrade', ({ headers }) => (this.upstream = headers['x-upstream'] ?? ''));
    this.once('message', (text) => {
      if (JSON.parse(text).event !== 'pusher:connection_established') return;
      this.open = true;
      page.socket = this;
      print({ what: 'opened', socket: this.number, app: page.app, upstream: this.upstream });
    });
    this.on('close', (code) => this.over('server', code));
  }

  send(text, ...rest) {
    const { event, data } = JSON.parse(text);
    if (event === 'pusher:subscribe') {
      const user = data.channel_data && JSON.parse(data.channel_data).user_id;
      print({ what: 'asked', socket: this.number, channel: data.channel, user });
    } else if (event === 'pusher:unsubscribe') {
      print({ what: 'left', socket: this.number, channel: data.channel });
    }
    super.send(text, ...rest);
  }

  close(...rest) {
    this.over('clean');
    super.close(...rest);
  }

  /** Without a close frame. */
  drop() {
    this.over('dropped');
    this.terminate();
  }

  over(how, code) {
    if (this.open) print({ what: 'closed', socket: this.number, how, code });
    this.open = false;
  }
}

class Page {
  constructor(number) {
    this.number = number;
    this.app = number % plan.apps.length;
    this.user = `official-${Math.floor(number / plan.apps.length / 2)}`;
    this.restless = number % 4 > 1;
    this.random = randomOf(plan.seed + number * 7919);
    this.Pusher = number % 3 ? Pusher8 : Pusher7;
    pages[number] = this;
    this.load();
    this.act();
    setInterval(() => this.reload(), RELOAD_MS).unref();
  }

  load() {
    this.pusher = new this.Pusher(plan.apps[this.app].key, {
      cluster: 'mt1',
      // Its name, by which `createWebSocket` knows it.
      wsHost: `page-${this.number}`,
      wsPort: plan.port,
      forceTLS: false,
      enabledTransports: ['ws'],
      channelAuthorization: { customHandler: ({ socketId, channelName }, answer) => answer(null, this.sign(socketId, channelName)) },
    });
    const { connection } = this.pusher;
    connection.bind('state_change', ({ current }) => print({ what: 'note', text: `official page ${this.number} is ${current}` }));
    connection.bind('error', (error) => print({ what: 'note', text: `official page ${this.number}: ${brief(error)}` }));
    connection.bind('failed', () => setTimeout(() => this.reload(), 1000));
    for (const name of plan.channels) this.subscribe(name);
  }

  /** Two deaths of a connection are enough for pusher-js to give up. */
  reload() {
    if (phase === 'over' || this.pusher.connection.state === 'connected' || this.away) return;
    if (phase === 'restless' && this.pusher.connection.state !== 'failed') return;
    this.pusher.disconnect();
    this.load();
  }

  sign(socketId, channel) {
    const { key, secret } = plan.apps[this.app];
    let user;
    if (channel.startsWith('presence-')) user = JSON.stringify({ user_id: this.user, user_info: { name: this.user } });
    if (channel.startsWith('private-log')) user = JSON.stringify({ user_id: `official-page-${this.number}` });
    const text = [socketId, channel, ...(user ? [user] : [])].join(':');
    const auth = `${key}:${createHmac('sha256', secret).update(text).digest('hex')}`;
    return { auth, ...(user && { channel_data: user }) };
  }

  subscribe(name) {
    const channel = this.pusher.subscribe(name);
    channel.bind_global((event, data) => this.hear(name, event, data));
  }

  hear(channel, event, data) {
    if (!this.socket?.open) return;
    const line = { socket: this.socket.number, channel };
    switch (event) {
      case 'n':
      case 'client-n':
        return print({ what: 'heard', ...line, data: typeof data === 'string' ? data : JSON.stringify(data) });
      case 'pusher:subscription_succeeded': {
        const members = [];
        data?.each?.(({ id }) => members.push(id));
        return print({ what: 'joined', ...line, members });
      }
      case 'pusher:member_added':
        return print({ what: 'came', ...line, user: data.id });
      case 'pusher:member_removed':
        return print({ what: 'went', ...line, user: data.id });
      case 'gema:history_gap':
        return print({ what: 'gap', ...line, missed: data.missed });
      case 'pusher:cache_miss':
        return undefined;
      default:
        return print({ what: 'strange', ...line, text: `${event} ${JSON.stringify(data)}` });
    }
  }

  /** Leaves, drops and comes back, and again. */
  act() {
    const [least, most] = BETWEEN;
    setTimeout(() => {
      if (phase === 'over') return;
      this.once();
      this.act();
    }, least + this.random() * (most - least));
  }

  once() {
    if (this.away) {
      const comesBack = this.away;
      this.away = undefined;
      return comesBack();
    }
    if (!this.restless || phase !== 'restless' || !this.socket?.open) return undefined;
    const choice = Math.floor(this.random() * 4);
    if (choice === 0) return this.socket.drop();
    if (choice === 1) {
      this.pusher.disconnect();
      this.away = () => this.pusher.connect();
      return undefined;
    }
    const name = plan.channels[Math.floor(this.random() * plan.channels.length)];
    // A success that has not come yet would be one of nobody knows which subscription.
    if (!this.pusher.channel(name)?.subscribed) return undefined;
    this.pusher.unsubscribe(name);
    this.away = () => this.subscribe(name);
    return undefined;
  }
}

const brief = (error) => JSON.stringify(error?.error?.data ?? error?.data ?? error?.type ?? 'error');

const pages = [];
for (const { Runtime } of [Pusher7, Pusher8]) {
  Runtime.createWebSocket = (url) => {
    const [host, number] = url.match(/page-(\d+)/);
    return new Socket(url.replace(host, plan.host), pages[number]);
  };
}
for (let number = 0; number < plan.pages; number += 1) new Page(number);

for await (const line of createInterface({ input: process.stdin })) {
  phase = line;
  if (phase === 'over') break;
}
for (const page of pages) page.pusher.disconnect();
process.exit();
