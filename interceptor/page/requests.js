// The list of requests: ten thousand rows, of which only those in sight exist. The newest is on
// top.

import { at, make, raw, say } from './dom.js';
import { MOST } from './store.js';
import { clock, count, plain, subject, took } from './text.js';

/** Rows that exist beyond what is in sight, above and below. */
const BEYOND = 8;
const VERDICTS = { allow: ['allowed', 'good'], deny: ['refused', 'bad'] };
const NARROW = '(max-width: 720px)';

export class Requests {
  constructor(store, tell) {
    this.store = store;
    this.tell = tell;
    this.list = [];
    this.held = [];
    this.selected = undefined;
    this.isPaused = false;
    this.drawn = new Map();
    this.grid = at('rows');
    this.sizer = at('sizer');
    this.filter = { text: '', sandbox: '', decision: '' };
    this.narrow = matchMedia(NARROW);
    this.narrow.addEventListener('change', () => this.redraw());
    new ResizeObserver(() => this.soon()).observe(this.grid);
    this.grid.addEventListener('scroll', () => this.soon(), { passive: true });
    this.grid.addEventListener('keydown', (event) => this.pressed(event));
    this.sizer.addEventListener('click', (event) => this.clicked(event));
    at('filter').addEventListener('input', () => this.refilter());
    at('by-sandbox').addEventListener('change', () => this.refilter());
    at('by-decision').addEventListener('change', () => this.refilter());
    at('pause').addEventListener('click', () => this.pause(!this.isPaused));
    this.redraw();
  }

  get height() {
    return this.narrow.matches ? 56 : 34;
  }

  /** Takes new rows. */
  add(rows) {
    if (this.isPaused) {
      this.held.push(...rows);
      if (this.held.length > MOST) this.held.splice(0, this.held.length - MOST);
      this.soon();
      return;
    }
    const shown = rows.filter((row) => this.passes(row));
    if (shown.length > 0) {
      this.list.push(...shown);
      if (this.list.length > MOST) this.list.splice(0, this.list.length - MOST);
      // What is looked at stays where it is.
      if (this.grid.scrollTop > 0) this.grid.scrollTop += shown.length * this.height;
    }
    this.soon();
  }

  passes(row) {
    const { record } = row;
    const { text, sandbox, decision } = this.filter;
    if (sandbox && record.sandbox !== sandbox) return false;
    if (decision && record.decision !== decision) return false;
    if (!text) return true;
    row.text ??= `${record.method ?? ''} ${plain(subject(record))}`.toLowerCase();
    return row.text.includes(text);
  }

  refilter() {
    this.filter = {
      text: at('filter').value.trim().toLowerCase(),
      sandbox: at('by-sandbox').value,
      decision: at('by-decision').value,
    };
    const all = this.isPaused ? this.frozen : this.store.rows;
    this.list = all.filter((row) => this.passes(row));
    this.grid.scrollTop = 0;
    this.redraw();
  }

  /** Shows one sandbox's, or everybody's. */
  only(sandbox) {
    at('by-sandbox').value = sandbox;
    this.refilter();
  }

  pause(isPaused) {
    this.isPaused = isPaused;
    at('pause').setAttribute('aria-pressed', String(isPaused));
    if (isPaused) {
      this.frozen = [...this.store.rows];
      this.soon();
      return;
    }
    const held = this.held;
    this.held = [];
    this.frozen = undefined;
    this.add(held);
  }

  redraw() {
    this.drawn.forEach((element) => element.remove());
    this.drawn.clear();
    this.soon();
  }

