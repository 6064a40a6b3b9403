// The gateway's own words, explained: what each state, route and outcome means to somebody who runs it.

/** Of an account: [kind of badge, word]. */
export const STATES = {
  available: ["good", "available"],
  limited: ["warn", "limited"],
  draining: ["info", "draining"],
  disabled: ["off", "disabled"],
  failing: ["bad", "failing"],
  out: ["bad", "out of service"],
};
const SAID = {
  available: "It takes new conversations and keeps its own.",
  limited: "It is at a rate limit; its conversations wait or make a detour until that resets.",
  draining: "It takes no new conversations and keeps the warm ones until they go cold or the drain ends.",
  disabled: "It serves nothing.",
  failing: "It fails where other accounts do not; new conversations go elsewhere until one of them has shown that it is well.",
  out: "It serves nothing until it answers again.",
};

/** States of accounts, those that need somebody before the others; what is none of them is trouble of a new kind. */
const SICK_FIRST = ["out", "failing", "limited", "draining", "disabled", "available"];

/** What sorts accounts so that those stand first that need somebody, then by id. */
export const sickFirst = (a, b) => SICK_FIRST.indexOf(stateOf(a)) - SICK_FIRST.indexOf(stateOf(b)) || a.id.localeCompare(b.id);

export const stateOf = (account) => account.health?.state ?? account.state ?? "disabled";

export function stateWords(state) {
  return STATES[state] ?? ["off", String(state)];
}

/** Why an account is in its state, in a sentence. */
export function whyOf(account) {
  const { why, reason } = account.health ?? {};
  if (why) return why;
  const said = SAID[stateOf(account)] ?? "";
  return reason ? `${said} Reason: ${reason}.` : said;
}

/** Whether an account is in trouble of its own, and not only busy or set aside. */
export const troubled = (account) => ["out", "failing"].includes(stateOf(account));

/** The first sentence of it, for a line; none where all is well. */
export const whyBriefly = (account) => (stateOf(account) === "available" ? "" : whyOf(account).replace(/(?<=\.)\s.*$/s, ""));

/** Whether nothing goes to an account until somebody, or its next try, changes that. */
export function idle(account) {
  const state = stateOf(account);
  const drained = state === "draining" && account.drain_until && !account.health?.until;
  return state === "out" || state === "disabled" || Boolean(drained);
}

export const ROUTES = {
  bound: "It stayed at the workspace where the conversation lives, and could read its cache.",
  new: "It was the first of its conversation, or one that had gone cold and was placed anew.",
  moved: "The conversation moved to another workspace with this request.",
  detour: "Another account served this one request; the conversation lives where it did.",
  stateless: "The store was away: the hash or this process’s memory alone decided.",
  pinned: "An account-bound object, such as a file or a batch, decided.",
  none: "It belongs to no conversation.",
};

/** Of a request: [kind of badge, word]. */
export function outcomeWords(request) {
  const status = request.status || "";
  switch (request.outcome) {
    case "ok":
      return ["good", `${status || "ok"}`];
    case "interrupted":
      return ["bad", "interrupted"];
    case "client_gone":
      return ["off", "client left"];
    default:
      return [status >= 400 && status < 500 ? "warn" : "bad", `${status || "error"}`];
  }
}

/** Why a conversation's request left its home, or it moved. */
export const REASONS = {
  limited: "the account was at its rate limit",
  out: "the account was out of service",
  disabled: "the account was disabled",
  draining: "the account was draining",
  removed: "the account left the pool",
  model: "the account does not serve this model",
  errors: "the account failed in it, as it did in others",
  failing: "the account failed where others did not",
  refused: "the account refused what another one served",
  failed: "the account failed",
  unsent: "the account could not be reached",
  object: "it names an object that is not there",
  home: "the place before had more than its share, and the cache here was still warm",
  cold: "it had gone cold and its place had no room",
  overloaded: "the upstream was overloaded",
  full: "the account had no free slot",
  credential: "this gateway did not hold the account’s key yet",
};

export const DEGRADED = {
  store: "The store cannot be reached. Routing goes on by hash and from memory, limits by each process’s share, and usage waits in the journal; nothing is lost.",
  journal: "Usage cannot be written to data_dir, which is full or gone. Whatever the store does not hold is lost with it: make room, or bring the folder back.",
  issuers: "The keys of an issuer of tokens cannot be fetched. Those that are known go on to count for a day; see the log for which issuer it is.",
  workers: "Some worker processes do not serve; they are started again.",
};

// Of keys, teams and accounts: [what is limited, how it is counted].
const LIMITS = {
  requests_per_minute: ["requests a minute", "count"],
  token_counts_per_minute: ["token counts a minute", "count"],
  input_tokens_per_minute: ["input tokens a minute", "count"],
  output_tokens_per_minute: ["output tokens a minute", "count"],
  concurrency: ["at the same time", "count"],
  budget_usd_day: ["dollars a UTC day", "dollars"],
  budget_usd_week: ["dollars a UTC week", "dollars"],
  budget_usd_month: ["dollars a UTC month", "dollars"],
};

export const limitWords = (name) => LIMITS[name] ?? [String(name).replaceAll("_", " "), "count"];

/** The first of a list's models in full, and how many more there are. */
export function modelWords(models) {
  if (!models?.length) return "none";
  if (models.includes("*")) return "all models";
  return models.length > 3 ? `${models.slice(0, 3).join(", ")} and ${models.length - 3} more` : models.join(", ");
}
