// What was used and what it cost, by team, key, model, account or day, over a range of time; from the ledger.

import { get } from "./api.js";
import { Chart } from "./charts.js";
import { byId, empty, failed, h, replace, scroller, setText } from "./dom.js";
import { count, dollars, percent, plural } from "./format.js";

const FILTERS = ["team", "key", "model", "account"];
const DEEPER = { team: "key", key: "model", model: "account", account: "model", day: "team" };
const COLUMNS = [
  ["requests", "Requests", count, ""],
  ["input_tokens", "Fresh input", count, "p2"],
  ["cache_creation_input_tokens", "Cache writes", count, "p2"],
  ["cache_read_input_tokens", "Cache reads", count, "p2"],
  ["output_tokens", "Output", count, "p2"],
  ["hit", "Hit rate", percent, ""],
  ["savings_usd", "Saved", dollars, ""],
  ["cost_usd", "Cost", dollars, ""],
];
const NUMBERS = ["requests", "input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens", "savings_usd", "cost_usd", "estimated_requests"];

let form;
let chart;
let query = {};
let rows = [];
let sort = { column: null, up: false };
let asked = 0;

export function start() {
  form = byId("spending-form");
  form.addEventListener("change", remember);
  form.addEventListener("submit", (event) => event.preventDefault());
  byId("spending-csv").addEventListener("click", download);
  chart = new Chart(byId("chart-spending"), {
    title: "Dollars a day", say: dollars, sync: null, bars: true, height: 150, x: (index) => days[Math.round(index)]?.slice(5) ?? "",
    axis: (value) => (value >= 1000 ? `$${value / 1000}k` : `$${Number(value.toPrecision(3))}`),
    series: [{ label: "spent", color: "--chart-1" }],
  });
}

let days = [];

export function show(params) {
  const range = params.get("from") || params.get("to") ? "own" : (params.get("range") ?? "");
  form.elements.by.value = params.get("by") ?? "team";
  form.elements.range.value = range;
  form.elements.from.value = params.get("from") ?? "";
  form.elements.to.value = params.get("to") ?? "";
  for (const label of form.querySelectorAll(".own")) label.hidden = range !== "own";
  query = { ...span(), ...Object.fromEntries(FILTERS.filter((name) => params.get(name)).map((name) => [name, params.get(name)])) };
  chips();
  load();
}

function span() {
  const { range, from, to } = Object.fromEntries(new FormData(form));
  if (range === "own") return { from, to };
  return { from: range === "today" ? "0d" : range };
}

function address(changes = {}) {
  const { by, range, from, to } = Object.fromEntries(new FormData(form));
  const filters = Object.fromEntries(FILTERS.map((name) => [name, query[name]]));
  const all = { by, ...(range === "own" ? { from, to } : { range }), ...filters, ...changes };
  return `#spending?${new URLSearchParams(Object.entries(all).filter(([, value]) => value))}`;
}

function remember() {
  const own = form.elements.range.value === "own";
  for (const label of form.querySelectorAll(".own")) label.hidden = !own;
  if (own && !form.elements.from.value) return form.elements.from.focus();
  location.hash = address();
}

function chips() {
  const set = FILTERS.filter((name) => query[name]);
  replace(byId("spending-only"), ...set.map((name) => h("a", { class: "chip", href: address({ [name]: "" }), "aria-label": `Only ${name} ${query[name]}; remove this filter` }, `${name} ${query[name]}`, h("span", { "aria-hidden": "true" }, " ✕"))));
}

async function load() {
  const question = (asked += 1);
  const place = byId("spending-table");
  place.setAttribute("aria-busy", "true");
  try {
    const by = form.elements.by.value;
    const [table, daily] = await Promise.all([get("usage", { ...query, group_by: by }), get("usage", { ...query, group_by: "day" })]);
    if (question !== asked) return;
    rows = table.data.map((row) => ({ ...row, hit: share(row) }));
    days = daily.data.map((row) => row.day);
    chart.set([days.map((_, index) => index), daily.data.map((row) => row.cost_usd)]);
    byId("chart-spending").hidden = days.length === 0;
    draw();
  } catch (error) {
    if (question === asked) replace(place, failed(error, load));
  } finally {
    if (question === asked) place.removeAttribute("aria-busy");
  }
}

