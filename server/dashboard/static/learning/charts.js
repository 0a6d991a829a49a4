// Which figures are drawn, and what a chart needs of a run's steps.

const share = (value) => (value == null ? "–" : `${(100 * value).toFixed(1)} %`);
export const plain = (value) => {
  if (value == null) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toPrecision(3)} M`;
  if (size >= 1e4) return `${(value / 1e3).toPrecision(3)} k`;
  if (size !== 0 && size < 1e-3) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
};

// Each chart: its title, its lines [name, label], and how values are written. `environments` adds one line for each.
export const CHARTS = [
  { title: "Success", lines: [["success_rate", "all"]], environments: "success_rate", format: share, range: [0, 1] },
  { title: "Reward", lines: [["mean_reward", "mean"]], environments: "mean_reward", format: plain },
  { title: "Episodes cut by the horizon", lines: [["truncated_share", "share"]], format: share, range: [0, 1] },
  { title: "Turns", lines: [["mean_turns", "turns per episode"], ["horizon", "horizon"]], format: plain, zero: true },
  { title: "Divergence", lines: [["reference_kl", "from the reference"], ["mismatch_kl", "engine and learner"]], format: plain, zero: true },
  { title: "Entropy", lines: [["entropy", "nats"]], format: plain, zero: true },
  { title: "Loss", lines: [["loss", "loss"]], format: plain },
  { title: "Gradient norm", lines: [["grad_norm", "before clipping"]], format: plain, zero: true },
  { title: "Learning rate", lines: [["lr", "rate"]], format: plain, zero: true },
  { title: "Forked turns", lines: [["fork_share", "share"]], format: share, zero: true },
  { title: "Trained tokens", lines: [["trained_tokens", "per step"]], format: plain, zero: true },
  { title: "Speed", lines: [["tokens_per_s", "trained tokens/s"]], format: plain, zero: true },
];

export function smooth(values, width) {
  if (width <= 1) return values;
  return values.map((value, at) => {
    if (value == null) return null;
    const near = values.slice(Math.max(0, at - width + 1), at + 1).filter((one) => one != null);
    return near.reduce((sum, one) => sum + one, 0) / near.length;
  });
}

// The lines of a chart for one run: label and values, without lines that have no value at all.
export function linesOf(chart, steps) {
  const lines = chart.lines.map(([name, label]) => ({
    label,
    values: steps.map((step) => step[name] ?? step.metrics?.[name] ?? null),
  }));
  if (chart.environments) {
    const names = new Set(steps.flatMap((step) => Object.keys(step.environments ?? {})));
    if (names.size > 1) {
      for (const name of [...names].sort().slice(0, 5)) {
        lines.push({ label: name, values: steps.map((step) => step.environments?.[name]?.[chart.environments] ?? null) });
      }
    }
  }
  return lines.filter((line) => line.values.some((value) => value != null));
}

// The metrics of the steps that no chart shows.
export function furtherMetrics(steps) {
  const shown = new Set(CHARTS.flatMap((chart) => chart.lines.map(([name]) => name)));
  const found = new Set(steps.flatMap((step) => Object.keys(step.metrics ?? {})));
  return [...found].filter((name) => !shown.has(name)).sort();
}

// Stages of the horizon: [first, last, horizon] in indexes of the steps.
export function stagesOf(steps) {
  const stages = [];
  steps.forEach((step, at) => {
    const last = stages.at(-1);
    if (last && last[2] === step.horizon) last[1] = at;
    else stages.push([at, at, step.horizon]);
  });
  return stages;
}
