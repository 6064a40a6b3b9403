// The first page: the present numbers, their last fifteen minutes, and what deserves a look.

import { get } from "./api.js";
import { Chart } from "./charts.js";
import { badge, byId, empty, h, keyed, replace, setAttribute, setClass, setText } from "./dom.js";
import { count, dollars, percent, plural, rate, seconds, span } from "./format.js";
import { latest, on } from "./live.js";
import { changed, list as requestList } from "./requests.js";
import { headroomBar, tightest } from "./bars.js";
import { idle, sickFirst, stateOf, stateWords, troubled, whyBriefly, whyOf } from "./words.js";

const STEP = 5; // seconds between points
const KEPT = 900; // seconds of them
const TOKENS = ["input", "cache_read", "cache_write", "output"];

const charts = {};
let points = [];

const TILES = [
  ["Requests", "/s", (o) => rate(o.requests_per_second), (o) => `${plural(o.in_flight, "request")} in flight`],
  ["Errors", "/s", (o) => rate(o.errors_per_second), (o) => `${rate(o.refused_per_second)}/s refused (4xx)`, (o) => o.errors_per_second > 0.05 * o.requests_per_second && o.errors_per_second > 0],
  ["First token", "p50", (o) => seconds(o.ttft_seconds?.p50), (o) => `p95 ${seconds(o.ttft_seconds?.p95)}`],
  ["Tokens", "/s", (o) => rate(TOKENS.reduce((sum, name) => sum + (o.tokens_per_second?.[name] ?? 0), 0)), (o) => `${rate(o.tokens_per_second?.output)}/s are output`],
  ["Cache hit rate", "", (o) => percent(o.cache_hit_rate), () => "of input, last 5 min"],
  ["Spent today", "UTC", (o) => dollars(o.spent?.today_usd), (o) => `month ${dollars(o.spent?.month_usd)}`],
  ["Saved by cache", "", (o) => dollars(o.spent?.saved_today_usd), (o) => `month ${dollars(o.spent?.saved_month_usd)}`],
  ["Own overhead", "p50", (o) => seconds(o.overhead_seconds?.p50), (o) => `p99 ${seconds(o.overhead_seconds?.p99)}`],
];

function tile([name, unit, value, more, alarm = () => false]) {
  const number = h("span", { class: "number" });
  const line = h("span", { class: "more" });
  const node = h("div", { class: "tile", role: "group", "aria-label": name }, h("span", { class: "name" }, name, " ", h("span", { class: "unit" }, unit)), number, line);
  return {
    name, node,
    update(overview) {
      setText(number, value(overview));
      setText(line, more(overview));
      setClass(node, alarm(overview) ? "tile alarm" : "tile");
    },
  };
}

const tiles = TILES.map(tile);

export function start() {
  byId("tiles").append(...tiles.map((each) => each.node));
  charts.requests = new Chart(byId("chart-requests"), {
    title: "Requests a second", say: rate,
    series: [{ label: "requests", color: "--chart-1", fill: true }, { label: "refused", color: "--chart-3", dash: [5, 3] }, { label: "errors", color: "--chart-bad" }], hint: "Errors are 5xx and broken streams; refused are 4xx, such as limits and wrong keys",
  });
  charts.ttft = new Chart(byId("chart-ttft"), {
    title: "Time to first token", say: seconds,
    series: [{ label: "p50", color: "--chart-1" }, { label: "p95", color: "--chart-3", dash: [5, 3] }],
  });
  charts.tokens = new Chart(byId("chart-tokens"), {
    title: "Tokens a second", say: rate,
    series: [{ label: "cache read", color: "--chart-2", fill: true }, { label: "cache write", color: "--chart-3" }, { label: "input", color: "--chart-1" }, { label: "output", color: "--chart-4" }],
  });
  charts.cache = new Chart(byId("chart-cache"), {
    title: "Cache hit rate", say: percent, top: 1, hint: "Cache reads as a share of all input tokens",
    series: [{ label: "read from the cache", color: "--chart-2", fill: true }],
  });
  on("overview", heard);
  on("accounts", accountsHeard);
  changed((requests) => requestList(byId("brief-requests"), requests.slice(0, 8)));
  on("state", ({ state }) => state === "live" && load());
}

