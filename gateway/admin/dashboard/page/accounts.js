// The accounts: what state each is in and why, what is left of its limits, and what it does now.

import { actionsOf } from "./accountdialogs.js";
import { get } from "./api.js";
import { headroomBar, levelOf, levelRow, tightest } from "./bars.js";
import { moment } from "./clock.js";
import { badge, byId, empty, failed, h, keyed, replace, setAttribute, setClass, setText } from "./dom.js";
import { count, plural, span } from "./format.js";
import { Listing } from "./listing.js";
import { latest, on } from "./live.js";
import { idle, modelWords, sickFirst, stateOf, stateWords, whyBriefly, whyOf } from "./words.js";

const WAITS = { limited: "back", out: "again", failing: "again" }; // what one waits for in a state that ends by itself
const CLASSES = 6; // of models, whose limits an account shows at once
const CLOSED = 6; // models and gateways that it names
const ANY = ""; // of states
let filter = "";
let only = ANY;
let list;

export function start() {
  list = new Listing(byId("accounts-list"), {
    label: "Table of accounts", head: "Account", name: (account) => account.id, order: sickFirst, line, more: card,
    columns: [
      ["State", "", (account) => stateWords(stateOf(account))[1]],
      ["Why", "why-cell p3", null],
      ["In flight", "num p3", (account) => account.in_flight ?? null],
      ["Tightest limit", "", (account) => tightest(account)?.ratio ?? null],
      ["Bindings", "num p2", (account) => account.bindings ?? null],
      ["Weight", "num p2", (account) => account.weight],
      ["Workspace", "clip p2", (account) => account.workspace ?? null],
      ["Organization", "clip p2", (account) => account.organization ?? null],
    ],
  });
  byId("accounts-filter").addEventListener("input", (event) => {
    filter = event.target.value.trim().toLowerCase();
    draw();
  });
  on("accounts", take);
}

export async function show(params) {
  const wanted = params.get("id") ?? "";
  if (latest.accounts) take(latest.accounts);
  else await load();
  if (!wanted) return;
  const button = list.open(wanted);
  button?.scrollIntoView({ block: "center" });
  button?.focus();
}

async function load() {
  try {
    take(await get("accounts"));
  } catch (error) {
    replace(byId("accounts-list"), failed(error, load));
  }
}

function take(answer) {
  latest.accounts = answer;
  const [out, failing] = ["out", "failing"].map((state) => answer.data.filter((account) => stateOf(account) === state).length);
  const trouble = out && failing ? `${out + failing} in need` : out ? `${out} out` : failing ? `${failing} failing` : "";
  const mark = byId("nav-trouble");
  mark.hidden = !trouble;
  setText(mark, trouble);
  document.dispatchEvent(new CustomEvent("trouble", { detail: trouble }));
  draw();
}

function changed(account) {
  if (latest.accounts) take({ data: latest.accounts.data.map((each) => (each.id === account.id ? { ...each, ...account } : each)) });
}

function draw() {
  const { data } = latest.accounts ?? { data: [] };
  if (!data.length) return list.set([], empty("There are no accounts, so every request is refused.", "Add some under accounts: in the configuration file; it is followed while the gateway runs."));
  states(data);
  const said = (account) => [account.id, account.workspace, account.organization, stateWords(stateOf(account))[1], whyOf(account), ...(account.models ?? [])];
  const fits = (account) => (only === ANY || stateOf(account) === only) && (!filter || said(account).some((text) => String(text ?? "").toLowerCase().includes(filter)));
  list.set(data.filter(fits), empty("No account fits this filter."));
}

/** How many are in which state: buttons that leave only those in the table. */
function states(data) {
  const numbers = { [ANY]: data.length };
  for (const account of [...data].sort(sickFirst)) numbers[stateOf(account)] = (numbers[stateOf(account)] ?? 0) + 1;
  if (!(only in numbers)) only = ANY;
  keyed(byId("accounts-states"), Object.keys(numbers), (state) => state, (state) => {
    const button = h("button", { type: "button", on: { click: () => {
      only = only === state ? ANY : state;
      draw();
    } } });
    return {
      node: button,
      update() {
        setText(button, state === ANY ? `All ${count(data.length)}` : `${count(numbers[state])} ${stateWords(state)[1]}`);
        setClass(button, state === ANY ? "quiet" : `quiet ${stateWords(state)[0]}`);
        setAttribute(button, "aria-pressed", String(only === state));
      },
    };
  });
}

function line(account) {
  const state = badge(...stateWords(stateOf(account)));
  const why = h("span", { class: "why muted" });
  const bar = headroomBar();
  const cells = Array.from({ length: 5 }, () => h("span", {}));
  const [flight, bindings, weight, workspace, organization] = cells;
  return {
    cells: [state.node, why, flight, bar.node, bindings, weight, workspace, organization],
    kind: (next) => (stateOf(next) === "available" ? "" : stateWords(stateOf(next))[0]),
    update(next) {
      state.update(...stateWords(stateOf(next)));
      setText(why, whyBriefly(next));
      setAttribute(why, "title", whyOf(next));
      setText(flight, count(next.in_flight ?? null));
      setClass(bar.node, idle(next) ? "headroom none" : "headroom"); // what is left of its limits is of no use now
      bar.update(tightest(next));
      setText(bindings, count(next.bindings ?? null));
      setText(weight, `${next.weight}`);
      for (const [cell, text] of [[workspace, next.workspace], [organization, next.organization]]) {
        setText(cell, text);
        setAttribute(cell, "title", text);
      }
    },
  };
}

