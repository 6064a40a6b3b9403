// Elements made and kept up to date. Whatever comes from outside goes through text nodes and attributes, never through markup:
// ids, models and reasons are strings that strangers choose.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `props` are attributes, but `class`, `on` ({event: listener}) and `data`; false and null ones are left out. */
export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (name === "data") Object.assign(node.dataset, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false).map(asNode));
  return node;
}

const asNode = (child) => (child instanceof Node ? child : String(child));

export const byId = (id) => document.getElementById(id);

/** Set text or an attribute only where it differs, so that selections, hovers and screen readers are left in peace. */
export function setText(node, text) {
  const wanted = text === null || text === undefined ? "" : String(text);
  if (node.textContent !== wanted) node.textContent = wanted;
}

export function setAttribute(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

export function setClass(node, name) {
  if (node.className !== name) node.className = name;
}

/** Keep one child of `parent` for each of `items`: `make(item)` gives {node, update(item)}, and a child stays the same element
 * (with its focus) as long as its `key` does. */
export function keyed(parent, items, key, make) {
  const kept = (parent.keyedChildren ??= new Map());
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  const wanted = new Set();
  let before = parent.firstChild;
  for (const item of items) {
    const name = key(item);
    if (wanted.has(name)) continue;
    wanted.add(name);
    let child = kept.get(name);
    if (child === undefined) kept.set(name, (child = make(item)));
    child.update?.(item);
    if (child.node === before) before = before.nextSibling;
    else parent.insertBefore(child.node, before);
  }
  for (const [name, child] of kept) {
    if (!wanted.has(name)) {
      child.node.remove();
      kept.delete(name);
    }
  }
  if (focused?.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true }); // it was moved
}

/** Drop everything, also what `keyed` remembers. */
export function replace(parent, ...children) {
  parent.keyedChildren = undefined;
  parent.replaceChildren(...children.flat());
}

// Drawn on a grid of 16; each has a shape of its own, for those who do not see its colour.
const ICONS = {
  good: "M3 8.5l3.2 3.2L13 4.8",
  warn: "M8 2.5l6 11H2zM8 6.5v3.2M8 11.6v.2",
  bad: "M4 4l8 8M12 4l-8 8",
  info: "M4 8h8M9 5l3 3-3 3M4 4v8",
  off: "M3 8h10",
  copy: "M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3",
  open: "M6 4l4 4-4 4",
};

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name] ?? ICONS.off);
  svg.append(path);
  return svg;
}

/** A badge that says its state in words, with an icon; `kind` is one of good, warn, bad, info, off. */
export function badge(kind, words) {
  const text = h("span", {}, words);
  const node = h("span", { class: `badge ${kind}` }, icon(kind), text);
  let present = kind;
  return {
    node,
    update(newKind, newWords) {
      if (newKind !== present) {
        present = newKind;
        node.className = `badge ${newKind}`;
        node.firstChild.replaceWith(icon(newKind));
      }
      setText(text, newWords);
    },
  };
}

/** What stands where there is nothing: what that means, and what to do. */
export function empty(what, ...todo) {
  return h("div", { class: "empty" }, h("p", {}, what), todo.length ? h("p", { class: "muted" }, ...todo) : null);
}

/** A failure of the API where its data would stand, with a way to try again. */
export function failed(error, again) {
  return h("div", { class: "empty", role: "alert" }, h("p", { class: "bad-text" }, error.message ?? String(error)), h("button", { type: "button", on: { click: again } }, "Try again"));
}

/** A table that scrolls inside itself where the screen is narrow, and by keyboard. */
export function scroller(label, table) {
  return h("div", { class: "scroller", role: "region", "aria-label": label, tabindex: "0" }, table);
}
