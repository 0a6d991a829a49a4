"""Solvers for the simpler pages of MiniWoB++, which derive the next action from the task and the page's text.

Each solver gets the current page (`Look`) and returns one action, so it continues from any state.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from env_adapters.browser.actions import Action
from env_adapters.browser.view import Target, View


@dataclass(frozen=True, slots=True)
class Look:
    """What a solver knows: the task, the page, and the actions so far."""

    goal: str
    view: View
    done: list[Action]

    @property
    def quoted(self) -> list[str]:
        """The quoted parts of the task."""
        return re.findall(r'"([^"]+)"', self.goal)

    def all(self, *kinds: str) -> list[Target]:
        """Return all elements of some kinds, in the page's order."""
        return [target for target in self.view.targets if target.kind in kinds]

    def named(self, name: str, *kinds: str) -> Target | None:
        """Return the first element with this name, of some kinds or of any."""
        fit = [target for target in self.view.targets if not kinds or target.kind in kinds]
        exact = [target for target in fit if target.name == name]
        return next(iter(exact or [target for target in fit if target.name.lower() == name.lower()]), None)

    def click(self, name: str, *kinds: str) -> Action:
        """Return a click on the element with this name."""
        found = self.named(name, *kinds)
        if found is None:
            raise NotImplementedError(f"nothing on the page is called {name!r}")
        return Action("click", found.id)

    def clicked(self, target: Target) -> bool:
        """Return whether an element has been clicked."""
        return any(action.kind == "click" and action.id == target.id for action in self.done)


TEXT = ("textbox", "textarea", "spinbutton", "date", "time")
ORDINALS = {"1st": 0, "2nd": 1, "3rd": 2}


def _fill(look: Look, values: list[str], submit: str) -> Action:
    """Type values into the text fields in order, then click a button."""
    for field, value in zip(look.all(*TEXT), values, strict=False):
        if field.state.removesuffix(" focused").split(" format")[0] != f"value: '{value}'":
            return Action("type", field.id, value)
    return look.click(submit)


def _click_quoted(look: Look) -> Action:
    name = look.quoted[0]
    return look.click("Close" if name == "x" else name)


def _click_one(look: Look) -> Action:
    return look.click("ONE") if look.named("ONE") else Action("click", look.all("button")[0].id)


def _one_two(look: Look) -> Action:
    one = look.named("ONE")
    return look.click("TWO" if one is not None and look.clicked(one) else "ONE")


def _check(look: Look) -> Action:
    wanted = re.fullmatch(r"Select (.*) and click Submit\.?", look.goal)
    names = [] if wanted is None or wanted[1] == "nothing" else wanted[1].split(", ")
    for box in look.all("checkbox", "radio"):
        if (box.name in names) != ("checked" in box.state):
            return Action("click", box.id)
    return look.click("Submit")


def _color(look: Look) -> Action:
    wanted = look.goal.removeprefix("Click on the ").removesuffix(" colored box.")
    return look.click(f"color {wanted}")


def _tab(look: Look) -> Action:
    return look.click(look.goal.removeprefix("Click on ").removesuffix("."))


def _behind_tabs(look: Look) -> Action:
    if (found := look.named(look.quoted[0], "clickable", "link")) is not None:
        return Action("click", found.id)
    return next(Action("click", tab.id) for tab in look.all("link", "tab") if not look.clicked(tab))


def _collapsible(look: Look) -> Action:
    section = look.all("tab")[0]
    return look.click("Submit") if "expanded: true" in section.state else Action("click", section.id)


def _menu(look: Look) -> Action:
    path = look.goal.removeprefix("Select ").split(">")
    if (last := look.named(path[-1])) is not None:
        return Action("click", last.id)
    return next(Action("hover", found.id) for name in reversed(path) if (found := look.named(name)) is not None)


def _list(look: Look) -> Action:
    found = re.search(r"Select (.*) from the (?:scroll )?list", look.goal)
    shown = look.all("combobox", "listbox")[0]
    names = found[1].split(", ") if found else []
    chosen = re.findall(r"'(.*?)'", shown.state.split(" options: ")[0])
    for name in names if shown.kind == "listbox" else names[:1]:
        if name not in chosen:
            return Action("select", shown.id, name)
    return look.click("Submit")


