"""The tables of the record. Every change here needs a revision in `migrations/versions/`; a test compares the two.

Importing this package registers every table. Ids are text that sorts by time. Times are Unix seconds. Token ids are
little-endian int32 blobs and logprobs float32 blobs, so that a turn is stored exactly and its size depends only on its
new tokens.
"""

from server.store.tables.conversations import ConversationEndRow
from server.store.tables.episodes import EpisodeRow, NodeRow, PlayRow, RewardRow, StepRow, TurnRow
from server.store.tables.keys import ApiKeyRow
from server.store.tables.leaderboard import LeaderboardRow
from server.store.tables.notifications import NotificationRow, NotificationTargetRow
from server.store.tables.rewards import FeedbackRow, JudgementRow, RewardSourceRow, ScoreRow
from server.store.tables.training import BatchRow, CampaignRow, MetricRow, RunEpisodeRow, RunRow, TriggerRow
from server.store.tables.versions import EvaluationRow, PolicyVersionRow, PromotionRow, ShadowRow

__all__ = [
    "ApiKeyRow",
    "BatchRow",
    "CampaignRow",
    "ConversationEndRow",
    "EpisodeRow",
    "EvaluationRow",
    "FeedbackRow",
    "JudgementRow",
    "LeaderboardRow",
    "MetricRow",
    "NodeRow",
    "NotificationRow",
    "NotificationTargetRow",
    "PlayRow",
    "PolicyVersionRow",
    "PromotionRow",
    "RewardRow",
    "RewardSourceRow",
    "RunEpisodeRow",
    "RunRow",
    "ScoreRow",
    "ShadowRow",
    "StepRow",
    "TriggerRow",
    "TurnRow",
]