export function show() {
  if (points.length) draw();
  if (latest.accounts) accountsHeard(latest.accounts);
}

/** All points anew: at the start, and after the connection was gone for a while. */
async function load() {
  try {
    const overview = await get("overview");
    points = overview.history ?? [];
    update(overview);
    draw();
  } catch {
    // The banner says that the gateway is away; the next connection loads again.
  }
}

function heard(overview) {
  update(overview);
  const at = Date.parse(overview.at);
  const last = points.length ? Date.parse(points.at(-1).at) : 0;
  if (at - last < (STEP - 0.5) * 1000) return;
  points.push({
    at: overview.at, requests_per_second: overview.requests_per_second, errors_per_second: overview.errors_per_second, refused_per_second: overview.refused_per_second,
   
    ttft_p50: overview.ttft_seconds?.p50, ttft_p95: overview.ttft_seconds?.p95, cache_hit_rate: overview.cache_hit_rate, ...overview.tokens_per_second,
  });
  points = points.filter((point) => at - Date.parse(point.at) <= KEPT * 1000);
  draw();
}

function update(overview) {
  for (const each of tiles) each.update(overview);
  const version = overview.workers ? `${overview.workers.alive} of ${plural(overview.workers.configured, "worker")} · up ${span(overview.uptime_seconds)}` : "";
  setAttribute(byId("overview-title"), "title", version || null);
}

/** Nulls where nothing was heard for long, so that no line is drawn across what nobody knows. */
function columns(...names) {
  const data = [[], ...names.map(() => [])];
  let before = 0;
  for (const point of points) {
    const at = Date.parse(point.at) / 1000;
    if (before && at - before > 4 * STEP) {
      data[0].push(before + STEP);
      names.forEach((_, index) => data[index + 1].push(null));
    }
    data[0].push(at);
    names.forEach((name, index) => data[index + 1].push(point[name] ?? null));
    before = at;
  }
  return data;
}

function draw() {
  if (byId("at-overview").hidden) return;
  charts.requests.set(columns("requests_per_second", "refused_per_second", "errors_per_second"));
  charts.ttft.set(columns("ttft_p50", "ttft_p95"));
  charts.tokens.set(columns("cache_read", "cache_write", "input", "output"));
  charts.cache.set(columns("cache_hit_rate"));
}

// Accounts in brief: those that need somebody, and as many others as there is room for.

const BRIEF = 12;

function accountsHeard({ data }) {
  const place = byId("brief-accounts");
  if (!data.length) return replace(place, empty("There are no accounts.", "Add some under accounts: in the configuration file; it is followed while the gateway runs."));
  const sorted = [...data].sort(sickFirst);
  const shown = sorted.slice(0, BRIEF);
  if (!place.querySelector("ul")) replace(place, h("ul", { class: "brief" }), h("p", { class: "rest" }, h("a", { href: "#accounts" })));
  keyed(place.firstChild, shown, (account) => account.id, briefAccount);
  const rest = place.lastChild;
  const sick = sorted.slice(BRIEF).filter((account) => stateOf(account) !== "available").length;
  rest.hidden = sorted.length === shown.length;
  setText(rest.firstChild, `and ${count(sorted.length - shown.length)} more, ${sick ? `${count(sick)} of them not available` : "all available"}`);
}

function briefAccount(account) {
  const state = badge(...stateWords(stateOf(account)));
  const bar = headroomBar();
  const flight = h("span", { class: "num muted" });
  const why = h("span", { class: "why muted" });
  const name = h("a", { class: "id", href: `#accounts?id=${encodeURIComponent(account.id)}` }, account.id);
  const node = h("li", {}, name, state.node, bar.node, flight, why);
  return {
    node,
    update(next) {
      state.update(...stateWords(stateOf(next)));
      setAttribute(state.node, "title", whyOf(next));
      setClass(bar.node, idle(next) ? "headroom none" : "headroom"); // what is left of its limits is of no use now
      bar.update(tightest(next));
      why.hidden = !troubled(next);
      setText(why, whyBriefly(next)); // its row among the accounts has all
      setText(flight, `${count(next.in_flight ?? 0)} in flight`);
    },
  };
}
