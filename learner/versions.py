"""The versions of one run: published after each step, the best one kept, and served again if a guard stops the run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from learner.best import KeptVersion, best_of
from learner.model.policy import Policy
from learner.parallel.first import FirstProcessClient
from learner.publish import write_version
from upturn.wire import PolicyList, PolicyPublish, RunStep, RunView


class RunVersions:
    """Publishes the policy of a run as versions.

    Args:
        run: the run that this learner holds.
        client: the server's client.
        learner: name of this learner.
        policy: the policy that the run trains.
        directory: directory of the run's versions, which the server sees under the same path.
        listed: all versions on the server when the learner claimed the run.
    """

    def __init__(
        self,
        run: RunView,
        client: FirstProcessClient,
        learner: str,
        policy: Policy,
        directory: Path,
        listed: PolicyList,
    ) -> None:
        self._run = run
        self._client = client
        self._learner = learner
        self._policy = policy
        self._directory = directory
        self._kept = KeptVersion(directory / "best")
        published = [version for version in listed.data if version.run_id == run.id]
        self.newest = Path(max(published, key=lambda version: version.version).path) if published else None
        """Directory of the run's newest version, which plays the next step; None before the first."""

    def publish(self, step: int | None, horizon: int, copy_of: int | None = None) -> tuple[int, dict[str, float]]:
        """Write and publish a version; return its number, and the seconds that both took.

        Args:
            step: learner step of the run that made the weights; None is the state with which the run begins.
            horizon: the step's horizon, for the manifest.
            copy_of: the earlier version of the run whose weights these are, for the manifest: no two versions have the
                same.
        """
        began = time.perf_counter()
        facts = {"run_id": self._run.id, "horizon": horizon} | ({} if copy_of is None else {"copy_of": copy_of})
        version = write_version(self._policy, self._directory, step, facts)
        written = time.perf_counter()
        published = self._client.publish(
            PolicyPublish(
                run_id=self._run.id,
                learner=self._learner,
                step=step,
                path=str(version.directory),
                manifest_sha256=version.manifest_sha256,
                probe=version.probe,
            )
        )
        self.newest = version.directory
        return published.version, {"write_s": written - began, "publish_s": time.perf_counter() - written}

    def keep_if_best(self, played_by: Path | None, recorded: Sequence[RunStep]) -> None:
        """Keep the version that played the last recorded step if that step makes it the run's best.

        Args:
            played_by: directory of the version; None is the version that the run began with, which is never copied.
            recorded: the run's finished steps, oldest first.
        """
        best = best_of(recorded, self._run.config.guards.best_window)
        if best is not None and best.step == recorded[-1].step and played_by is not None:
            self._kept.replace(played_by)

    def serve_best(self, recorded: Sequence[RunStep]) -> str:
        """Publish the run's best version again unless it is the newest; return a sentence about the outcome.

        Args:
            recorded: the run's finished steps, oldest first.
        """
        best = best_of(recorded, self._run.config.guards.best_window)
        if best is None:
            return "No version has played enough steps to be judged the best"
        what = (
            f"The best version, {'the first' if best.version is None else best.version}, had a mean success of "
            f"{best.success:.3f} at step {best.step}"
        )
        published = {s.policy_version: s for s in recorded if s.policy_version is not None}
        made = None if best.version is None else published.get(best.version)
        if made is not None and best.version == max(published):
            return f"{what} and is the newest"
        if made is None or not self._kept.exists():
            return f"{what}: promote it"
        self._policy.load_published(self._kept.directory)
        version, _ = self.publish(made.step, made.horizon, copy_of=best.version)
        return f"{what} and serves again as version {version}"
