// The explainer: where a conversation lives, which account serves it now, why, for how long it is warm, and how it came there.

import { get, mayOperate, part, remove } from "./api.js";
import { moment } from "./clock.js";
import { ask, toast } from "./dialogs.js";
import { badge, byId, empty, h, replace, setText } from "./dom.js";
import { count, plural } from "./format.js";
import { REASONS, stateWords } from "./words.js";

let form;
let asked = 0; // questions so far: a late answer to an old one is dropped

export function start(facts) {
  form = byId("conversation-form");
  if (facts.clients) setText(byId("affinity-name"), facts.clients.affinity_header);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
    const hash = `#conversations?${query}`;
    if (location.hash === hash) explain();
    else location.hash = hash;
  });
}

export function show(params) {
  for (const field of form.elements) if (field.name) field.value = params.get(field.name) ?? "";
  if (params.get("key") && params.get("id")) return explain();
  asked += 1;
  replace(byId("conversation-answer"), empty("Give a key’s id and a conversation’s id.", "You learn which account serves it, why, how long its cache is warm, and when it moved."));
}

async function explain() {
  const { key, id, model, kind } = Object.fromEntries(new FormData(form));
  const question = (asked += 1);
  const place = byId("conversation-answer");
  place.setAttribute("aria-busy", "true");
  try {
    const answer = await get(`conversations/${part(key)}/${part(id)}`, { kind });
    if (question === asked) answered(place, answer, { key, id, model, kind: answer.kind });
  } catch (error) {
    if (question === asked) replace(place, h("div", { class: "panel empty" }, h("p", {}, error.message), error.status === 404 ? h("p", { class: "muted" }, "Check that the id is the one the client sends, character by character, and that the key is the one it uses.") : null));
  } finally {
    if (question === asked) place.removeAttribute("aria-busy");
  }
}

function answered(place, answer, wanted) {
  const bindings = answer.bindings.filter((each) => !wanted.model || each.model === wanted.model);
  const forget = h("button", { type: "button", class: "operate", hidden: !mayOperate(), on: { click: () => flush(wanted) } }, "Forget this conversation");
  const head = h("header", { class: "answer" }, h("p", {}, "Digest in log and list ", h("code", {}, answer.conversation), " · key ", h("b", {}, answer.caller), answer.team ? ` of team ${answer.team}` : "", ` · ${answer.kind === "session" ? "Claude Code’s session" : "by header"}`), forget);
  const other = answer.bindings.filter((each) => !bindings.includes(each)).map((each) => each.model);
  const none = empty(wanted.model ? `The conversation has no binding for ${wanted.model}.` : "The conversation has no binding.", other.length ? `It has one for ${other.join(", ")}.` : "Its next request is placed anew.");
  replace(place, head, ...(bindings.length ? bindings.map(binding) : [h("div", { class: "panel" }, none)]));
}

function binding(each) {
  const serving = each.account ? badge("good", each.account) : badge("bad", each.closed ? "no account can serve it" : "none");
  const cache = each.warm ? badge("good", "warm") : badge("off", "cold"); // by the store’s word; the time beside it counts down
  const rows = [
    ["Served now by", serving.node, each.account ? ` in workspace ${each.workspace}` : ` workspace ${each.workspace} is ${each.closed ?? "closed"}`],
    ["Why there", h("strong", {}, sentence(each.why))],
    ["Home", each.home ?? "none", each.home === each.workspace ? " – it is there" : " – the first of its ranking, where it is not now"],
    ...(each.avoided ?? []).map((it) => ["Avoided", h("strong", {}, it.account), ` ${it.workspace === each.workspace ? "" : `at its home ${it.workspace} `}is ${stateWords(it.state)[1]}. ${it.why}`, it.until ? [" (", moment(it.until, "again").node, ")"] : ""]),
    ["Cache", cache.node, each.warm_until ? [" ", moment(each.warm_until, "lasting").node] : "", ` · ${count(each.tokens)} tokens`],
    ["Forgotten", each.record_expires ? moment(each.record_expires).node : each.account_bound ? "never: it holds objects that are bound to the account" : "–"],
    each.account_bound ? ["Bound", "it uses objects, such as files, that exist in this workspace alone"] : null,
    each.previous ? ["Before", each.previous.workspace, ", its cache there ", moment(each.previous.warm_until, "warm").node] : null,
    each.last_detour ? ["Last detour", each.last_detour.workspace] : null,
  ].filter(Boolean);
  return h("article", { class: "panel binding", "aria-label": `Binding for ${each.model}` },
    h("header", {}, h("h2", {}, each.model), h("span", { class: "muted" }, plural(Math.max(0, each.generation - 1), "move"))),
    h("dl", { class: "details" }, ...rows.map(([name, ...value]) => h("div", {}, h("dt", {}, name), h("dd", {}, ...value.flat())))),
    each.moves?.length ? moves(each.moves) : h("p", { class: "muted pad" }, "It has not moved."));
}

function moves(all) {
  const rows = [...all].reverse().map((move) => h("li", {}, moment(move.at).node, ": from ", h("b", {}, move.from || "nowhere"), " to ", h("b", {}, move.to), ", because ", REASONS[move.reason] ?? move.reason));
  return h("div", { class: "pad" }, h("h3", {}, "Last moves"), h("ol", { class: "moves" }, ...rows));
}

const sentence = (text) => (text ? `${text[0].toUpperCase()}${text.slice(1)}.` : "");

async function flush({ key, id, kind }) {
  const done = await ask({
    title: "Forget this conversation?", action: "Forget it", danger: true,
    body: [h("p", {}, "Its next request is placed as if it were the first. If that is another workspace, the whole history is paid for anew, once.")],
    act: () => remove(`conversations/${part(key)}/${part(id)}`, { kind }),
  });
  if (!done) return;
  toast("good", `The conversation is forgotten (${plural(done.flushed, "binding")})`);
  replace(byId("conversation-answer"), empty("The conversation is forgotten.", "Its next request is placed as if it were the first."));
}
