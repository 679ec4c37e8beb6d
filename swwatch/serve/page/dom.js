// Small helpers around the document. Text goes in as text nodes, never as markup: it comes from models and servers.

export const byId = (id) => document.getElementById(id);

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** make("p", {class: "x", hidden: true}, "text", node, ...) */
export const make = (tag, attributes = {}, ...children) => build(document.createElement(tag), attributes, children);

/** The same for the parts of an SVG. */
export const draw = (tag, attributes = {}, ...children) =>
  build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** Fill a select; `options` are [value, label] pairs. Keeps what was chosen where it is still there. */
export function fillSelect(select, options) {
  const chosen = select.value;
  select.replaceChildren(...options.map(([value, label]) => make("option", { value }, label)));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
}

/** 3.4 -> "3.4 s"; unknown -> "–" */
export const seconds = (value) => (Number.isFinite(value) ? `${value.toFixed(1)} s` : "–");

/** plural(2, "step") -> "2 steps" */
export const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
