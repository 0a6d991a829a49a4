"""Operations of both clients: policy versions, champions, and notifications."""

from __future__ import annotations

from upturn.calls import Procedure, Requests, operation
from upturn.wire import (
    NotificationList,
    NotificationTest,
    PolicyLineage,
    PolicyList,
    PolicyView,
    PromotionList,
    PromotionRequest,
    ShadowList,
)


class PolicyOperations(Requests):
    """What shows versions, and decides which one serves."""

    @operation
    def policies(self) -> Procedure[PolicyList]:
        """List all policy versions, newest first."""
        return self._get("/v1/policies", PolicyList)

    @operation
    def policy(self, version: int) -> Procedure[PolicyView]:
        """Return one policy version."""
        return self._get(f"/v1/policies/{version}", PolicyView)

    @operation
    def promote(self, version: int, reason: str = "by hand") -> Procedure[PolicyView]:
        """Make a version the champion."""
        request = PromotionRequest(reason=reason)
        return self._post(f"/v1/policies/{version}/promote", request, PolicyView, repeatable=True)

    @operation
    def rollback(self, reason: str = "by hand") -> Procedure[PolicyView]:
        """Make the previous champion the champion again. Never retried after a lost answer."""
        return self._post("/v1/policies/rollback", PromotionRequest(reason=reason), PolicyView)

    @operation
    def pin(self, version: int) -> Procedure[PolicyView]:
        """Pin a version: its weights are never deleted, and the watch does not roll it back."""
        return self._post(f"/v1/policies/{version}/pin", None, PolicyView, repeatable=True)

    @operation
    def unpin(self, version: int) -> Procedure[PolicyView]:
        """Unpin a version."""
        answer = yield from self._request("DELETE", f"/v1/policies/{version}/pin", repeatable=True)
        return PolicyView.model_validate_json(answer.content)

    @operation
    def lineage(self, version: int) -> Procedure[PolicyLineage]:
        """Return a version's lineage: its ancestors back to the base, and the episodes that trained it."""
        return self._get(f"/v1/policies/{version}/lineage", PolicyLineage)

    @operation
    def shadows(self) -> Procedure[ShadowList]:
        """List the head's shadow answers to live prompts, newest first."""
        return self._get("/v1/shadow", ShadowList)

    @operation
    def promotions(self) -> Procedure[PromotionList]:
        """List all promotions and rollbacks, newest first."""
        return self._get("/v1/promotions", PromotionList)

    @operation
    def notifications(self, limit: int = 100) -> Procedure[NotificationList]:
        """List the newest notifications, newest first."""
        return self._get("/v1/notifications", NotificationList, limit=str(limit))

    @operation
    def test_notifications(self) -> Procedure[NotificationTest]:
        """Send a test message to every target of notifications, and return whether it has arrived."""
        return self._post("/v1/notifications/test", None, NotificationTest)
