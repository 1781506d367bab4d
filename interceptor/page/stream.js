// The stream of events: it begins anew by itself whenever it breaks.

import { hasSession } from './api.js';

const AGAIN = 2000;
const EVENTS = ['hello', 'sandboxes', 'leases', 'questions', 'question', 'records', 'counts',
  'dropped'];

/** Follows the events: `heard(name, data)`, and `state('live' | 'broken' | 'gone')`. */
export function follow(heard, state) {
  const source = new EventSource('/v1/events');
  for (const name of EVENTS) {
    source.addEventListener(name, (event) => {
      if (name === 'hello') state('live');
      heard(name, JSON.parse(event.data));
    });
  }
  source.addEventListener('error', async () => {
    state('broken');
    // Otherwise the browser tries again by itself.
    if (source.readyState !== EventSource.CLOSED) return;
    let isIn = true;
    try {
      isIn = await hasSession();
    } catch {
      // Nobody answers now.
    }
    if (isIn) setTimeout(() => follow(heard, state), AGAIN);
    else state('gone');
  });
}
