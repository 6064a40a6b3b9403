// The accounts: what state each is in and why, what is left of its limits, what it does now, and what an operator may do to it.

import { get, mayOperate, part, patch, remove } from "./api.js";
import { levelOf, levelRow } from "./bars.js";
import { moment } from "./clock.js";
import { ask, toast } from "./dialogs.js";
import { badge, byId, empty, failed, h, keyed, replace, setAttribute, setClass, setText } from "./dom.js";
import { count, plural, span } from "./format.js";
import { latest, on } from "./live.js";
import { modelWords, SICK_FIRST, stateOf, stateWords, whyOf } from "./words.js";

const DRAINS = [["900", "15 minutes"], ["3600", "1 hour"], ["14400", "4 hours"], ["86400", "1 day"], ["", "no end: until I say otherwise"]];
const WAITS = { limited: "back", out: "again", failing: "again" }; // what one waits for in a state that ends by itself
const CLASSES = 6; // of models, whose limits a card shows at once
const CLOSED = 6; // models and gateways that it names
let wanted = "";

export function start() {
  on("accounts", take);
}

export async function show(params) {
  wanted = params.get("id") ?? "";
  if (latest.accounts) take(latest.accounts);
  else await load();
  const card = wanted && [...document.querySelectorAll("#accounts-list .card")].find((each) => each.dataset.id === wanted);
  if (card) {
    card.scrollIntoView({ block: "center" });
    card.querySelector("h2").focus();
  }
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
  const { data } = answer;
  const place = byId("accounts-list");
  summary(data);
  if (!data.length) return replace(place, empty("There are no accounts, so every request is refused.", "Add some under accounts: in the configuration file; it is followed while the gateway runs."));
  if (!place.keyedChildren) replace(place);
  keyed(place, data, (account) => account.id, card);
}

/** How many are in which state, also beside the link in the navigation. */
function summary(data) {
  const numbers = {};
  for (const account of data) numbers[stateOf(account)] = (numbers[stateOf(account)] ?? 0) + 1;
  setText(byId("accounts-sum"), SICK_FIRST.filter((state) => numbers[state]).map((state) => `${numbers[state]} ${stateWords(state)[1]}`).join(" · "));
  const { out = 0, failing = 0 } = numbers;
  const trouble = out && failing ? `${out + failing} in need` : out ? `${out} out` : failing ? `${failing} failing` : "";
  const mark = byId("nav-trouble");
  mark.hidden = !trouble;
  setText(mark, trouble);
  document.dispatchEvent(new CustomEvent("trouble", { detail: trouble }));
}

