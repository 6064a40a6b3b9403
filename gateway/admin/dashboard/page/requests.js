// Recent requests: a live list that can be filtered and held still, and all that is known of one. Metadata alone.

import { get } from "./api.js";
import { moment } from "./clock.js";
import { copier, tell } from "./dialogs.js";
import { badge, byId, empty, failed, h, keyed, replace, scroller, setText } from "./dom.js";
import { count, dollars, exact, plural, seconds } from "./format.js";
import { on } from "./live.js";
import { outcomeWords, REASONS, ROUTES } from "./words.js";

const KEPT = 500;
const SHOWN = 200; // rows at once; filters reach all that are kept
let all = [];
let still = null; // what was there when the list was held still
let held = 0; // requests that came since
let form;

const bus = new EventTarget();

export function start() {
  form = byId("requests-form");
  form.addEventListener("input", () => remember());
  form.addEventListener("submit", (event) => event.preventDefault());
  byId("requests-pause").addEventListener("click", () => hold(still === null));
  on("requests", ({ data }) => add(data));
  on("state", ({ state }) => state === "live" && load());
}

/** Filters are in the address: `#requests?key=alice&outcome=error`. */
export function show(params) {
  for (const field of form.elements) {
    if (!field.name) continue;
    const value = params.get(field.name) ?? "";
    if (field.name === "account" && value && ![...field.options].some((each) => each.value === value)) field.append(h("option", {}, value));
    field.value = value;
  }
  draw();
  load(); // where many come at once, not all of them were told live
}

function remember() {
  const filled = [...new FormData(form)].filter(([, value]) => value);
  const query = new URLSearchParams(filled).toString();
  history.replaceState(null, "", `#requests${query ? `?${query}` : ""}`);
  draw();
}

async function load() {
  try {
    all = (await get("requests", { limit: KEPT })).data;
    bus.dispatchEvent(new Event("changed"));
    draw();
    options();
  } catch (error) {
    if (!byId("at-requests").hidden) replace(byId("requests-table"), failed(error, load));
  }
}

function add(data) {
  const known = new Set(all.slice(0, 2 * data.length + 50).map((each) => each.request_id));
  const fresh = data.filter((each) => !known.has(each.request_id));
  if (!fresh.length) return;
  all = [...fresh, ...all].slice(0, KEPT);
  bus.dispatchEvent(new Event("changed"));
  options();
  if (still) held += fresh.length;
  draw();
}

export function changed(listener) {
  bus.addEventListener("changed", () => listener(all));
}

function hold(wanted) {
  still = wanted ? all : null;
  held = 0;
  const button = byId("requests-pause");
  button.setAttribute("aria-pressed", wanted);
  button.textContent = wanted ? "Go on" : "Pause";
  draw();
}

/** What there is to choose from: accounts, models and keys that were seen. */
function options() {
  const select = form.elements.account;
  const there = new Set([...select.options].map((each) => each.value));
  for (const account of new Set(all.map((each) => each.account).filter(Boolean))) if (!there.has(account)) select.append(h("option", {}, account));
  for (const [id, field] of [["models", "model"], ["callers", "key"]]) {
    const list = byId(id);
    const listed = new Set([...list.children].map((each) => each.value));
    for (const value of new Set(all.map((each) => each[field]).filter(Boolean))) if (!listed.has(value) && listed.size < 200) list.append(h("option", { value }));
  }
}

function fits(request, filter) {
  const has = (text, wanted) => !wanted || String(text ?? "").toLowerCase().includes(wanted.toLowerCase());
  return (
    (has(request.key, filter.key) || has(request.team, filter.key)) && has(request.model, filter.model) && (has(request.request_id, filter.id) || has(request.upstream_request_id, filter.id)) &&
    (!filter.account || request.account === filter.account) && (!filter.outcome || request.outcome === filter.outcome) && (!filter.route || request.route === filter.route)
  );
}

function draw() {
  if (byId("at-requests").hidden) return;
  const filter = Object.fromEntries(new FormData(form));
  const there = still ?? all;
  const found = there.filter((each) => fits(each, filter));
  const shown = found.slice(0, SHOWN);
  const filtered = Object.values(filter).some(Boolean);
  setText(byId("requests-count"), `${filtered ? `${count(found.length)} of ${count(there.length)}` : plural(there.length, "request")}${found.length > SHOWN ? `, the latest ${SHOWN} shown` : ""}${still ? ` · paused${held ? `, ${count(held)} came since` : ""}` : ""}`);
  const place = byId("requests-table");
  if (!shown.length) {
    replace(place, filtered ? empty("No recent request fits this filter.", "Only the last 500 are kept here; the ledger under Spending knows more.") : empty("No request has come since the gateway started.", h("a", { href: "#connect" }, "Connect a client"), " to see some."));
    return;
  }
  list(place, shown, true);
}

