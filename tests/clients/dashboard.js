// The operator's page of a real server, in a browser.

import { startGema } from './gema.js';
import { until } from './wait.js';

export const VIEWER = 'viewer-token-0123456789';
export const OPERATOR = 'operator-token-0123456789';

export const tokens = { GEMA_DASHBOARD_TOKEN: VIEWER, GEMA_DASHBOARD_OPERATOR_TOKEN: OPERATOR };

/** Starts a server with both tokens. */
export function startWatched({ env, config, ...options } = {}) {
  const section = `\n[dashboard]\ntoken = "${VIEWER}"\noperator_token = "${OPERATOR}"\n`;
  return startGema({ ...options, ...(config ? { config: config + section, env } : { env: { ...tokens, ...env } }) });
}

/** The address of the page, of one of its files or of its API. */
export const address = (gema, path = '') => `http://${gema.host}:${gema.metricsPort}/dashboard${path}`;

/** Asks the API as a script does. */
export async function ask(gema, path, { token = OPERATOR, body } = {}) {
  const headers = { Authorization: `Bearer ${token}` };
  const init = body ? { method: 'POST', body: JSON.stringify(body), headers: { ...headers, 'Content-Type': 'application/json' } } : { headers };
  const answer = await fetch(address(gema, `/api/${path}`), init);
  return { status: answer.status, body: await answer.json().catch(() => undefined) };
}

/** Opens the page and signs in; `panel` is what follows `#`. */
export async function openDashboard(browser, gema, { token = OPERATOR, panel = 'overview' } = {}) {
  const tab = new Dashboard(await browser.open(`${address(gema)}#token=${token}`));
  await tab.sees('nav a', 'the page has let us in');
  if (panel !== 'overview') await tab.turn(panel);
  return tab;
}

export class Dashboard {
  constructor(page) {
    this.page = page;
  }

  evaluate(expression) {
    return this.page.evaluate(expression);
  }

  /** Opens another panel. */
  async turn(panel) {
    await this.evaluate(`location.hash = ${JSON.stringify(panel)}`);
    const tab = panel.split('?')[0];
    await this.sees(`nav a[href="#${tab}"][aria-current]`, `the panel ${tab} is open`);
  }

  /** The text of the first element that fits, as a reader sees it. */
  text(selector = 'main') {
    return this.evaluate(`document.querySelector(${JSON.stringify(selector)})?.innerText ?? ''`);
  }

  /** Waits until an element is there. */
  sees(selector, what = selector) {
    return until(() => this.evaluate(`document.querySelector(${JSON.stringify(selector)}) !== null`), what);
  }

  /** Waits until an element has such a text; answers the text. */
  async reads(pattern, selector = 'main') {
    let text;
    await until(async () => pattern.test((text = await this.text(selector))), `${pattern} in ${selector}`).catch((error) => {
      throw new Error(`${error.message}; it reads:\n${text}`);
    });
    return text;
  }

  /** Presses the button or follows the link with this text. */
  async click(text, within = 'main') {
    const find = `[...document.querySelector(${JSON.stringify(within)}).querySelectorAll('button, a')].find((one) => one.innerText.trim() === ${JSON.stringify(text)})`;
    await until(() => this.evaluate(`${find} !== undefined`), `the button ${text}`);
    await this.evaluate(`${find}.click()`);
  }

  /** Writes into the field with this label. */
  async fill(label, value) {
    const find = `[...document.querySelectorAll('label')].find((one) => one.innerText.startsWith(${JSON.stringify(label)}))`;
    await until(() => this.evaluate(`${find} !== undefined`), `the field ${label}`);
    const set = `(field) => { field.value = ${JSON.stringify(value)}; field.dispatchEvent(new Event('input', { bubbles: true })); field.dispatchEvent(new Event('change')); }`;
    await this.evaluate(`(${set})(${find}.querySelector('input, select, textarea'))`);
  }

  /** The card of a problem, once it is on the page, as its text. */
  async problem(code) {
    const selector = `[data-code="${code}"]`;
    await this.sees(selector, `the problem ${code}`).catch(async (error) => {
      throw new Error(`${error.message}; the page reads:\n${await this.text()}`);
    });
    return this.text(selector);
  }
}