  soon() {
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => {
      this.isDue = false;
      this.draw();
    });
  }

  draw() {
    const { height, list, grid } = this;
    const total = list.length;
    this.sizer.style.height = `${total * height}px`;
    grid.setAttribute('aria-rowcount', String(total + 1));
    const top = Math.max(0, grid.scrollTop);
    const first = Math.max(0, Math.floor(top / height) - BEYOND);
    const last = Math.min(total, Math.ceil((top + grid.clientHeight) / height) + BEYOND);
    const wanted = new Map();
    for (let index = first; index < last; index += 1) {
      wanted.set(list[total - 1 - index], index);
    }
    for (const [row, element] of this.drawn) {
      if (!wanted.has(row)) {
        element.remove();
        this.drawn.delete(row);
      }
    }
    for (const [row, index] of wanted) {
      let element = this.drawn.get(row);
      if (!element) {
        element = this.element(row);
        this.drawn.set(row, element);
        this.sizer.append(element);
      }
      element.style.transform = `translateY(${index * height}px)`;
      element.setAttribute('aria-rowindex', String(index + 2));
      element.setAttribute('aria-selected', String(row === this.selected));
    }
    const isDrawn = this.selected && this.drawn.has(this.selected);
    if (isDrawn) grid.setAttribute('aria-activedescendant', this.drawn.get(this.selected).id);
    else grid.removeAttribute('aria-activedescendant');
    this.sayCount();
  }

  sayCount() {
    const [all, shown] = [this.store.rows.length, this.list.length];
    const parts = [shown === all || this.isPaused
      ? count(shown, 'request') : `${shown.toLocaleString('en')} of ${count(all, 'request')}`];
    if (this.isPaused) parts.push(`paused, ${count(this.held.length, 'new one')}`);
    if (this.store.dropped > 0) parts.push(`${count(this.store.dropped, 'record')} not shown`);
    say(at('count'), parts.join(' · '));
    at('no-requests').hidden = shown > 0;
    const why = all === 0 ? 'Nothing yet. Requests appear here as they end.'
      : 'No request passes the filter.';
    say(at('no-requests'), why);
  }

  element(row) {
    const { record } = row;
    const [verdict, kind] = VERDICTS[record.decision] ?? ['', ''];
    const cell = (name, ...children) =>
      make('span', { role: 'gridcell', class: name }, ...children);
    return make('div', { role: 'row', class: `row is-${record.decision}`, id: `row-${row.number}` },
      cell('when', clock(record.ts)),
      cell('where', raw(plain(record.sandbox))),
      cell('verdict', make('span', { class: `badge ${kind}` }, verdict)),
      cell('what', raw(plain(record.method ?? ''), 'b'), ' ', raw(plain(subject(record)))),
      cell('status', record.status ?? ''),
      cell('took', took(record.duration_ms)));
  }

  clicked(event) {
    const element = event.target.closest('[role="row"]');
    const found = [...this.drawn].find(([, drawn]) => drawn === element);
    if (!found) return;
    this.select(found[0]);
    this.grid.focus({ preventScroll: true });
    this.tell(found[0].record);
  }

  select(row) {
    this.selected = row;
    this.soon();
  }

  pressed(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const total = this.list.length;
    const inSight = Math.max(1, Math.floor(this.grid.clientHeight / this.height) - 1);
    const at = this.selected ? this.list.lastIndexOf(this.selected) : -1;
    const index = at < 0 ? -1 : total - 1 - at;
    const moves = {
      ArrowDown: index + 1, ArrowUp: index - 1, PageDown: index + inSight,
      PageUp: index - inSight, Home: 0, End: total - 1,
    };
    if (event.key in moves && total > 0) {
      event.preventDefault();
      this.move(Math.min(total - 1, Math.max(0, moves[event.key])));
    } else if ((event.key === 'Enter' || event.key === ' ') && index >= 0) {
      event.preventDefault();
      this.tell(this.selected.record);
    }
  }

  move(index) {
    const { height, grid, list } = this;
    this.selected = list[list.length - 1 - index];
    const names = grid.firstElementChild.offsetHeight;
    const [top, bottom] = [index * height, (index + 1) * height];
    const room = grid.clientHeight - names;
    if (top < grid.scrollTop) grid.scrollTop = top;
    else if (bottom > grid.scrollTop + room) grid.scrollTop = bottom - room;
    this.soon();
  }
}