const HEADS = [["When", "", ""], ["Key", "clip", ""], ["Model", "clip", "p3"], ["Account", "clip", ""], ["Route", "", "p3"], ["Outcome", "", ""], ["Cached", "num", "p2"], ["Input", "num", "p2"], ["Output", "num", "p3"], ["Cost", "num", "p3"], ["First token", "num", "p2"], ["Took", "num", "p3"], ["Request", "", "p1"]];
const BRIEF = [["When", "", ""], ["Key", "clip", "p3"], ["Account", "clip", ""], ["Outcome", "", ""], ["Took", "num", ""]];

/** A table of requests in `place`, kept up to date row by row; brief ones have fewer columns. */
export function list(place, requests, full = false) {
  if (!requests.length) return replace(place, empty("None yet.", h("a", { href: "#connect" }, "Connect a client"), " to see some."));
  const heads = full ? HEADS : BRIEF;
  if (!place.querySelector("tbody")) {
    const table = h("table", { class: full ? "rows" : "rows few" }, h("thead", {}, h("tr", {}, ...heads.map(([name, kind, less]) => h("th", { scope: "col", class: `${kind} ${less}` }, name)))), h("tbody"));
    replace(place, scroller("Table of requests", table));
  }
  keyed(place.querySelector("tbody"), requests, (each) => each.request_id, (request) => ({ node: row(request, heads) }));
}

function row(request, heads) {
  const { tokens = {} } = request;
  const when = moment(ended(request)).node;
  const open = h("button", { type: "button", class: "link", on: { click: () => details(request) } }, when, h("span", { class: "offscreen" }, `, details of request ${request.request_id}`));
  const cells = {
    When: open,
    Key: [request.key || h("span", { class: "muted" }, "unknown"), request.team ? h("span", { class: "muted team" }, ` ${request.team}`) : null],
    Model: request.model || "–",
    Account: [request.account || "–", request.attempts > 1 ? h("span", { class: "muted", title: "attempts" }, ` ×${request.attempts}`) : null],
    Route: h("span", { title: ROUTES[request.route] ?? null }, request.route),
    Outcome: badge(...outcomeWords(request)).node,
    Input: count(tokens.input), Cached: count(tokens.cache_read), Output: count(tokens.output),
    Cost: dollars(request.cost_usd), "First token": seconds(request.ttft_seconds || null), Took: seconds(request.duration_seconds),
    Request: h("code", {}, request.request_id),
  };
  const whole = { Key: [request.key, request.team].filter(Boolean).join(", "), Model: request.model, Account: request.account };
  return h("tr", {}, ...heads.map(([name, kind, less]) => h("td", { class: `${kind} ${less}`, title: whole[name] || null }, ...[cells[name]].flat())));
}

/** When it ended, which is what the list is ordered by (ISO). */
const ended = (request) => new Date(Date.parse(request.at) + 1000 * (request.duration_seconds ?? 0)).toISOString();

function details(request) {
  const { tokens = {} } = request;
  const write = tokens.cache_write ?? 0;
  const total = (tokens.input ?? 0) + (tokens.cache_read ?? 0) + write;
  const reason = request.reason ? ` Reason: ${REASONS[request.reason] ?? request.reason}.` : "";
  const rows = [
    ["Request id", h("code", {}, request.request_id), copier(() => request.request_id)],
    ["Upstream request id", request.upstream_request_id ? h("code", {}, request.upstream_request_id) : "none", request.upstream_request_id ? copier(() => request.upstream_request_id) : null],
    request.trace_id ? ["Trace id", h("code", {}, request.trace_id)] : null,
    ["Came", moment(request.at).node, ` · ${exact(Date.parse(request.at))}`],
    ["Outcome", badge(...outcomeWords(request)).node, request.cause ? ` cause: ${request.cause}` : "", request.limit ? ` · limit of the ${request.limit.replaceAll("_", " ")}` : "", request.status ? ` · status ${request.status}` : ""],
    ["Key", request.key || "unknown", request.team ? ` of team ${request.team}` : ""],
    ["Endpoint", request.endpoint, request.stream ? ", streamed" : ""],
    ["Model", request.model || "–"],
    ["Account", request.account || "none", ` · ${plural(request.attempts ?? 0, "attempt")}`],
    ["Route", h("b", {}, request.route), ` – ${ROUTES[request.route] ?? ""}${reason}`],
    ["Conversation", request.conversation ? h("code", { title: "A digest, as in the log; the id itself is not kept" }, request.conversation) : "none"],
    ["Input", `${count(total)} tokens: ${count(tokens.cache_read ?? 0)} from the cache, ${count(write)} written to it, ${count(tokens.input ?? 0)} fresh`],
    ["Output", `${count(tokens.output ?? 0)} tokens`],
    ["Cost", dollars(request.cost_usd), request.saved_usd ? `; the cache saved ${dollars(request.saved_usd)}` : ""],
    ["First token after", seconds(request.ttft_seconds || null)],
    ["Took", seconds(request.duration_seconds)],
  ].filter(Boolean);
  return tell({ title: "Request", wide: true, body: [h("dl", { class: "details" }, ...rows.map(([name, ...value]) => h("div", {}, h("dt", {}, name), h("dd", {}, ...value))))] });
}
