"""The shop as a website: routes to pages, and the effects of forms. One site and database per episode."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from urllib.parse import urlencode

from env_adapters.browser.web import Request, Response, redirect
from env_adapters.shop import forum, pages, words

MOST = 99  # Maximum quantity of one product in the cart.
PLACED = "2024-06-15"
"""The site's current date."""
MISSING = "Please fill in every field."
INCOMPLETE = "?incomplete=1"
"""Added to the path of an incomplete form: submitting a form always leads to a page that `go_back` can return to."""
FRESH = {"Cache-Control": "no-store"}
"""Going back shows the current page, not the browser's cached one."""


def problem(request: Request) -> str:
    """Return what was wrong with the submitted form, or an empty text."""
    return MISSING if "incomplete" in request.query else ""


def plain(text: str) -> str:
    """Return a text with single spaces."""
    return " ".join(text.split())


class Site:
    """One episode's shop."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.visited: list[str] = []
        """The pages shown so far, with their queries; the last one is the current page."""
        self.failed: Exception | None = None
        """The error of a page that failed."""

    def __call__(self, request: Request) -> Response:
        """Answer a request."""
        if request.path == "/favicon.ico":
            return Response(b"", status=404)
        try:
            return self._answer(request)
        except Exception as error:  # The episode must fail, not show an error page.
            self.failed = error
            raise

    def _answer(self, request: Request) -> Response:
        for method, pattern, answer in _ROUTES:
            if method == request.method and (found := re.fullmatch(pattern, request.path)):
                made = answer(self, request, *found.groups())
                if made is None:
                    break
                self.db.commit()
                if isinstance(made, Response):
                    return made
                self.visited.append(request.path + ("?" + urlencode(request.query) if request.query else ""))
                return Response(made, headers=FRESH)
        return Response(pages.page(self.db, "Nothing here", pages.text("There is no such page.")), status=404)

    def _one(self, table: str, key: str, value: str) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self.db.execute(f"SELECT * FROM {table} WHERE {key} = ?", (value,)).fetchone()
        return row

    # Pages.

    def _home(self, request: Request) -> bytes:
        return pages.home(self.db)

    def _category(self, request: Request, slug: str) -> bytes | None:
        if slug not in words.CATEGORIES:
            return None
        title = words.CATEGORIES[slug][0]
        return pages.listing(self.db, title, request.path, request.query, "category = ?", (slug,))

    def _search(self, request: Request) -> bytes:
        asked = plain(request.query.get("q", ""))
        parts = re.findall(r"\w+", asked.lower())[:8] or [""]
        where = " AND ".join("name LIKE ?" for _ in parts)
        return pages.listing(
            self.db, f"Search: {asked}", "/search", request.query, where, tuple(f"%{part}%" for part in parts)
        )

    def _product(self, request: Request, number: str) -> bytes | None:
        row = self._one("product", "id", number)
        return pages.product(self.db, row) if row else None

    def _cart(self, request: Request) -> bytes:
        return pages.cart(self.db)

    def _checkout(self, request: Request) -> bytes:
        return pages.checkout(self.db, problem(request))

    def _orders(self, request: Request) -> bytes:
        return pages.orders(self.db)

    def _order(self, request: Request, number: str) -> bytes | None:
        row = self._one("purchase", "id", number)
        return pages.order(self.db, row) if row else None

    def _reviews(self, request: Request) -> bytes:
        return pages.reviews(self.db)

    def _review(self, request: Request, number: str) -> bytes | None:
        row = self._one("product", "id", number)
        return pages.review(self.db, row) if row else None

    def _account(self, request: Request) -> bytes:
        return pages.account(self.db)

    def _address(self, request: Request) -> bytes:
        return pages.new_address(self.db, problem(request))

    def _forum(self, request: Request) -> bytes:
        return forum.boards(self.db)

    def _board(self, request: Request, slug: str) -> bytes | None:
        return forum.board(self.db, slug, request.query.get("page", "1")) if slug in words.BOARDS else None

    def _thread(self, request: Request, number: str) -> bytes | None:
        row = self._one("thread", "id", number)
        return forum.thread(self.db, row) if row else None

    def _person(self, request: Request, name: str) -> bytes | None:
        row = self._one("person", "name", name)
        return forum.person(self.db, row) if row else None

    def _report(self, request: Request, number: str) -> bytes | None:
        row = self._one("post", "id", number)
        return forum.report(self.db, row) if row else None

    def _new_thread(self, request: Request, slug: str) -> bytes | None:
        return forum.new_thread(self.db, slug, problem(request)) if slug in words.BOARDS else None

    # Effects of forms.

    def _add(self, request: Request) -> Response | None:
        product, asked = request.form.get("product", ""), request.form.get("quantity", "").strip()
        if self._one("product", "id", product) is None:
            return None
        if re.fullmatch("[0-9]{1,2}", asked) and int(asked):
            self.db.execute(
                "INSERT INTO cart VALUES (?, ?) ON CONFLICT (product) DO UPDATE "
                "SET quantity = min(quantity + excluded.quantity, ?)",
                (product, int(asked), MOST),
            )
        return redirect("/cart")

    def _remove(self, request: Request) -> Response:
        self.db.execute("DELETE FROM cart WHERE product = ?", (request.form.get("product", ""),))
        return redirect("/cart")

    def _buy(self, request: Request) -> Response:
        saved = self._one("address", "label", request.form.get("address", ""))
        names = ("name", "street", "city", "postcode")
        to = [saved[name] if saved else plain(request.form.get(name, "")) for name in names]
        shipping = request.form.get("shipping", "")
        lines = self.db.execute("SELECT product, quantity FROM cart ORDER BY rowid").fetchall()
        if not lines:
            return redirect("/cart")
        if not all(to) or shipping not in words.SHIPPING:
            return redirect("/checkout" + INCOMPLETE)
        number = self.db.execute(
            "INSERT INTO purchase (placed, status, shipping, name, street, city, postcode) "
            "VALUES (?, 'processing', ?, ?, ?, ?, ?)",
            (PLACED, shipping, *to),
        ).lastrowid
        self.db.executemany("INSERT INTO line VALUES (?, ?, ?)", [(number, *line) for line in lines])
        self.db.execute("DELETE FROM cart")
        return redirect(f"/orders/{number}")

    def _cancel(self, request: Request, number: str) -> Response:
        self.db.execute("UPDATE purchase SET status = 'cancelled' WHERE id = ? AND status = 'processing'", (number,))
        return redirect(f"/orders/{number}")

    def _save_review(self, request: Request, number: str) -> Response | None:
        stars, title = request.form.get("stars", ""), plain(request.form.get("title", ""))
        if self._one("product", "id", number) is None or stars not in "12345":
            return None
        self.db.execute("DELETE FROM review WHERE product = ? AND author = ?", (number, words.ME))
        self.db.execute(
            "INSERT INTO review VALUES (?, ?, ?, ?, ?)",
            (number, words.ME, int(stars), title, plain(request.form.get("text", ""))),
        )
        return redirect(f"/p/{number}")

    def _save_account(self, request: Request) -> Response:
        email, phone = (plain(request.form.get(name, "")) for name in ("email", "phone"))
        self.db.execute(
            "UPDATE account SET email = ?, phone = ?, newsletter = ?", (email, phone, int("newsletter" in request.form))
        )
        return redirect("/account")

    def _save_address(self, request: Request) -> Response:
        values = [plain(request.form.get(name, "")) for name in ("label", "name", "street", "city", "postcode")]
        if not all(values):
            return redirect("/address" + INCOMPLETE)
        self.db.execute("INSERT OR REPLACE INTO address VALUES (?, ?, ?, ?, ?)", values)
        return redirect("/account")

    def _reply(self, request: Request, number: str) -> Response | None:
        text = plain(request.form.get("text", ""))
        if self._one("thread", "id", number) is None:
            return None
        if text:
            self._post(number, text)
        return redirect(f"/forum/t/{number}")

    def _post(self, thread: str | int | None, text: str) -> None:
        self.db.execute("INSERT INTO post (thread, author, text, score) VALUES (?, ?, ?, 0)", (thread, words.ME, text))

    def _start(self, request: Request, slug: str) -> Response | None:
        title, text = plain(request.form.get("title", "")), plain(request.form.get("text", ""))
        if slug not in words.BOARDS:
            return None
        if not title or not text:
            return redirect(f"/forum/b/{slug}/new{INCOMPLETE}")
        thread = self.db.execute(
            "INSERT INTO thread (board, title, author) VALUES (?, ?, ?)", (slug, title, words.ME)
        ).lastrowid
        self._post(thread, text)
        return redirect(f"/forum/t/{thread}")

    def _vote(self, request: Request, number: str, way: str) -> Response | None:
        post = self._one("post", "id", number)
        if post is None:
            return None
        self.db.execute("INSERT OR REPLACE INTO vote VALUES (?, ?)", (number, 1 if way == "up" else -1))
        return redirect(f"/forum/t/{post['thread']}")

    def _send_report(self, request: Request, number: str) -> Response | None:
        post, reason = self._one("post", "id", number), request.form.get("reason", "")
        if post is None or reason not in words.REASONS:
            return None
        self.db.execute("INSERT INTO report VALUES (?, ?, ?)", (number, reason, plain(request.form.get("note", ""))))
        return redirect(f"/forum/t/{post['thread']}")


_NUMBER, _WORD = "([0-9]{1,9})", "([a-z]+)"
_ROUTES: list[tuple[str, str, Callable[..., bytes | Response | None]]] = [
    ("GET", "/", Site._home),
    ("GET", f"/c/{_WORD}", Site._category),
    ("GET", "/search", Site._search),
    ("GET", f"/p/{_NUMBER}", Site._product),
    ("GET", "/cart", Site._cart),
    ("GET", "/checkout", Site._checkout),
    ("GET", "/orders", Site._orders),
    ("GET", f"/orders/{_NUMBER}", Site._order),
    ("GET", "/reviews", Site._reviews),
    ("GET", f"/review/{_NUMBER}", Site._review),
    ("GET", "/account", Site._account),
    ("GET", "/address", Site._address),
    ("GET", "/forum", Site._forum),
    ("GET", f"/forum/b/{_WORD}", Site._board),
    ("GET", f"/forum/b/{_WORD}/new", Site._new_thread),
    ("GET", f"/forum/t/{_NUMBER}", Site._thread),
    ("GET", f"/forum/u/{_WORD}", Site._person),
    ("GET", f"/forum/report/{_NUMBER}", Site._report),
    ("POST", "/cart/add", Site._add),
    ("POST", "/cart/remove", Site._remove),
    ("POST", "/checkout", Site._buy),
    ("POST", f"/orders/{_NUMBER}/cancel", Site._cancel),
    ("POST", f"/review/{_NUMBER}", Site._save_review),
    ("POST", "/account", Site._save_account),
    ("POST", "/address", Site._save_address),
    ("POST", f"/forum/b/{_WORD}/new", Site._start),
    ("POST", f"/forum/t/{_NUMBER}", Site._reply),
    ("POST", f"/forum/vote/{_NUMBER}/(up|down)", Site._vote),
    ("POST", f"/forum/report/{_NUMBER}", Site._send_report),
]
