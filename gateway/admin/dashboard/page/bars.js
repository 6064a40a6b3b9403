// What is left of a limit: a bar, its number in words, and the countdown to its reset.

import { moment } from "./clock.js";
import { h, setAttribute, setClass, setText } from "./dom.js";
import { brief, count, dollars, percent } from "./format.js";
import { limitWords } from "./words.js";

export const NEAR = 0.2;
export const LAST = 0.05;

/** {limit, of, remaining, resets_at, class} in whichever of the two forms the API has; `ratio` is what is left of 1. */
export function levelOf(row) {
  const of = row.of ?? null;
  const remaining = row.remaining ?? null;
  const ratio = row.ratio ?? (of > 0 && remaining !== null ? remaining / of : null);
  const [what, kind] = limitWords(row.limit);
  const [say, exactly] = kind === "dollars" ? [dollars, dollars] : [brief, count];
  return { key: `${row.class ?? ""} ${row.limit}`, group: row.class ?? "", what, say, exactly, of, remaining, ratio, resets: row.resets_at ?? null };
}

/** The headroom of an account that ends first, null where nothing is known. */
export function tightest(account) {
  const known = (account.headroom ?? []).map(levelOf).filter((level) => level.ratio !== null);
  return known.length ? known.reduce((least, level) => (level.ratio < least.ratio ? level : least)) : null;
}

const kindOf = (ratio) => (ratio <= LAST ? "bad" : ratio <= NEAR ? "warn" : "good");

/** A bar alone, with what it means as its name: {node, update(level)}. */
export function headroomBar() {
  const fill = h("span", {});
  const bar = h("span", { class: "bar", role: "meter", "aria-valuemin": 0, "aria-valuemax": 100 }, fill);
  const words = h("span", { class: "num" });
  const node = h("span", { class: "headroom" }, bar, words);
  return {
    node,
    update(level) {
      const ratio = level === null ? null : Math.max(0, Math.min(1, level.ratio));
      setClass(bar, ratio === null ? "bar unknown" : `bar ${kindOf(ratio)}`);
      fill.style.width = ratio === null ? "0" : `${ratio * 100}%`;
      setAttribute(bar, "aria-valuenow", ratio === null ? 0 : Math.round(ratio * 100));
      const name = level === null ? "No limit is known" : `${level.group ? `${level.group}, ` : ""}${level.what}: ${percent(ratio)} left`;
      setAttribute(bar, "aria-label", name);
      setAttribute(bar, "aria-valuetext", name);
      setAttribute(node, "title", name);
      setText(words, ratio === null ? "not known" : `${percent(ratio)} left`);
    },
  };
}

/** A row: what is limited, the bar, how much of how much is left, and when it resets: {node, update(level)}. */
export function levelRow() {
  const what = h("span", { class: "what" });
  const bar = headroomBar();
  const left = h("span", { class: "num" });
  const resets = moment(null, "resets");
  const reset = h("span", { class: "reset muted" }, resets.node);
  const node = h("li", { class: "level" }, what, bar.node, left, reset);
  return {
    node,
    update(level) {
      setText(what, level.group ? `${level.group} · ${level.what}` : level.what);
      bar.update(level.ratio === null ? null : level);
      setText(left, `${level.say(level.remaining)} of ${level.say(level.of)}`);
      setAttribute(left, "title", `${level.exactly(level.remaining)} of ${level.exactly(level.of)} left`);
      reset.hidden = !level.resets;
      resets.update(level.resets);
    },
  };
}
