// What the page knows: bounded, whatever happens.

/** The most requests that are kept. */
export const MOST = 10_000;
const MOST_LOOKUPS = 2_000;
const MOST_APPROVALS = 1_000;
/** The chart: as many buckets of so many milliseconds. */
export const BUCKETS = 60;
export const BUCKET = 10_000;
/** How long records after a new beginning may be known already. */
const AGAIN = 15_000;

const key = (record) => `${record.ts} ${record.id} ${record.kind} ${record.type ?? ''}`;

export class Store {
  constructor() {
    this.sandboxes = new Map();
    this.more = 0;
    this.leases = [];
    this.questions = new Map();
    this.rows = [];
    this.lookups = new Map();
    this.approvals = new Map();
    this.buckets = new Map();
    this.dropped = 0;
    this.skew = 0;
    this.known = undefined;
    this.next = 0;
  }

  /** The interceptor's time. */
  now() {
    return Date.now() + this.skew;
  }

  /** A stream begins. */
  begin({ now }) {
    this.skew = new Date(now).valueOf() - Date.now();
    if (this.rows.length === 0) return;
    this.known = new Set(this.rows.map((row) => key(row.record)));
    setTimeout(() => { this.known = undefined; }, AGAIN);
  }

  setSandboxes({ sandboxes, more }) {
    this.sandboxes = new Map(sandboxes.map((sandbox) => [sandbox.id, sandbox]));
    this.more = more;
  }

  /** What was allowed and refused by now. */
  setCounts(counts) {
    for (const [id, allowed, denied] of counts) {
      const sandbox = this.sandboxes.get(id);
      if (sandbox) Object.assign(sandbox, { allowed, denied });
    }
  }

  setQuestions(questions) {
    this.questions = new Map(questions.map((question) => [question.id, question]));
  }

  /** What happened to a question; returns whether it is a new one. */
  setQuestion({ event, question }) {
    const isNew = !this.questions.has(question.id);
    if (event === 'asked' || event === 'changed') {
      this.questions.set(question.id, question);
      return isNew;
    }
    this.questions.delete(question.id);
    return false;
  }

  /** Takes records; returns the new rows. */
  add(records) {
    const fresh = [];
    for (const record of records) {
      if (this.known?.has(key(record))) continue;
      this.note(record);
      const isRow = record.kind === 'request' || record.kind === 'connection'
        || (record.kind === 'dns' && record.decision === 'deny');
      if (isRow) fresh.push({ number: this.next++, record, text: undefined });
    }
    this.rows.push(...fresh);
    if (this.rows.length > MOST) this.rows.splice(0, this.rows.length - MOST);
    return fresh;
  }

  note(record) {
    if (record.kind === 'dns') {
      this.remember(this.lookups, `${record.sandbox} ${record.host}`, record, MOST_LOOKUPS);
    } else if (record.kind === 'approval' && record.lease) {
      this.remember(this.approvals, record.lease, record, MOST_APPROVALS);
    } else if ((record.kind === 'request' || record.kind === 'connection') && record.decision) {
      const at = Math.floor(new Date(record.ts).valueOf() / BUCKET);
      const bucket = this.buckets.get(at) ?? { allow: 0, deny: 0 };
      bucket[record.decision] += 1;
      this.remember(this.buckets, at, bucket, 4 * BUCKETS);
    }
  }

  remember(map, name, value, most) {
    map.delete(name);
    map.set(name, value);
    if (map.size > most) map.delete(map.keys().next().value);
  }

  /** The buckets of the chart, oldest first. */
  chart() {
    const last = Math.floor(this.now() / BUCKET);
    return Array.from({ length: BUCKETS }, (_, index) =>
      this.buckets.get(last - BUCKETS + 1 + index) ?? { allow: 0, deny: 0 });
  }
}
