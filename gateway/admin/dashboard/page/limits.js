// The limits of a key holder as fields of a form, and what somebody wrote there as the API wants it.

import { h } from "./dom.js";

const WHOLE = ["requests_per_minute", "concurrency", "input_tokens_per_minute", "output_tokens_per_minute"];
const BUDGET = ["day", "week", "month"];
const whole = { type: "number", min: "1", step: "1", placeholder: "no limit" };
const money = { type: "number", min: "0", step: "any", placeholder: "no limit" };

/** A labelled input: `props` are its attributes, `hint` what stands below. */
export const field = (label, name, props = {}, hint = "") => h("label", {}, label, h("input", { name, spellcheck: "false", autocomplete: "off", ...props }), hint ? h("span", { class: "hint" }, hint) : null);

/** The fields, two in a row, with the `present` limits in them. */
export function limitFields(present = {}) {
  const of = (label, name) => field(label, name, { ...whole, value: present[name] });
  const dollars = (label, name) => field(label, name, { ...money, value: present.budget_usd?.[name] });
  return [
    h("div", { class: "pair" }, of("Requests a minute", "requests_per_minute"), of("At the same time", "concurrency")),
    h("div", { class: "pair" }, of("Input tokens a minute", "input_tokens_per_minute"), of("Output tokens a minute", "output_tokens_per_minute")),
    h("div", { class: "pair" }, dollars("Dollars a day", "day"), dollars("Dollars a week", "week")),
    h("div", { class: "pair" }, dollars("Dollars a month", "month"), field("A refusal also says", "message", { maxlength: "256", placeholder: "whom to ask", value: present.budget_usd?.message })),
  ];
}

/** Of the form's `values` those that differ from the `present` limits; null for one that is to go. */
export function changedLimits(values, present = {}) {
  const limits = changes(WHOLE, values, present);
  const budget = changes(BUDGET, values, present.budget_usd ?? {});
  const message = values.message.trim();
  if (message !== (present.budget_usd?.message ?? "")) budget.message = message || null;
  if (Object.keys(budget).length) limits.budget_usd = budget;
  return limits;
}

function changes(names, values, present) {
  const wanted = names.map((name) => [name, values[name] === "" ? null : Number(values[name])]);
  return Object.fromEntries(wanted.filter(([name, value]) => value !== (present[name] ?? null)));
}
