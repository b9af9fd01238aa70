// History: known users behind a line that is cut, reset and stalled at random miss nothing that no gap tells, with
// unmodified clients. `HISTORY_SECONDS=60 HISTORY_RUNS=100` shows it for longer; a run is repeated with HISTORY_SEED.

import { startGema } from './gema.js';
import { presencePage, privatePage, runs, scenario } from './history.js';
import { startLaravel } from './laravel.js';
import { fresh, withEcho, withPusher } from './pages.js';

const rule = { match: '*', seconds: 120, events_max: 5000 };
const gema = await startGema({ env: { GEMA_LIMITS_HISTORY_RULES: JSON.stringify([rule]) } });
const laravel = await startLaravel(gema);
laravel.channel('room-{number}', (user) => ({ id: user.id }));
const living = () => [gema];

for (const { suffix, seed } of runs) {
  withPusher(`a user on a private channel misses nothing over cuts${suffix}`, gema, ({ t, open }) => {
    const name = fresh('private-room');
    const load = (line) => privatePage(open, line, { api: gema.api, name, user: 'siti' });
    return scenario(t, seed, { channels: [name], open: [load], living });
  });

  withEcho(`a member of a presence channel misses nothing over cuts${suffix}`, laravel, ({ t, open }) => {
    const name = fresh('room');
    const load = (line) => presencePage(open, line, { name, user: 'siti' });
    return scenario(t, seed, { channels: [`presence-${name}`], open: [load], living });
  });
}