def _widget(look: Look) -> Action:
    kind = {"text": "textbox"}.get(look.quoted[0], look.quoted[0])
    return Action("click", look.all(kind)[0].id)


def _enter(look: Look) -> Action:
    text = look.quoted[0]
    text = text.lower() if "lower case" in look.goal else text.upper() if "upper case" in look.goal else text
    return _fill(look, [text, text] if "both" in look.goal else [text], "Submit")


def _login(look: Look) -> Action:
    return _fill(look, look.quoted, "Login")


def _date(look: Look) -> Action:
    month, day, year = re.findall(r"\d+", look.goal)
    return _fill(look, [f"{year}-{month}-{day}"], "Submit")


def _time(look: Look) -> Action:
    hour, minute, half = re.findall(r"(\d+):(\d+) ([AP])M", look.goal)[0]
    return _fill(look, [f"{int(hour) % 12 + (12 if half == 'P' else 0):02}:{minute}"], "Submit")


def _same_text(look: Look) -> Action:
    return _fill(look, [look.view.lines[0]], "Submit")


def _copy(look: Look) -> Action:
    number = next((ORDINALS[word] for word in look.goal.split() if word in ORDINALS), 0)
    text = look.all("textarea")[number].state.removeprefix("value: '").removesuffix(" focused").removesuffix("'")
    answer = look.all("textbox")[0]
    return look.click("Submit") if f"value: '{text}'" in answer.state else Action("type", answer.id, text)


def _arithmetic(look: Look) -> Action:
    line = next(line for line in look.view.lines if re.match(r"[\dx-]+ [+x/*-] ", line))
    left, sign, right = line.split()[:3]
    if "x =" not in " ".join(look.view.lines):
        return _fill(look, [str(_result(int(left), sign, int(right)))], "Submit")
    total = int(line.split()[4])
    if left == "x":
        return _fill(look, [str(total - int(right) if sign == "+" else total + int(right))], "Submit")
    return _fill(look, [str(total - int(left) if sign == "+" else int(left) - total)], "Submit")


def _result(left: int, sign: str, right: int) -> int:
    return left + right if sign == "+" else left - right if sign == "-" else left * right


def _word(look: Look) -> Action:
    number = int(re.findall(r"\d+", look.goal)[0])
    return _fill(look, [look.view.lines[0].split()[number - 1].strip(".,")], "Submit")


def _table(look: Look) -> Action:
    rows = dict(line.split(" | ") for line in look.view.lines if line.count(" | ") == 1)
    found = re.search(r"value of (.*) into", look.goal)
    asked = [line.rstrip(":") for line in look.view.lines if line.endswith(":")]
    return _fill(look, [rows[name] for name in ([found[1]] if found else asked)], "Submit")


def _focus(look: Look) -> Action:
    number = next((ORDINALS[word] for word in look.goal.split() if word in ORDINALS), 0)
    return Action("click", look.all("textbox")[number].id)


def _ascending(look: Look) -> Action:
    numbers = sorted(look.all("text"), key=lambda target: int(target.name.split()[0]))
    return next(Action("click", target.id) for target in numbers or look.all("rect") if not look.clicked(target))


def _odd_even(look: Look) -> Action:
    numbers = [int(line) for line in look.view.lines if re.fullmatch(r"-?\d+", line)]
    for number, at in zip(numbers, range(0, 2 * len(numbers), 2), strict=True):
        button = look.all("button")[at + (number % 2 == 0)]
        if not look.clicked(button):
            return Action("click", button.id)
    return look.click("Submit")


def _ticket(look: Look) -> Action:
    minutes = [int(hours) * 60 + int(rest) for hours, rest in re.findall(r"(\d+)h (\d+)m", " ".join(look.view.lines))]
    buttons = look.all("button")
    costs = [int(re.findall(r"\d+", button.name)[0]) for button in buttons]
    values = minutes if "duration" in look.goal else costs
    best = max(values) if re.search("longest|most expensive", look.goal) else min(values)
    return Action("click", buttons[values.index(best)].id)


