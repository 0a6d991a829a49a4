// The figures of one learner step, its version, what was decided about it, and the way to its episodes.

import { plain } from "./charts.js";

const FIGURES = [
  ["success_rate", "success", (value) => `${(100 * value).toFixed(1)} %`], ["mean_reward", "reward", plain], ["horizon", "horizon", plain],
  ["episodes", "episodes", plain], ["truncated_share", "truncated", (value) => `${(100 * value).toFixed(0)} %`],
  ["entropy", "entropy", plain], ["mismatch_kl", "mismatch", plain], ["loss", "loss", plain],
];

function element(tag, text, properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  if (text != null) made.textContent = text;
  return made;
}

export function showStep(place, steps, ui) {
  place.replaceChildren();
  for (const [run, step] of steps) {
    const head = element("div", null, { className: "head" });
    head.append(element("h2", `Step ${step.step}`), element("span", run.run_id, { className: "muted mono grow" }));
    const query = `run=${encodeURIComponent(run.run_id)}&step=${step.step}`;
    head.append(element("a", "Episodes behind it", { className: "button", href: `${ui}episodes?${query}` }));
    if (step.policy_version != null) {
      head.append(element("a", `Version @${step.policy_version}`, { className: "button", href: `${ui}versions/${step.policy_version}` }));
      head.append(element("a", "Who was served by it", { className: "button", href: `${ui}episodes?version=${step.policy_version}&live=true` }));
    }
    const list = element("dl", null, { className: "figures" });
    for (const [name, label, format] of FIGURES) {
      if (step[name] == null) continue;
      const figure = element("div", null, { className: "figure" });
      figure.append(element("dt", label), element("dd", format(step[name])));
      list.append(figure);
    }
    place.append(head, list);
    if (step.nothing_to_learn) place.append(element("p", `It trained nothing: ${step.nothing_to_learn}`, { className: "muted" }));
    for (const decision of step.decisions ?? []) {
      const line = element("p", null, { className: "wrap" });
      line.append(element("span", decision.action, { className: `state ${decision.action}` }), " ");
      line.append(element("a", decision.reason, { href: `${ui}decisions/${decision.id}` }));
      place.append(line);
    }
  }
}
