"""Campaigns over REST. A campaign begins with the first run that names it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from server.api.access.authentication import needs
from server.api.services import service
from server.training.campaigns.nights import Campaigns
from upturn.wire import CampaignList, CampaignView

CampaignsOf = Annotated[Campaigns, service(Campaigns)]

router = APIRouter(prefix="/v1/campaigns", tags=["runs"])


@router.get("", dependencies=[needs("learner")])
async def list_campaigns(campaigns: CampaignsOf) -> CampaignList:
    """List all campaigns without their nights, newest first."""
    return CampaignList(data=await campaigns.views())


@router.get("/{name}", dependencies=[needs("learner")])
async def get_campaign(name: str, campaigns: CampaignsOf) -> CampaignView:
    """Return a campaign with its nights, oldest first."""
    return await campaigns.view(name)
