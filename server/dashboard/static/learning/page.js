// The page of learning curves: loads the steps of one run or two, draws the charts, keeps their cursors and zoom together.

import { CHARTS, furtherMetrics, linesOf, plain, smooth, stagesOf } from "./charts.js";
import { saveCsv, savePng } from "./export.js";
import { marksPlugin, palette } from "./marks.js";
import { showStep } from "./step.js";

const REFRESH_MS = 15_000;
const place = document.querySelector("[data-charts]");
const choice = document.querySelector("[data-choice]");
let drawn = [];
let runs = [];
let zooming = false;

async function load(run, first = 0) {
  const answer = await fetch(`${place.dataset.source}?run=${encodeURIComponent(run)}&first=${first}`, { headers: { accept: "application/json" } });
  if (!answer.ok || answer.redirected) throw new Error(`the steps of run ${run} cannot be read (${answer.status}): load the page again`);
  return answer.json();
}

const axis = () => choice.querySelector("[data-axis]").value;
const places = (run) => run.data.map((step) => step[axis()]);

// Two runs share an axis that counts steps; in time they would lie apart, so the second one is moved to the first.
function placesOf(run, first) {
  const own = places(run);
  return axis() === "created_at" && run !== first ? own.map((at) => at - own[0] + places(first)[0]) : own;
}

function chartsNow() {
  const further = choice.querySelector("[data-metric]").value;
  return further ? [{ title: further.replaceAll("_", " "), lines: [[further, further]], format: plain }, ...CHARTS] : CHARTS;
}

function decisionsOf(run) {
  return run.data.flatMap((step) => (step.decisions ?? []).map(({ action }) => ({ at: step[axis()], action })));
}

function optionsOf(chart, series, width, colors) {
  const main = runs[0];
  const at = places(main);
  const stages = stagesOf(main.data).map(([from, to, horizon]) => [at[from], at[Math.min(to + 1, at.length - 1)], horizon]);
  const grid = { stroke: colors.line, width: 1 };
  const ticks = { stroke: colors.line, width: 1, size: 4 };
  const font = "11px system-ui, sans-serif";
  return {
    width,
    height: 210,
    series: [{ label: axis() === "created_at" ? "time" : "step" }, ...series],
    scales: {
      x: { time: axis() === "created_at" },
      y: { range: (u, low, high) => rangeOf(chart, low, high) },
    },
    axes: [
      { stroke: colors.text, grid, ticks, font, space: 60 },
      { stroke: colors.text, grid, ticks, font, size: 56, values: (u, values) => values.map(chart.format) },
    ],
    cursor: { sync: { key: "learning" }, drag: { x: true, y: false, uni: 8 }, points: { size: 7 } },
    legend: { live: true },
    plugins: [marksPlugin(stages, decisionsOf(main), colors)],
    hooks: {
      setScale: [(u, key) => key === "x" && zoomAll(u)],
      ready: [(u) => u.over.addEventListener("click", () => pick(u))],
    },
  };
}

function rangeOf(chart, low, high) {
  if (chart.range) return chart.range;
  if (low == null) return [0, 1];
  if (chart.zero) return [Math.min(0, low), high > 0 ? high * 1.08 : 1];
  const rim = (high - low || Math.abs(high) || 1) * 0.08;
  return [low - rim, high + rim];
}

function zoomAll(source) {
  if (zooming) return;
  zooming = true;
  const { min, max } = source.scales.x;
  for (const { u } of drawn) if (u !== source) u.setScale("x", { min, max });
  zooming = false;
}

function pick(u) {
  if (u.cursor.idx == null || u.select.width > 0) return;
  const at = u.data[0][u.cursor.idx];
  const steps = runs.map((run) => [run, run.data[placesOf(run, runs[0]).indexOf(at)]]).filter(([, step]) => step);
  if (steps.length) showStep(document.querySelector("[data-step]"), steps, place.dataset.ui);
}

function seriesOf(line, number, other, points, format, colors) {
  const tone = colors.series[number % colors.series.length];
  return {
    label: line.label, stroke: tone, tone, width: other ? 1.5 : 2, dash: other ? [6, 4] : undefined, spanGaps: true,
    points: { show: points, size: 5, fill: tone }, value: (u, value) => format(value),
  };
}

