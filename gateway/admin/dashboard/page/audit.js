// Who changed what: the audit log of all gateways of the store, the latest first.

import { get } from "./api.js";
import { moment } from "./clock.js";
import { badge, byId, empty, failed, h, replace, scroller } from "./dom.js";
import { exact } from "./format.js";

const PAGE = 100;
let entries = [];
let next = null;

export function start() {
  byId("audit-more").addEventListener("click", () => load(next));
}

export function show() {
  load("");
}

async function load(before) {
  try {
    const answer = await get("audit", { limit: PAGE, before });
    entries = before ? [...entries, ...answer.data] : answer.data;
    next = answer.next ?? null;
    draw();
  } catch (error) {
    replace(byId("audit-table"), failed(error, () => load(before)));
  }
  byId("audit-more").hidden = next === null;
}

function draw() {
  const place = byId("audit-table");
  if (!entries.length) return replace(place, empty("Nothing has been changed by the admin API yet.", "Changes of accounts and keys, made here, by the gateway command or by the API, are listed with who made them."));
  const heads = [["When", ""], ["Who", ""], ["What", ""], ["Change", ""], ["Result", ""], ["From", "p2"], ["Request", "p2"]];
  replace(place, scroller("Table of changes", h("table", { class: "rows" }, h("thead", {}, h("tr", {}, ...heads.map(([name, less]) => h("th", { scope: "col", class: less }, name)))), h("tbody", {}, ...entries.map(row)))));
}

function row(entry) {
  const done = entry.status < 400;
  const unknown = entry.status === 503;
  const words = done ? "done" : unknown ? "503, perhaps done" : `refused, ${entry.status}`;
  return h("tr", {},
    h("td", {}, moment(entry.at).node),
    h("td", {}, entry.who, h("span", { class: "muted" }, entry.by === "session" ? " · browser" : entry.by === "gateway" ? " · itself" : " · token")),
    h("td", {}, whatOf(entry)),
    h("td", {}, changes(entry.changes ?? {})),
    h("td", {}, badge(done ? "good" : unknown ? "warn" : "bad", words).node),
    h("td", { class: "p2" }, entry.address ?? "–"),
    h("td", { class: "p2" }, h("code", {}, entry.id)));
}

const ACTIONS = {
  "account.change": "changed", "account.flush": "forgot the bindings of", "conversation.flush": "forgot", "key.create": "made", "key.rotate": "rotated",
  "key.revoke": "revoked", "caller.change": "changed", "caller.revoke": "revoked all keys of", "caller.delete": "deleted", "session.begin": "signed in", "session.end": "signed out",
  "team.create": "made", "team.change": "changed", "team.delete": "deleted", "caller.create": "made", "boost.create": "raised budgets by", "boost.delete": "ended", "budget.threshold": "used beyond a threshold by",
};

function whatOf(entry) {
  const words = h("span", { title: `${entry.action} (${entry.method})` }, ACTIONS[entry.action] ?? entry.action);
  return entry.resource === "session" ? words : [words, " ", h("b", {}, entry.resource)];
}

function changes(all) {
  const names = Object.keys(all);
  if (!names.length) return h("span", { class: "muted" }, "–");
  return h("ul", { class: "plain" }, ...names.map((name) => h("li", {}, `${name.replaceAll("_", " ")}: `, h("span", { class: "muted" }, say(all[name]?.[0])), " → ", h("b", {}, say(all[name]?.[1])))));
}

function say(value) {
  if (value === null || value === undefined) return "none";
  if (typeof value === "string" && /^\d{4}-\d\d-\d\dT[\d:.]+Z$/.test(value)) return exact(Date.parse(value));
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