def _mail(look: Look) -> Action:
    """Delete, star, forward or answer an email."""
    by = re.findall(r"email by (\w+)", look.goal)[0]
    if (box := next(iter(look.all("textbox", "textarea")), None)) is not None:
        wanted = re.findall(r"to (\w+)\.$", look.goal) if "forward" in look.goal else look.quoted
        if f"value: '{wanted[0]}'" not in box.state:
            return Action("type", box.id, wanted[0])
        return look.click("send forward" if "forward" in look.goal else "send reply")
    if (answer := look.named("Forward" if "forward" in look.goal else "Reply")) is not None:
        return Action("click", answer.id)
    at = next(number for number, line in enumerate(look.view.lines) if line == by)
    before = [int(number) for line in look.view.lines[:at] for number in re.findall(r"^\[(\d+)\]", line)]
    email, trash, star = before[-1], before[-1] + 1, before[-1] + 2
    return Action("click", trash if "delete" in look.goal else star if "star" in look.goal else email)


def _social(look: Look) -> Action:
    """Click one button on all or some posts of a user."""
    button, user = look.quoted[0].lower(), re.findall(r"by (@\w+)", look.goal)[0]
    lines = look.view.lines
    numbers = [
        int(number)
        for at, line in enumerate(lines)
        if line.endswith(user)
        for number in re.findall(rf"\[(\d+)\] clickable '{button}\b", lines[at + 2])
    ]
    some = re.search(r"on (\d+) posts?", look.goal)
    left = [
        number
        for number in numbers[: int(some[1]) if some else None]
        if not any(action.id == number for action in look.done)
    ]
    return Action("click", left[0]) if left else look.click("Submit")


def _terminal(look: Look) -> Action:
    field = look.all("textbox")[0].id
    files = [name for line in look.view.lines for name in line.split() if re.fullmatch(r"[\w.]+", name)]
    if not any(action.text == "ls" for action in look.done):
        return Action("type", field, "ls", enter=True)
    ending = (re.findall(r"extension \.(\S+)$", look.goal) or [""])[0]
    fit = (
        name
        for name in files[files.index("ls") + 1 :]
        if (name.find(ending) == len(name) - len(ending) if ending else "." not in name)
    )  # The page's own rule.
    return Action("type", field, f"rm {next(fit)}", enter=True)


SOLVERS: dict[str, Callable[[Look], Action]] = {
    "ascending-numbers": _ascending,
    "buy-ticket": _ticket,
    "choose-list": _list,
    "click-button": _click_quoted,
    "click-button-sequence": _one_two,
    "click-checkboxes": _check,
    "click-checkboxes-large": _check,
    "click-checkboxes-transfer": _check,
    "click-collapsible": _collapsible,
    "click-collapsible-2": _behind_tabs,
    "click-collapsible-2-nodelay": _behind_tabs,
    "click-collapsible-nodelay": _collapsible,
    "click-color": _color,
    "click-dialog": _click_quoted,
    "click-dialog-2": _click_quoted,
    "click-link": _click_quoted,
    "click-menu": _menu,
    "click-option": _check,
    "click-scroll-list": _list,
    "click-tab": _tab,
    "click-tab-2": _behind_tabs,
    "click-tab-2-easy": _behind_tabs,
    "click-tab-2-hard": _behind_tabs,
    "click-tab-2-medium": _behind_tabs,
    "click-test": _click_one,
    "click-test-2": _click_one,
    "click-test-transfer": _click_one,
    "click-widget": _widget,
    "copy-paste": _copy,
    "copy-paste-2": _copy,
    "email-inbox-delete": _mail,
    "email-inbox-forward": _mail,
    "email-inbox-important": _mail,
    "email-inbox-reply": _mail,
    "enter-date": _date,
    "enter-password": _enter,
    "enter-text": _enter,
    "enter-text-2": _enter,
    "enter-text-dynamic": _enter,
    "enter-time": _time,
    "find-word": _word,
    "focus-text": _focus,
    "focus-text-2": _focus,
    "login-user": _login,
    "odd-or-even": _odd_even,
    "read-table": _table,
    "read-table-2": _table,
    "simple-algebra": _arithmetic,
    "simple-arithmetic": _arithmetic,
    "social-media-all": _social,
    "social-media-some": _social,
    "terminal": _terminal,
    "text-transform": _same_text,
    "unicode-test": _click_quoted,
}


def solve(page: str, goal: str, view: View, done: list[Action]) -> Action:
    """Return the next action on a page.

    Raises:
        NotImplementedError: the page has no solver.
    """
    if page not in SOLVERS:
        raise NotImplementedError(f"no solver for the page {page}")
    return SOLVERS[page](Look(goal, view, done))
