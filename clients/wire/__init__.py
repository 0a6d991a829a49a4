"""Every message between Upturn's programs that is not OpenAI's.

The server, the learner and the clients agree on this package and on nothing else. It needs pydantic only. Unknown
fields are refused on both sides, so a misspelt field is an error and never a silent default. Times are Unix seconds.
"""

from clients.wire.base import (
    Message,
    ServerView,
)
from clients.wire.batches import (
    BatchAck,
    BatchRequest,
    BatchView,
    Sample,
    TrainedEpisode,
)
from clients.wire.episodes import (
    ChatMessage,
    EnvironmentList,
    EnvironmentView,
    EpisodeClose,
    EpisodeOpen,
    EpisodeOpened,
    EpisodeView,
    RewardRequest,
    RewardView,
    StepRequest,
    StepResult,
    StepView,
    TaskList,
    TurnView,
)
from clients.wire.plays import (
    PlayedEpisode,
    PlayRequest,
    PlayView,
    Sampling,
)
from clients.wire.policies import (
    PolicyList,
    PolicyPublish,
    PolicyView,
    Probe,
)
from clients.wire.runs import (
    FixedHorizon,
    HorizonSchedule,
    OptimiserConfig,
    PlayPlan,
    RunClaim,
    RunConfig,
    RunEnd,
    RunList,
    RunRequest,
    RunStep,
    RunView,
    StepwiseHorizon,
)

__all__ = [
    "BatchAck",
    "BatchRequest",
    "BatchView",
    "ChatMessage",
    "EnvironmentList",
    "EnvironmentView",
    "EpisodeClose",
    "EpisodeOpen",
    "EpisodeOpened",
    "EpisodeView",
    "FixedHorizon",
    "HorizonSchedule",
    "Message",
    "OptimiserConfig",
    "PlayPlan",
    "PlayRequest",
    "PlayView",
    "PlayedEpisode",
    "PolicyList",
    "PolicyPublish",
    "PolicyView",
    "Probe",
    "RewardRequest",
    "RewardView",
    "RunClaim",
    "RunConfig",
    "RunEnd",
    "RunList",
    "RunRequest",
    "RunStep",
    "RunView",
    "Sample",
    "Sampling",
    "ServerView",
    "StepRequest",
    "StepResult",
    "StepView",
    "StepwiseHorizon",
    "TaskList",
    "TrainedEpisode",
    "TurnView",
]
