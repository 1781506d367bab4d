// Puts the parts of the page together.

import { onSignedOut } from './api.js';
import { Approvals } from './approvals.js';
import { Chart } from './chart.js';
import { at, make, say } from './dom.js';
import * as panel from './panel.js';
import { goToMark, policyView } from './policy.js';
import { Requests } from './requests.js';
import { Sandboxes } from './sandboxes.js';
import { BUCKETS, Store } from './store.js';
import { storyView, titleOf } from './story.js';
import { follow } from './stream.js';
import { plain } from './text.js';

const STATES = {
  live: 'Live',
  broken: 'Connecting again…',
  gone: 'Signed out',
};

const store = new Store();
const chart = new Chart(at('chart'), BUCKETS);
const requests = new Requests(store, tell);
const approvals = new Approvals(store);
const sandboxes = new Sandboxes(store, { choose, policy: (id) => showPolicy(id) });

/** Tells a record's story. */
function tell(record) {
  const parts = storyView(store, record, (pointer) => showPolicy(record.sandbox, pointer));
  panel.open(titleOf(record), parts, () => requests.select(undefined));
}

/** Shows a sandbox's policy, at the line of a rule. */
async function showPolicy(id, pointer) {
  const title = `Policy of ${plain(id)}`;
  panel.open(title, [make('p', { class: 'empty' }, 'One moment…')]);
  try {
    const parts = await policyView(store, id, pointer);
    panel.open(title, parts);
    goToMark(at('panel-body'));
  } catch (error) {
    panel.open(title, [make('p', { class: 'problem' }, plain(error.message))]);
  }
}

/** Shows the requests of one sandbox; of all, if it is chosen already. */
function choose(id) {
  requests.only(at('by-sandbox').value === id ? '' : id);
  sandboxes.mark(at('by-sandbox').value);
}

const hear = {
  hello: (data) => store.begin(data),
  sandboxes: (data) => {
    store.setSandboxes(data);
    sandboxes.draw();
    sandboxes.mark(at('by-sandbox').value);
    approvals.draw();
  },
  leases: (data) => {
    store.leases = data;
    store.onLeases?.();
  },
  questions: (data) => {
    store.setQuestions(data);
    asked();
  },
  question: (data) => {
    const { question } = data;
    if (store.setQuestion(data)) {
      say(at('news'), plain(`${question.sandbox} asks: ${question.method} ${question.host}`));
    }
    asked();
  },
  records: (data) => {
    requests.add(store.add(data));
    drawSoon();
  },
  counts: (data) => {
    store.setCounts(data);
    sandboxes.numbers();
  },
  dropped: (data) => {
    store.dropped += data.dropped;
    requests.soon();
  },
};

function asked() {
  approvals.draw();
  sandboxes.numbers();
}

let isDue = false;
function drawSoon() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    chart.draw(store.chart());
  });
}

function state(name) {
  say(at('state'), STATES[name]);
  at('state').dataset.state = name;
  if (name === 'gone' && at('gone').hidden) {
    at('gone').hidden = false;
    at('gone-title').focus();
  }
  if (name === 'live') at('gone').hidden = true;
}

function shortcuts(event) {
  const isTyping = event.target.closest?.('input, select, textarea');
  if (isTyping || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === '/') {
    event.preventDefault();
    at('filter').focus();
  } else if (event.key === 'p') {
    requests.pause(!requests.isPaused);
  }
}

panel.begin();
document.addEventListener('keydown', shortcuts);
at('by-sandbox').addEventListener('change', () => sandboxes.mark(at('by-sandbox').value));
onSignedOut(() => state('gone'));
follow((name, data) => hear[name](data), state);
setInterval(() => {
  approvals.tick();
  chart.draw(store.chart());
}, 1000);
chart.draw(store.chart());
