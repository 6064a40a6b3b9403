// What an operator may do to keys and to those who hold them: the dialogs that ask, and what they then do.

import { part, patch, post, remove } from "./api.js";
import { moment } from "./clock.js";
import { ask, copier, tell, toast } from "./dialogs.js";
import { h } from "./dom.js";
import { plural } from "./format.js";
import { changedLimits, field, limitFields } from "./limits.js";
import { modelsOf } from "./teamdialogs.js";

const days = { type: "number", min: "0.01", step: "any", placeholder: "never" };

/** `present()` are all key holders as the API tells them; `made(caller)` and `changed()` hear of what was done. */
export function actions({ present, made: told, changed }) {
  return { create, rotate, revoke, changeLimits, move, suspend, revokeAll, deleteCaller };

  async function create() {
    const teams = h("datalist", { id: "dialog-teams" }, ...[...new Set(present().map((each) => each.team).filter(Boolean))].map((value) => h("option", { value })));
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

  /** A key is shown here and never again, so nothing but the button closes this. */
  function shown(made, title) {
    told(made.caller);
    const key = h("input", { class: "secret", readonly: true, value: made.key, "aria-label": "The key", on: { focus: (event) => event.target.select() } });
    return tell({
      title, careful: true, close: "I have stored it",
      body: [h("p", {}, "This is the only time that the key of ", h("b", {}, made.caller), " is shown. Only its digest is kept."), h("div", { class: "secret-row" }, key, copier(() => made.key)),
        made.replaces ? h("p", { class: "muted" }, "The former key counts until ", moment(made.replaces.expires_at).node, ".") : null, h("p", {}, h("a", { href: "#connect" }, "How a client uses it")),
        ...(made.warnings ?? []).map((warning) => h("p", { class: "hint" }, `${warning}.`))].filter(Boolean),
    });
  }

  async function changeLimits(caller) {
    const before = present().find((each) => each.caller === caller)?.limits ?? {};
    const done = await ask({
      title: `Limits of ${caller}`, action: "Change",
      body: [h("p", {}, "They count for all keys of ", h("b", {}, caller), " together, at every gateway within a second. An empty field is no limit."), ...limitFields(before)],
      act: async (values) => {
        const limits = changedLimits(values, before);
        if (!Object.keys(limits).length) throw new Error("Nothing has been changed yet.");
        return patch(`callers/${part(caller)}`, { limits });
      },
    });
    if (!done) return;
    toast("good", `The limits of ${caller} are changed`);
    changed();
  }

  async function move(caller) {
    const before = present().find((each) => each.caller === caller)?.team ?? "";
    const done = await ask({
      title: `Move ${caller} to another team`, action: "Move",
      body: [h("p", {}, "What it has spent stays with its former team, and counts in its own budgets here as well. Its conversations begin anew."), field("Team", "team", { placeholder: "none", value: before })],
      act: async ({ team }) => {
        if (team.trim() === before) throw new Error("Nothing has been changed yet.");
        return patch(`callers/${part(caller)}`, { team: team.trim() || null });
      },
    });
    if (!done) return;
    toast("good", done.team ? `${caller} is in the team ${done.team}` : `${caller} is in no team`);
    changed();
  }

  async function suspend(caller) {
    const resumes = present().find((each) => each.caller === caller)?.status === "suspended";
    const done = await ask({
      title: resumes ? `Let ${caller} in again?` : `Suspend ${caller}?`, action: resumes ? "Resume" : "Suspend", danger: !resumes,
      body: [h("p", {}, resumes ? "Its keys count again, at every gateway within a second." : "It is refused at every gateway within a second, with words that say so. Its keys stay, and count again when it is resumed.")],
      act: () => patch(`callers/${part(caller)}`, { status: resumes ? "active" : "suspended" }),
    });
    if (!done) return;
    toast("good", `${caller} is ${done.status}`);
    changed();
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
    changed();
  }

  async function revokeAll(caller) {
    const done = await ask({
      title: `Revoke all keys of ${caller}?`, action: "Revoke them", danger: true,
      body: [h("p", {}, "All that were made here end everywhere within a second and for good. The key holder stays, and may get new ones.")],
      act: () => remove(`callers/${part(caller)}/keys`),
    });
    if (!done) return;
    toast("good", `${plural(done.revoked, "key")} of ${caller} revoked${done.warnings?.length ? `; ${done.warnings[0]}` : ""}`);
    changed();
  }

  async function deleteCaller(caller) {
    const done = await ask({
      title: `Delete ${caller}?`, action: "Delete", danger: true,
      body: [h("p", {}, "Its keys end everywhere within a second and for good, and its limits go. What it has used stays in the ledger, and counts for whoever is made anew under this name.")],
      act: () => remove(`callers/${part(caller)}`),
    });
    if (!done) return;
    toast("good", `${caller} is deleted, ${plural(done.revoked, "key")} with it${done.warnings?.length ? `; ${done.warnings[0]}` : ""}`);
    changed();
  }
}

function wantedKey(values) {
  const body = { caller: values.caller.trim() };
  if (values.team.trim()) body.team = values.team.trim();
  const models = modelsOf(values);
  if (models.length) body.models = models;
  if (values.days) body.expires_in = Number(values.days) * 86_400;
  const limits = changedLimits(values);
  if (Object.keys(limits).length) body.limits = limits;
  return body;
}
