"""An answer's action is found below its label as well as beside it."""

from __future__ import annotations

import pytest

from env_adapters.answer import blocks, read_action, said

LABELLED = {
    "beside the label": "Action: open door",
    "on the next line": "Action:\nopen door",
    "below an empty line": "Action:\n\nopen door",
    "below a line of spaces": "Action:  \n   \nopen door",
    "below, indented": "Action:\n    open door",
    "below, with Windows line ends": "Action:\r\n\r\nopen door\r\n",
    "below, in a fence": "Action:\n```\nopen door\n```",
    "below a label in bold": "**Action:**\nopen door",
    "below a full-width colon": "Action\uff1a\nopen door",
    "below a heading": "## Action\n\nopen door",
    "below other commands": "go north\nlook\nAction:\nopen door",
    "below a thought that names another": "Thought: I could look, or go north.\nAction:\nopen door",
    "before an observation of the model's own": "Action:\nopen door\nObservation: it opens.\ngo north",
    "before a second action": "Action:\nopen door\nAction:\ngo north",
    "before a second action beside its label": "Action: open door\nAction: go north",
    "before a later thought": "Action:\nopen door\nThought: then I go north.",
    "above an explanation": "Action:\nopen door\n\nThat is the best choice.",
}
COMMANDS = ("open door", "go north", "look")


def command(text: str) -> str | None:
    return text if text in COMMANDS else None


@pytest.mark.parametrize("form", LABELLED)
def test_the_first_labelled_action_counts_wherever_the_command_stands(form: str) -> None:
    text = LABELLED[form]
    assert read_action(text, command) == "open door"
    assert said(text) == "open door"
    assert next(blocks(text)).split("\n")[0].strip() == "open door"


@pytest.mark.parametrize(
    "text",
    [
        "Action:",
        "Action:\n",
        "Action:\n\n",
        "look\nAction:",
        "Action:\nObservation: it opens.\nopen door",
        "Action:\nsing\nObservation: nothing.\nopen door",
        "Action:\nopen the door and go north",
    ],
)
def test_below_a_label_without_a_command_nothing_is_executed(text: str) -> None:
    assert read_action(text, command) is None
