// Users: signing in, events to one user, watchlists, and ending a user's connections.

import assert from 'node:assert/strict';
import { app, startGema } from './gema.js';
import { connected, errorCode, fresh, hear, join, withPusher } from './pages.js';
import { Inbox, test, until } from './wait.js';

const gema = await startGema();

let users = 0;
/** A user id that no other test uses. */
const freshUser = () => `user-${(users += 1)}`;

/** Signs a page in and waits until it can hear events to its user. */
async function signIn(pusher) {
  pusher.signin();
  await until(() => pusher.user.serverToUserChannel?.subscribed, 'the user is signed in');
  return pusher.user;
}

withPusher('signin() makes user_data known', gema, async ({ open }) => {
  const id = freshUser();
  const data = { id, user_info: { name: 'Zoë 😀', url: 'a/b' } };
  const user = await signIn(open({ signIn: data }));
  assert.deepEqual(user.user_data, data);
});

withPusher('an event to a user arrives on pusher.user of all their pages and nowhere else (G-171)', gema, async ({ open }) => {
  const [ada, budi] = [freshUser(), freshUser()];
  const pages = [open({ signIn: { id: ada } }), open({ signIn: { id: ada } }), open({ signIn: { id: budi } })];
  const [first, second, other] = await Promise.all(pages.map(signIn)).then((all) => all.map(hear));
  await gema.api.sendToUser(ada, 'hello', { m: 1 });
  await gema.api.sendToUser(budi, 'fence', {});
  assert.deepEqual(await first.data('hello'), { m: 1 });
  assert.deepEqual(await second.data('hello'), { m: 1 });
  await other.take('fence');
  assert.equal(other.count('hello'), 0);
});

withPusher('a sign-in with a wrong signature is refused and costs nothing else', gema, async ({ open }) => {
  const id = freshUser();
  const forged = { auth: `${app.key}:${'0'.repeat(64)}`, user_data: JSON.stringify({ id }) };
  const pusher = open({ userAuthentication: { customHandler: (_, answer) => answer(null, forged) } });
  const errors = hear(pusher.connection);
  const heard = hear(await join(pusher, fresh('public')));
  pusher.signin();
  assert.equal(errorCode(await errors.data('error')), null);
  assert.equal(pusher.user.user_data, null);
  assert.equal(pusher.connection.state, 'connected');
  await gema.api.trigger([...Object.keys(pusher.channels.channels)], 'still-here', {});
  await heard.take('still-here');
});

withPusher('nobody joins the channel of another user', gema, async ({ open }) => {
  const [ada, budi] = [freshUser(), freshUser()];
  const pusher = open({ signIn: { id: ada } });
  await signIn(pusher);
  const [errors, frames] = [hear(pusher.connection), new Inbox()];
  pusher.connection.bind('message', ({ event, channel }) => frames.push(event, channel));
  // pusher-js itself would not make such a channel.
  pusher.send_event('pusher:subscribe', { auth: '', channel: `#server-to-user-${budi}` });
  assert.equal(await frames.data('pusher:subscription_error'), `#server-to-user-${budi}`);
  assert.equal(errorCode(await errors.data('error')), null);

  await gema.api.sendToUser(budi, 'hello', {});
  await gema.api.sendToUser(ada, 'fence', {});
  await frames.take('fence');
  assert.equal(frames.count('hello'), 0);
});

withPusher('a signed-in page joins presence channels without channel_data', gema, async ({ open }) => {
  const id = freshUser();
  const name = fresh('presence');
  const observer = hear(await join(open({ user: 'observer' }), name));
  // The endpoint answers the signature only; who it is, the sign-in has told.
  const authorize = ({ socketId, channelName }, answer) => answer(null, gema.api.authorizeChannel(socketId, channelName));
  const pusher = open({ signIn: { id, user_info: { name: 'Ada' } }, channelAuthorization: { customHandler: authorize } });
  await signIn(pusher);
  const channel = await join(pusher, name);
  assert.deepEqual(channel.members.me, { id, info: { name: 'Ada' } });
  assert.deepEqual(await observer.data('pusher:member_added'), { id, info: { name: 'Ada' } });
});

withPusher('watchers learn who is online, and of the first sign-in and the last leaving', gema, async ({ open }) => {
  const [watcher, ada, budi] = [freshUser(), freshUser(), freshUser()];
  await signIn(open({ signIn: { id: budi } }));
  const pusher = open({ signIn: { id: watcher, watchlist: [ada, budi] } });
  const heard = hear(pusher.user.watchlist);
  await signIn(pusher);
  assert.deepEqual((await heard.data('online')).user_ids, [budi]);
  assert.deepEqual((await heard.data('offline')).user_ids, [ada]);

  const pages = [open({ signIn: { id: ada } }), open({ signIn: { id: ada } })];
  for (const page of pages) await signIn(page);
  assert.deepEqual((await heard.data('online')).user_ids, [ada]);
  for (const page of pages) page.disconnect();
  assert.deepEqual((await heard.data('offline')).user_ids, [ada]);
  assert.equal(heard.count('online'), 2);
});

withPusher('terminateUserConnections() ends the user’s pages for good, and no others', gema, async ({ open }) => {
  const [ada, budi] = [freshUser(), freshUser()];
  const pages = [open({ signIn: { id: ada } }), open({ signIn: { id: ada } })];
  const other = open({ signIn: { id: budi } });
  // Presence membership alone is no sign-in.
  const member = open({ user: ada });
  await join(member, fresh('presence'));
  await Promise.all([...pages, other].map(signIn));
  const errors = pages.map((page) => hear(page.connection));

  const answer = await gema.api.terminateUserConnections(ada);
  assert.deepEqual(await answer.json(), {});
  for (const page of pages) await until(() => page.connection.state === 'disconnected', 'the page is cut off');
  for (const inbox of errors) assert.equal(errorCode(await inbox.data('error')), 4009);

  const heard = hear(other.user);
  await gema.api.sendToUser(budi, 'still-here', {});
  await heard.take('still-here');
  assert.equal(member.connection.state, 'connected');

  // They may come back at once.
  pages[0].connect();
  await connected(pages[0]);
});

withPusher('where connections must be authorised, an idle one is ended and a signed-in one stays (G-67, G-68)', gema, async ({ t, open }) => {
  const strict = await startGema({
    t,
    env: { SOKETI_DEFAULT_APP_USER_AUTHENTICATION: 'true', SOKETI_USER_AUTHENTICATION_TIMEOUT: '2000' },
  });
  const idle = open({ wsPort: strict.port });
  const signedIn = open({ wsPort: strict.port, signIn: { id: freshUser() } });
  const member = open({ wsPort: strict.port });
  const errors = hear(idle.connection);
  await Promise.all([signIn(signedIn), join(member, fresh('private'))]);
  assert.equal(errorCode(await errors.data('error')), 4009);
  await until(() => idle.connection.state === 'disconnected', 'the idle page is cut off');
  for (const pusher of [signedIn, member]) assert.equal(pusher.connection.state, 'connected');
});

test('terminateUserConnections() of a user whom nobody knows is no error', async () => {
  const answer = await gema.api.terminateUserConnections(freshUser());
  assert.equal(answer.status, 200);
  assert.deepEqual(await answer.json(), {});
});
