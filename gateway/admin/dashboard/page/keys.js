// Teams and keys: what each has used this month, what is left of its limits, and making, rotating and revoking keys.

import { get, mayOperate, part, patch, post, remove } from "./api.js";
import { headroomBar, levelOf, levelRow } from "./bars.js";
import { moment } from "./clock.js";
import { ask, copier, tell, toast } from "./dialogs.js";
import { badge, byId, empty, failed, h, icon, keyed, replace, scroller, setAttribute, setText } from "./dom.js";
import { count, dollars, plural } from "./format.js";
import { changedLimits, field, limitFields } from "./limits.js";
import { modelWords } from "./words.js";

const EVERY = 5000; // milliseconds from the end of a look to the next, while the page is shown
const SUMS_EVERY = 60_000; // the same of what was used, which the store has to add up
const KEY_STATES = { active: ["good", "active"], expired: ["off", "expired"], revoked: ["off", "revoked"], unowned: ["warn", "counts for nobody: no file defines its caller"] };
const open = new Set(); // callers whose keys are shown
let known = { callers: [], limits: [] };
let sums = { used: null, teams: null }; // by key holder and by team; null while nobody knows
let timer = 0;
let looks = 0; // the number of the latest look: what an earlier one brings is old
let summing = false;
let summed = -Infinity; // when the sums were looked at
let filter = "";

export function start() {
  byId("key-create").addEventListener("click", create);
  byId("keys-filter").addEventListener("input", (event) => {
    filter = event.target.value.trim().toLowerCase();
    draw();
  });
}

export function show() {
  byId("key-create").hidden = !mayOperate();
  load();
}

export function hide() {
  clearTimeout(timer);
  looks += 1;
}

async function load() {
  clearTimeout(timer);
  const look = (looks += 1);
  sum();
  // Keys are known without the store; what is left is not, and then the rest is shown all the same.
  const [callers, limits] = await Promise.allSettled([get("keys"), get("limits")]);
  if (look !== looks) return;
  if (!byId("at-keys").hidden) timer = setTimeout(again, EVERY);
  if (callers.status === "rejected") return replace(byId("callers-list"), failed(callers.reason, load));
  known = { callers: callers.value.data, limits: limits.status === "fulfilled" ? limits.value.data : [] };
  draw();
}

function again() {
  if (document.hidden) timer = setTimeout(again, EVERY);
  else load();
}

/** Where it fails, the sums stay as they were, until the next time. */
async function sum() {
  if (summing || performance.now() - summed < SUMS_EVERY) return;
  summing = true;
  const [used, teams] = await Promise.allSettled([get("usage", { group_by: "key" }), get("usage", { group_by: "team" })]);
  summing = false;
  summed = performance.now();
  const by = (settled, name, before) => (settled.status === "fulfilled" ? new Map(settled.value.data.map((row) => [row[name] ?? "", row])) : before);
  sums = { used: by(used, "key", sums.used), teams: by(teams, "team", sums.teams) };
  if (known.callers.length) draw();
}

/** What was used, by a map of `sums`; nothing for who is not in it, null while that is not known. */
const usedOf = (map, id) => (map === null ? null : map.get(id) ?? { cost_usd: 0, savings_usd: 0, requests: 0 });

function draw() {
  drawTeams();
  drawCallers();
}

const limitsOf = (kind, id) => (known.limits.find((each) => each.kind === kind && each.id === id)?.limits ?? []).map(levelOf);

function drawTeams() {
  const place = byId("teams");
  const names = [...new Set([...known.callers.map((each) => each.team), ...known.limits.filter((each) => each.kind === "team").map((each) => each.id)].filter(Boolean))].sort();
  if (!names.length) return replace(place, empty("No key belongs to a team.", "Give keys a team: it shares limits and budgets under teams: in the configuration file."));
  if (!place.keyedChildren) replace(place);
  keyed(place, names, (name) => name, (name) => {
    const spent = h("span", { class: "num" });
    const members = h("span", { class: "muted" });
    const levels = h("ul", { class: "levels" });
    const none = h("p", { class: "muted" }, "No limits of its own.");
    const node = h("div", { class: "team-row" }, h("div", { class: "team-head" }, h("a", { class: "id", href: `#spending?by=key&team=${encodeURIComponent(name)}` }, name), members, spent), levels, none);
    return {
      node,
      update() {
        const used = usedOf(sums.teams, name);
        setText(members, plural(known.callers.filter((each) => each.team === name).length, "key holder"));
        setText(spent, `${dollars(used?.cost_usd)} spent, ${dollars(used?.savings_usd)} saved by the cache`);
        const rows = limitsOf("team", name);
        keyed(levels, rows, (level) => level.key, levelRow);
        none.hidden = rows.length > 0;
      },
    };
  });
}

