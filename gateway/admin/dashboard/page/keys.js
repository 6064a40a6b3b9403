// Teams and keys: what each has used this month, what is left of its limits, and the keys that they hold.

import { get, mayOperate } from "./api.js";
import { headroomBar, LAST, levelOf, levelRow, NEAR } from "./bars.js";
import { moment } from "./clock.js";
import { badge, byId, empty, failed, h, keyed, replace, setAttribute, setText } from "./dom.js";
import { count, dollars } from "./format.js";
import { actions } from "./keydialogs.js";
import { Listing } from "./listing.js";
import { teamActions } from "./teamdialogs.js";
import { modelWords } from "./words.js";

const EVERY = 5000; // milliseconds from the end of a look to the next, while the page is shown
const SUMS_EVERY = 60_000; // the same of what was used, which the store has to add up
const KEY_STATES = { active: ["good", "active"], expired: ["off", "expired"], revoked: ["off", "revoked"], unowned: ["warn", "counts for nobody: no file defines its caller"] };
let known = { callers: [], limits: [], teams: [], boosts: [] };
let sums = { used: null, teams: null }; // by key holder and by team; null while nobody knows
let timer = 0;
let looks = 0; // the number of the latest look: what an earlier one brings is old
let summing = false;
let summed = -Infinity; // when the sums were looked at
let filter = "";
const may = actions({
  present: () => known.callers, changed: load,
  made(caller) {
    callers.open(caller);
    load();
  },
});

const onTeams = teamActions(load);

export function start() {
  byId("team-create").addEventListener("click", onTeams.create);
  byId("key-create").addEventListener("click", may.create);
  byId("keys-filter").addEventListener("input", (event) => {
    filter = event.target.value.trim().toLowerCase();
    draw();
  });
}

