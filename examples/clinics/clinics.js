// The page of a clinic or of a main warehouse: the requests that it may see, as they come.

const element = (id) => document.getElementById(id);

/** Asks the application: with a body POST, without one GET. */
async function ask(path, token, body) {
  const headers = { ...(body && { 'Content-Type': 'application/json' }), ...(token && { Authorization: `Bearer ${token}` }) };
  const answer = await fetch(path, { method: body ? 'POST' : 'GET', headers, body: body && JSON.stringify(body) });
  const result = await answer.json();
  if (!answer.ok) throw new Error(result.message);
  return result;
}

const showState = (text) => (element('state').textContent = text);

element('sign-in').addEventListener('submit', async (event) => {
  event.preventDefault();
  const { name } = event.target.elements;
  const session = await ask('/sign-in', undefined, { name: name.value });
  element('sign-in').hidden = true;
  document.querySelector('main').hidden = false;
  element('who').textContent = session.isWarehouse ? `Main warehouse, group ${name.value.at(-1)}` : `Clinic ${name.value}`;
  element('request').hidden = session.isWarehouse;
  listen(session);
});

function listen({ token, key, port, channel, isWarehouse }) {
  // `default` is what `import Echo from 'laravel-echo'` gets.
  const echo = new Echo.default({
    broadcaster: 'pusher',
    key,
    cluster: 'mt1', // pusher-js wants one; it has no effect beside wsHost
    wsHost: location.hostname,
    wsPort: port,
    forceTLS: false,
    enabledTransports: ['ws'],
    authEndpoint: '/broadcasting/auth',
    bearerToken: token,
  });
  echo.connector.pusher.connection.bind('state_change', ({ current }) => showState(current));
  const failed = ({ message }) => showState(message);
  const show = (request) => showRequest(request, isWarehouse && (() => ask('/sent', token, request).catch(failed)));
  echo
    .private(channel)
    .listen('.permintaan', show)
    // Also after each reconnection: what came in between is in the application's database.
    .subscribed(() => ask('/requests', token).then(({ requests }) => requests.forEach(show), failed))
    .error(({ status }) => showState(`refused: ${status}`));

  element('request').addEventListener('submit', (event) => {
    event.preventDefault();
    const { goods } = event.target.elements;
    ask('/requests', token, { goods: goods.value }).catch(failed);
    goods.value = '';
  });
}

/** Adds a row or brings it up to date, so an event that comes twice does no harm. */
function showRequest({ id, clinic, goods, sent }, send) {
  const rowId = `request-${id}`;
  let row = element(rowId);
  if (!row) {
    row = Object.assign(document.createElement('tr'), { id: rowId });
    element('requests').prepend(row);
  }
  // What is sent stays sent, even if an older answer comes late.
  else if (row.dataset.sent) return;
  if (sent) row.dataset.sent = 'yes';
  row.replaceChildren();
  for (const text of [id, clinic, goods, sent ? 'sent' : 'requested']) {
    row.append(Object.assign(document.createElement('td'), { textContent: text }));
  }
  if (sent || !send) return;
  const button = Object.assign(document.createElement('button'), { textContent: 'Send' });
  button.addEventListener('click', send);
  row.lastElementChild.replaceChildren(button);
}
