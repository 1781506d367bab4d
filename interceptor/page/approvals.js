// What waits for a person: each question with its countdown and its answers.

import { always, answer } from './api.js';
import { at, button, make, raw, say } from './dom.js';
import { count, edit, left, plain } from './text.js';

/** The most questions of one sandbox that are shown at once, so that none hides another's. */
const AT_ONCE = 6;
const HOUR = 3600;
/** How long a card stays where it is before it can be answered, in milliseconds: a click that was
 * meant for the one that was there must not answer this one. */
const SETTLES = 800;

export class Approvals {
  constructor(store) {
    this.store = store;
    this.cards = new Map();
    this.open = new Set();
  }

  /** Draws what waits now. Cards that stay are the same, so that the focus stays. */
  draw() {
    const all = [...this.store.questions.values()].sort((one, other) =>
      (one.asked_at < other.asked_at ? -1 : 1));
    const shown = [];
    const counts = new Map();
    for (const question of all) {
      const number = (counts.get(question.sandbox) ?? 0) + 1;
      counts.set(question.sandbox, number);
      if (number <= AT_ONCE || this.open.has(question.sandbox)) shown.push(question);
    }
    const isFocused = at('waiting').contains(document.activeElement);
    const cards = shown.map((question) => this.card(question));
    for (const [sandbox, number] of counts) {
      if (number > AT_ONCE && !this.open.has(sandbox)) {
        cards.push(this.more(sandbox, number - AT_ONCE));
      }
    }
    const list = at('questions');
    for (const child of [...list.children]) if (!cards.includes(child)) child.remove();
    cards.forEach((card, index) => {
      if (list.children[index] !== card) list.insertBefore(card, list.children[index] ?? null);
    });
    for (const id of this.cards.keys()) if (!this.store.questions.has(id)) this.cards.delete(id);
    at('waiting').hidden = all.length === 0;
    say(at('waiting-title'), `Waiting for you: ${count(all.length, 'question')}`);
    say(at('total-waiting'), String(all.length));
    document.title = all.length > 0 ? `(${all.length}) interceptor` : 'interceptor';
    // Whoever answered by keyboard goes on from here.
    if (isFocused && !at('waiting').contains(document.activeElement)) {
      (all.length > 0 ? at('waiting-title') : at('rows')).focus();
    }
    this.tick();
  }

  /** Counts down. */
  tick() {
    const now = this.store.now();
    for (const { question, timer } of this.cards.values()) {
      say(timer, `${left(new Date(question.expires_at).valueOf() - now)} left`);
    }
    this.settle();
  }

  /** Has every card that appeared or moved wait before it can be answered. */
  settle() {
    for (const card of this.cards.values()) {
      const place = placeOf(card.answers);
      if (place === card.place) continue;
      card.place = place;
      clearTimeout(card.settling);
      card.settling = setTimeout(() => {
        card.settling = undefined;
        mark(card);
      }, SETTLES);
      mark(card);
    }
  }

  more(sandbox, number) {
    this.mores ??= new Map();
    const known = this.mores.get(sandbox) ?? make('li', { class: 'more' });
    this.mores.set(sandbox, known);
    const name = `Show ${count(number, 'more question')} of ${plain(sandbox)}`;
    if (known.textContent !== name) {
      known.replaceChildren(button(name, () => {
        this.open.add(sandbox);
        this.draw();
      }));
    }
    return known;
  }

  card(question) {
    const known = this.cards.get(question.id);
    if (known) {
      known.question = question;
      say(known.waiting, waiting(question));
      return known.element;
    }
    const card = { question };
    const title = `question-${question.id}`;
    const port = [80, 443].includes(question.port) ? '' : `:${question.port}`;
    card.timer = make('span', { role: 'timer', class: 'timer' });
    card.waiting = make('span', {}, waiting(question));
    card.problem = make('p', { class: 'problem', role: 'alert', hidden: true });
    card.choice = choice(question);
    const by = { 'aria-describedby': title };
    const decide = (work) => () => this.decide(card, work);
    const chosen = () => question.patches[Number(card.choice?.value ?? 0)]?.patch;
    const allow = (terms) => () =>
      answer(question.id, { decision: 'allow', patch: chosen(), ...terms });
    const buttons = [
      button('Approve', decide(allow({})), { class: 'go', ...by }),
      button('Approve for 1 hour', decide(allow({ seconds: HOUR })), by),
    ];
    if (this.store.sandboxes.get(question.sandbox)?.policy_file) {
      buttons.push(button('Always', decide(() => always(question.id, chosen())), {
        ...by, title: 'Also writes the edit into the policy’s file',
      }));
    }
    buttons.push(button('Refuse', decide(() => answer(question.id, { decision: 'deny' })), {
      class: 'stop', ...by,
    }));
    card.buttons = buttons;
    card.answers = make('div', { class: 'answers' }, ...buttons);
    card.choice?.addEventListener('change', () => this.settle());
    card.element = make('li', { class: 'card question' },
      make('h3', { id: title },
        raw(plain(question.method), 'b'), ' ',
        raw(plain(`${question.host}${port}${question.path}`))),
      make('p', { class: 'about' }, make('span', { class: 'tag' }, raw(plain(question.sandbox))),
        card.waiting, card.timer),
      make('p', { class: 'message' }, raw(plain(question.message))),
      card.choice
        && make('label', { class: 'field' }, make('span', {}, 'Which requests'), card.choice),
      edits(question, card.choice),
      card.problem,
      card.answers);
    this.cards.set(question.id, card);
    return card.element;
  }

  async decide(card, work) {
    this.settle();
    if (card.isBusy || card.settling !== undefined) return;
    card.problem.hidden = true;
    card.isBusy = true;
    mark(card);
    try {
      await work();
      // The stream says so too, a moment later.
      this.store.questions.delete(card.question.id);
      this.draw();
    } catch (error) {
      card.problem.hidden = false;
      say(card.problem, plain(error.message));
      this.settle();
    } finally {
      card.isBusy = false;
      mark(card);
    }
  }
}

/** Where an element is in the document; scrolling does not move it. */
function placeOf(element) {
  if (!element.isConnected) return undefined;
  const box = element.getBoundingClientRect();
  return `${Math.round(box.left + scrollX)} ${Math.round(box.top + scrollY)}`;
}

/** Says whether a card can be answered now. */
function mark(card) {
  const waits = card.isBusy || card.settling !== undefined;
  for (const each of card.buttons) {
    if (waits) each.setAttribute('aria-disabled', 'true');
    else each.removeAttribute('aria-disabled');
  }
}

function waiting(question) {
  return `${count(question.waiting, 'request')} ${question.waiting === 1 ? 'waits' : 'wait'}`;
}

/** Which edit to approve, where there are several. */
function choice(question) {
  if (question.patches.length < 2) return undefined;
  const options = question.patches.map(({ patch, wider }, index) =>
    make('option', { value: index },
      plain(`${wider ? 'similar ones too' : 'these alone'}: ${values(patch)}`)));
  return make('select', {}, ...options);
}

/** What an edit adds. */
function values(patch) {
  const all = patch.map(({ value }) => (typeof value === 'string' ? value : JSON.stringify(value)));
  return all.join(', ');
}

/** The edit to approve; that which is chosen, where there are several. */
function edits(question, choices) {
  if (question.patches.length === 0) return undefined;
  const text = () => plain(edit(question.patches[Number(choices?.value ?? 0)].patch));
  const shown = raw(text(), 'code');
  choices?.addEventListener('change', () => say(shown, text()));
  return make('p', { class: 'permits' }, 'To permit: ', shown);
}
