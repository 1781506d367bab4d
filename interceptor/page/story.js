// A request's whole story: looked up, judged, asked, sent, and for a refusal what would permit it.

import { lease, policyOf, storyOf } from './api.js';
import { button, make, raw, say } from './dom.js';
import { lineOf, lines } from './policy.js';
import { bytes, clock, edit, plain, subject, took } from './text.js';

const HOUR = 3600;
const FILTERS = {
  network: 'the network rules', endpoint: 'the endpoint rules of the credential',
  content: 'the content rules',
};

/** The title of a record's story. */
export const titleOf = (record) =>
  plain(`${record.method ? `${record.method} ` : ''}${subject(record)}`);

/** What the panel shows of a record. `showRule` opens the policy at a pointer. */
export function storyView(store, record, showRule) {
  const verdict = record.decision === 'deny' ? ['refused', 'bad'] : ['allowed', 'good'];
  const steps = make('ol', { class: 'steps' });
  const lookup = store.lookups.get(`${record.sandbox} ${record.host}`);
  if (lookup) {
    const said = lookup.decision === 'deny' ? 'the name is not permitted' : 'permitted';
    steps.append(step('Looked up', `${clock(lookup.ts)}, ${said}`));
  }
  const judged = make('span', {}, judgement(record));
  steps.append(step('Judged', judged));
  const by = store.approvals.get(record.lease);
  if (record.lease) {
    const who = by ? `, given by ${by.by} at ${clock(by.ts)}` : '';
    steps.append(step('Permitted beside the policy', plain(`by the lease ${record.lease}${who}`)));
  }
  if (record.credential) {
    const used = record.decision === 'allow' ? ': its key was put in outside the sandbox' : '';
    steps.append(step('Credential', raw(plain(record.credential)), used));
  }
  steps.append(...sent(record));
  const more = make('div', { class: 'permit' });
  const whose = make('span', { class: 'tag' }, raw(plain(record.sandbox)));
  const parts = [
    make('p', { class: 'about' }, make('span', { class: `badge ${verdict[1]}` }, verdict[0]),
      whose, make('span', {}, new Date(record.ts).toLocaleString())),
    make('p', { class: 'whole' }, raw(titleOf(record))),
    steps, more, all(record),
  ];
  look(record, { judged, more, showRule });
  return parts;
}

function step(name, ...said) {
  return make('li', {}, make('b', {}, name), make('span', {}, ...said));
}

function judgement(record) {
  const by = FILTERS[record.filter] ?? (record.filter ? plain(record.filter) : 'the policy');
  const rule = record.rule ? `, by the rule ${plain(record.rule)}` : '';
  const why = record.decision === 'deny' && record.type ? ` (${plain(record.type)})` : '';
  return `${record.decision === 'deny' ? 'refused' : 'allowed'} by ${by}${rule}${why}`;
}

function sent(record) {
  if (record.decision !== 'allow') {
    return [step('Sent', 'nothing left the sandbox')];
  }
  const where = record.ip ? `to ${record.ip}` : 'to no address';
  const port = record.port ? ` port ${record.port}` : '';
  const how = record.protocol ? ` over ${plain(record.protocol)}` : '';
  const steps = [step('Sent', `${where}${port}${how}, ${bytes(record.bytes_up ?? 0)} up`)];
  const status = record.status ? `status ${record.status}` : 'no status';
  const length = record.duration_ms === undefined ? '' : ` in ${took(record.duration_ms)}`;
  const ended = record.type ? `, ended with ${plain(record.type)}` : '';
  steps.push(step('Answered', `${status}, ${bytes(record.bytes_down ?? 0)} down${length}${ended}`));
  if (record.key_echoed) {
    steps.push(step('Key echoed', `${record.key_echoed} times, and replaced each time`));
  }
  return steps;
}

/** Every field, as recorded. */
function all(record) {
  const rows = Object.entries(record).map(([name, value]) =>
    make('div', {}, make('dt', {}, plain(name)), make('dd', {}, raw(plain(value)))));
  return make('details', {}, make('summary', {}, 'The whole record'), make('dl', {}, ...rows));
}

/** Asks what the policy in force says of it. */
async function look(record, { judged, more, showRule }) {
  try {
    const told = await storyOf(record);
    if (told.rule) await refer(record.sandbox, told.rule, judged, showRule);
    if (record.decision !== 'deny') return;
    if (told.decision === 'allow') {
      more.append(make('p', { class: 'now good' }, 'The policy in force permits it by now.'));
    } else {
      permit(record, told, more);
    }
  } catch (error) {
    more.append(make('p', { class: 'empty' }, plain(error.message)));
  }
}

/** Says at which line of the policy a rule stands. */
async function refer(sandbox, rule, judged, showRule) {
  const { policy } = await policyOf(sandbox);
  const line = policy && lineOf(lines(policy), rule.pointer);
  if (!line) return;
  judged.append(' ', button(`line ${line} of the policy`, () => showRule(rule.pointer), {
    class: 'link',
  }));
}

function permit(record, told, more) {
  if (told.message) more.append(make('p', { class: 'message' }, raw(plain(told.message))));
  const [first] = told.patches;
  const text = first ? edit(first.patch) : told.edit;
  if (!text) {
    more.append(make('p', { class: 'empty' }, 'No edit of the rules would permit it.'));
    return;
  }
  const said = make('p', { role: 'status', class: 'said' });
  const copy = button('Copy', async () => {
    say(said, await copied(plain(text)) ? 'Copied.' : 'The browser does not let it be copied.');
  });
  const actions = [copy];
  if (first) {
    const give = button('Permit for 1 hour', async () => {
      give.disabled = true;
      try {
        await lease(record.sandbox, { patch: first.patch, seconds: HOUR });
        say(said, 'Permitted for 1 hour.');
        said.focus();
      } catch (error) {
        give.disabled = false;
        say(said, plain(error.message));
      }
    }, { class: 'go' });
    actions.push(give);
  }
  const shown = make('pre', { tabindex: '0' }, raw(plain(text), 'code'));
  more.append(make('h3', {}, 'To permit it'), shown,
    make('div', { class: 'answers' }, ...actions), said);
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = make('textarea', { class: 'unseen', 'aria-hidden': 'true', tabindex: '-1' });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand('copy');
    area.remove();
    return done;
  }
}
