// Two charts of the same readings. Each has a connection of its own, so that one flood does not delay the other.
'use strict';

/** What a chart shows, in milliseconds. */
const SHOWN_MS = 10_000;
const EVENT = 'scada.data.received';

/** The last seconds of all sensors, each value that came. */
class Chart {
  /** Values by sensor: `{ at, value }`, the oldest first. */
  #sensors = new Map();
  #events = 0;
  #work = 0;
  #frames = 0;
  #socket;
  #retry;

  constructor(id, channel, url) {
    this.section = document.getElementById(id);
    this.channel = channel;
    this.url = url;
    this.context = this.section.querySelector('canvas').getContext('2d');
  }

  get isOn() {
    return this.#socket !== undefined;
  }

  /** Connects and subscribes, as the Pusher protocol wants it. */
  connect() {
    const socket = new WebSocket(this.url);
    this.#socket = socket;
    this.section.classList.remove('off');
    this.#say('connecting');
    socket.onmessage = ({ data }) => this.#timed(() => this.#receive(socket, JSON.parse(data)));
    socket.onclose = ({ code }) => {
      if (this.#socket !== socket) return;
      this.#say(`closed with ${code}; connecting again`);
      this.#retry = setTimeout(() => this.connect(), 1000);
    };
  }

  disconnect() {
    const socket = this.#socket;
    this.#socket = undefined;
    clearTimeout(this.#retry);
    socket?.close();
    this.#sensors.clear();
    this.section.classList.add('off');
    this.#say('not connected');
    this.#timed(() => this.#draw(Date.now()));
  }

  frame(now) {
    this.#frames += 1;
    this.#timed(() => this.#draw(now));
  }

  /** Shows the figures of the last `seconds`. */
  showFigures(seconds) {
    const work = this.#work / Math.max(this.#frames, 1);
    this.#show('.events', Math.round(this.#events / seconds).toLocaleString('en'));
    this.#show('.work', `${work.toFixed(1)} ms`);
    this.section.querySelector('meter').value = work;
    this.#events = this.#work = this.#frames = 0;
  }

  #receive(socket, { event, data }) {
    if (event === 'pusher:connection_established') {
      socket.send(JSON.stringify({ event: 'pusher:subscribe', data: { channel: this.channel } }));
    } else if (event === 'pusher:ping') {
      socket.send(JSON.stringify({ event: 'pusher:pong', data: {} }));
    } else if (event === 'pusher_internal:subscription_succeeded') {
      this.#say(`subscribed to ${this.channel}`);
    } else if (event === EVENT) {
      this.#add(JSON.parse(data).data);
    }
  }

  #add({ channel, value }) {
    this.#events += 1;
    let values = this.#sensors.get(channel);
    if (!values) this.#sensors.set(channel, (values = []));
    values.push({ at: Date.now(), value });
  }

  #draw(now) {
    const { context } = this;
    // Without a canvas, as in tests, there is nothing to draw on.
    const { width, height } = context?.canvas ?? { width: 1, height: 1 };
    context?.clearRect(0, 0, width, height);
    for (const [sensor, values] of this.#sensors) {
      const old = values.findIndex(({ at }) => at > now - SHOWN_MS);
      values.splice(0, old < 0 ? values.length : old);
      // The same colour in both charts.
      const hue = (Number(sensor.split('-')[1]) * 360) / this.#sensors.size;
      if (context) this.#drawSensor(context, values, now, `hsl(${hue} 60% 45%)`);
    }
  }

  #drawSensor(context, values, now, color) {
    const { width, height } = context.canvas;
    context.strokeStyle = color;
    context.beginPath();
    for (const { at, value } of values) context.lineTo(width * (1 - (now - at) / SHOWN_MS), height * (1 - value / 100));
    context.stroke();
  }

  #timed(work) {
    const began = performance.now();
    work();
    this.#work += performance.now() - began;
  }

  #say(text) {
    this.#show('.state', text);
  }

  #show(selector, text) {
    this.section.querySelector(selector).textContent = text;
  }
}

async function start() {
  const settings = async () => (await fetch('/settings.json')).json();
  const { key, port, published } = await settings();
  const url = `ws://127.0.0.1:${port}/app/${key}?protocol=7&client=firehose&version=1.0.0`;
  const charts = { raw: new Chart('raw', 'scada-raw', url), ruled: new Chart('ruled', 'scada-realtime', url) };

  const show = (names) => {
    for (const [name, chart] of Object.entries(charts)) {
      if (names.includes(name) && !chart.isOn) chart.connect();
      if (!names.includes(name) && chart.isOn) chart.disconnect();
    }
  };
  const buttons = document.querySelectorAll('button');
  for (const button of buttons) {
    button.onclick = () => {
      for (const other of buttons) other.setAttribute('aria-pressed', String(other === button));
      show(button.dataset.charts.split(' '));
    };
  }
  show(Object.keys(charts));

  let frames = 0;
  const frame = () => {
    frames += 1;
    for (const chart of Object.values(charts)) if (chart.isOn) chart.frame(Date.now());
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);

  let last = performance.now();
  const counts = [{ at: last, published }];
  setInterval(async () => {
    const seconds = (performance.now() - last) / 1000;
    last += seconds * 1000;
    document.getElementById('frames').textContent = Math.round(frames / seconds);
    frames = 0;
    for (const chart of Object.values(charts)) chart.showFigures(seconds);
    const { published } = await settings();
    counts.push({ at: performance.now(), published });
    if (counts.length > 6) counts.shift();
    const [from, to] = [counts[0], counts.at(-1)];
    const rate = ((to.published - from.published) / (to.at - from.at)) * 1000;
    document.getElementById('published').textContent = Math.round(rate).toLocaleString('en');
  }, 1000);
}

start();
