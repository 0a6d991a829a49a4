"""The pages of MiniWoB++ that are played as text, and why the others are not."""

from __future__ import annotations

_NAMES = """
ascending-numbers book-flight book-flight-nodelay buy-ticket choose-date choose-date-easy
choose-date-medium choose-date-nodelay choose-list click-button click-button-sequence click-checkboxes
click-checkboxes-large click-checkboxes-soft click-checkboxes-transfer click-collapsible click-collapsible-2
click-collapsible-2-nodelay click-collapsible-nodelay click-color click-dialog click-dialog-2 click-link click-menu
click-menu-2 click-option click-pie click-pie-nodelay click-scroll-list click-shades click-shape click-tab click-tab-2
click-tab-2-easy click-tab-2-hard click-tab-2-medium click-test click-test-2 click-test-transfer click-widget
copy-paste copy-paste-2 count-shape email-inbox email-inbox-delete email-inbox-forward email-inbox-forward-nl
email-inbox-forward-nl-turk email-inbox-important email-inbox-nl-turk email-inbox-noscroll email-inbox-reply
email-inbox-star-reply enter-date enter-password enter-text enter-text-2 enter-text-dynamic enter-time find-greatest
find-word focus-text focus-text-2 form-sequence form-sequence-2 form-sequence-3 generate-number guess-number
identify-shape login-user login-user-popup multi-layouts multi-orderings navigate-tree odd-or-even order-food
phone-book read-table read-table-2 scroll-text scroll-text-2 search-engine sign-agreement simple-algebra
simple-arithmetic social-media social-media-all social-media-some stock-market terminal text-transform tic-tac-toe
unicode-test use-autocomplete use-autocomplete-nodelay use-slider use-slider-2 use-spinner
"""
PAGES = tuple(_NAMES.split())

DRAGGED = "it needs dragging, and there is no such action"
SEEN = "it asks for a position or a picture, which the text does not contain"
TIMED = "it depends on timing, and time passes only with actions"
LEFT_OUT = {
    "bisect-angle": SEEN,
    "button-delay": TIMED,
    "chase-circle": TIMED,
    "circle-center": SEEN,
    "count-sides": SEEN,
    "daily-calendar": DRAGGED,
    "drag-box": DRAGGED,
    "drag-circle": DRAGGED,
    "drag-cube": DRAGGED,
    "drag-items": DRAGGED,
    "drag-items-grid": DRAGGED,
    "drag-shapes": DRAGGED,
    "drag-shapes-2": DRAGGED,
    "drag-single-shape": DRAGGED,
    "drag-sort-numbers": DRAGGED,
    "draw-circle": DRAGGED,
    "draw-line": DRAGGED,
    "find-midpoint": SEEN,
    "grid-coordinate": SEEN,
    "highlight-text": DRAGGED,
    "highlight-text-2": DRAGGED,
    "hot-cold": SEEN,
    "hover-shape": TIMED,
    "moving-items": TIMED,
    "number-checkboxes": SEEN,
    "resize-textarea": DRAGGED,
    "right-angle": SEEN,
    "simon-says": TIMED,
    "text-editor": DRAGGED,
    "use-colorwheel": SEEN,
    "use-colorwheel-2": SEEN,
    "visual-addition": SEEN,
}
"""Reason by page. The package's other page sets (`flight`: copies of airline sites in frames) are left out too."""