/** All of an account, below its line. */
function card(account) {
  const why = h("p", { class: "why" });
  const since = moment(null, "since");
  const until = moment(null, "back");
  const sinceLine = h("span", {}, since.node);
  const untilLine = h("span", {}, until.node);
  const drainEnd = moment(null, "drained");
  const drainLine = h("span", {}, drainEnd.node);
  const levels = levelList();
  const none = h("p", { class: "muted" }, "No limits are known yet: the upstream tells them with its answers.");
  const facts = factList();
  const errorAt = moment(null);
  const errorWhat = h("span", { class: "what" });
  const lastError = h("p", { class: "last-error" }, h("span", { class: "muted" }, "Last error "), errorAt.node, ": ", errorWhat);
  const closed = h("p", { class: "muted" });
  const away = h("p", { class: "muted" });
  const held = h("p", { class: "muted" }, "This gateway does not hold the account’s key; others may.");
  const buttons = actionsOf(() => latest.accounts?.data.find((each) => each.id === account.id) ?? account, changed);
  const node = h("article", { class: "card", "aria-label": `Account ${account.id}` },
    why, h("p", { class: "times muted" }, sinceLine, untilLine, drainLine), facts.node,
    ...levels.nodes, none, closed, away, lastError, held, buttons.node);
  return {
    node,
    update(next) {
      const present = stateOf(next);
      setText(why, whyOf(next));
      sinceLine.hidden = !next.health?.since;
      since.update(next.health?.since);
      untilLine.hidden = !WAITS[present] || !next.health?.until;
      until.how = WAITS[present] ?? "back";
      until.update(next.health?.until);
      drainLine.hidden = present !== "draining" || !next.drain_until;
      drainEnd.update(next.drain_until);
      facts.update(next);
      const rows = (next.headroom ?? []).map(levelOf);
      levels.update(rows);
      none.hidden = rows.length > 0;
      const denied = deniedTo(next);
      closed.hidden = !denied.length;
      setText(closed, `Not for: ${firstOf(denied)}.`);
      const gateways = next.health?.unreachable_from ?? [];
      away.hidden = !gateways.length;
      setText(away, `${gateways.length > 1 ? "Gateways" : "Gateway"} ${firstOf(gateways)} cannot reach it.`);
      lastError.hidden = !next.last_error;
      errorAt.update(next.last_error?.at);
      setText(errorWhat, next.last_error?.what);
      held.hidden = next.held !== false;
      buttons.update(next);
    },
  };
}

/** What an account may not serve, and for how long: models, or models with optional features. */
function deniedTo({ health }) {
  const models = Object.entries(health?.models_closed_for ?? {});
  const features = (health?.features_closed ?? []).map((each) => [`${each.model} with ${each.features.join(" and ")}`, each.closed_for]);
  return [...models, ...features].map(([what, left]) => `${what} (for ${span(left)})`);
}

function firstOf(names) {
  const more = names.length > CLOSED ? ` and ${count(names.length - CLOSED)} more` : "";
  return `${names.slice(0, CLOSED).join(", ")}${more}`;
}

/** All limits of an account; where its classes of models are many, the tightest ones, and the others on demand. */
function levelList() {
  const first = h("ul", { class: "levels" });
  const others = h("ul", { class: "levels" });
  const summary = h("summary", {});
  const more = h("details", { class: "more-levels", on: { toggle: () => fill() } }, summary, others);
  let rest = [];
  const fill = () => keyed(others, more.open ? rest : [], (level) => level.key, levelRow);
  return {
    nodes: [first, more],
    update(rows) {
      const groups = Object.values(Object.groupBy(rows, (level) => level.group));
      if (groups.length > CLASSES) groups.sort((a, b) => least(a) - least(b));
      keyed(first, groups.slice(0, CLASSES).flat(), (level) => level.key, levelRow);
      rest = groups.slice(CLASSES).flat();
      more.hidden = !rest.length;
      setText(summary, `and ${plural(groups.length - CLASSES, "more class of models", "more classes of models")}`);
      fill();
    },
  };
}

const least = (levels) => Math.min(...levels.map((level) => level.ratio ?? 1));

function factList() {
  const cells = {};
  const fact = (name, key) => h("div", {}, h("dt", {}, name), (cells[key] = h("dd", {})));
  const node = h("dl", { class: "facts" }, fact("In flight", "flight"), fact("Bindings", "bindings"), fact("Weight", "weight"),
    fact("Workspace", "workspace"), fact("Organization", "organization"), fact("Models", "models"), fact("Provider", "provider"));
  return {
    node,
    update(account) {
      setText(cells.flight, count(account.in_flight ?? null));
      setText(cells.bindings, count(account.bindings ?? null));
      setText(cells.weight, `${account.weight}${account.overridden?.weight === undefined ? "" : ` (file: ${account.configured?.weight ?? "none"})`}`);
      setText(cells.workspace, account.workspace);
      setText(cells.organization, account.organization);
      setText(cells.provider, [account.provider ?? "unknown", account.region].filter(Boolean).join(", "));
      setText(cells.models, modelWords(account.models));
      setAttribute(cells.models, "title", (account.models ?? []).join(", "));
    },
  };
}
