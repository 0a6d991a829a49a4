"""The forum's pages as HTML. As in `pages.py`, they change nothing."""

from __future__ import annotations

import sqlite3
from html import escape

from env_adapters.shop import words
from env_adapters.shop.pages import area, choice, field, form, link, page, pager, piece, table, text

THREADS_PER_PAGE = 3


def boards(db: sqlite3.Connection) -> bytes:
    """Return the list of boards."""
    return page(
        db, "Forum", "".join(f"<div>{link(f'/forum/b/{slug}', name)}</div>" for slug, name in words.BOARDS.items())
    )


def board(db: sqlite3.Connection, slug: str, asked: str) -> bytes:
    """Return one page of a board's threads."""
    rows = db.execute(
        "SELECT thread.*, count(*) AS posts FROM thread JOIN post ON thread = thread.id WHERE board = ? "
        "GROUP BY thread.id ORDER BY thread.id",
        (slug,),
    ).fetchall()
    shown, number, pages = piece(rows, asked, THREADS_PER_PAGE)
    return page(
        db,
        words.BOARDS[slug],
        link(f"/forum/b/{slug}/new", "Start a thread"),
        table(
            ("Thread", "Started by", "Posts"),
            [
                [
                    link(f"/forum/t/{row['id']}", row["title"]),
                    link(f"/forum/u/{row['author']}", row["author"]),
                    str(row["posts"]),
                ]
                for row in shown
            ],
        ),
        pager(f"/forum/b/{slug}", {}, number, pages),
    )


def thread(db: sqlite3.Connection, row: sqlite3.Row) -> bytes:
    """Return a thread."""
    posts = db.execute(
        "SELECT post.*, coalesce(value, 0) AS vote FROM post LEFT JOIN vote ON vote.post = post.id "
        "WHERE thread = ? ORDER BY post.id",
        (row["id"],),
    ).fetchall()
    listed = "".join(_post(post) for post in posts)
    board_link = link(f"/forum/b/{row['board']}", words.BOARDS[row["board"]])
    return page(
        db,
        row["title"],
        f"<div>Board: {board_link}</div>",
        listed,
        form(f"/forum/t/{row['id']}", area("text", "Your reply"), "Post reply"),
    )


def _post(post: sqlite3.Row) -> str:
    number, author = post["id"], post["author"]
    votes = "".join(form(f"/forum/vote/{number}/{way}", "", f"Vote {way}") for way in ("up", "down"))
    return (
        f"<div>{link(f'/forum/u/{author}', author)} wrote: {escape(post['text'])} (score "
        f"{post['score'] + post['vote']}) {votes} {link(f'/forum/report/{number}', 'Report')}</div>"
    )


def person(db: sqlite3.Connection, row: sqlite3.Row) -> bytes:
    """Return a person's profile: the city and the posts, newest first."""
    posts = db.execute(
        "SELECT post.text, title, thread.id FROM post JOIN thread ON thread.id = thread "
        "WHERE post.author = ? ORDER BY post.id DESC LIMIT 5",
        (row["name"],),
    ).fetchall()
    return page(
        db, row["name"], text(f"Lives in {row['city']}."), "<h2>Newest posts</h2>", "".join(_by(post) for post in posts)
    )


def _by(post: sqlite3.Row) -> str:
    in_thread = link(f"/forum/t/{post['id']}", post["title"])
    return f"<div>In {in_thread}: {escape(post['text'])}</div>"


def report(db: sqlite3.Connection, post: sqlite3.Row) -> bytes:
    """Return the form for a report."""
    fields = [choice("reason", "Reason", {reason: reason for reason in words.REASONS}), field("note", "Note")]
    return page(
        db,
        f"Report a post by {post['author']}",
        text(post["text"]),
        form(f"/forum/report/{post['id']}", "".join(fields), "Send report"),
    )


def new_thread(db: sqlite3.Connection, slug: str, problem: str = "") -> bytes:
    """Return the form for a new thread."""
    return page(
        db,
        f"Start a thread in {words.BOARDS[slug]}",
        text(problem) if problem else "",
        form(f"/forum/b/{slug}/new", field("title", "Title") + area("text", "Text"), "Start thread"),
    )
