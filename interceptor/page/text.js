// Texts for people. Hosts, methods and paths are chosen by a sandbox: whatever steers, reorders or
// hides is written out, as everywhere in this product.

const STEERS = new RegExp('[\\p{Cc}\\p{Cs}\\u00ad\\u061c\\u180e\\u200b-\\u200f\\u2028-\\u202e'
  + '\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb\\u{e0000}-\\u{e007f}]', 'gu');

/** A text with every character that steers or hides written out. */
export function plain(value) {
  return String(value ?? '').replace(STEERS, (found) =>
    `\\u{${found.codePointAt(0).toString(16)}}`);
}

/** The time of day of a timestamp. */
export function clock(time) {
  const date = new Date(time);
  return Number.isNaN(date.valueOf()) ? '' : date.toLocaleTimeString([], { hour12: false });
}

/** How long is left, as minutes and seconds. */
export function left(milliseconds) {
  const seconds = Math.max(0, Math.ceil(milliseconds / 1000));
  if (seconds >= 3600) {
    const minutes = Math.ceil(seconds / 60);
    return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  }
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`;
}

/** A duration in milliseconds. */
export function took(milliseconds) {
  if (milliseconds === undefined) return '';
  if (milliseconds < 1) return '<1 ms';
  if (milliseconds < 10_000) return `${Math.round(milliseconds)} ms`;
  return `${(milliseconds / 1000).toFixed(1)} s`;
}

/** A number of bytes. */
export function bytes(count) {
  if (count < 1024) return `${count} B`;
  const units = ['KiB', 'MiB', 'GiB', 'TiB'];
  let value = count;
  let unit = -1;
  do {
    value /= 1024;
    unit += 1;
  } while (value >= 1024 && unit < units.length - 1);
  return `${value.toFixed(1)} ${units[unit]}`;
}

/** A number with its noun. */
export function count(number, one, many) {
  return `${number.toLocaleString('en')} ${number === 1 ? one : many ?? `${one}s`}`;
}

/** What a record is about, in a line. */
export function subject(record) {
  const usual = record.kind === 'request' ? [80, 443] : [];
  const port = record.port && !usual.includes(record.port) ? `:${record.port}` : '';
  const host = `${record.host ?? record.ip ?? ''}${port}`;
  if (record.kind === 'request') return `${host}${record.path ?? ''}`;
  if (record.kind === 'dns') return `look-up of ${host}`;
  return `${record.protocol ?? 'connection'} to ${host}`;
}

/** An edit of a policy in words: what is added where. */
export function edit(patch) {
  return patch.map((operation) => {
    const value = JSON.stringify(operation.value);
    const path = String(operation.path);
    if (operation.op !== 'add') return `${operation.op} ${path}`;
    return path.endsWith('/-') ? `add ${value} to ${path.slice(0, -2)}` : `add ${value} at ${path}`;
  }).join(', and ');
}
