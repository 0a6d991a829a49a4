// Runs in every page before the page's own scripts: a clock that stands still between actions, and `webView`, which
// turns the page into text and finds the elements of actions. Used by tab.py.
(() => {
  "use strict";
  const NAME_CHARS = 200, VALUE_CHARS = 2000, TEXT_CHARS = 3000, OPTIONS = 30;

  // ---- The clock: only `advance` passes time, so timers and animations are reproducible.
  const RealDate = Date, start = RealDate.UTC(2024, 0, 15, 12);
  let now = 0, timerId = 0;
  const timers = new Map();
  const schedule = (due, callback, every, args) => {
    timers.set(++timerId, {due, callback, every, args});
    return timerId;
  };
  const later = (repeats) => (callback, delay, ...args) => {
    const ms = Math.max(repeats ? 4 : 0, Number(delay) || 0);
    return typeof callback === "function" ? schedule(now + ms, callback, repeats ? ms : null, args) : 0;
  };
  const cancel = (id) => { timers.delete(id); };
  window.setTimeout = later(false);
  window.setInterval = later(true);
  window.requestAnimationFrame = (callback) => schedule(now + 16, () => callback(now), null, []);
  window.clearTimeout = window.clearInterval = window.cancelAnimationFrame = cancel;
  performance.now = () => now;
  window.Date = class Date extends RealDate {
    constructor(...args) { args.length ? super(...args) : super(start + now); }
    static now() { return start + now; }
  };
  const advance = (ms) => {
    const end = now + ms;
    for (let calls = 0; calls < 20000; calls++) {
      let next = null;
      for (const [id, timer] of timers) {
        if (timer.due <= end && (next === null || timer.due < timers.get(next).due)) next = id;
      }
      if (next === null) break;
      const timer = timers.get(next);
      now = Math.max(now, timer.due);
      if (timer.every === null) timers.delete(next); else timer.due = now + timer.every;
      try { timer.callback.apply(window, timer.args); } catch (error) { console.error(error); }
    }
    now = end;
  };

  // ---- Pages open no windows, and report when they are about to be left.
  window.open = () => null;
  let leaving = false;
  window.navigation?.addEventListener("navigate", (event) => { leaving ||= !event.hashChange; });
  window.addEventListener("submit", (event) => { leaving ||= !event.defaultPrevented; });

  // ---- Elements that can be acted on: controls, and elements that listen to the mouse.
  const heard = new WeakSet(), clicked = new WeakSet(), MOUSE = new Set(["click", "mousedown", "mouseup", "dblclick", "pointerdown"]);
  const listen = EventTarget.prototype.addEventListener;
  EventTarget.prototype.addEventListener = function (type, ...rest) {
    if (MOUSE.has(type) && this instanceof Element) heard.add(this);
    if (type === "click" && this instanceof Element) clicked.add(this);
    return listen.call(this, type, ...rest);
  };
  const ROLES = new Set(["button", "link", "checkbox", "radio", "tab", "menuitem", "option", "switch", "slider",
    "spinbutton", "combobox", "textbox", "searchbox", "treeitem", "menuitemcheckbox", "menuitemradio"]);
  const BUTTONS = new Set(["button", "submit", "reset", "image"]);
  const VALUES = new Set(["date", "time", "month", "week", "datetime-local", "color", "range"]);
  const kindOf = (element, style) => {
    const tag = element.localName, role = element.getAttribute("role");
    if (tag === "input") {
      const type = element.type;
      if (type === "hidden") return null;
      if (BUTTONS.has(type)) return "button";
      if (type === "checkbox" || type === "radio") return type;
      return {number: "spinbutton", range: "slider"}[type] ?? (VALUES.has(type) ? type : "textbox");
    }
    if (tag === "textarea") return "textarea";
    if (element.isContentEditable && !element.parentElement?.isContentEditable) return "textbox";
    if (tag === "select") return element.multiple || element.size > 1 ? "listbox" : "combobox";
    if (role !== null && ROLES.has(role)) return role;
    if (tag === "button" || tag === "summary") return "button";
    if (tag === "a" && (element.hasAttribute("href") || heard.has(element) || element.onclick)) return "link";
    if (tag === "body" || tag === "html" || element.id === "area" || tag === "form" || tag === "label") return null;
    const points = style.cursor === "pointer" && getComputedStyle(element.parentElement).cursor !== "pointer";
    if (heard.has(element) || element.onclick || element.onmousedown || points || element.tabIndex > -1) {
      return element instanceof SVGElement ? tag : "clickable";
    }
    return null;
  };

  // ---- Names and states.
  const plain = (text) => text.replace(/\s+/g, " ").trim();
  const SPACE = "\u0001";
  const exactly = (value) => cut(value, VALUE_CHARS).replaceAll("\n", "\\n").replaceAll(" ", SPACE);
  const cut = (text, chars) => text.length > chars ? text.slice(0, chars) + "…" : text;
  const box = (element) => element.getBoundingClientRect();
  const words = (name) => plain(name.replace(/[-_]+/g, " "));
  const drawn = (element) => {
    const {width, height} = box(element);
    return `${element.getAttribute("fill") ?? element.style.fill ?? ""} ${Math.round(width)}x${Math.round(height)}`;
  };
  const labelText = (label) => {
    const copy = label.cloneNode(true);
    for (const control of copy.querySelectorAll("select, textarea, button")) control.remove();
    return copy.textContent;
  };
  const nameOf = (element, kind) => {
    const labelled = (element.getAttribute("aria-labelledby") ?? "").split(/\s+/).filter(Boolean)
      .map((id) => document.getElementById(id)?.textContent ?? "").join(" ");
    const labels = element.labels ? [...element.labels].map(labelText).join(" ") : "";
    const written = kind === "button" && element.localName === "input" ? element.value || element.type : "";
    const text = ["select", "textarea", "input"].includes(element.localName) ? "" : element.textContent;
    const found = [labelled, element.getAttribute("aria-label") ?? "", written, labels, text,
      element.querySelector?.("img[alt]")?.alt ?? "", element.getAttribute("placeholder") ?? "",
      element.getAttribute("title") ?? "", element.getAttribute("alt") ?? ""].map(plain).find((name) => name !== "");
    if (element instanceof SVGElement) return plain(`${found ?? ""} ${drawn(element)}`);
    if (found !== undefined) return found;
    return plain(`${words(element.classList[0] ?? element.getAttribute("name") ?? element.id ?? "")} `
      + element.style.backgroundColor);
  };
  const FORMATS = {date: "YYYY-MM-DD", time: "HH:MM", month: "YYYY-MM", week: "YYYY-Www", color: "#rrggbb"};
  const chosen = (select) => [...select.selectedOptions].map((option) => `'${plain(option.label)}'`).join(", ");
  const stateOf = (element, kind) => {
    const states = [];
    if (kind === "combobox" && element.localName === "select" || kind === "listbox") {
      const all = [...element.options].map((option) => `'${plain(option.label)}'`);
      const more = all.length > OPTIONS ? `, … (${all.length} in all)` : "";
      states.push(`value: ${chosen(element) || "none"}`, `options: ${all.slice(0, OPTIONS).join(", ")}${more}`);
    } else if (element.localName === "input" && !BUTTONS.has(element.type)) {
      if (kind === "checkbox" || kind === "radio") { if (element.checked) states.push("checked"); }
      else if (element.value !== "") states.push(`value: '${exactly(element.value)}'`);
    } else if (element.localName === "textarea" && element.value !== "") {
      states.push(`value: '${exactly(element.value)}'`);
    }
    for (const name of ["checked", "selected", "expanded", "pressed"]) {
      const value = element.getAttribute(`aria-${name}`);
      if (value === "true" || (value === "false" && name === "expanded")) states.push(`${name}: ${value}`);
    }
    if (FORMATS[kind]) states.push(`format: ${FORMATS[kind]}`);
    if (element.disabled || element.getAttribute("aria-disabled") === "true") states.push("disabled");
    if (element.readOnly) states.push("read only");
    if (document.activeElement === element) states.push("focused");
    return states;
  };

  // ---- The page as lines. An element keeps its number for the lifetime of its document.
  const numbers = new WeakMap(), elements = [];
  const numberOf = (element) => {
    if (!numbers.has(element)) numbers.set(element, elements.push(element));
    return numbers.get(element);
  };
  const CONTROLS = new Set(["textbox", "textarea", "combobox", "listbox", "checkbox", "radio", "spinbutton", "slider", ...VALUES]);
  const SKIPPED = new Set(["script", "style", "noscript", "template", "head", "option", "canvas", "title"]);
  const labelsOther = (label) => {
    const control = label.control;
    return control && box(control).width > 0 && !label.querySelector("a, button");
  };
  const LEAVES = new Set(["link", "button", "option"]);
  const inside = (element) => [...element.querySelectorAll("*")].filter((child) =>
    kindOf(child, getComputedStyle(child)) !== null);
  // Whether an element around controls is a control itself: it listens to clicks and has text outside of them.
  const speaks = (element, inner) => {
    const outer = inner.filter((one) => !inner.some((other) => other !== one && other.contains(one)));
    const theirs = outer.reduce((chars, one) => chars + plain(one.textContent).length, 0);
    return (clicked.has(element) || element.onclick) && plain(element.textContent).length > theirs + outer.length;
  };
  const observe = (skip) => {
    const lines = [], targets = [];
    let line = [];
    const flush = () => {
      const text = plain(line.join("").replace(/\0/g, " | ")).replace(/(\| )+(?=\|)/g, "").replace(/^\| | \|$/g, "");
      if (text !== "" && text !== "|") lines.push(text.replaceAll(SPACE, " "));
      line = [];
    };
    const put = (text) => line.push(" ", text, " ");
    const walk = (node) => {
      if (node.nodeType === Node.TEXT_NODE) {
        line.push(cut(node.data, TEXT_CHARS));
        return;
      }
      if (node.nodeType !== Node.ELEMENT_NODE || SKIPPED.has(node.localName) || (skip && node.matches(skip))) return;
      if (node.localName === "br") return flush();
      const style = getComputedStyle(node);
      if (style.display === "none" || style.visibility === "collapse") return;
      const inline = style.display.startsWith("inline") || style.display === "contents" || node instanceof SVGElement;
      const hidden = style.visibility === "hidden" || (style.opacity === "0" && !node.matches("input, textarea"));
      const cell = style.display === "table-cell";
      if (cell) line.push("\0"); else if (!inline) flush();
      const {width, height} = box(node);
      const small = node instanceof SVGElement ? width < 3 || height < 3 : width === 0 && height === 0;
      const kind = hidden || (small && node.localName !== "a") ? null : kindOf(node, style);
      const inner = kind === null || CONTROLS.has(kind) || LEAVES.has(kind) ? [] : inside(node);
      const name = kind === null ? "" : nameOf(node, kind);
      const within = inner.length > 0 || (kind === "clickable" && name.length > NAME_CHARS / 2);
      if (kind !== null && (inner.length === 0 || speaks(node, inner))) {
        const number = numberOf(node);
        const state = stateOf(node, kind).join(" ");
        const target = {id: number, kind, name, state: state.replaceAll(SPACE, " ")};
        if (node.localName === "select") target.options = [...node.options].map((option) => plain(option.label));
        targets.push(target);
        put([`[${number}] ${kind}`, within ? "" : `'${cut(name, NAME_CHARS)}'`, state].filter(Boolean).join(" "));
        if (!within) { if (!inline && !cell) flush(); return; }
      }
      if (node.localName === "label" && labelsOther(node)) {
        for (const child of node.querySelectorAll("input, select, textarea")) walk(child);
      } else if (node.localName === "img") {
        if (node.alt) put(`image '${plain(node.alt)}'`);
      } else if (hidden && style.visibility === "hidden") {
        for (const child of node.children) if (getComputedStyle(child).visibility === "visible") walk(child);
      } else if (!hidden && !(style.overflow === "hidden" && (width === 0 || height === 0))) {
        if (/^h[1-6]$/.test(node.localName)) line.push("heading: ");
        for (const child of node.childNodes) walk(child);
      }
      if (!inline && !cell) flush();
    };
    walk(document.body);
    flush();
    return {lines, targets, title: document.title};
  };

  // Images that a style sheet shows in place of an element, including those of `:hover`: an image that loads only once
  // the mouse is over its element has no size until then, so a click would hit the element behind it.
  const shown = (rules) => [...rules].flatMap((rule) => [
    ...(rule.style?.content ?? "").matchAll(/url\("(.*?)"\)/g).map((found) => [rule.parentStyleSheet.href, found[1]]),
    ...shown(rule.cssRules ?? [])]);
  let pictures = null;
  const loadPictures = () => [...document.styleSheets].flatMap((sheet) => shown(sheet.cssRules)).map(([base, url]) => {
    const picture = new Image();
    picture.src = new URL(url, base ?? document.baseURI);
    return picture;
  });

  // Advances the clock, waits for pending loads, and reads the page; null if the page is about to be left.
  const read = async (skip, ms) => {
    if (document.readyState !== "complete") await new Promise((done) => { listen.call(window, "load", done); });
    if (!leaving) advance(ms);
    pictures ??= loadPictures();
    const coming = leaving ? [] : [...document.images, ...pictures].filter((image) => !image.complete);
    await Promise.all(coming.map((image) => new Promise((done) => {
      for (const type of ["load", "error"]) listen.call(image, type, done);
    })));
    return leaving ? null : observe(skip);
  };

  // ---- The element of an action.
  const show = (element) => element.scrollIntoView({block: "center", inline: "center", behavior: "instant"});
  const target = (number) => {
    const element = elements[number - 1];
    if (!element?.isConnected) return {problem: "gone"};
    const style = getComputedStyle(element), kind = kindOf(element, style) ?? "clickable";
    if (element.disabled) return {problem: "disabled"};
    show(element);
    const free = [...element.getClientRects()].filter(({width, height}) => width > 0 && height > 0);
    if (free.length === 0 || style.visibility === "hidden") return {problem: "hidden"};
    let over = null;
    for (const {left, top, width, height} of free) {
      for (const [right, down] of [[.5, .5], [.25, .5], [.75, .5], [.5, .2], [.5, .8], [.1, .1], [.9, .9]]) {
        const x = left + width * right, y = top + height * down, hit = document.elementFromPoint(x, y);
        if (hit !== null && (element.contains(hit) || hit.closest("label")?.control === element)) {
          return {x, y, kind, special: element.localName === "input" && VALUES.has(element.type),
            native: element.localName === "select"};
        }
        over ??= hit;
      }
    }
    return {problem: "covered", by: over === null ? "" : cut(nameOf(over, ""), 40)};
  };
  const changed = (element) => {
    for (const type of ["input", "change"]) element.dispatchEvent(new Event(type, {bubbles: true}));
  };
  const setValue = (number, value) => {
    const element = elements[number - 1];
    element.focus();
    element.value = value;
    changed(element);
    return element.value !== "" || value === "";
  };
  const marked = (number) => {
    const element = elements[number - 1];
    if (document.activeElement !== element) element.focus();
    if (element.readOnly) return false;
    if (element.select) element.select(); else document.getSelection().selectAllChildren(element);
    return true;
  };
  const choose = (number, wanted) => {
    const element = elements[number - 1];
    if (!element?.isConnected) return {problem: "gone"};
    if (element.localName !== "select") return {problem: "no list"};
    if (element.disabled) return {problem: "disabled"};
    const same = (option, exact) => exact ? plain(option.label) === wanted || option.value === wanted
      : plain(option.label).toLowerCase() === wanted.toLowerCase();
    const options = [...element.options];
    const option = options.find((one) => same(one, true)) ?? options.find((one) => same(one, false));
    if (option === undefined) return {problem: "no option"};
    show(element);
    element.focus();
    if (element.multiple) option.selected = !option.selected; else element.value = option.value, option.selected = true;
    changed(element);
    return {};
  };
  const scroll = (down) => {
    const all = [document.scrollingElement, ...document.querySelectorAll("body *")];
    for (const element of all) {
      const overflow = element === document.scrollingElement ? "auto" : getComputedStyle(element).overflowY;
      const room = element.scrollHeight - element.clientHeight;
      if (room <= 1 || !/auto|scroll/.test(overflow) || element.clientHeight === 0) continue;
      const before = element.scrollTop;
      element.scrollTo({top: before + (down ? 1 : -1) * element.clientHeight * .8, behavior: "instant"});
      if (element.scrollTop !== before) {
        element.dispatchEvent(new Event("scroll", {bubbles: element === document.scrollingElement}));
        return true;
      }
    }
    return false;
  };

  const focus = (number) => {
    const element = elements[number - 1];
    if (document.activeElement !== element) element.focus();
  };
  const view = {read, target, focus, setValue, marked, choose, scroll};
  Object.defineProperty(window, "webView", {value: Object.freeze(view)});
})();
