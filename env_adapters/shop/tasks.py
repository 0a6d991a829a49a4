"""The shop's tasks: templates, filled in from an episode's own database.

A task states the user's wish in words, and as changes of the database's state: exactly these changes, and no others.
"""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from env_adapters.shop import words
from env_adapters.shop.database import Change, address, price, state


@dataclass(frozen=True, slots=True)
class Task:
    """A wish, in words and as changes."""

    goal: str
    added: list[Change]
    removed: list[Change] = field(default_factory=list)
    answer: str | None = None
    """The answer that `stop` must give, if the task asks for one."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Facts for the solver."""


def is_done(db: sqlite3.Connection, before: Counter[Change], task: Task, answer: str) -> bool:
    """Return whether the database and the answer are exactly as wanted."""
    now = state(db)
    exact = now - before == Counter(task.added) and before - now == Counter(task.removed)
    return exact and (task.answer is None or _bare(answer) == _bare(task.answer))


def _bare(text: str) -> str:
    return " ".join(text.casefold().strip(" .'\"").split())


def _rows(db: sqlite3.Connection, query: str, *values: Any) -> list[sqlite3.Row]:
    return db.execute(query, values).fetchall()


def _order(to: tuple[str, ...], shipping: str, lines: list[tuple[int, int]], status: str = "processing") -> Change:
    return ("order", status, shipping, *to, tuple(sorted(lines)))


def _saved(db: sqlite3.Connection, label: str) -> tuple[str, ...]:
    return tuple(_rows(db, "SELECT name, street, city, postcode FROM address WHERE label = ?", label)[0])


def _by(shipping: str) -> str:
    return {"standard": "standard shipping", "express": "express shipping", "pickup": "a pickup point"}[shipping]


def order_cheapest(db: sqlite3.Connection, rng: random.Random) -> Task:
    """Find the cheapest product of a category and color; send it to an address that is not saved."""
    category = rng.choice(sorted(words.CATEGORIES))
    colours = _rows(db, "SELECT DISTINCT colour FROM product WHERE category = ? ORDER BY colour", category)
    colour = rng.choice(colours)[0]
    cheapest = _rows(db, "SELECT * FROM product WHERE category = ? AND colour = ? ORDER BY cents", category, colour)[0]
    name = f"{rng.choice(words.PEOPLE).capitalize()} {rng.choice(words.SURNAMES)}"
    street, city, code = address(rng)
    shipping = rng.choice(["express", "pickup"])
    title = words.CATEGORIES[category][0]
    return Task(
        f"Order the cheapest {colour} product of the category {title} for {name}, {street}, {city}, postcode {code}. "
        f"Have it sent by {_by(shipping)}.",
        [_order((name, street, city, code), shipping, [(cheapest["id"], 1)])],
        facts={
            "category": title,
            "lines": [(cheapest["id"], 1)],
            "shipping": shipping,
            "to": {"Name": name, "Street": street, "City": city, "Postcode": code},
        },
    )


def order_two(db: sqlite3.Connection, rng: random.Random) -> Task:
    """Order two products by name, one of them several times, to a saved address."""
    one, two = rng.sample(_rows(db, "SELECT * FROM product ORDER BY id"), 2)
    count = rng.randint(2, 5)
    label, shipping = rng.choice(["Home", "Work", "Parents"]), rng.choice(["express", "pickup"])
    lines = [(one["id"], count), (two["id"], 1)]
    return Task(
        f'Order {count} of "{one["name"]}" and 1 of "{two["name"]}" in one order, to the saved address '
        f"{label}, by {_by(shipping)}.",
        [_order(_saved(db, label), shipping, lines)],
        facts={"lines": lines, "label": label, "shipping": shipping},
    )


def order_again(db: sqlite3.Connection, rng: random.Random) -> Task:
    """Repeat an earlier order."""
    order = rng.choice(_rows(db, "SELECT * FROM purchase ORDER BY id"))
    label, shipping = rng.choice(["Work", "Parents"]), rng.choice(["express", "pickup"])
    lines = [tuple(row) for row in _rows(db, "SELECT product, quantity FROM line WHERE purchase = ?", order["id"])]
    return Task(
        f"Order again exactly what was in the order that you placed on {order['placed']}: the same products in "
        f"the same quantities, in one order, but to the saved address {label} and by {_by(shipping)}.",
        [_order(_saved(db, label), shipping, lines)],
        facts={"lines": lines, "label": label, "shipping": shipping, "order": order["id"]},
    )


