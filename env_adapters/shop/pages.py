"""The shop's pages as HTML. They read the database and change nothing; `site.py` handles forms."""

from __future__ import annotations

import sqlite3
from html import escape
from typing import Any
from urllib.parse import urlencode

from env_adapters.shop import words
from env_adapters.shop.database import price

PRODUCTS_PER_PAGE = 8
ANOTHER = "another address"


def page(db: sqlite3.Connection, title: str, *parts: str) -> bytes:
    """Return a complete page with the navigation links."""
    count = db.execute("SELECT coalesce(sum(quantity), 0) FROM cart").fetchone()[0]
    top = " ".join(
        [
            link("/", "Shop"),
            link("/cart", f"Cart ({count})"),
            link("/orders", "My orders"),
            link("/reviews", "My reviews"),
            link("/account", "My account"),
            link("/forum", "Forum"),
        ]
    )
    search = form("/search", '<input name="q" aria-label="Search products">', "Search", method="get")
    return (
        f"<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title></head><body>"
        f"<div>{top}</div>{search}<h1>{escape(title)}</h1>{''.join(parts)}</body></html>"
    ).encode()


def link(path: str, text: str) -> str:
    """Return a link."""
    return f'<a href="{escape(path)}">{escape(text)}</a>'


def text(*sentences: str) -> str:
    """Return a paragraph."""
    return f"<p>{escape(' '.join(sentences))}</p>"


def form(path: str, fields: str, button: str, *, method: str = "post") -> str:
    """Return a form with one button."""
    return f'<form action="{escape(path)}" method="{method}">{fields} <button>{escape(button)}</button></form>'


def field(name: str, label: str, value: str = "", *, kind: str = "text") -> str:
    """Return a labeled text field on its own line."""
    return (
        f'<div><label>{escape(label)} <input type="{kind}" name="{escape(name)}" value="{escape(value)}"></label></div>'
    )


def area(name: str, label: str, value: str = "") -> str:
    """Return a labeled field for longer text."""
    return f'<div><label>{escape(label)} <textarea name="{escape(name)}">{escape(value)}</textarea></label></div>'


def choice(name: str, label: str, options: dict[str, str], chosen: str = "") -> str:
    """Return a labeled drop-down list; `options` maps values to texts."""
    listed = "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>{escape(shown)}</option>'
        for value, shown in options.items()
    )
    return f'<div><label>{escape(label)} <select name="{escape(name)}">{listed}</select></label></div>'


def table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    """Return a table of HTML cells."""
    lines = [
        "".join(f"<th>{escape(name)}</th>" for name in head),
        *("".join(f"<td>{cell}</td>" for cell in row) for row in rows),
    ]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def pager(path: str, query: dict[str, str], number: int, pages: int) -> str:
    """Return links to the previous and the next page."""
    parts = [escape(f"Page {number} of {pages}")]
    for other, name in ((number - 1, "Previous page"), (number + 1, "Next page")):
        if 1 <= other <= pages:
            parts.append(link(f"{path}?{urlencode({**query, 'page': str(other)})}", name))
    return f"<div>{' '.join(parts)}</div>"


