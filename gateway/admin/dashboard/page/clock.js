// Moments on the page that stay true: relative words that are renewed each second, the exact moment in the title. It goes by the
// gateway's clock, as far as it has been told.

import { exact, NOTHING, relative, span } from "./format.js";
import { h, setAttribute, setText } from "./dom.js";

let offset = 0; // milliseconds that the gateway's clock is ahead of this one
const shown = new Set();

/** The gateway says what time it is (ISO). */
export function heard(iso) {
  const at = Date.parse(iso);
  // Below two seconds it is as likely the way here as the clock.
  if (Number.isFinite(at)) offset = Math.abs(at - Date.now()) > 2000 ? at - Date.now() : 0;
}

export const now = () => Date.now() + offset;

const WORDS = {
  relative: (at) => relative(at, now()),
  since: (at) => `for ${relative(Math.min(at, now()), now()).replace(/ ago$/, "")}`,
  resets: (at) => (at > now() + 500 ? `resets in ${left(at)}` : "has reset"),
  back: (at) => (at > now() ? `back in ${left(at)}` : "back any moment"),
  again: (at) => (at > now() ? `tried again in ${left(at)}` : ""), // when it is over, nobody knows what comes of it
  drained: (at) => `drain ${at > now() ? "ends" : "ended"} ${relative(at, now())}`,
  lasting: (at) => (at > now() ? `for another ${left(at)}` : `since ${relative(at, now())}`),
  warm: (at) => (at > now() ? `warm for another ${left(at)}` : `cold since ${relative(at, now())}`),
};

const left = (at) => span((at - now()) / 1000);

/** A <time> that tells `iso`, in the way `how` of WORDS, which may change before an update: {node, how, update(iso)}. */
export function moment(iso, how = "relative") {
  const node = h("time", { class: "moment" });
  const it = {
    node,
    at: NaN,
    how,
    update(value) {
      it.at = value ? Date.parse(value) : NaN;
      setAttribute(node, "datetime", value || null);
      setAttribute(node, "title", Number.isFinite(it.at) ? exact(it.at) : null);
      tell(it);
    },
  };
  it.update(iso);
  shown.add(new WeakRef(it));
  node.told = it; // as long as the element lives, so does what renews it
  return it;
}

function tell(it) {
  setText(it.node, Number.isFinite(it.at) ? WORDS[it.how](it.at) : NOTHING);
}

setInterval(() => {
  if (document.hidden) return;
  for (const reference of shown) {
    const it = reference.deref();
    if (it === undefined) shown.delete(reference);
    else if (it.node.isConnected) tell(it);
  }
}, 1000);
