// A dense table of things by name. At first those stand before the others that need somebody; a column's head sorts by it. A row
// opens to show all of its thing.

import { h, icon, keyed, replace, scroller, setAttribute, setClass, setText } from "./dom.js";

/** Of a `place`: `label` names the table, `head` its first column, whose button says `name(item)`, which is unique. `columns` are
 * [head, class, value to sort by or null]. `line(item)` gives {cells, kind(item), update(item)}: a node for each column, and the
 * kind of badge that the row is coloured as; `more(item)` gives {node, update(item)} of what an open row shows. `order(a, b)` is that
 * of the beginning. */
export class Listing {
  #place;
  #plan;
  #items = [];
  #sort = { column: null, up: true };
  #open = new Set();
  #heads = [];

  constructor(place, plan) {
    this.#place = place;
    this.#plan = plan;
  }

  /** Show these; `none` stands there where there are none. */
  set(items, none) {
    this.#items = items;
    if (!items.length) return replace(this.#place, none);
    if (!this.#place.querySelector("table")) this.#build();
    const rows = this.#sorted().flatMap((item) => [{ item }, ...(this.#open.has(this.#plan.name(item)) ? [{ item, more: true }] : [])]);
    keyed(this.#place.querySelector("tbody"), rows, ({ item, more }) => `${more ? "more" : "line"} ${this.#plan.name(item)}`, ({ item, more }) => (more ? this.#more(item) : this.#line(item)));
  }

  /** Open the row of that name; its button, if there is such a row. */
  open(name) {
    this.#open.add(name);
    this.#draw();
    return [...this.#place.querySelectorAll("button.disclose")].find((each) => each.dataset.name === name);
  }

  #draw() {
    if (this.#items.length) this.set(this.#items);
  }

  #build() {
    const { label, head, columns, name } = this.#plan;
    const all = [[head, "", name], ...columns];
    this.#heads = all.map(([words, kind, value], index) => {
      const arrow = h("span", { "aria-hidden": "true" });
      const button = value ? h("button", { type: "button", class: "link sort", on: { click: () => this.#sortBy(index) } }, words, arrow) : words;
      return { node: h("th", { scope: "col", class: kind || null }, button), arrow };
    });
    const table = h("table", { class: "rows dense" }, h("thead", {}, h("tr", {}, ...this.#heads.map((each) => each.node))), h("tbody"));
    replace(this.#place, scroller(label, table));
    this.#mark();
  }

  /** A column sorts from its most to its least, then the other way, then not any more. */
  #sortBy(column) {
    const { up } = this.#sort;
    const text = typeof this.#items.map(this.#value(column)).find((value) => value !== null) === "string";
    if (this.#sort.column !== column) this.#sort = { column, up: text };
    else if (up === text) this.#sort = { column, up: !up };
    else this.#sort = { column: null, up: true };
    this.#mark();
    this.#draw();
  }

  #mark() {
    this.#heads.forEach(({ node, arrow }, index) => {
      const sorted = this.#sort.column === index;
      setAttribute(node, "aria-sort", sorted ? (this.#sort.up ? "ascending" : "descending") : null);
      setText(arrow, sorted ? (this.#sort.up ? " ▴" : " ▾") : "");
    });
  }

  #value(column) {
    return column === 0 ? this.#plan.name : this.#plan.columns[column - 1][2];
  }

  #sorted() {
    const { column, up } = this.#sort;
    if (column === null) return [...this.#items].sort(this.#plan.order);
    const value = this.#value(column);
    return [...this.#items].sort((a, b) => compared(value(a), value(b), up) || this.#plan.name(a).localeCompare(this.#plan.name(b)));
  }

  #line(item) {
    const name = this.#plan.name(item);
    const button = h("button", { type: "button", class: "link disclose", title: name, data: { name } }, icon("open"), h("b", {}, name));
    button.addEventListener("click", () => {
      if (!this.#open.delete(name)) this.#open.add(name);
      this.#draw();
    });
    const { cells, kind, update } = this.#plan.line(item);
    const node = h("tr", {}, h("th", { scope: "row" }, button), ...cells.map((cell, index) => h("td", { class: this.#plan.columns[index][1] || null }, cell)));
    return {
      node,
      update: ({ item: next }) => {
        const open = this.#open.has(name);
        setAttribute(button, "aria-expanded", String(open));
        setAttribute(button, "aria-controls", open ? `more-${name}` : null);
        setClass(node, kind(next) ? `is-${kind(next)}` : "");
        update(next);
      },
    };
  }

  #more(item) {
    const { node, update } = this.#plan.more(item);
    const row = h("tr", { id: `more-${this.#plan.name(item)}`, class: "more" }, h("td", { colspan: this.#plan.columns.length + 1 }, node));
    return { node: row, update: ({ item: next }) => update(next) };
  }
}

/** What is not known comes last, whichever way. */
function compared(a, b, up) {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === "number" ? a - b : String(a).localeCompare(String(b));
  return up ? order : -order;
}
