// The clinics' application. A clinic requests goods, the main warehouse of its group sees the request and sends them.

import { randomUUID } from 'node:crypto';
import Pusher from 'pusher';
import { Refusal, serve } from '../web.js';

const app = { appId: 'clinics', key: 'clinics-key', secret: 'change-this-secret' };
const port = process.env.GEMA_PORT ?? '6001';
const gema = new Pusher({ ...app, host: '127.0.0.1', port, useTLS: false });

/** How long a warehouse sees its clinics before its page asks again. It does so by itself. */
const GRANT_SECONDS = 8 * 60 * 60;

const CLINICS = { K001: 'A', K002: 'A', K003: 'B' };
const WAREHOUSES = ['A', 'B'];

const ofClinic = (clinic) => `permintaan-barang.${clinic}`;
const clinicsOf = (group) => Object.keys(CLINICS).filter((clinic) => CLINICS[clinic] === group);

/** Who has signed in, by token: `{ clinic }` or `{ group }`. An application has its sessions for this. */
const users = new Map();
/** All requests: `{ id, clinic, goods, sent }`. An application has its database for this. */
const requests = [];

function user(token) {
  const found = users.get(token);
  if (!found) throw new Refusal(403, 'sign in first');
  return found;
}

const sees = ({ clinic, group }, request) => request.clinic === clinic || CLINICS[request.clinic] === group;

serve(import.meta.url, ['index.html', 'clinics.js', 'clinics.css'], {
  // A name is enough for an example; an application asks for a password.
  'POST /sign-in': ({ name }) => {
    const user = Object.hasOwn(CLINICS, name) ? { clinic: name } : { group: WAREHOUSES.find((group) => name === `gudang ${group}`) };
    if (!user.clinic && !user.group) throw new Refusal(422, 'nobody has this name');
    const token = randomUUID();
    users.set(token, user);
    const channel = user.clinic ? ofClinic(user.clinic) : `gudang.${user.group}`;
    return { token, key: app.key, port, channel, isWarehouse: !user.clinic };
  },
  // Where pusher-js asks for the signature of a subscription.
  'POST /broadcasting/auth': ({ socket_id, channel_name }, token) => {
    const { clinic, group } = user(token);
    if (clinic && channel_name === `private-${ofClinic(clinic)}`) return gema.authorizeChannel(socket_id, channel_name);
    if (group && channel_name === `private-gudang.${group}`) {
      // The warehouse hears the channels of its clinics by this one subscription.
      const grant = clinicsOf(group).map(ofClinic);
      const exp = Math.floor(Date.now() / 1_000) + GRANT_SECONDS;
      return gema.authorizeChannel(socket_id, channel_name, { grant, exp });
    }
    throw new Refusal(403, `${channel_name} belongs to somebody else`);
  },
  // What a page missed while it had no connection.
  'GET /requests': (_, token) => {
    const own = user(token);
    return { requests: requests.filter((request) => sees(own, request)) };
  },
  'POST /requests': async ({ goods }, token) => {
    const { clinic } = user(token);
    if (!clinic) throw new Refusal(403, 'only a clinic requests goods');
    if (typeof goods !== 'string' || !goods.trim() || goods.length > 100) throw new Refusal(422, 'say which goods');
    const request = { id: requests.length + 1, clinic, goods: goods.trim(), sent: false };
    requests.push(request);
    await gema.trigger(`private-${ofClinic(clinic)}`, 'permintaan', request);
  },
  'POST /sent': async ({ id }, token) => {
    const { group } = user(token);
    const request = requests.find((request) => request.id === id);
    if (!group || !request || CLINICS[request.clinic] !== group) throw new Refusal(403, 'not a request of your clinics');
    request.sent = true;
    await gema.trigger(`private-${ofClinic(request.clinic)}`, 'permintaan', request);
  },
});
