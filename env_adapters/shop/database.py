"""The shop's database: tables, made-up content from a seeded random generator, and the state that tasks are judged by.

`state` covers all lasting effects of an agent's actions, without row ids and without the cart (a cart is not an order).
A task is done when the state is exactly the wanted one.
"""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from typing import Any

from env_adapters.shop import words

PRODUCTS_PER_CATEGORY = 16
THREADS_PER_BOARD = 9
Change = tuple[Any, ...]
SCHEMA = """
CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT, category TEXT, colour TEXT, material TEXT, cents INTEGER);
CREATE TABLE review (product INTEGER, author TEXT, stars INTEGER, title TEXT, text TEXT);
CREATE TABLE account (email TEXT, phone TEXT, newsletter INTEGER);
CREATE TABLE address (label TEXT PRIMARY KEY, name TEXT, street TEXT, city TEXT, postcode TEXT);
CREATE TABLE cart (product INTEGER PRIMARY KEY, quantity INTEGER);
CREATE TABLE purchase (id INTEGER PRIMARY KEY, placed TEXT, status TEXT, shipping TEXT, name TEXT, street TEXT,
                       city TEXT, postcode TEXT);
CREATE TABLE line (purchase INTEGER, product INTEGER, quantity INTEGER);
CREATE TABLE person (name TEXT PRIMARY KEY, city TEXT);
CREATE TABLE thread (id INTEGER PRIMARY KEY, board TEXT, title TEXT, author TEXT);
CREATE TABLE post (id INTEGER PRIMARY KEY, thread INTEGER, author TEXT, text TEXT, score INTEGER);
CREATE TABLE vote (post INTEGER PRIMARY KEY, value INTEGER);
CREATE TABLE report (post INTEGER, reason TEXT, note TEXT);
"""


def made(rng: random.Random) -> sqlite3.Connection:
    """Return a new database in memory."""
    db = sqlite3.connect(":memory:", check_same_thread=False)  # Used by several threads, one at a time.
    db.row_factory = sqlite3.Row
    db.executescript(SCHEMA)
    _fill_catalog(db, rng)
    _fill_account(db, rng)
    _fill_forum(db, rng)
    return db


def address(rng: random.Random) -> tuple[str, str, str]:
    """Return a street, a city and a postcode."""
    return f"{rng.randint(2, 98)} {rng.choice(words.STREETS)}", rng.choice(words.CITIES), str(rng.randint(1000, 9899))


def _fill_catalog(db: sqlite3.Connection, rng: random.Random) -> None:
    for category, (_, nouns) in words.CATEGORIES.items():
        pairs = rng.sample([(brand, noun) for brand in words.BRANDS for noun in nouns], PRODUCTS_PER_CATEGORY // 2)
        kinds = [(brand, noun, colour) for brand, noun in pairs for colour in rng.sample(words.COLOURS, 2)]
        rng.shuffle(kinds)
        prices = rng.sample(range(600, 9900, 5), len(kinds))  # All different, so that "the cheapest" is unique.
        for (brand, noun, colour), cents in zip(kinds, prices, strict=True):
            product = db.execute(
                "INSERT INTO product (name, category, colour, material, cents) VALUES (?, ?, ?, ?, ?)",
                (f"{brand} {noun}, {colour}", category, colour, rng.choice(words.MATERIALS), cents),
            ).lastrowid
            for author in rng.sample(words.PEOPLE, rng.randint(1, 4)):
                stars = rng.randint(1, 5)
                db.execute("INSERT INTO review VALUES (?, ?, ?, ?, ?)", (product, author, stars, *words.STARS[stars]))


def _fill_account(db: sqlite3.Connection, rng: random.Random) -> None:
    db.execute(
        "INSERT INTO account VALUES (?, ?, ?)",
        (f"{words.ME}@mail.test", f"555-{rng.randint(1000, 9999)}", rng.randint(0, 1)),
    )
    for label in ("Home", "Work", "Parents"):
        db.execute("INSERT INTO address VALUES (?, ?, ?, ?, ?)", (label, words.MY_NAME, *address(rng)))
    home = tuple(db.execute("SELECT name, street, city, postcode FROM address WHERE label = 'Home'").fetchone())
    count = len(words.CATEGORIES) * PRODUCTS_PER_CATEGORY
    for number, products in enumerate(_split(rng.sample(range(1, count + 1), 8), (2, 1, 2, 1, 2)), start=1):
        status = "processing" if number > 3 else "delivered"
        db.execute(
            "INSERT INTO purchase VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (100 + number, f"2024-0{number}-{rng.randint(10, 28)}", status, "standard", *home),
        )
        db.executemany(
            "INSERT INTO line VALUES (?, ?, ?)", [(100 + number, product, rng.randint(1, 2)) for product in products]
        )
        if status == "delivered":
            stars = rng.randint(1, 5)
            db.execute("INSERT INTO review VALUES (?, ?, ?, ?, ?)", (products[0], words.ME, stars, *words.STARS[stars]))


def _split(items: list[int], sizes: tuple[int, ...]) -> list[list[int]]:
    taken = iter(items)
    return [[next(taken) for _ in range(size)] for size in sizes]


def _fill_forum(db: sqlite3.Connection, rng: random.Random) -> None:
    for person in words.PEOPLE:
        db.execute("INSERT INTO person VALUES (?, ?)", (person, rng.choice(words.CITIES)))
    db.execute("INSERT INTO person VALUES (?, ?)", (words.ME, "Malmo"))
    for board in words.BOARDS:
        longest = rng.randrange(THREADS_PER_BOARD)
        for number, topic in enumerate(rng.sample(words.TOPICS, THREADS_PER_BOARD)):
            authors = [rng.choice(words.PEOPLE) for _ in range(7 if number == longest else rng.randint(2, 5))]
            thread = db.execute(
                "INSERT INTO thread (board, title, author) VALUES (?, ?, ?)",
                (board, rng.choice(words.THREADS).format(topic=topic), authors[0]),
            ).lastrowid
            texts = rng.sample(words.POSTS, len(authors))
            db.executemany(
                "INSERT INTO post (thread, author, text, score) VALUES (?, ?, ?, ?)",
                [
                    (thread, author, text.format(topic=topic), rng.randint(-3, 9))
                    for author, text in zip(authors, texts, strict=True)
                ],
            )


def state(db: sqlite3.Connection) -> Counter[Change]:
    """Return everything that the user owns or has done, as a multiset of tuples."""
    found: Counter[Change] = Counter()
    for name, query in (
        ("review", "SELECT product, stars, title, text FROM review WHERE author = :me"),
        ("account", "SELECT email, phone, newsletter FROM account"),
        ("address", "SELECT label, name, street, city, postcode FROM address"),
        ("thread", "SELECT board, title FROM thread WHERE author = :me"),
        ("post", "SELECT board, title, text FROM post JOIN thread ON thread.id = thread WHERE post.author = :me"),
        ("vote", "SELECT post, value FROM vote"),
        ("report", "SELECT post, reason, note FROM report"),
    ):
        found.update((name, *row) for row in db.execute(query, {"me": words.ME}))
    for order in db.execute("SELECT * FROM purchase"):
        lines = db.execute("SELECT product, quantity FROM line WHERE purchase = ? ORDER BY product", (order["id"],))
        found["order", *tuple(order)[2:], tuple(tuple(line) for line in lines)] += 1
    return found


def price(cents: int) -> str:
    """Return an amount in the pages' format."""
    return f"${cents // 100}.{cents % 100:02}"