function drawCallers() {
  const place = byId("callers-list");
  const fits = (each) => !filter || [each.caller, each.team, ...each.keys.flatMap((key) => [key.id, key.hint])].some((text) => String(text ?? "").toLowerCase().includes(filter));
  const found = known.callers.filter(fits);
  if (!found.length) return replace(place, known.callers.length ? empty("No key fits this filter.") : empty("There are no keys, so nobody can use the gateway.", mayOperate() ? "Create one above, or define some under keys: in the configuration file." : "Somebody with the role operate can create one."));
  if (!place.querySelector("table")) {
    const head = h("tr", {}, h("th", { scope: "col" }, "Key holder"), h("th", { scope: "col" }, "Team"), h("th", { scope: "col", class: "p3" }, "Models"), h("th", { scope: "col", class: "num" }, "Spent"), h("th", { scope: "col", class: "num p2" }, "Requests"), h("th", { scope: "col", class: "p3" }, "Tightest limit"));
    replace(place, scroller("Table of keys", h("table", { class: "rows callers" }, h("thead", {}, head))));
  }
  keyed(place.querySelector("table"), found.flatMap((each) => [{ ...each, part: "line" }, { ...each, part: "more" }]), (each) => `${each.part} ${each.caller}`, (each) => (each.part === "line" ? line(each) : more(each)));
}

function line({ caller }) {
  const id = `more-${caller}`;
  const words = h("span", { class: "muted" });
  const button = h("button", { type: "button", class: "link disclose", "aria-controls": id }, icon("open"), h("b", {}, caller));
  button.addEventListener("click", () => {
    if (!open.delete(caller)) open.add(caller);
    draw();
  });
  const cells = { team: h("td"), models: h("td", { class: "p3" }), spent: h("td", { class: "num" }), requests: h("td", { class: "num p2" }) };
  const bar = headroomBar();
  const limit = h("td", { class: "p3" }, bar.node);
  const node = h("tbody", {}, h("tr", {}, h("th", { scope: "row" }, button, " ", words), cells.team, cells.models, cells.spent, cells.requests, limit));
  return {
    node,
    update(each) {
      setAttribute(button, "aria-expanded", String(open.has(caller)));
      const active = each.keys.filter((key) => key.state === "active").length;
      setText(words, active === each.keys.length ? plural(active, "key") : `${active} of ${plural(each.keys.length, "key")} active`);
      setText(cells.team, each.team || "–");
      setText(cells.models, modelWords(each.models));
      const used = usedOf(sums.used, caller);
      setText(cells.spent, dollars(used?.cost_usd));
      setText(cells.requests, count(used?.requests));
      const levels = limitsOf("caller", caller).filter((level) => level.ratio !== null);
      bar.update(levels.length ? levels.reduce((least, level) => (level.ratio < least.ratio ? level : least)) : null);
      if (!levels.length) setText(bar.node.lastChild, "no limits");
    },
  };
}

function more({ caller }) {
  const levels = h("ul", { class: "levels" });
  const keys = h("ul", { class: "keys" });
  const source = h("p", { class: "muted" });
  const change = h("button", { type: "button", on: { click: () => changeLimits(caller) } }, "Change limits", h("span", { class: "offscreen" }, ` of ${caller}`));
  const cell = h("td", { colspan: 6 }, levels, keys, h("div", { class: "source" }, source, change));
  const node = h("tbody", { id: `more-${caller}`, class: "more" }, h("tr", {}, cell));
  return {
    node,
    update(each) {
      node.hidden = !open.has(caller);
      if (node.hidden) return;
      keyed(levels, limitsOf("caller", caller), (level) => level.key, levelRow);
      keyed(keys, each.keys, (key) => key.id ?? key.digest, keyRow);
      change.hidden = !mayOperate() || each.source !== "store";
      setText(source, each.source === "file" ? "Defined in the configuration file; its team, models and limits change there." : each.source === "store" ? "Made here; its limits may change, its team and models stay as they were set." : "No file defines it any more.");
    },
  };
}

