// A page whose connection was cut off gets the missed events, with the rule and the lines of docs/history.md.

import assert from 'node:assert/strict';
import net from 'node:net';
import { after } from 'node:test';
import { block, run } from './documents.js';
import { app, startGema } from './gema.js';
import { startLaravel } from './laravel.js';
import { ready, withEcho } from './pages.js';
import { until } from './wait.js';

const few = '[[limits.history_rules]]\nmatch = "few.*"\nseconds = 60\nevents_max = 2\n';
const own = `[[apps]]\nid = "${app.id}"\nkey = "${app.key}"\nsecret = "${app.secret}"\n`;
const gema = await startGema({ config: `${block('history.md', 'toml', 'seconds = 120')}${few}${own}` });
const laravel = await startLaravel(gema);
for (const pattern of ['permintaan-barang.{clinic}', 'few.{clinic}']) {
  // The lines for AppServiceProvider: the id of the user as `channel_data` of a private channel.
  laravel.channel(pattern, () => true).grant(pattern, (user) => ({ user_id: user.id }));
}

/** The way from the pages to gema. It can be cut without a word, and stays so until it is mended. */
class Line {
  #sockets = new Set();
  #isCut = false;

  async start() {
    this.server = net.createServer((page) => {
      if (this.#isCut) return page.destroy();
      const server = net.connect(gema.port, gema.host);
      for (const [from, to] of [[page, server], [server, page]]) {
        this.#sockets.add(from);
        from.on('error', () => {}).on('close', () => to.destroy());
        from.pipe(to);
      }
      return undefined;
    });
    await new Promise((resolve) => this.server.listen(0, gema.host, resolve));
    after(() => {
      this.cut();
      this.server.close();
    });
    return this;
  }

  get port() {
    return this.server.address().port;
  }

  cut() {
    this.#isCut = true;
    for (const socket of this.#sockets) socket.resetAndDestroy();
    this.#sockets.clear();
  }

  mend() {
    this.#isCut = false;
  }
}

const line = await new Line().start();

/** Does the lines of the document for a page that listens to `name`; answers what they do. */
async function listen(open, user, name) {
  const { echo, pusher } = open(user, { wsPort: line.port });
  const done = { shown: [], reloads: 0, gaps: [] };
  const page = {
    window: { Echo: echo },
    show: ({ n }) => done.shown.push(n),
    location: { reload: () => (done.reloads += 1) },
  };
  run(block('history.md', 'js', 'gema:history_gap').replace('permintaan-barang.K001', name), 'undefined', page);
  const channel = echo.private(name).listen('.gema:history_gap', (gap) => done.gaps.push(gap));
  await ready(channel);
  return { done, pusher };
}

async function cut(pusher) {
  line.cut();
  await until(() => pusher.connection.state !== 'connected', 'the page notices the cut');
}

withEcho('a page gets the events that were sent while it was cut off', laravel, async ({ open, version }) => {
  const { done, pusher } = await listen(open, `siti-${version}`, 'permintaan-barang.K001');
  const send = (n) => laravel.broadcast(['private-permintaan-barang.K001'], 'dikirim', { n });
  await send(0);
  await until(() => done.shown.length > 0, 'the first event');
  await cut(pusher);
  for (const n of [1, 2, 3]) await send(n);
  line.mend();
  await until(() => done.shown.includes(3), 'the missed events');
  await send(4);
  await until(() => done.shown.includes(4), 'a live event');
  // The first one may not be confirmed yet when the line is cut, and comes again then.
  assert.deepEqual(done.shown.filter((n) => n > 0), [1, 2, 3, 4]);
  assert.deepEqual([done.reloads, done.gaps], [0, []]);
});

withEcho('a page that missed more than is kept is told of the gap', laravel, async ({ open, version }) => {
  const { done, pusher } = await listen(open, `siti-${version}`, 'few.K001');
  await cut(pusher);
  for (const n of [1, 2, 3, 4, 5]) await laravel.broadcast(['private-few.K001'], 'dikirim', { n });
  line.mend();
  await until(() => done.shown.includes(5), 'the missed events');
  assert.deepEqual(done.shown, [4, 5]);
  assert.equal(done.reloads, 1);
  const [{ since, ...gap }] = done.gaps;
  assert.deepEqual(gap, { channel: 'private-few.K001', missed: 3 });
  assert.ok(since <= Date.now() && since > Date.now() - 300_000, `${since}`);
});