function share(row) {
  const input = row.input_tokens + row.cache_creation_input_tokens + row.cache_read_input_tokens;
  return input ? row.cache_read_input_tokens / input : null;
}

function total() {
  const sum = Object.fromEntries(NUMBERS.map((name) => [name, rows.reduce((all, row) => all + (row[name] ?? 0), 0)]));
  return { ...sum, hit: share(sum) };
}

function draw() {
  const by = form.elements.by.value;
  const place = byId("spending-table");
  const sum = total();
  const estimated = sum.estimated_requests ? `, ${count(sum.estimated_requests)} of them estimated` : "";
  setText(byId("spending-sum"), rows.length ? `${dollars(sum.cost_usd)} for ${plural(sum.requests, "request")}${estimated}; the cache saved ${dollars(sum.savings_usd)}` : "");
  if (!rows.length) return replace(place, empty("Nothing was used in this time.", "Choose another range, or remove a filter."));
  const found = sort.column ? [...rows].sort((a, b) => order(a, b) * (sort.up ? 1 : -1)) : rows;
  const most = Math.max(...rows.map((row) => row.cost_usd), 1e-12);
  const body = found.map((row) => h("tr", {}, h("th", { scope: "row" }, name(row, by)), ...COLUMNS.map(([key, , say, less]) => h("td", { class: `num ${less}${key === "cost_usd" ? " compared" : ""}` }, key === "cost_usd" ? [bar(row.cost_usd / most), say(row[key])] : say(row[key])))));
  const foot = h("tr", {}, h("th", { scope: "row" }, `All ${count(rows.length)}`), ...COLUMNS.map(([key, , say, less]) => h("td", { class: `num ${less}` }, say(sum[key]))));
  replace(place, scroller("Table of spending", h("table", { class: "rows sums" }, h("thead", {}, h("tr", {}, head(by, by[0].toUpperCase() + by.slice(1), ""), ...COLUMNS.map(([key, words, , less]) => head(key, words, `num ${less}`)))), h("tbody", {}, ...body), h("tfoot", {}, foot))));
}

const order = (a, b) => {
  const [one, other] = [a[sort.column] ?? -1, b[sort.column] ?? -1];
  return typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other));
};

function head(key, words, kind) {
  const sorted = sort.column === key ? (sort.up ? "ascending" : "descending") : null;
  const button = h("button", { type: "button", class: "link sort", on: { click: () => sortBy(key) } }, words, h("span", { "aria-hidden": "true" }, sorted ? (sort.up ? " ▴" : " ▾") : ""));
  return h("th", { scope: "col", class: kind, "aria-sort": sorted }, button);
}

function sortBy(key) {
  sort = { column: key, up: sort.column === key ? !sort.up : !NUMBERS.includes(key) && key !== "hit" };
  draw();
  byId("spending-table").querySelector("th[aria-sort] button")?.focus();
}

function name(row, by) {
  const value = row[by];
  if (!value) return h("span", { class: "muted" }, by === "team" ? "without a team" : "unknown");
  const filter = by === "day" ? { from: value, to: after(value) } : { [by]: value };
  return h("a", { href: address({ ...filter, by: DEEPER[by], ...(by === "day" ? { range: "" } : {}) }), title: `By ${DEEPER[by]}` }, value);
}

const after = (day) => new Date(Date.parse(`${day}T00:00:00Z`) + 86_400_000).toISOString().slice(0, 10);

function bar(part) {
  const fill = h("span", {});
  fill.style.width = `${Math.max(0, part) * 100}%`;
  return h("span", { class: "bar share", "aria-hidden": "true" }, fill);
}

function download() {
  const by = form.elements.by.value;
  const names = [by, ...NUMBERS];
  // A leading sign would make a spreadsheet take a name for a formula.
  const cell = (value) => {
    const text = String(value ?? "");
    const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const text = [names, ...rows.map((row) => names.map((each) => row[each]))].map((line) => line.map(cell).join(",")).join("\r\n");
  const link = h("a", { href: URL.createObjectURL(new Blob([`${text}\r\n`], { type: "text/csv" })), download: `usage-by-${by}.csv` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
