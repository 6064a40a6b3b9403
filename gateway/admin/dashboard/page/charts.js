// Lines over time, drawn by uPlot: a figure with its name, a legend in words that is also the read-out, and a description for
// those who cannot see the picture. Colours come from the style sheet, so both themes are followed.

import { h, setText } from "./dom.js";
import { mark, wall } from "./format.js";

const drawn = new Set();
const SHORTEST = 180; // seconds that lines over time show at least
const AXIS = { font: "11px system-ui, sans-serif", gap: 6, size: 24 };

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** `figure` becomes a chart: `series` are {label, color (a custom property), dash, fill}, `say(value)` formats a value for the
 * legend, `axis(value)` one for the axis; `bars`: columns instead of lines, `x(value)` names one of them. */
export class Chart {
  constructor(figure, { title, hint = "", series, say, axis = mark(say), top = null, sync = "overview", bars = false, x = wall, height = 150 }) {
    Object.assign(this, { figure, title, series, say, axis, top, sync, bars, x, height });
    this.data = [[], ...series.map(() => [])];
    this.values = series.map(() => h("b", {}));
    const legend = series.map((each, index) => {
      const swatch = h("i", { class: `swatch${each.dash ? " dashed" : ""}`, "aria-hidden": "true" });
      swatch.style.color = `var(${each.color})`;
      return h("li", {}, swatch, `${each.label} `, this.values[index]);
    });
    this.when = h("span", { class: "when muted" });
    this.plot = h("div", { class: "plot", role: "img" });
    figure.replaceChildren(h("figcaption", {}, h("h2", { title: hint || null }, title), this.when, h("ul", { class: "legend" }, ...legend)), this.plot);
    new ResizeObserver(() => this.resize()).observe(this.plot);
    drawn.add(this);
  }

  /** `data`: Unix seconds, then the values of each series; null is a gap. */
  set(data) {
    this.data = data;
    if (this.chart && this.chart.width > 0) this.chart.setData(data);
    else this.draw();
    this.read(null);
  }

  draw() {
    const width = Math.floor(this.plot.clientWidth);
    if (!width) return; // its section is not shown
    this.chart?.destroy();
    const line = color("--line");
    const text = color("--muted");
    const axis = { ...AXIS, stroke: text, grid: { stroke: line, width: 1 }, ticks: { show: false } };
    this.chart = new uPlot({
      width, height: this.height, padding: [8, 20, 0, 0], // half of a time stands beyond the last mark
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 }, ...(this.sync ? { sync: { key: this.sync } } : {}) },
      scales: { x: { time: !this.bars, range: (u, low, high) => (this.bars ? [low - 0.6, high + 0.6] : [Math.min(low, high - SHORTEST), high]) }, y: { range: (u, low, high) => [0, this.top ?? Math.max(high * 1.1, 1e-6)] } },
      axes: [
        { ...axis, grid: { show: false }, space: this.bars ? 44 : 70, incrs: this.bars ? [1, 2, 5, 7, 10, 14, 30] : [60, 120, 300, 600], values: (u, marks) => marks.map((mark) => (this.bars ? (this.x(mark) ?? "") : wall(mark * 1000, false))) },
        { ...axis, size: 52, space: 32, values: (u, marks) => marks.map((mark) => this.axis(mark)) },
      ],
      series: [{}, ...this.series.map((each) => {
        const stroke = color(each.color);
        return {
          stroke, width: 1.5, dash: each.dash, spanGaps: false, points: { show: false },
          fill: each.fill || this.bars ? `${stroke}${this.bars ? "" : "22"}` : undefined,
          ...(this.bars ? { paths: uPlot.paths.bars({ size: [0.7, 48] }) } : {}),
        };
      })],
      hooks: { setCursor: [(u) => this.read(u.cursor.idx)] },
    }, this.data, this.plot);
  }

  resize() {
    const width = Math.floor(this.plot.clientWidth);
    if (!width) return;
    if (this.chart) this.chart.setSize({ width, height: this.height });
    else this.draw();
  }

  /** Write into the legend what holds at a point, or at the last one. */
  read(index) {
    const [times, ...rows] = this.data;
    const at = index ?? times.length - 1;
    rows.forEach((row, number) => setText(this.values[number], this.say(row[at] ?? null)));
    const pointed = index !== null && index !== undefined && times.length > 0;
    setText(this.when, this.bars ? (times.length ? this.x(times[at]) : "") : pointed ? wall(times[at] * 1000) : "");
    if (!pointed) this.describe(rows, at);
  }

  describe(rows, at) {
    const said = this.series.map((each, number) => {
      const found = rows[number].filter((value) => value !== null && value !== undefined);
      return found.length ? `${each.label}: ${this.say(rows[number][at] ?? null)}, highest ${this.say(Math.max(...found))}` : `${each.label}: no data`;
    });
    this.plot.setAttribute("aria-label", `${this.title}. ${said.join("; ")}.`);
  }
}

document.addEventListener("themechange", () => {
  for (const chart of drawn) if (chart.chart) chart.draw();
});
