// The panel beside the requests: one thing at a time, closed by Escape or its button. The focus
// goes in with it, and back to where it came from.

import { at, say } from './dom.js';

/** Where the panel covers everything else, which then takes no focus. */
const NARROW = matchMedia('(max-width: 720px)');
const BEHIND = '.skip, .top, #waiting, .side, .requests';

let before;
let closed = () => {};

function cover() {
  const isCovered = !at('panel').hidden && NARROW.matches;
  document.querySelectorAll(BEHIND).forEach((element) => { element.inert = isCovered; });
}

/** Shows something; `onClose` is called when it goes. */
export function open(title, children, onClose = () => {}) {
  const panel = at('panel');
  if (panel.hidden) before = document.activeElement;
  else closed();
  closed = onClose;
  say(at('panel-title'), title);
  at('panel-body').replaceChildren(...children);
  at('panel-body').scrollTop = 0;
  panel.hidden = false;
  document.body.classList.add('has-panel');
  cover();
  at('panel-title').focus();
}

/** Hides it. */
export function close() {
  const panel = at('panel');
  if (panel.hidden) return;
  panel.hidden = true;
  document.body.classList.remove('has-panel');
  cover();
  at('panel-body').replaceChildren();
  closed();
  closed = () => {};
  if (before?.isConnected) before.focus();
}

/** Prepares it. */
export function begin() {
  at('close').addEventListener('click', close);
  NARROW.addEventListener('change', cover);
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && !at('panel').hidden) {
      event.preventDefault();
      close();
    }
  });
}
