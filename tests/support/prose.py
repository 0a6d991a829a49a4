"""Finds unidiomatic constructions in prose; `python -m tests.support.prose [PATH ...]` lists them.

Prose means docstrings, comments, error, log and help texts in Python files, and Markdown outside code. Each rule is a
pattern and a suggestion. A line that needs a construction anyway says `prose: ok` in a comment.
"""

# ruff: noqa: E501
from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ALLOWED = "prose: ok"
SPEAKING = frozenset(
    [
        "debug",
        "info",
        "warning",
        "error",
        "exception",
        "critical",
        "print",
        "echo",
        "fail",
        "Option",
        "Argument",
        "Field",
        "add_argument",
        "add_parser",
        "ArgumentParser",
        "exit",
        "secho",
    ]
)
"""Functions whose texts a person reads."""
RULES: dict[str, str] = {
    # Relative clauses and demonstratives without their noun.
    r"(those|that|one|ones) of (others|before|theirs|ours|the others)": "name the thing: 'remote environments', 'earlier rewards'",
    r"those of": "repeat the noun: 'the settings of', 'its rewards'",
    r"of before": "'earlier', 'previous'",
    r"(who|whoever|what|which) (may|must) not come in": "'unauthorized requests'",
    r"lets? in( whom)?": "'authenticates', 'admits'",
    r"that it has not": "say what is missing",
    r"(is|are|was|were) (no|none) (\w+ )?(that|which|who)": "'is not a ... that'",
    r"what is no": "'anything that is not'",
    r"(is|are) no (valid |real )?(integer|number|name|JSON|list|string|setting|answer|call|step|window|text|object|adapter|tool|file|model|key|directory|reason|bound)": "'is not a ...'",
    r"of (which|whom|what) (nothing|nobody|none)": "turn the clause around: 'nothing of which' is still a detour",
    # Verbs.
    r"go(es|ing)? on|went on": "'continue'",
    r"sees? to it|saw to it": "'ensure'",
    r"(has|have|had) not been heard (of|from)|(is|are) not heard (of|from)": "'has sent no heartbeat for', 'has gone silent'",
    r"gives? way": "'yield', 'niceness'",
    r"takes? (no )?notice of": "'ignore', 'consider'",
    r"tell(s)? (the|it|them|its) \w+ once more": "'return again', 'repeat'",
    r"once more": "'again'",
    r"shall": "'must', 'should', 'will'",
    r"(is|are|was|were) to be had|can(not)? be had": "'available'",
    r"has a worth|have a worth": "'has an advantage', 'is credited'",
    r"never comes": "'never fires', 'never happens'",
    r"told no": "'returned no', 'reported no'",
    r"(knows?|says?|said|takes?|needs?|holds?|has|have|gets?) (none|nothing) of": "'knows nothing about', 'does not contain'",
    r"is none of": "'is not one of', 'is not any of'",
    r"(it|he|she|they) has not|it is not for (us|it) to": "use a direct negation",
    r"wants? none|names? none|has none|have none|gives? none|takes? none": "name the thing: 'has no ...', 'without a ...'",
    r"may not be": "'must not be' or 'might not be', whichever is meant",
    r"hold(s)? (an? )?(\w+ )?to (an? |the )?schema": "'constrain decoding to a schema'",
    r"play(s|ed)? (it|them)? ?(through )?to (its|the|their) end": "'run to completion'",
    # Time and quantity.
    r"so long(?! as)": "'this long', 'for N seconds'",
    r"so (many|much|few)(?! as)": "'N', 'this many'",
    r"so far back|as yet": "'so far', 'yet'",
    r"any ?more": "'no longer'",
    r"how (far|much|many|long|likely|often) (it|one|something|somebody) ": "a noun: 'niceness', 'probability', 'count'",
    r"at most(?=[.;:)]|$)": "put 'at most' before the amount, or say 'maximum'",
    r"of late|since (long|then on)": "'recently'",
    # Connectives.
    r"(therein|thereof|thereby|hereof|herein|whereof|wherein|whereby|wherefrom|thereon)": "plain words",
    r"else(?= (an?|the|it|its|they|this|no|nothing|nobody|what) )": "'otherwise'",
    r"beside(?!s)(?= (the|it|them|its|a|an|each|this|that|those) )": "'next to', 'in addition to', 'alongside'",
    r"save (for|that)|but for": "'except'",
    r"lest|hence": "'so that ... not', 'so'",
    r"wherever|whichever way|whatever comes|come what may": "say the condition",
    r"be it": "'whether'",
    r"in that case(?! of)": "'then', or drop it",
    r"of its kind|of the kind": "say the property",
    r"nobody who": "'no one', or name the role",
    # The project's own mannerisms.
    r"a thing that|the thing that": "name it",
    r"there where": "'where'",
    r"more of the same": "name it",
    r"(is|are) ours\b(?! alone)": "'chosen by this project', or 'default: ...'",
    r"as it (is|was|came|comes|stands|stood)(?=[.,;:)])": "say the state: 'unchanged', 'verbatim'",
    r"on the way back": "'in the backward pass'",
    r"of the moment|as of now|from now on": "'current', or drop it",
    r"(is|are|was|were) looked at|looks? of ": "'checked', 'measured'",
    r"(is|are) passed over": "'skipped'",
    r"as far as (it|they) came": "'as far as it got'",
    r"has gone away|have gone away": "'disconnected'",
    r"comes? twice": "'is repeated'",
    r"comes? back (whole|changed)": "'is unchanged', 'is changed'",
    r"tries again|try once again": "'retry'",
    r"mends?|mended": "'fix'",
    r"takes? (it|them) off": "'subtract'",
    # Spelling: American.
    r"\w*(normalis|optimis|initialis|serialis|tokenis|recognis|organis|summaris|penalis|generalis|minimis|maximis|randomis|synchronis|finalis|quantis|vectoris|utilis|prioritis|characteris|materialis|memoris|specialis|visualis|parallelis|stabilis|regularis|emphasis(?=e)|realis(?=e|ing|ation)|analys(?=ed|ing))(e|es|ed|er|ers|ing|ation|ations)": "American spelling: -ize",
    r"(behaviour|colour|favour|honour|neighbour|flavour|rumour|labour|endeavour|harbour)\w*": "American spelling: -or",
    r"(centre[ds]?|metre[ds]?|theatre|fibre|litre)": "American spelling: -er",
    r"(modell|labell|travell|signall|channell|totall)(ed|ing|er)": "American spelling: one l",
    r"(catalogue|dialogue(?= box)|programme|grey|defence|licence(?!-)|whilst|amongst|towards)": "American spelling",
}
_PATTERNS = [
    (re.compile(rf"\b(?:{pattern})\b".replace(" ", r"\s+"), re.IGNORECASE), instead)
    for pattern, instead in RULES.items()
]
_CODE = re.compile(r"``.*?``|`[^`\n]*`|\"[^\"\n]*\"")


