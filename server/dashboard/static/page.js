// What every page needs: times in the viewer's zone, and questions before what cannot be undone.

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
const styles = {
  short: { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
  long: { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" },
  clock: { hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
};
const units = [[86400, "d"], [3600, "h"], [60, "min"]];

function duration(seconds) {
  for (const [size, name] of units) {
    if (seconds >= size) {
      const value = seconds / size;
      return `${value < 10 && name !== "min" ? value.toFixed(1) : Math.round(value)} ${name}`;
    }
  }
  return `${Math.round(seconds)} s`;
}

function ago(date) {
  const passed = (Date.now() - date) / 1000;
  if (Math.abs(passed) < 10) return "now";
  return passed > 0 ? `${duration(passed)} ago` : `in ${duration(-passed)}`;
}

export function localize(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const date = new Date(element.dateTime);
    if (Number.isNaN(date.getTime())) continue;
    const style = element.dataset.style;
    element.textContent = style === "ago" ? ago(date) : date.toLocaleString("en-US", styles[style] || styles.short);
    if (!element.title) element.title = date.toLocaleString("en-US", { ...styles.long, timeZoneName: "short" });
  }
}

localize(document);
const current = document.querySelector("nav [aria-current]");
if (current) current.parentElement.scrollLeft = current.offsetLeft - current.parentElement.clientWidth / 2;
for (const element of document.querySelectorAll("[data-zone]")) element.textContent = zone;
setInterval(() => {
  for (const element of document.querySelectorAll('time[data-style="ago"]')) {
    const text = ago(new Date(element.dateTime));
    if (text !== element.textContent) element.textContent = text;
  }
}, 5000);
document.addEventListener("htmx:load", (event) => localize(event.detail.elt));
document.addEventListener("htmx:sseMessage", (event) => localize(event.detail?.elt ?? event.target));

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});

// A hidden page holds no connection: browsers open only six to one server.
const sources = new Map();
document.addEventListener("htmx:sseOpen", (event) => sources.set(event.target, event.detail.source));
document.addEventListener("visibilitychange", () => {
  for (const element of document.querySelectorAll("[data-live]")) {
    if (document.hidden) {
      sources.get(element)?.close();
    } else if (sources.get(element)?.readyState === EventSource.CLOSED) {
      const fresh = element.cloneNode(true);
      sources.delete(element);
      element.replaceWith(fresh);
      window.htmx.process(fresh);
    }
  }
});
