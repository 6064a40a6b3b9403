// What an operator may do to an account: the buttons, the dialogs that ask, and what they then do.

import { mayOperate, part, patch, remove } from "./api.js";
import { ask, toast } from "./dialogs.js";
import { h, setText } from "./dom.js";
import { count, plural } from "./format.js";
import { stateOf } from "./words.js";

const DRAINS = [["900", "15 minutes"], ["3600", "1 hour"], ["14400", "4 hours"], ["86400", "1 day"], ["", "no end: until I say otherwise"]];

/** Buttons for the account that `present()` is then; `changed(account)` hears how it is after a change. */
export function actionsOf(present, changed) {
  const press = async (act) => {
    const answer = await act(present());
    if (answer?.id) changed(answer);
  };
  const button = (words, act, kind = "") => h("button", { type: "button", class: kind || null, on: { click: () => press(act) } }, words, h("span", { class: "offscreen" }, ` ${present().id}`));
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
  return answer;
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