@dataclass(frozen=True, slots=True)
class Finding:
    """A construction that breaks a rule."""

    path: Path
    line: int
    found: str
    instead: str

    def __str__(self) -> str:
        """Return a line such as compilers print."""
        return f"{self.path}:{self.line}: {self.found!r}: {self.instead}"


def findings(path: Path) -> list[Finding]:
    """Return what breaks a rule in a Python or Markdown file."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    passages = _python(text) if path.suffix == ".py" else _markdown(lines)
    found = []
    for first, passage in passages:
        plain = _CODE.sub(lambda code: re.sub(r"[^\n]", "_", code[0]), passage)
        for pattern, instead in _PATTERNS:
            for match in pattern.finditer(re.sub(r"\n[ \t#>]*", lambda gap: "\n" + " " * (len(gap[0]) - 1), plain)):
                line = first + plain.count("\n", 0, match.start())
                if ALLOWED not in lines[min(line, len(lines)) - 1]:
                    found.append(Finding(path, line, " ".join(match[0].split()), instead))
    return sorted(found, key=lambda one: one.line)


def files(paths: list[str]) -> list[Path]:
    """Return the tracked Python and Markdown files under the paths that hold prose of the project."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return [
        ROOT / name
        for name in listed
        if name.endswith((".py", ".md")) and (ROOT / name).is_file() and not name.endswith("support/prose.py")
    ]


def _python(text: str) -> Iterator[tuple[int, str]]:
    """Yield (first line, text) of comments, docstrings, and texts that are raised, logged or shown as help."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            for statement in body:
                said = statement.value if isinstance(statement, ast.Expr) else None
                if isinstance(said, ast.Constant) and isinstance(said.value, str):
                    yield statement.lineno, said.value
        spoken: list[ast.AST] = []
        if isinstance(node, ast.Raise) and node.exc is not None:
            spoken = [node.exc]
        elif isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            if name in SPEAKING:
                spoken = [node]
        for part in spoken:
            for constant in ast.walk(part):
                if isinstance(constant, ast.Constant) and isinstance(constant.value, str) and " " in constant.value:
                    yield constant.lineno, constant.value
    comment: list[str] = []
    begins = last = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        if comment and token.start[0] == last + 1:
            comment.append(token.string)
        else:
            if comment:
                yield begins, "\n".join(comment)
            comment, begins = [token.string], token.start[0]
        last = token.start[0]
    if comment:
        yield begins, "\n".join(comment)


def _markdown(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Yield (first line, text) of each paragraph outside code blocks."""
    paragraph: list[str] = []
    begins, fenced = 1, False
    for number, line in enumerate([*lines, ""], 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        if fenced or line.lstrip().startswith("```") or not line.strip() or line.startswith("    "):
            if paragraph:
                yield begins, "\n".join(paragraph)
            paragraph = []
        else:
            if not paragraph:
                begins = number
            paragraph.append(line)


def main(paths: list[str]) -> int:
    """Print the findings; return how many there are, at most 1."""
    found = [finding for path in files(paths) for finding in findings(path)]
    for finding in found:
        print(str(finding).replace(f"{ROOT}/", ""))
    print(f"{len(found)} findings")
    return min(1, len(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
