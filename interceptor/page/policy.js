// A sandbox's policy, with the numbers of its lines, and what is permitted beside it.

import { policyOf, revoke } from './api.js';
import { button, make, raw, say } from './dom.js';
import { edit, left, plain } from './text.js';

/** The lines of a document, each with the pointer of what begins there. */
export function lines(document) {
  const out = [];
  write(document, '', '', '', '', out);
  return out;
}

function write(value, pointer, indent, before, after, out) {
  const isList = Array.isArray(value);
  if (value === null || typeof value !== 'object') {
    out.push({ text: `${indent}${before}${JSON.stringify(value)}${after}`, pointer });
    return;
  }
  const entries = Object.entries(value);
  const [open, shut] = isList ? ['[', ']'] : ['{', '}'];
  if (entries.length === 0) {
    out.push({ text: `${indent}${before}${open}${shut}${after}`, pointer });
    return;
  }
  out.push({ text: `${indent}${before}${open}`, pointer });
  entries.forEach(([name, inner], index) => {
    const token = name.replaceAll('~', '~0').replaceAll('/', '~1');
    const comma = index < entries.length - 1 ? ',' : '';
    const label = isList ? '' : `${JSON.stringify(name)}: `;
    write(inner, `${pointer}/${token}`, `${indent}  `, label, comma, out);
  });
  out.push({ text: `${indent}${shut}${after}` });
}

/** The number of the line at which a pointer's value begins. */
export function lineOf(all, pointer) {
  const at = all.findIndex((line) => line.pointer === pointer);
  return at < 0 ? undefined : at + 1;
}

/** What the panel shows of a sandbox; `marked` is the pointer of a rule. */
export async function policyView(store, id, marked) {
  const { policy, policy_file: file, policy_changed: changed, warnings } = await policyOf(id);
  const parts = [];
  const since = `in force since ${new Date(changed).toLocaleString()}`;
  parts.push(make('p', { class: 'about' }, file ? raw(plain(file)) : 'given without a file',
    make('span', {}, since)));
  for (const warning of warnings) {
    const text = plain(`${warning.pointer}: ${warning.detail}`);
    parts.push(make('p', { class: 'warning' }, raw(text)));
  }
  const beside = make('div', { class: 'beside' });
  const fill = () => beside.replaceChildren(...leases(store, id));
  fill();
  store.onLeases = () => { if (beside.isConnected) fill(); };
  parts.push(beside);
  if (policy === null) {
    parts.push(make('p', { class: 'empty' }, 'The policy is the operator’s and is not shown.'));
    return parts;
  }
  const all = lines(policy);
  const target = marked === undefined ? undefined : lineOf(all, marked);
  const list = make('ol', { class: 'policy', tabindex: '0', 'aria-label': 'Policy' },
    ...all.map((line, index) => make('li', {
      class: index + 1 === target ? 'marked' : undefined,
      'aria-current': index + 1 === target ? 'true' : undefined,
    }, raw(plain(line.text), 'code'))));
  parts.push(list);
  return parts;
}

/** Goes to the marked line, once it is shown. */
export function goToMark(place) {
  place.querySelector('.marked')?.scrollIntoView({ block: 'nearest' });
}

function leases(store, id) {
  const own = store.leases.filter((lease) => lease.sandbox === id);
  if (own.length === 0) return [];
  const item = (lease) => {
    const ends = [];
    if (lease.until) ends.push(`${left(new Date(lease.until).valueOf() - store.now())} left`);
    if (typeof lease.uses === 'number') ends.push(`${lease.uses} uses left`);
    const problem = make('span', { role: 'alert' });
    const element = make('li', {}, raw(plain(edit(lease.patch)), 'code'),
      make('span', {}, ` ${ends.join(', ')}, by ${plain(lease.by)} `),
      button('Revoke', async () => {
        try {
          await revoke(id, lease.id);
          element.remove();
        } catch (error) {
          say(problem, plain(error.message));
        }
      }, { class: 'quiet' }), problem);
    return element;
  };
  return [make('h3', {}, 'Permitted beside the policy'),
    make('ul', { class: 'leases' }, ...own.map(item))];
}
