// The page as a whole: who is signed in, which section is shown, and how fresh what it shows is.

import * as accounts from "./accounts.js";
import { cameFrom, mayOperate, signOut, whoAmI } from "./api.js";
import * as audit from "./audit.js";
import * as connect from "./connect.js";
import * as conversations from "./conversations.js";
import { leave } from "./dialogs.js";
import { byId, h, icon, keyed, setAttribute, setText } from "./dom.js";
import { wall } from "./format.js";
import * as keys from "./keys.js";
import { connect as goLive, latest, on } from "./live.js";
import * as overview from "./overview.js";
import * as requests from "./requests.js";
import * as spending from "./spending.js";
import { DEGRADED } from "./words.js";

const sections = { overview, accounts, conversations, keys, spending, requests, audit, connect };
const THEMES = { system: "Theme: system", light: "Theme: light", dark: "Theme: dark" };
let present = null;
let trouble = "";
let connection = { state: "connecting" };

function route() {
  const [, name, query] = /^#?([a-z]*)\??(.*)$/s.exec(location.hash) ?? [];
  if (name === "main") return;
  leave();
  const wanted = Object.hasOwn(sections, name) ? name : "overview";
  const moved = wanted !== present;
  if (moved) {
    if (present) sections[present].hide?.();
    for (const each of Object.keys(sections)) byId(`at-${each}`).hidden = each !== wanted;
    for (const link of document.querySelectorAll("nav.sections a")) setAttribute(link, "aria-current", link.hash === `#${wanted}` ? "page" : null);
    document.querySelector('nav.sections a[aria-current="page"]')?.scrollIntoView({ block: "nearest", inline: "center" });
  }
  const first = present === null;
  if (moved && !first) {
    scrollTo(0, 0);
    byId(`${wanted}-title`).focus({ preventScroll: true });
  } else if (present && !moved) sections[wanted].hide?.();
  present = wanted;
  sections[wanted].show?.(new URLSearchParams(query));
  title();
}

function title() {
  const name = document.querySelector('nav.sections a[aria-current="page"]')?.firstChild.textContent ?? "";
  document.title = `${trouble ? `(${trouble}) ` : ""}${name} · Conversation gateway`;
}

function stateShown() {
  const { state, again } = connection;
  const words = { live: "Live", connecting: "Connecting…", waiting: "Reconnecting" }[state];
  const node = byId("live");
  node.dataset.state = state;
  const left = state === "waiting" ? h("span", { class: "p3" }, ` in ${Math.ceil((again ?? 0) / 1000)} s`) : "";
  node.querySelector(".words").replaceChildren(words, left);
  banners();
}

/** What must not be overlooked, above every section. */
function banners() {
  const found = [];
  const now = latest.overview;
  if (connection.state === "waiting") found.push(["away", "warn", `The connection to the gateway is lost${now ? `; what you see is of ${wall(Date.parse(now.at))}` : ""}. It is tried again by itself.`]);
  const few = now?.workers && now.workers.alive < now.workers.configured;
  for (const mode of now?.degraded ?? []) {
    if (mode === "workers" && few) continue; // said below, with numbers
    found.push([`mode ${mode}`, mode === "journal" ? "bad" : "warn", DEGRADED[mode] ?? `The gateway is in a mode that is not normal: ${mode}.`]);
  }
  const { available = 0, limited = 0, draining = 0, ...rest } = now?.accounts ?? {};
  const all = available + limited + draining + (rest.disabled ?? 0) + (rest.out ?? 0);
  if (now?.accounts && all > 0 && available + limited + draining === 0) found.push(["none", "bad", "No account can serve: every request is refused. See under Accounts why."]);
  if (few) found.push(["workers", "warn", `${now.workers.alive} of ${now.workers.configured} worker processes are alive; the others are started again.`]);
  for (const [need, share] of Object.entries(now?.lacking ?? {})) {
    found.push([`lacking ${need}`, "warn", `${Math.round(share * 100)} % of the last minutes' requests ask for ${need}, which some account cannot serve: other accounts serve them.`]);
  }
  keyed(byId("banners"), found, ([key]) => key, ([, kind]) => {
    const words = h("span");
    return { node: h("p", { class: `banner ${kind}`, role: "status" }, icon(kind), words), update: ([, , text]) => setText(words, text) };
  });
}

function theme() {
  const button = byId("theme");
  const say = () => setText(button, THEMES[gatewayTheme.get()]);
  button.addEventListener("click", () => {
    gatewayTheme.set(gatewayTheme.next(gatewayTheme.get()));
    say();
  });
  say();
}

async function start() {
  theme();
  byId("logout").addEventListener("click", signOut);
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault();
    byId("main").focus();
  });
  let facts;
  try {
    facts = await whoAmI();
  } catch (error) {
    if (error.status === 401) return;
    setText(byId("live").querySelector(".words"), "No answer");
    byId("banners").append(h("p", { class: "banner bad", role: "alert" }, icon("bad"), `${error.message} This page tries again in a moment.`));
    return setTimeout(() => location.reload(), 5000);
  }
  setText(byId("who"), `${facts.id} · ${mayOperate() ? "may operate" : "read only"}`);
  setAttribute(byId("who"), "title", `Role ${facts.role}, gateway ${facts.version}`);
  for (const note of document.querySelectorAll(".readonly")) note.hidden = mayOperate();
  for (const section of Object.values(sections)) section.start?.(facts);
  on("state", (detail) => {
    connection = detail;
    stateShown();
  });
  on("overview", banners);
  document.addEventListener("trouble", ({ detail }) => {
    trouble = detail;
    title();
  });
  addEventListener("hashchange", route);
  const back = cameFrom();
  if (!location.hash && back) history.replaceState(null, "", back);
  route();
  goLive();
}

start();