def piece(rows: list[Any], asked: str, size: int) -> tuple[list[Any], int, int]:
    """Return the rows of the requested page, its number, and the number of pages."""
    pages = max(1, -(-len(rows) // size))
    number = min(max(int(asked), 1), pages) if asked.isdecimal() else 1
    return rows[(number - 1) * size : number * size], number, pages


def home(db: sqlite3.Connection) -> bytes:
    """Return the home page."""
    categories = "".join(f"<div>{link(f'/c/{slug}', name)}</div>" for slug, (name, _) in words.CATEGORIES.items())
    return page(db, "Market Square", text("Choose a category, or search by name."), categories)


def listing(
    db: sqlite3.Connection, title: str, path: str, query: dict[str, str], where: str, values: tuple[str, ...]
) -> bytes:
    """Return a list of products, sorted as the query asks."""
    order = {"price": "cents", "rating": "rating DESC, id"}.get(query.get("sort", ""), "id")
    rows = db.execute(
        "SELECT product.*, (SELECT avg(stars) FROM review WHERE product = product.id) AS rating FROM product "
        f"WHERE {where} ORDER BY {order}",
        values,
    ).fetchall()
    shown, number, pages = piece(rows, query.get("page", "1"), PRODUCTS_PER_PAGE)
    kept = {name: value for name, value in query.items() if name in ("q", "sort")}
    sorts = " ".join(
        link(f"{path}?{urlencode({**kept, 'sort': by})}", name)
        for by, name in (("price", "Sort by price"), ("rating", "Sort by rating"))
    )
    return page(
        db,
        title,
        text(f"{len(rows)} products."),
        f"<div>{sorts}</div>",
        table(
            ("Product", "Price", "Material", "Rating"),
            [
                [
                    link(f"/p/{row['id']}", row["name"]),
                    price(row["cents"]),
                    escape(row["material"]),
                    _rating(row["rating"]),
                ]
                for row in shown
            ],
        ),
        pager(path, kept, number, pages),
    )


def _rating(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f}"


def product(db: sqlite3.Connection, row: sqlite3.Row) -> bytes:
    """Return a product's page."""
    reviews = db.execute("SELECT * FROM review WHERE product = ? ORDER BY rowid", (row["id"],)).fetchall()
    mine = any(review["author"] == words.ME for review in reviews)
    listed = "".join(_review(review) for review in reviews)
    return page(
        db,
        row["name"],
        text(f"Price: {price(row['cents'])}.", f"Colour: {row['colour']}.", f"Material: {row['material']}."),
        form(
            "/cart/add",
            f'<input type="hidden" name="product" value="{row["id"]}">'
            '<label>Quantity <input name="quantity" value="1"></label>',
            "Add to cart",
        ),
        "<h2>Reviews</h2>",
        listed,
        link(f"/review/{row['id']}", "Edit your review" if mine else "Write a review"),
    )


def _review(review: sqlite3.Row) -> str:
    author = link(f"/forum/u/{review['author']}", review["author"])
    return f"<div>{review['stars']} of 5 stars by {author}: {escape(review['title'])}. {escape(review['text'])}</div>"


def cart(db: sqlite3.Connection) -> bytes:
    """Return the cart."""
    rows = db.execute(
        "SELECT product.*, quantity FROM cart JOIN product ON product.id = product ORDER BY product"
    ).fetchall()
    if not rows:
        return page(db, "Cart", text("Your cart is empty."))
    total = sum(row["cents"] * row["quantity"] for row in rows)
    return page(
        db,
        "Cart",
        table(
            ("Product", "Price", "Quantity", ""),
            [
                [
                    link(f"/p/{row['id']}", row["name"]),
                    price(row["cents"]),
                    str(row["quantity"]),
                    form("/cart/remove", f'<input type="hidden" name="product" value="{row["id"]}">', "Remove"),
                ]
                for row in rows
            ],
        ),
        text(f"Total: {price(total)}."),
        link("/checkout", "Go to checkout"),
    )


def checkout(db: sqlite3.Connection, problem: str = "") -> bytes:
    """Return the form for an order."""
    saved = db.execute("SELECT * FROM address ORDER BY rowid").fetchall()
    addresses = {"": ANOTHER} | {row["label"]: row["label"] for row in saved}
    fields = [
        choice("address", "Send to", addresses),
        text("Fill in the next four only for another address."),
        field("name", "Name"),
        field("street", "Street"),
        field("city", "City"),
        field("postcode", "Postcode"),
        choice("shipping", "Shipping", words.SHIPPING),
    ]
    return page(db, "Checkout", text(problem) if problem else "", form("/checkout", "".join(fields), "Place order"))


def orders(db: sqlite3.Connection) -> bytes:
    """Return the list of orders."""
    rows = db.execute(
        "SELECT purchase.*, sum(cents * quantity) AS total FROM purchase JOIN line ON purchase = purchase.id "
        "JOIN product ON product.id = product GROUP BY purchase.id ORDER BY purchase.id DESC"
    ).fetchall()
    return page(
        db,
        "My orders",
        table(
            ("Order", "Placed", "Status", "Total"),
            [
                [link(f"/orders/{row['id']}", f"Order {row['id']}"), row["placed"], row["status"], price(row["total"])]
                for row in rows
            ],
        ),
    )


def order(db: sqlite3.Connection, row: sqlite3.Row) -> bytes:
    """Return one order."""
    lines = db.execute(
        "SELECT product.*, quantity FROM line JOIN product ON product.id = product "
        "WHERE purchase = ? ORDER BY line.rowid",
        (row["id"],),
    ).fetchall()
    cancel = form(f"/orders/{row['id']}/cancel", "", "Cancel this order") if row["status"] == "processing" else ""
    return page(
        db,
        f"Order {row['id']}",
        text(f"Placed {row['placed']}.", f"Status: {row['status']}.", f"Shipping: {row['shipping']}."),
        text(f"To: {row['name']}, {row['street']}, {row['city']} {row['postcode']}."),
        table(
            ("Product", "Price", "Quantity"),
            [[link(f"/p/{line['id']}", line["name"]), price(line["cents"]), str(line["quantity"])] for line in lines],
        ),
        cancel,
    )


def reviews(db: sqlite3.Connection) -> bytes:
    """Return the user's own reviews."""
    rows = db.execute(
        "SELECT review.*, name FROM review JOIN product ON product.id = product WHERE author = ? ORDER BY product.id",
        (words.ME,),
    ).fetchall()
    return page(
        db,
        "My reviews",
        table(
            ("Product", "Stars", "Title", ""),
            [
                [
                    link(f"/p/{row['product']}", row["name"]),
                    str(row["stars"]),
                    escape(row["title"]),
                    link(f"/review/{row['product']}", "Edit"),
                ]
                for row in rows
            ],
        ),
    )


def review(db: sqlite3.Connection, row: sqlite3.Row) -> bytes:
    """Return the form for a review."""
    mine = db.execute("SELECT * FROM review WHERE product = ? AND author = ?", (row["id"], words.ME)).fetchone()
    stars, title, body = (str(mine["stars"]), mine["title"], mine["text"]) if mine else ("3", "", "")
    fields = [
        choice("stars", "Stars", {str(number): str(number) for number in range(1, 6)}, stars),
        field("title", "Title", title),
        area("text", "Text", body),
    ]
    return page(db, f"Your review of {row['name']}", form(f"/review/{row['id']}", "".join(fields), "Save review"))


def account(db: sqlite3.Connection) -> bytes:
    """Return the account's settings and addresses."""
    row = db.execute("SELECT * FROM account").fetchone()
    checked = " checked" if row["newsletter"] else ""
    settings = [
        field("email", "Email", row["email"]),
        field("phone", "Phone", row["phone"]),
        f'<div><label><input type="checkbox" name="newsletter" value="1"{checked}> Newsletter</label></div>',
    ]
    saved = [
        [escape(label), escape(f"{name}, {street}, {city} {code}")]
        for label, name, street, city, code in db.execute("SELECT * FROM address ORDER BY rowid")
    ]
    return page(
        db,
        "My account",
        form("/account", "".join(settings), "Save settings"),
        "<h2>Addresses</h2>",
        table(("Label", "Address"), saved),
        link("/address", "Add an address"),
    )


def new_address(db: sqlite3.Connection, problem: str = "") -> bytes:
    """Return the form for an address."""
    fields = [field(name, name.capitalize()) for name in ("label", "name", "street", "city", "postcode")]
    return page(
        db, "Add an address", text(problem) if problem else "", form("/address", "".join(fields), "Add address")
    )
