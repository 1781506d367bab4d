// The sandboxes: whose requests to show, and their policies.

import { at, button, make, raw, say } from './dom.js';
import { count, plain } from './text.js';

export class Sandboxes {
  constructor(store, actions) {
    this.store = store;
    this.actions = actions;
    this.items = new Map();
  }

  /** Draws the list. */
  draw() {
    const { sandboxes, more } = this.store;
    for (const [id, item] of this.items) {
      if (!sandboxes.has(id)) {
        item.element.remove();
        this.items.delete(id);
      }
    }
    for (const sandbox of sandboxes.values()) {
      if (!this.items.has(sandbox.id)) this.items.set(sandbox.id, this.item(sandbox));
    }
    const elements = [...sandboxes.keys()].map((id) => this.items.get(id).element);
    if (more > 0) elements.push(make('li', { class: 'empty' }, `and ${count(more, 'more')}`));
    const focused = document.activeElement;
    at('sandboxes').replaceChildren(...elements);
    if (at('sandboxes').contains(focused)) focused.focus();
    at('no-sandboxes').hidden = sandboxes.size > 0;
    this.choices();
    this.numbers();
  }

  /** Counts anew. */
  numbers() {
    const waits = new Map();
    for (const { sandbox } of this.store.questions.values()) {
      waits.set(sandbox, (waits.get(sandbox) ?? 0) + 1);
    }
    let [allowed, refused] = [0, 0];
    for (const [id, item] of this.items) {
      const sandbox = this.store.sandboxes.get(id);
      allowed += sandbox.allowed;
      refused += sandbox.denied;
      say(item.allowed, `${sandbox.allowed.toLocaleString('en')} allowed`);
      say(item.refused, `${sandbox.denied.toLocaleString('en')} refused`);
      item.refused.className = sandbox.denied > 0 ? 'bad' : 'none';
      const number = waits.get(id) ?? 0;
      item.waits.hidden = number === 0;
      say(item.waits, `${number} waiting`);
    }
    say(at('total-allowed'), allowed.toLocaleString('en'));
    say(at('total-refused'), refused.toLocaleString('en'));
  }

  /** Marks the one whose requests are shown. */
  mark(id) {
    for (const [own, item] of this.items) {
      item.choose.setAttribute('aria-pressed', String(own === id));
    }
  }

  item(sandbox) {
    const about = sandbox.command ?? sandbox.image ?? sandbox.cgroup;
    const choose = button('', () => this.actions.choose(sandbox.id), {
      class: 'choose', 'aria-pressed': 'false',
    });
    const item = {
      choose,
      allowed: make('span', { class: 'good' }),
      refused: make('span', { class: 'bad' }),
      waits: make('span', { class: 'ask', hidden: true }),
    };
    choose.append(raw(plain(sandbox.id), 'b'), raw(plain(about), 'small'),
      make('span', { class: 'numbers' }, item.allowed, ' ', item.refused, ' ', item.waits));
    const policy = button('Policy', () => this.actions.policy(sandbox.id), {
      class: 'quiet', 'aria-label': `Policy of ${plain(sandbox.id)}`,
    });
    item.element = make('li', {}, choose, policy);
    return item;
  }

  choices() {
    const select = at('by-sandbox');
    const chosen = select.value;
    const known = [...select.options].slice(1).map((option) => option.value);
    const ids = [...this.store.sandboxes.keys()];
    // Whoever filters by one that has ended goes on seeing it.
    if (chosen && !ids.includes(chosen)) ids.push(chosen);
    if (known.length === ids.length && ids.every((id, index) => id === known[index])) return;
    select.replaceChildren(make('option', { value: '' }, 'all'),
      ...ids.map((id) => make('option', { value: id }, plain(id))));
    select.value = chosen;
  }
}
