// What an operator may do to teams, and how budgets are raised for a while: the dialogs that ask, and what they then do.

import { part, patch, post, remove } from "./api.js";
import { ask, toast } from "./dialogs.js";
import { h } from "./dom.js";
import { dollars, plural } from "./format.js";
import { changedLimits, field, limitFields } from "./limits.js";

/** `changed()` hears of what was done. */
export function teamActions(changed) {
  return { create, change, raise, endBoost, deleteTeam };

  async function create() {
    const made = await ask({
      title: "Create a team", action: "Create",
      body: [
        h("div", { class: "pair" }, field("Team", "id", { required: true, placeholder: "research" }, "Its id, which stays."), field("Name", "name", { placeholder: "for people" })),
        field("Models", "models", { placeholder: "all; or claude-haiku-*, claude-sonnet-*" }),
        ...limitFields(),
      ],
      act: (values) => {
        const body = { id: values.id.trim(), limits: changedLimits(values) };
        if (values.name.trim()) body.name = values.name.trim();
        if (modelsOf(values).length) body.models = modelsOf(values);
        return post("teams", body);
      },
    });
    if (!made) return;
    toast("good", `The team ${made.id} is there`);
    changed();
  }

  async function change(team) {
    const done = await ask({
      title: `Limits of ${team.id}`, action: "Change",
      body: [h("p", {}, "They count for all callers of ", h("b", {}, team.id), " together, at every gateway within a second. An empty field is no limit."), ...limitFields(team.limits)],
      act: async (values) => {
        const limits = changedLimits(values, team.limits);
        if (!Object.keys(limits).length) throw new Error("Nothing has been changed yet.");
        return patch(`teams/${part(team.id)}`, { limits });
      },
    });
    if (!done) return;
    toast("good", `The limits of ${team.id} are changed`);
    changed();
  }

  /** `kind` is team or caller. */
  async function raise(kind, id) {
    const made = await ask({
      title: `Raise the budgets of ${id} for a while`, action: "Raise",
      body: [
        h("p", {}, "Every budget that it has is so much larger until then."),
        h("div", { class: "pair" }, field("Dollars more", "usd", { type: "number", min: "0.01", step: "any", required: true }), field("For days", "days", { type: "number", min: "0.01", max: "400", step: "any", required: true, value: "1" })),
        field("Reason", "reason", { required: true, maxlength: "256" }, "It stands in the audit log."),
      ],
      act: (values) => post("boosts", { [kind]: id, usd: Number(values.usd), seconds: Number(values.days) * 86_400, reason: values.reason.trim() }),
    });
    if (!made) return;
    toast("good", `The budgets of ${id} are raised by ${dollars(made.usd)}`);
    changed();
  }

  async function endBoost(boost) {
    const done = await ask({ title: "End it now?", action: "End it", danger: true, body: [h("p", {}, `The budgets of ${boost.team ?? boost.caller} are as they were before.`)], act: () => remove(`boosts/${part(boost.id)}`) });
    if (done) changed();
  }

  async function deleteTeam(team) {
    const done = await ask({
      title: `Delete ${team.id}?`, action: "Delete", danger: true,
      body: [h("p", {}, `${plural(team.members.length, "caller")} and all their keys end everywhere within a second and for good. What they have used stays in the ledger.`)],
      act: () => remove(`teams/${part(team.id)}`),
    });
    if (!done) return;
    toast("good", `${team.id} is deleted, ${plural(done.callers.length, "caller")} with it${done.warnings?.length ? `; ${done.warnings[0]}` : ""}`);
    changed();
  }
}

/** The names or patterns in a form's field. */
export const modelsOf = (values) => values.models.split(",").map((each) => each.trim()).filter(Boolean);
