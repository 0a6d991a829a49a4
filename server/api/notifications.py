"""Notifications over REST: what was sent to webhook and command, and a test message."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from server.api.access.authentication import needs
from server.api.access.json_route import JsonRoute
from server.api.services import service
from server.notifications.notifications import Notifications
from upturn.wire import NotificationList, NotificationTest

NotificationsOf = Annotated[Notifications, service(Notifications)]

router = APIRouter(
    prefix="/v1/notifications", tags=["operations"], dependencies=[needs("admin")], route_class=JsonRoute
)


@router.get("")
async def list_newest(
    notifications: NotificationsOf, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> NotificationList:
    """List the newest notifications, newest first, with whether each has arrived."""
    return await notifications.views(limit)


@router.post("/test")
async def test(notifications: NotificationsOf) -> NotificationTest:
    """Send a test message to every target now, once, and return whether it has arrived."""
    return await notifications.test()
