// The shapes of the API's answers, as docs/dashboard-api.md lists them, and the page's own. For the type check only.

type Level = 'ok' | 'warn' | 'bad';

type Glance = { level: Level, code: string, values: Record<string, any>, text: string };

interface ClusterNode {
  id: string;
  name?: string | null;
  address?: string | null;
  this?: boolean;
  state: string;
  version?: string | null;
  started_ms?: number | null;
  seen_ms?: number | null;
  connections?: number | null;
  channels?: number | null;
  events_per_second?: number | null;
  deliveries_per_second?: number | null;
  /** Share of one core. */
  cpu?: number | null;
  memory_bytes?: number | null;
}

interface Now {
  at_ms: number;
  connections?: number | null;
  connections_peak?: number | null;
  thinned_in?: number | null;
  thinned_out?: number | null;
  causes?: Record<string, number>;
}

interface Problem {
  id: string;
  code: string;
  level: string;
  count: number;
  first_ms: number;
  last_ms: number;
  resolved: boolean;
  sentence: string;
  remedy?: string | null;
  where?: Record<string, string | null>;
  detail?: string | null;
  live?: string | null;
}

interface App {
  id: string;
  key?: string | null;
  name?: string | null;
  enabled: boolean;
  connections: number;
  connections_max?: number | null;
  channels?: number;
  publishes_per_second?: number | null;
  publishes_max?: number | null;
  client_events_max?: number | null;
  reads_max?: number | null;
}

interface Webhook {
  app: string;
  url: string;
  waiting: number;
  waiting_max?: number | null;
  last_status?: number | null;
  last_ms?: number | null;
  next_try_ms?: number | null;
  delivered: number;
  failed: number;
  given_up: number;
  error?: string | null;
}

interface FlowRule {
  app: string;
  rule: string;
  kind: string;
  text?: string;
  in_per_second: number;
  out_per_second: number;
}

interface State {
  now_ms: number;
  role: 'viewer' | 'operator';
  node: string;
  version: string;
  started_ms: number;
  /** Before the first second there is none. */
  glance: Glance;
  nodes: ClusterNode[];
  redis: { used: boolean, linked?: boolean, since_ms?: number | null, outage_buffer?: number | null };
  now: Now;
  limits: { connections_max?: number | null };
  problems: Problem[];
  apps: App[];
  webhooks: Webhook[];
  flow_rules: FlowRule[];
  settings: { key: string, value: unknown, origin: string }[];
  snippets: Record<string, string>;
  warnings: string[];
  public: { host?: string | null, port?: number | null, tls?: boolean, path?: string | null };
}

type Figures = { step_seconds: number, end_ms: number, series: Record<string, (number | null)[]> };

interface Row {
  id: number;
  at_ms: number;
  kind: string;
  level?: string;
  app?: string | null;
  channel?: string | null;
  event?: string | null;
  user?: string | null;
  socket?: string | null;
  address?: string | null;
  text: string;
  fields?: Record<string, unknown>;
}

interface Channel {
  app: string;
  name: string;
  subscribers: number;
  members?: number | null;
  events_per_second?: number | null;
  last_event_ms?: number | null;
  rule?: string | null;
  flow?: string | null;
  nodes?: { node: string, subscribers: number }[];
}

interface Connection {
  node: string;
  app: string;
  socket: string;
  user?: string | null;
  address?: string | null;
  library?: string | null;
  protocol?: number | null;
  origin?: string | null;
  age_seconds: number;
  channels: string[];
  channels_total: number;
  waiting_bytes: number;
}

/** what a panel leaves to be done when it is left */
type Close = () => void;

type OpenPanel = (root: HTMLElement, query: string) => Close | void;

type Child = Node | string | number | null | undefined | false;
type Children = Child | Child[];

/** A key of the tables of words. */
type Word = keyof typeof import('../../src/dashboard/page/words_a.js').first | keyof typeof import('../../src/dashboard/page/words_n.js').last;
type Look = Level | 'quiet';
type Link = 'open' | 'opening' | 'lost' | 'locked';
type Topic = 'state' | 'now' | 'problems' | 'glance' | 'rows' | 'link' | 'history';
type Span = '15m' | '24h';

interface PlotOptions {
  title: string;
  /** Series of the history; the first one is the main one. */
  keys: string[];
  /** Of the lines, where there are several. */
  names?: string[];
  format: (value: number | null | undefined) => string;
  limit?: () => number | null | undefined;
  /** Ticks for drops and refusals. */
  marks?: boolean;
}

type View = ReturnType<typeof import('../../src/dashboard/page/plot.js').viewOf>;

interface WordFieldOptions {
  label: string;
  value: string;
  placeholder: string;
  /** What may follow each `word:`. */
  words: Record<string, () => string[]>;
  /** Called after Enter, a choice or a pause in typing. */
  changed: (value: string) => void;
  /** Without it, a pause in typing changes nothing. */
  pauseMs?: number;
}

/** What the connection test connects to. */
interface Target {
  host: string;
  port: number;
  tls: boolean;
  path: string;
  key: string;
  app: string;
  auth: string;
  channel: string;
  publish: boolean;
}

type Say = (look: 'ok' | 'bad' | 'quiet', words: string, cause?: string) => void;

interface Wire {
  socket: WebSocket;
  next: (...events: string[]) => Promise<any>;
}
