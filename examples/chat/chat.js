// The page of the chat: who is here, what they say, who is typing.

const element = (id) => document.getElementById(id);
const members = new Map();

/** Asks the chat's application. */
async function ask(path, body, token) {
  const headers = { 'Content-Type': 'application/json', ...(token && { Authorization: `Bearer ${token}` }) };
  const answer = await fetch(path, { method: 'POST', headers, body: JSON.stringify(body) });
  const result = await answer.json();
  if (!answer.ok) throw new Error(result.message);
  return result;
}

/** Adds a line; text from other people is never HTML. */
function line(list, parts) {
  const item = document.createElement('li');
  for (const [tag, text] of parts) item.append(Object.assign(document.createElement(tag), { textContent: text }));
  list.append(item);
  item.scrollIntoView?.();
}

function showMembers() {
  element('count').textContent = members.size;
  element('members').replaceChildren();
  for (const name of members.values()) line(element('members'), [['span', name]]);
}

element('enter').addEventListener('submit', async (event) => {
  event.preventDefault();
  const { name } = event.target.elements;
  const { token, key, port } = await ask('/enter', { name: name.value });
  element('enter').hidden = true;
  document.querySelector('main').hidden = false;
  join(token, key, port, name.value);
});

function join(token, key, port, name) {
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
  const state = ({ current }) => (element('state').textContent = current);
  echo.connector.pusher.connection.bind('state_change', state);

  let typingTimer;
  const chat = echo
    .join('chat')
    .here((all) => {
      // Comes again after each reconnection, with those who are here then.
      members.clear();
      for (const { id, name } of all) members.set(id, name);
      showMembers();
    })
    .joining(({ id, name }) => {
      members.set(id, name);
      showMembers();
    })
    .leaving(({ id }) => {
      members.delete(id);
      showMembers();
    })
    .listen('.message', ({ name, text }) => line(element('messages'), [['b', name], ['span', text]]))
    .listenForWhisper('typing', ({ name }) => {
      element('typing').textContent = `${name} is typing …`;
      clearTimeout(typingTimer);
      typingTimer = setTimeout(() => (element('typing').textContent = ''), 2_000);
    })
    .error(({ status }) => (element('state').textContent = `refused: ${status}`));

  const input = element('say').elements.text;
  let typed = 0;
  input.addEventListener('input', () => {
    // Once a second is enough to know.
    if (Date.now() - typed < 1_000) return;
    typed = Date.now();
    chat.whisper('typing', { name });
  });
  element('say').addEventListener('submit', async (event) => {
    event.preventDefault();
    const text = input.value;
    input.value = '';
    await ask('/messages', { text }, token).catch(({ message }) => (element('state').textContent = message));
  });
}