def change_review(db: sqlite3.Connection, rng: random.Random) -> Task:
    """Find an own review through the order of its product, and rewrite it."""
    order = rng.choice(_rows(db, "SELECT * FROM purchase WHERE status = 'delivered' ORDER BY id"))
    old = _rows(
        db,
        "SELECT review.* FROM review JOIN line ON line.product = review.product WHERE author = ? AND purchase = ?",
        words.ME,
        order["id"],
    )[0]
    stars = rng.choice([number for number in range(1, 6) if number != old["stars"]])
    title, text = rng.choice(words.TITLES), rng.choice(words.SENTENCES)
    return Task(
        f"You have reviewed one product of the order that you placed on {order['placed']}. Change that review "
        f'to {stars} star{"s" * (stars > 1)}, with the title "{title}" and the text "{text}"',
        [("review", old["product"], stars, title, text)],
        [("review", *tuple(old)[:1], *tuple(old)[2:])],
        facts={"order": order["id"], "product": old["product"], "stars": str(stars), "title": title, "text": text},
    )


def reply_longest(db: sqlite3.Connection, rng: random.Random) -> Task:
    """Find the longest thread of a board, vote and reply."""
    board = rng.choice(sorted(words.BOARDS))
    thread = _rows(
        db,
        "SELECT thread.*, count(*) AS posts FROM thread JOIN post ON thread = thread.id "
        "WHERE board = ? GROUP BY thread.id ORDER BY posts DESC",
        board,
    )[0]
    first = _rows(db, "SELECT id FROM post WHERE thread = ? ORDER BY id", thread["id"])[0]["id"]
    text = rng.choice(words.SENTENCES)
    return Task(
        f'On the forum\'s board "{words.BOARDS[board]}", find the thread with the most posts. Vote its first '
        f'post up, and reply to the thread: "{text}"',
        [("vote", first, 1), ("post", board, thread["title"], text)],
        facts={"board": board, "thread": thread["id"], "vote": (0, 1), "text": text, "look": True},
    )


def report_post(db: sqlite3.Connection, rng: random.Random) -> Task:
    """Find a post, vote it down and report it."""
    post = rng.choice(
        _rows(db, "SELECT post.*, board, title FROM post JOIN thread ON thread.id = thread ORDER BY post.id")
    )
    at = [row["id"] for row in _rows(db, "SELECT id FROM post WHERE thread = ? ORDER BY id", post["thread"])]
    reason, note = rng.choice(words.REASONS[1:]), rng.choice(words.SENTENCES)
    return Task(
        f'In the thread "{post["title"]}" on the forum\'s board "{words.BOARDS[post["board"]]}", '
        f'{post["author"]} wrote "{post["text"]}" Vote that post down, and report it as {reason} with '
        f'the note "{note}"',
        [("vote", post["id"], -1), ("report", post["id"], reason, note)],
        facts={
            "board": post["board"],
            "thread": post["thread"],
            "vote": (at.index(post["id"]), -1),
            "reason": reason,
            "note": note,
        },
    )


def start_thread(db: sqlite3.Connection, rng: random.Random) -> Task:
    """Look up a price and start a thread about it."""
    product = rng.choice(_rows(db, "SELECT * FROM product ORDER BY id"))
    board, title = rng.choice(sorted(words.BOARDS)), rng.choice(words.TITLES)
    text = f"It costs {price(product['cents'])} and is made of {product['material']}."
    return Task(
        f'Look up "{product["name"]}" in the shop. Then start a thread on the forum\'s board '
        f'"{words.BOARDS[board]}" with the title "{title}" and the text "It costs PRICE and is made of '
        'MATERIAL.", where PRICE and MATERIAL are those of the product, as the shop writes them.',
        [("thread", board, title), ("post", board, title, text)],
        facts={"product": product["id"], "board": board, "title": title, "text": text},
    )


