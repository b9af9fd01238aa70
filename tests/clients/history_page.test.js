// A page whose connection was cut off gets the missed events, with the rule and the lines of docs/history.md.

import assert from 'node:assert/strict';
import { after } from 'node:test';
import { block, run } from './documents.js';
import { app, startGema } from './gema.js';
import { startLaravel } from './laravel.js';
import { startLine } from './line.js';
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

const line = await startLine({ after }, () => gema);

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

/** The line is gone until `mend`. The page does not try again by itself, which it would do seconds later. */
function cut(pusher) {
  line.down();
  pusher.disconnect();
}

function mend(pusher) {
  line.mend();
  pusher.connect();
}

withEcho('a page gets the events that were sent while it was cut off', laravel, async ({ open, version }) => {
  const { done, pusher } = await listen(open, `siti-${version}`, 'permintaan-barang.K001');
  const send = (n) => laravel.broadcast(['private-permintaan-barang.K001'], 'dikirim', { n });
  await send(0);
  await until(() => done.shown.length > 0, 'the first event');
  cut(pusher);
  for (const n of [1, 2, 3]) await send(n);
  mend(pusher);
  await until(() => done.shown.includes(3), 'the missed events');
  await send(4);
  await until(() => done.shown.includes(4), 'a live event');
  // The first one may not be confirmed yet when the line is cut, and comes again then.
  assert.deepEqual(done.shown.filter((n) => n > 0), [1, 2, 3, 4]);
  assert.deepEqual([done.reloads, done.gaps], [0, []]);
});

withEcho('a page that missed more than is kept is told of the gap', laravel, async ({ open, version }) => {
  const { done, pusher } = await listen(open, `siti-${version}`, 'few.K001');
  cut(pusher);
  for (const n of [1, 2, 3, 4, 5]) await laravel.broadcast(['private-few.K001'], 'dikirim', { n });
  mend(pusher);
  await until(() => done.shown.includes(5), 'the missed events');
  assert.deepEqual(done.shown, [4, 5]);
  assert.equal(done.reloads, 1);
  const [{ since, ...gap }] = done.gaps;
  assert.deepEqual(gap, { channel: 'private-few.K001', missed: 3 });
  assert.ok(since <= Date.now() && since > Date.now() - 300_000, `${since}`);
});
