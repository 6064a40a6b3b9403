// Numbers, money, spans and moments as words. Pure functions: the clock is an argument, null and NaN are an en dash.

export const NOTHING = "–";
const known = (value) => typeof value === "number" && Number.isFinite(value);
const grouped = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

function digits(value, significant) {
  const whole = Math.max(1, Math.floor(Math.log10(Math.max(Math.abs(value), 1e-9))) + 1);
  return value.toFixed(Math.max(0, significant - whole));
}

/** A count: 842, 12,345, 1.23 M. */
export function count(value) {
  if (!known(value)) return NOTHING;
  const size = Math.abs(value);
  if (size >= 1e9) return `${digits(value / 1e9, 3)} G`;
  if (size >= 1e6) return `${digits(value / 1e6, 3)} M`;
  return grouped.format(value);
}

/** A count where there is little room: 842, 9,500, 144 k, 1.23 M. */
export function brief(value) {
  const size = Math.abs(value);
  return known(value) && size >= 1e4 && size < 1e6 ? `${Number(digits(value / 1e3, 3))} k` : count(value);
}

/** A rate, without its unit: 0, 0.04, 3.2, 11.3, 125, 12.3 k. */
export function rate(value) {
  if (!known(value)) return NOTHING;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6) return `${digits(value / 1e6, 3)} M`;
  if (size >= 1e4) return `${digits(value / 1e3, 3)} k`;
  if (size >= 100) return grouped.format(value);
  if (size < 0.01) return "<0.01";
  return value.toFixed(size < 1 ? 2 : 1);
}

/** A share of 1 as per cent: 0 %, 0.4 %, 97 %, 99.6 %. */
export function percent(value) {
  if (!known(value)) return NOTHING;
  const share = value * 100;
  const edge = (share > 0 && share < 1) || (share > 99 && share < 100);
  return `${edge ? share.toFixed(1) : Math.round(share)} %`;
}

/** Dollars: $0.00, $0.0042, $12.30, $12,345. */
export function dollars(value) {
  if (!known(value)) return NOTHING;
  const size = Math.abs(value);
  const sign = value < 0 ? "−" : "";
  if (size === 0) return "$0.00";
  if (size < 0.0001) return `${sign}<$0.0001`;
  if (size < 0.1) return `${sign}$${size.toFixed(4)}`;
  if (size < 10_000) return `${sign}$${size.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
  return `${sign}$${grouped.format(size)}`;
}

/** A measured length of time in seconds: 0.4 ms, 840 ms, 1.24 s, 3 min 5 s. */
export function seconds(value) {
  if (!known(value)) return NOTHING;
  if (value < 0.9995) {
    const ms = value * 1000;
    return `${ms < 9.95 ? ms.toFixed(1) : Math.round(ms)} ms`;
  }
  if (value < 59.5) return `${value.toFixed(value < 9.995 ? 2 : 1)} s`;
  return span(value);
}

/** A coarse length of time in seconds: 42 s, 3 min 5 s, 2 h 10 min, 4 d 3 h. */
export function span(value) {
  if (!known(value)) return NOTHING;
  const s = Math.max(0, Math.round(value));
  if (s < 60) return `${s} s`;
  if (s < 3600) return parts(Math.floor(s / 60), "min", s % 60, "s");
  if (s < 86_400) return parts(Math.floor(s / 3600), "h", Math.floor((s % 3600) / 60), "min");
  return parts(Math.floor(s / 86_400), "d", Math.floor((s % 86_400) / 3600), "h");
}

function parts(large, largeUnit, small, smallUnit) {
  return small ? `${large} ${largeUnit} ${small} ${smallUnit}` : `${large} ${largeUnit}`;
}

/** How long ago or ahead a moment is: "just now", "12 s ago", "in 3 min 5 s"; both in Unix milliseconds. */
export function relative(moment, now) {
  const difference = (moment - now) / 1000;
  if (Math.abs(difference) < 1) return "just now";
  // A past moment beyond a minute needs no seconds; what is to come is a countdown.
  if (difference > 0) return `in ${span(difference)}`;
  const past = -difference;
  return `${past < 60 ? span(past) : span(Math.floor(past / 60) * 60)} ago`;
}

const exactly = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "long" });

/** A moment in full, in the reader's own time zone. */
export function exact(moment) {
  return Number.isFinite(moment) ? exactly.format(moment) : NOTHING;
}

/** The wall clock at a moment: 14:03:09. */
export function wall(moment, withSeconds = true) {
  const date = new Date(moment);
  const two = (value) => String(value).padStart(2, "0");
  const hm = `${two(date.getHours())}:${two(date.getMinutes())}`;
  return withSeconds ? `${hm}:${two(date.getSeconds())}` : hm;
}

/** The same for an axis, where zeros after the point and the unit of nothing are clutter: 5 for 5.0, 20 k for 20.0 k. */
export const mark = (say) => (value) => (value === 0 ? "0" : say(value).replace(/\.0+(?=\D|$)/, ""));

/** "1 account", "3 accounts". */
export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}
