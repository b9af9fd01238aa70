// A page and its back end over TLS: subscribes, publishes, prints what it hears and ends.
// Arguments: the version of pusher-js, the port, the app as JSON.

import Pusher from 'pusher';
import Pusher7 from 'pusher-js-7';
import Pusher8 from 'pusher-js-8';

const [version, port, json] = process.argv.slice(2);
const app = JSON.parse(json);
const api = new Pusher({ appId: app.id, key: app.key, secret: app.secret, host: '127.0.0.1', port, useTLS: true });
const Page = { 7: Pusher7, 8: Pusher8 }[version];
const page = new Page(app.key, {
  cluster: 'mt1',
  wsHost: '127.0.0.1',
  wssPort: Number(port),
  forceTLS: true,
  enabledTransports: ['ws', 'wss'],
  channelAuthorization: {
    customHandler: ({ socketId, channelName }, answer) => answer(null, api.authorizeChannel(socketId, channelName)),
  },
});
const channel = page.subscribe('private-news');
channel.bind('pusher:subscription_succeeded', () => api.trigger('private-news', 'said', { text: 'over TLS' }));
channel.bind('said', (data) => process.stdout.write(JSON.stringify(data), () => process.exit(0)));