export function show() {
  byId("team-create").hidden = byId("key-create").hidden = !mayOperate();
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
  const [callers, limits, teams, boosts] = await Promise.allSettled([get("keys"), get("limits"), get("teams"), get("boosts")]);
  if (look !== looks) return;
  if (!byId("at-keys").hidden) timer = setTimeout(again, EVERY);
  if (callers.status === "rejected") return replace(byId("callers-list"), failed(callers.reason, load));
  const found = (settled) => (settled.status === "fulfilled" ? settled.value.data : []);
  known = { callers: callers.value.data, limits: found(limits), teams: found(teams), boosts: found(boosts).filter((each) => each.active) };
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

/** The limit that ends first, null without any. */
function tightest(kind, id) {
  const levels = limitsOf(kind, id).filter((level) => level.ratio !== null);
  return levels.length ? levels.reduce((least, level) => (level.ratio < least.ratio ? level : least)) : null;
}

/** Those first who have little left, the least before. */
const pressed = (level) => (level !== null && level.ratio <= NEAR ? level.ratio : 1);

function drawTeams() {
  const defined = new Map(known.teams.map((each) => [each.id, each]));
  const names = new Set([...defined.keys(), ...known.callers.map((each) => each.team), ...known.limits.filter((each) => each.kind === "team").map((each) => each.id)].filter(Boolean));
  const found = [...names].sort().map((id) => {
    const used = usedOf(sums.teams, id);
    const { source = null, name = "", members = [], limits = {} } = defined.get(id) ?? {};
    return { id, source, name, members, limits, holders: known.callers.filter((each) => each.team === id).length, spent: used?.cost_usd ?? null, saved: used?.savings_usd ?? null, tight: tightest("team", id) };
  });
  most = Math.max(...found.map((team) => team.spent ?? 0), 1e-12);
  teams.set(found, empty("No key belongs to a team.", "Give keys a team: its callers share limits and budgets."));
}

let most = 1e-12; // what the team has spent that spent the most: the whole length of a bar

const teams = new Listing(byId("teams"), {
  label: "Table of teams", head: "Team", name: (team) => team.id,
  order: (a, b) => pressed(a.tight) - pressed(b.tight) || (b.spent ?? 0) - (a.spent ?? 0) || a.id.localeCompare(b.id),
  columns: [
    ["Key holders", "num p3", (team) => team.holders],
    ["Spent", "spent", (team) => team.spent],
    ["Saved", "num p3", (team) => team.saved],
    ["Tightest limit", "limit", (team) => team.tight?.ratio ?? null],
    ["Which one", "p2", null],
  ],
  line() {
    const [holders, saved, of] = [h("span", {}), h("span", {}), h("span", { class: "muted" })];
    const share = h("span", {});
    const spent = h("span", { class: "num" });
    const bar = headroomBar();
    return {
      cells: [holders, h("span", { class: "compared" }, h("span", { class: "bar share", "aria-hidden": "true" }, share), spent), saved, bar.node, of],
      kind: kindOfLimit,
      update(team) {
        setText(holders, count(team.holders));
        share.style.width = `${(100 * (team.spent ?? 0)) / most}%`;
        setText(spent, dollars(team.spent));
        setText(saved, dollars(team.saved));
        limitShown(bar, of, team.tight);
      },
    };
  },
  more(first) {
    let present = first;
    const levels = h("ul", { class: "levels" });
    const raised = h("ul", { class: "plain" });
    const link = h("a", {}, "What its key holders have used");
    const act = (words, run, kind = null) => h("button", { type: "button", class: kind, on: { click: () => run() } }, words, h("span", { class: "offscreen" }, ` of ${first.id}`));
    const change = act("Change budgets and limits", () => onTeams.change(present));
    const raise = act("Raise for a while", () => onTeams.raise("team", present.id));
    const gone = act("Delete the team", () => onTeams.deleteTeam(present));
    const source = h("span", { class: "muted" });
    return {
      node: h("div", {}, levels, raised, h("p", { class: "source" }, link), h("div", { class: "source" }, source, h("span", { class: "actions" }, change, raise, gone))),
      update(next) {
        present = next;
        keyed(levels, limitsOf("team", next.id), (level) => level.key, levelRow);
        keyed(raised, known.boosts.filter((each) => each.team === next.id), (each) => each.id, boostRow);
        setAttribute(link, "href", `#spending?by=key&team=${encodeURIComponent(next.id)}`);
        change.hidden = gone.hidden = !mayOperate() || next.source !== "store";
        raise.hidden = !mayOperate() || next.source === null;
        setText(source, next.source === "file" ? "Defined in the configuration file; its limits change there." : next.source === "store" ? next.name || "Made here." : "No file defines it, so that it has no limits.");
      },
    };
  },
});

function boostRow(boost) {
  const until = moment(boost.until);
  const end = h("button", { type: "button", on: { click: () => onTeams.endBoost(boost) } }, "End it", h("span", { class: "offscreen" }, ` ${boost.id}`));
  end.hidden = !mayOperate();
  return { node: h("li", {}, `Raised by ${dollars(boost.usd)} until `, until.node, ` by ${boost.by}: ${boost.reason} `, end) };
}

const kindOfLimit = ({ tight }) => (tight !== null && tight.ratio <= NEAR ? (tight.ratio <= LAST ? "bad" : "warn") : "");

function limitShown(bar, of, tight) {
  bar.update(tight);
  if (tight === null) setText(bar.node.lastChild, "no limits");
  setText(of, tight === null ? "" : tight.what);
}

function drawCallers() {
  const fits = (each) => !filter || [each.caller, each.team, ...each.keys.flatMap((key) => [key.id, key.hint])].some((text) => String(text ?? "").toLowerCase().includes(filter));
  const found = known.callers.filter(fits).map((each) => {
    const used = usedOf(sums.used, each.caller);
    return { ...each, active: each.keys.filter((key) => key.state === "active").length, spent: used?.cost_usd ?? null, requests: used?.requests ?? null, tight: tightest("caller", each.caller) };
  });
  callers.set(found, known.callers.length ? empty("No key fits this filter.") : empty("There are no keys, so nobody can use the gateway.", mayOperate() ? "Create one above, or define some under keys: in the configuration file." : "Somebody with the role operate can create one."));
}

const lost = (each) => each.keys.some((key) => key.state === "unowned");

const callers = new Listing(byId("callers-list"), {
  label: "Table of keys", head: "Key holder", name: (each) => each.caller,
  order: (a, b) => pressed(a.tight) - pressed(b.tight) || lost(b) - lost(a) || a.caller.localeCompare(b.caller),
  columns: [
    ["Active keys", "num p3", (each) => each.active],
    ["Team", "clip", (each) => each.team],
    ["Models", "clip p3", null],
    ["Spent", "num", (each) => each.spent],
    ["Requests", "num p2", (each) => each.requests],
    ["Tightest limit", "limit p3", (each) => each.tight?.ratio ?? null],
    ["Which one", "p2", null],
  ],
  line() {
    const cells = Array.from({ length: 5 }, () => h("span", {}));
    const [keys, team, models, spent, requests] = cells;
    const of = h("span", { class: "muted" });
    const bar = headroomBar();
    return {
      cells: [keys, team, models, spent, requests, bar.node, of],
      kind: (each) => kindOfLimit(each) || (lost(each) || each.status === "suspended" ? "warn" : ""),
      update(each) {
        setText(keys, each.status === "suspended" ? "suspended" : each.active === each.keys.length ? count(each.active) : `${count(each.active)} of ${count(each.keys.length)}`);
        setText(team, each.team || "–");
        setText(models, modelWords(each.models));
        setAttribute(models, "title", each.models.join(", "));
        setText(spent, dollars(each.spent));
        setText(requests, count(each.requests));
        limitShown(bar, of, each.tight);
      },
    };
  },
  more({ caller }) {
    const levels = h("ul", { class: "levels" });
    const keys = h("ul", { class: "keys" });
    const source = h("p", { class: "muted" });
    const act = (words, run, kind = null) => h("button", { type: "button", class: kind, on: { click: () => run(caller) } }, words, h("span", { class: "offscreen" }, ` of ${caller}`));
    const raised = h("ul", { class: "plain" });
    const [change, move, end, gone] = [act("Change limits", may.changeLimits), act("Move", may.move), act("Revoke all keys", may.revokeAll), act("Delete the key holder", may.deleteCaller)];
    const raise = act("Raise for a while", (name) => onTeams.raise("caller", name));
    const suspendWords = h("span", {});
    const suspend = h("button", { type: "button", on: { click: () => may.suspend(caller) } }, suspendWords, h("span", { class: "offscreen" }, ` ${caller}`));
    return {
      node: h("div", {}, levels, raised, keys, h("div", { class: "source" }, source, h("span", { class: "actions" }, change, raise, move, suspend, end, gone))),
      update(each) {
        keyed(levels, limitsOf("caller", caller), (level) => level.key, levelRow);
        keyed(keys, each.keys, (key) => key.id ?? key.digest, keyRow);
        keyed(raised, known.boosts.filter((boost) => boost.caller === caller), (boost) => boost.id, boostRow);
        for (const button of [change, raise, move, suspend, gone]) button.hidden = !mayOperate() || each.source !== "store";
        setText(suspendWords, each.status === "suspended" ? "Resume" : "Suspend");
        end.hidden = !mayOperate() || !each.keys.some((key) => key.id && key.state === "active");
        setText(source, each.source === "file" ? "Defined in the configuration file; its team, models and limits change there." : each.source === "store" ? [each.status === "suspended" ? "Suspended: it is refused." : "Made here; its limits may change, and its team.", each.label, each.email].filter(Boolean).join(" ") : "No file defines it any more.");
      },
    };
  },
});

function keyRow(key) {
  const state = badge(...(KEY_STATES[key.state] ?? ["off", key.state]));
  const expires = moment(key.expires_at);
  const ends = h("span", { class: "muted" }, "ends ", expires.node);
  const created = key.created_at ? h("span", { class: "muted" }, "made ", moment(key.created_at).node) : h("span", { class: "muted" }, "from the file");
  const name = key.id ?? key.digest;
  const act = (words, run) => h("button", { type: "button", on: { click: () => run(key) } }, words, h("span", { class: "offscreen" }, ` ${name}`));
  const buttons = h("span", { class: "actions" }, act("Rotate", may.rotate), act("Revoke", may.revoke));
  const node = h("li", {}, h("code", { title: key.id ? "Its id; the key itself is not kept" : "The start of its digest; the key itself is not kept" }, name), key.hint ? h("code", { class: "muted", title: "How the key ends" }, key.hint.startsWith("…") ? key.hint : `…${key.hint}`) : null, state.node, created, ends, buttons);
  return {
    node,
    update(next) {
      state.update(...(KEY_STATES[next.state] ?? ["off", next.state]));
      ends.hidden = !next.expires_at || next.state !== "active";
      expires.update(next.expires_at);
      buttons.hidden = !mayOperate() || !next.id || next.state !== "active";
    },
  };
}
