// The admin API as functions. A failure is an Error with words for people; without a session one is led to the login page.

const ROOT = "/admin/v1/";
const WAIT = 20_000; // milliseconds
const RETURN = "gateway.return"; // where one was, to come back there after signing in

/** Who is signed in, and how clients reach the gateway, as `/admin/v1/me` says. */
export let me = { id: "", role: "read", csrf: null, version: "" };

export class Failure extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export const mayOperate = () => me.role === "operate";

export async function whoAmI() {
  me = await get("me");
  return me;
}

export const get = (path, query) => call("GET", path, query);
export const post = (path, body) => call("POST", path, null, body);
export const patch = (path, body) => call("PATCH", path, null, body);
export const remove = (path, query) => call("DELETE", path, query);

/** A part of a path, whatever is in it. */
export const part = encodeURIComponent;

async function call(method, path, query = null, body = undefined) {
  const asked = new URLSearchParams(Object.entries(query ?? {}).filter(([, value]) => value !== "" && value !== null && value !== undefined));
  const url = ROOT + path + (asked.size ? `?${asked}` : "");
  const headers = { accept: "application/json" };
  if (method !== "GET" && me.csrf) headers["x-csrf-token"] = me.csrf;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(url, {
      method, headers, credentials: "same-origin", cache: "no-store", redirect: "error",
      body: body === undefined ? undefined : JSON.stringify(body), signal: AbortSignal.timeout(WAIT),
    });
  } catch (error) {
    throw new Failure(error.name === "TimeoutError" ? "The gateway did not answer within 20 s." : "The gateway cannot be reached.");
  }
  if (response.status === 401) {
    signIn();
    throw new Failure("You are signed out.", 401);
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok) throw new Failure(words(response.status, answer), response.status);
  if (answer === null) throw new Failure("The gateway’s answer is no JSON; is something between it and you?");
  return answer;
}

function words(status, answer) {
  const message = answer?.error?.message;
  if (typeof message === "string" && message) return message.endsWith(".") ? message : `${message}.`;
  return `The gateway answered ${status} and did not say why.`;
}

export function signIn() {
  try {
    sessionStorage.setItem(RETURN, location.hash);
  } catch {
    // One comes back to the overview.
  }
  location.assign("/login");
}

/** Where one was when the session ended, once. */
export function cameFrom() {
  try {
    const found = sessionStorage.getItem(RETURN) ?? "";
    sessionStorage.removeItem(RETURN);
    return found;
  } catch {
    return "";
  }
}

export async function signOut() {
  const headers = me.csrf ? { "x-csrf-token": me.csrf } : {};
  await fetch("/logout", { method: "POST", headers, credentials: "same-origin", redirect: "manual" }).catch(() => null);
  location.assign("/login");
}