function draw() {
  const colors = palette();
  const width = Number(choice.querySelector("[data-smooth]").value);
  for (const { u } of drawn) u.destroy();
  drawn = [];
  place.replaceChildren();
  const waiting = [];
  for (const chart of chartsNow()) {
    const tables = [];
    const series = [];
    runs.forEach((run, other) => {
      const lines = linesOf(chart, run.data);
      tables.push([placesOf(run, runs[0]), ...lines.map((line) => smooth(line.values, width))]);
      lines.forEach((line, number) => {
        const label = runs.length > 1 ? `${line.label} (${other ? "other" : "run"})` : line.label;
        series.push(seriesOf({ label }, number + (other ? 3 : 0), other, run.data.length < 15, chart.format, colors));
      });
    });
    if (!series.length) continue;
    const [card, plot, buttons] = cardOf(chart.title);
    place.append(card);
    waiting.push({ chart, series, plot, buttons, data: tables.length > 1 ? uPlot.join(tables) : tables[0] });
  }
  // Only now is the width of each place known.
  for (const { chart, series, plot, buttons, data } of waiting) {
    const u = new uPlot(optionsOf(chart, series, plot.clientWidth, colors), data, plot);
    drawn.push({ u, plot });
    buttons[0].addEventListener("click", () => savePng(u, chart.title, runs[0].run_id, palette()));
    buttons[1].addEventListener("click", () => saveCsv(u, chart.title, runs[0].run_id, axis()));
  }
  if (!drawn.length) place.append(said("This run has no finished learner step yet."));
}

function said(text) {
  const paragraph = document.createElement("p");
  paragraph.className = "muted";
  paragraph.textContent = text;
  return paragraph;
}

function cardOf(title) {
  const card = document.createElement("section");
  card.className = "card chart";
  card.setAttribute("aria-label", title);
  const head = document.createElement("div");
  head.className = "head";
  const name = document.createElement("h3");
  name.textContent = title;
  head.append(name);
  const buttons = ["PNG", "CSV"].map((text) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet";
    button.textContent = text;
    button.setAttribute("aria-label", `Save ${title} as ${text}`);
    head.append(button);
    return button;
  });
  const plot = document.createElement("div");
  plot.className = "plot";
  card.append(head, plot);
  return [card, plot, buttons];
}

function offerMetrics() {
  const select = choice.querySelector("[data-metric]");
  const known = new Set([...select.options].map((option) => option.value));
  for (const name of furtherMetrics(runs[0].data)) if (!known.has(name)) select.append(new Option(name.replaceAll("_", " "), name));
}

// Loads the steps that have come since; all of them once a run has ended, since its versions are judged then.
async function fresher(run) {
  const more = await load(run.run_id, (run.data.at(-1)?.step ?? -1) + 1);
  if (more.state !== run.state) return load(run.run_id);
  return { ...more, data: [...run.data, ...more.data] };
}

async function refresh() {
  if (document.hidden || runs.every((run) => !["running", "queued"].includes(run.state))) return;
  const before = runs;
  runs = await Promise.all(runs.map(fresher));
  const same = runs.every((run, number) => run.data.length === before[number].data.length && run.state === before[number].state);
  const first = drawn[0]?.u;
  const zoomed = first && (first.scales.x.min > first.data[0][0] || first.scales.x.max < first.data[0].at(-1));
  if (!same && !zoomed) draw();
}

async function begin() {
  const wanted = [place.dataset.run, place.dataset.against].filter(Boolean);
  try {
    runs = await Promise.all(wanted.map((run) => load(run)));
  } catch (error) {
    place.replaceChildren(said(String(error.message ?? error)));
    return;
  }
  if (runs[0].first_step === 0) choice.querySelector('[data-axis] option[value="global_step"]').remove();
  offerMetrics();
  draw();
  place.dataset.ready = "true";
  for (const name of ["smooth", "axis", "metric"]) choice.querySelector(`[data-${name}]`).addEventListener("change", draw);
  for (const name of ["run", "against"]) choice.elements[name].addEventListener("change", () => choice.submit());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  let width = place.clientWidth;
  new ResizeObserver(() => {
    if (place.clientWidth === width) return;
    width = place.clientWidth;
    for (const { u, plot } of drawn) u.setSize({ width: plot.clientWidth, height: 210 });
  }).observe(place);
  setInterval(() => refresh().catch(() => {}), REFRESH_MS);
}

if (place) begin();
