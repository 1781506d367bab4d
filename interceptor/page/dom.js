// Elements, made of text alone: nothing here takes markup.

/** The element with an id. */
export const at = (id) => document.getElementById(id);

/** An element with properties, attributes and children; strings become text. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === 'class') element.className = value;
    else if (name === 'on') {
      for (const [event, listener] of Object.entries(value)) {
        element.addEventListener(event, listener);
      }
    } else element.setAttribute(name, value === true ? '' : String(value));
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null));
  return element;
}

/** Text that a sandbox chose. */
export const raw = (text, tag = 'span') => make(tag, { class: 'raw' }, text);

/** A button. */
export function button(name, action, properties = {}) {
  return make('button', { type: 'button', on: { click: action }, ...properties }, name);
}

/** Sets a text where it differs, so that nothing is announced or drawn for nothing. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
