// What the gateway tells by itself: server-sent events, the state of that connection, and the way back when it is lost.

import { get } from "./api.js";
import { heard } from "./clock.js";

const NAMES = ["overview", "accounts", "requests"];
const FIRST = 1000; // milliseconds before the first try to come back
const LONGEST = 15_000;
const SILENT = 25_000; // without any event for so long, the connection is dead whatever it says

const bus = new EventTarget();
export const latest = { overview: null, accounts: null }; // what came last, for those who look later
let source = null;
let pause = FIRST;
let timer = 0;
let last = 0;

/** `listener(data)` for an event of that name; `state` tells "live", "waiting" (with `detail.again`, ms) or "connecting". */
export function on(name, listener) {
  bus.addEventListener(name, (event) => listener(event.detail));
}

function tell(name, detail) {
  bus.dispatchEvent(new CustomEvent(name, { detail }));
}

export function connect() {
  clearTimeout(timer);
  source?.close();
  tell("state", { state: "connecting" });
  last = Date.now();
  source = new EventSource("/admin/v1/live");
  for (const name of NAMES) {
    source.addEventListener(name, (event) => {
      let data;
      try {
        data = JSON.parse(event.data);
      } catch {
        return; // half an event of a connection that broke: the next one is whole
      }
      if (last === 0 || pause !== FIRST || !source.told) tell("state", { state: "live" });
      source.told = true;
      pause = FIRST;
      last = Date.now();
      if (name === "overview") heard(data.at);
      if (name in latest) latest[name] = data;
      tell(name, data);
    });
  }
  source.addEventListener("error", lost);
}

async function lost() {
  if (timer) clearTimeout(timer);
  source?.close(); // our own tries: a browser gives up for good where the answer is an error
  const wait = pause;
  pause = Math.min(LONGEST, pause * 2);
  tell("state", { state: "waiting", again: wait });
  timer = setTimeout(async () => {
    // An EventSource does not say why it failed; a plain request does, and leads to the login where that is the cause.
    try {
      await get("me");
    } catch (error) {
      if (error.status === 401) return;
    }
    connect();
  }, wait);
}

setInterval(() => {
  if (source?.readyState === EventSource.OPEN && Date.now() - last > SILENT) lost();
}, 5000);

// A page that was asleep may hold a dead connection for long.
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && source && Date.now() - last > SILENT) connect();
});
addEventListener("online", () => source && connect());
