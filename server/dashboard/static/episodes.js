// Keys and pointers on episodes' pages. Everything works without this script, only less conveniently.

const turns = [...document.querySelectorAll("[data-turn]")];

/** Return whether keys are being typed into something. */
function isTyping(event) {
  return event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, [contenteditable]");
}

/** Return the place of the turn that the reader is at. */
function here() {
  const focused = turns.findIndex((turn) => turn.contains(document.activeElement));
  if (focused >= 0) return focused;
  const begun = turns.filter((turn) => turn.getBoundingClientRect().top < 80);
  return begun.length - 1;
}

function go(to) {
  const turn = turns[Math.max(0, Math.min(turns.length - 1, to))];
  if (!turn) return;
  turn.focus({preventScroll: true});
  turn.scrollIntoView({block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth"});
}

document.addEventListener("keydown", (event) => {
  if (isTyping(event)) return;
  if (event.key === "j") go(here() + 1);
  else if (event.key === "k") go(here() - 1);
  else document.querySelector(`button[data-key="${CSS.escape(event.key)}"]`)?.click();
});

for (const area of document.querySelectorAll("textarea[data-enter]")) {
  area.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || !area.value.trim()) return;
    event.preventDefault();
    area.form.requestSubmit(area.form.querySelector("button.main"));
  });
}

// The value of the token under the pointer, in the legend, which stays in sight.
const readout = document.querySelector("[data-readout]");
if (readout) {
  const show = (event) => {
    const token = event.target.closest?.(".tokens .tk");
    if (token) readout.textContent = `${JSON.stringify(token.textContent)}: ${token.title}`;
  };
  document.addEventListener("pointerover", show);
  document.addEventListener("pointerdown", show);
}