def change_account(db: sqlite3.Connection, rng: random.Random) -> Task:
    """Change the account's settings and add an address."""
    old = _rows(db, "SELECT * FROM account")[0]
    email, phone = f"{words.ME}.{rng.choice(words.SURNAMES).lower()}@post.test", f"555-{rng.randint(1000, 9999)}"
    phone = phone if phone != old["phone"] else "555-0100"
    name = f"{rng.choice(words.PEOPLE).capitalize()} {rng.choice(words.SURNAMES)}"
    street, city, code = address(rng)
    newsletter = 1 - old["newsletter"]
    return Task(
        f"In your account, change the email to {email} and the phone to {phone}, and turn the newsletter "
        f"{'on' if newsletter else 'off'}. Then add an address with the label Neighbour: {name}, {street}, "
        f"{city}, postcode {code}.",
        [("account", email, phone, newsletter), ("address", "Neighbour", name, street, city, code)],
        [("account", *old)],
        facts={
            "settings": {"Email": email, "Phone": phone, "Newsletter": bool(newsletter)},
            "address": {"Label": "Neighbour", "Name": name, "Street": street, "City": city, "Postcode": code},
        },
    )


def swap_order(db: sqlite3.Connection, rng: random.Random) -> Task:
    """Cancel an order and order one of its products in the other color."""
    order = rng.choice(_rows(db, "SELECT * FROM purchase WHERE status = 'processing' ORDER BY id"))
    lines = [tuple(row) for row in _rows(db, "SELECT product, quantity FROM line WHERE purchase = ?", order["id"])]
    product = _rows(db, "SELECT * FROM product WHERE id = ?", lines[0][0])[0]
    kind = product["name"].rpartition(", ")[0]
    other = _rows(db, "SELECT * FROM product WHERE name LIKE ? AND id <> ?", f"{kind}, %", product["id"])[0]
    to, label, shipping = tuple(order)[4:], rng.choice(["Work", "Parents"]), rng.choice(["express", "pickup"])
    return Task(
        f'Cancel the order that you placed on {order["placed"]}. Instead order 1 of "{kind}" in '
        f"{other['colour']}, to the saved address {label}, by {_by(shipping)}.",
        [_order(to, order["shipping"], lines, "cancelled"), _order(_saved(db, label), shipping, [(other["id"], 1)])],
        [_order(to, order["shipping"], lines)],
        facts={"cancel": order["id"], "lines": [(other["id"], 1)], "label": label, "shipping": shipping},
    )


def find_reviewer(db: sqlite3.Connection, rng: random.Random) -> Task:
    """Follow a reviewer into the forum, vote, reply, and report where they live."""
    fewest = _rows(
        db,
        "SELECT product, name, author FROM review AS one JOIN product ON id = product WHERE author <> ? "
        "AND author IN (SELECT author FROM post) AND (SELECT count(*) FROM review AS other WHERE other.product = "
        "one.product) > 1 AND NOT EXISTS (SELECT 1 FROM review AS other WHERE other.product = one.product "
        "AND other.rowid <> one.rowid AND other.stars <= one.stars) ORDER BY product",
        words.ME,
    )
    found = rng.choice(fewest)
    post = _rows(
        db,
        "SELECT post.id, board, title, thread FROM post JOIN thread ON thread.id = thread "
        "WHERE post.author = ? ORDER BY post.id DESC",
        found["author"],
    )[0]
    at = [row["id"] for row in _rows(db, "SELECT id FROM post WHERE thread = ? ORDER BY id", post["thread"])]
    text = rng.choice(words.SENTENCES)
    city = _rows(db, "SELECT city FROM person WHERE name = ?", found["author"])[0]["city"]
    return Task(
        f'Somebody gave "{found["name"]}" fewer stars than everybody else. Vote the newest post that this '
        f'person wrote in the forum up, and reply in its thread: "{text}" Then stop with the city where '
        "this person lives.",
        [("vote", post["id"], 1), ("post", post["board"], post["title"], text)],
        answer=city,
        facts={
            "product": found["product"],
            "author": found["author"],
            "thread": post["thread"],
            "vote": (at.index(post["id"]), 1),
            "text": text,
            "answer": city,
        },
    )


TEMPLATES: dict[str, Callable[[sqlite3.Connection, random.Random], Task]] = {
    "change-account": change_account,
    "change-review": change_review,
    "find-reviewer": find_reviewer,
    "order-again": order_again,
    "order-cheapest": order_cheapest,
    "order-two": order_two,
    "reply-longest": reply_longest,
    "report-post": report_post,
    "start-thread": start_thread,
    "swap-order": swap_order,
}