function keyRow(key) {
  const state = badge(...(KEY_STATES[key.state] ?? ["off", key.state]));
  const expires = moment(key.expires_at);
  const ends = h("span", { class: "muted" }, "ends ", expires.node);
  const created = key.created_at ? h("span", { class: "muted" }, "made ", moment(key.created_at).node) : h("span", { class: "muted" }, "from the file");
  const name = key.id ?? key.digest;
  const act = (words, run) => h("button", { type: "button", on: { click: () => run(key) } }, words, h("span", { class: "offscreen" }, ` ${name}`));
  const actions = h("span", { class: "actions" }, act("Rotate", rotate), act("Revoke", revoke));
  const node = h("li", {}, h("code", { title: key.id ? "Its id; the key itself is not kept" : "The start of its digest; the key itself is not kept" }, name), key.hint ? h("code", { class: "muted", title: "How the key ends" }, key.hint.startsWith("…") ? key.hint : `…${key.hint}`) : null, state.node, created, ends, actions);
  return {
    node,
    update(next) {
      state.update(...(KEY_STATES[next.state] ?? ["off", next.state]));
      ends.hidden = !next.expires_at || next.state !== "active";
      expires.update(next.expires_at);
      actions.hidden = !mayOperate() || !next.id || next.state !== "active";
    },
  };
}

// What an operator may do.

const days = { type: "number", min: "0.01", step: "any", placeholder: "never" };

async function create() {
  const teams = h("datalist", { id: "dialog-teams" }, ...[...new Set(known.callers.map((each) => each.team).filter(Boolean))].map((value) => h("option", { value })));
  const made = await ask({
    title: "Create a key", action: "Create",
    body: [
      teams,
      field("Key holder", "caller", { required: true, placeholder: "alice", list: "callers" }, "Stays the same while keys rotate. One that exists gets a further key; leave the rest empty then."),
      h("div", { class: "pair" }, field("Team", "team", { placeholder: "none", list: "dialog-teams" }), field("Expires after days", "days", days)),
      field("Models", "models", { placeholder: "all; or claude-haiku-*, claude-sonnet-*" }),
      h("details", {}, h("summary", {}, "Limits and budgets"), ...limitFields()),
    ],
    act: (values) => post("keys", wantedKey(values)),
  });
  if (made) await shown(made, "Key created");
}

function wantedKey(values) {
  const body = { caller: values.caller.trim() };
  if (values.team.trim()) body.team = values.team.trim();
  const models = values.models.split(",").map((each) => each.trim()).filter(Boolean);
  if (models.length) body.models = models;
  if (values.days) body.expires_in = Number(values.days) * 86_400;
  const limits = changedLimits(values);
  if (Object.keys(limits).length) body.limits = limits;
  return body;
}

/** A key is shown here and never again, so nothing but the button closes this. */
function shown(made, title) {
  open.add(made.caller);
  load();
  const key = h("input", { class: "secret", readonly: true, value: made.key, "aria-label": "The key", on: { focus: (event) => event.target.select() } });
  return tell({
    title, careful: true, close: "I have stored it",
    body: [h("p", {}, "This is the only time that the key of ", h("b", {}, made.caller), " is shown. Only its digest is kept."), h("div", { class: "secret-row" }, key, copier(() => made.key)),
      made.replaces ? h("p", { class: "muted" }, "The former key counts until ", moment(made.replaces.expires_at).node, ".") : null, h("p", {}, h("a", { href: "#connect" }, "How a client uses it"))].filter(Boolean),
  });
}

async function changeLimits(caller) {
  const present = known.callers.find((each) => each.caller === caller)?.limits ?? {};
  const done = await ask({
    title: `Limits of ${caller}`, action: "Change",
    body: [h("p", {}, "They count for all keys of ", h("b", {}, caller), " together, at every gateway within a second. An empty field is no limit."), ...limitFields(present)],
    act: async (values) => {
      const limits = changedLimits(values, present);
      if (!Object.keys(limits).length) throw new Error("Nothing has been changed yet.");
      return patch(`callers/${part(caller)}`, { limits });
    },
  });
  if (!done) return;
  toast("good", `The limits of ${caller} are changed`);
  load();
}

async function rotate(key) {
  const overlap = h("select", { name: "overlap" }, ...[["0", "not at all"], ["3600", "1 hour"], ["86400", "1 day"], ["604800", "7 days"]].map(([value, words]) => h("option", { value, selected: value === "86400" }, words)));
  const made = await ask({
    title: `Rotate ${key.id}?`, action: "Rotate",
    body: [h("p", {}, "A new key is made for the same holder. The former one goes on to count for a while, so that clients can change over."), h("label", {}, "The former key counts for another", overlap)],
    act: (values) => post(`keys/${part(key.id)}/rotate`, { overlap: Number(values.overlap) }),
  });
  if (made) await shown(made, "Key rotated");
}

async function revoke(key) {
  const done = await ask({
    title: `Revoke ${key.id}?`, action: "Revoke", danger: true,
    body: [h("p", {}, "It ends everywhere within a second and for good. Whoever still uses it gets a 401.")],
    act: () => remove(`keys/${part(key.id)}`),
  });
  if (!done) return;
  toast("good", `${key.id} is revoked`);
  load();
}
