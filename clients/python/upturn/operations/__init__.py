"""Every operation of a server, described once for both clients."""

from upturn.operations.episodes import EpisodeOperations
from upturn.operations.figures import FigureOperations
from upturn.operations.leaderboard import LeaderboardOperations
from upturn.operations.learner import LearnerOperations
from upturn.operations.policies import PolicyOperations
from upturn.operations.training import TrainingOperations


class Operations(
    EpisodeOperations, TrainingOperations, PolicyOperations, LeaderboardOperations, FigureOperations, LearnerOperations
):
    """All of them."""


__all__ = ["EpisodeOperations", "Operations"]