function card(account) {
  const state = badge(...stateWords(stateOf(account)));
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
  const buttons = actionsOf(() => latest.accounts?.data.find((each) => each.id === account.id) ?? account);
  const node = h("article", { class: "card panel", data: { id: account.id }, "aria-label": `Account ${account.id}` },
    h("header", {}, h("h2", { tabindex: "-1" }, account.id), state.node),
    why, h("p", { class: "times muted" }, sinceLine, untilLine, drainLine), facts.node,
    ...levels.nodes, none, closed, away, lastError, held, buttons.node);
  return {
    node,
    update(next) {
      const present = stateOf(next);
      state.update(...stateWords(present));
      setClass(node, `card panel is-${stateWords(present)[0]}`);
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
    fact("Workspace", "workspace"), fact("Organization", "organization"), fact("Models", "models"));
  return {
    node,
    update(account) {
      setText(cells.flight, count(account.in_flight ?? null));
      setText(cells.bindings, count(account.bindings ?? null));
      setText(cells.weight, `${account.weight}${account.overridden?.weight === undefined ? "" : ` (file: ${account.configured?.weight ?? "none"})`}`);
      setText(cells.workspace, account.workspace);
      setText(cells.organization, account.organization);
      setText(cells.models, modelWords(account.models));
      setAttribute(cells.models, "title", (account.models ?? []).join(", "));
    },
  };
}

// What an operator may do.

function actionsOf(present) {
  const button = (words, act, kind = "") => h("button", { type: "button", class: kind || null, on: { click: () => act(present()) } }, words, h("span", { class: "offscreen" }, ` ${present().id}`));
  const [drainIt, enableIt, disableIt, weigh, flush] = [button("Drain", drain), button("Enable", enable), button("Disable", disable), button("Weight", weight), button("Forget bindings", forget)];
  const node = h("div", { class: "actions operate" }, drainIt, enableIt, disableIt, weigh, flush);
  return {
    node,
    update(account) {
      node.hidden = !mayOperate();
      drainIt.hidden = account.state === "draining";
      enableIt.hidden = account.state === "active" && stateOf(account) === "available";
      setText(enableIt.firstChild, account.state === "active" ? "Say it is in order" : "Enable");
      disableIt.hidden = account.state === "disabled";
    },
  };
}

async function change(account, fields, done) {
  const answer = await patch(`accounts/${part(account.id)}`, fields);
  toast("good", done);
  if (latest.accounts) take({ data: latest.accounts.data.map((each) => (each.id === answer.id ? { ...each, ...answer } : each)) });
}

function drain(account) {
  const choice = h("select", { name: "seconds" }, ...DRAINS.map(([value, words]) => h("option", { value, selected: value === "3600" }, words)));
  return ask({
    title: `Drain ${account.id}?`, action: "Drain",
    body: [h("p", {}, "It takes no new conversations. Warm ones stay until they go cold or the time is over; then they are placed anew on other accounts."),
      bound(account), h("label", {}, "At the longest for", choice)],
    act: ({ seconds }) => change(account, { state: "draining", drain_seconds: seconds === "" ? null : Number(seconds) }, `${account.id} is draining`),
  });
}

function enable(account) {
  const trouble = account.state === "active";
  return ask({
    title: trouble ? `Is ${account.id} in order?` : `Enable ${account.id}?`, action: trouble ? "It is in order" : "Enable",
    body: [h("p", {}, trouble ? "Whatever is held against it is forgotten, and it is used at once. If it still fails, it is set aside again." : "It takes new conversations at once, and those whose home it is come back when they are cold.")],
    act: () => change(account, { state: "active" }, `${account.id} is enabled`),
  });
}

function disable(account) {
  return ask({
    title: `Disable ${account.id}?`, action: "Disable", danger: true,
    body: [h("p", {}, "It serves nothing more, at once. Its conversations move to other accounts and pay for their cache anew; drain it instead if there is time."), bound(account)],
    act: () => change(account, { state: "disabled" }, `${account.id} is disabled`),
  });
}

function weight(account) {
  const file = account.configured?.weight;
  return ask({
    title: `Weight of ${account.id}`, action: "Change",
    body: [h("p", {}, "Its share of new conversations, in proportion to the weights of the others."),
      h("label", {}, "Weight", h("input", { name: "weight", type: "number", min: "0.001", step: "any", value: account.weight, placeholder: file === undefined ? "" : `the file’s: ${file}`, "aria-describedby": "weight-hint" })),
      h("p", { class: "hint", id: "weight-hint" }, file === undefined ? "The file does not define this account." : `Empty: as the file says (${file}).`)],
    act: ({ weight: text }) => change(account, { weight: text === "" ? null : Number(text) }, `The weight of ${account.id} is changed`),
  });
}

function forget(account) {
  return ask({
    title: `Forget the bindings to ${account.workspace}?`, action: "Forget them", danger: true,
    body: [h("p", {}, `Every conversation of the workspace ${account.workspace}, which other accounts may share, is placed anew with its next request. Their caches are lost where they land elsewhere.`), bound(account)],
    act: async () => {
      const answer = await remove(`accounts/${part(account.id)}/bindings`);
      toast("good", `${plural(answer.flushed, "binding")} forgotten`);
    },
  });
}

function bound(account) {
  return h("p", { class: "muted" }, `Now: ${plural(account.in_flight ?? 0, "request")} in flight, ${account.bindings === undefined || account.bindings === null ? "an unknown number of" : count(account.bindings)} bindings.`);
}

