"""One question, and the server of its tool."""

import verifiers.v1 as vf

from prices_taskset.server import PricesToolset


class PricesConfig(vf.TasksetConfig):
    """Where the tool's server runs."""

    tools: vf.SharedToolsetConfig = vf.SharedToolsetConfig()


class PricesTask(vf.Task):
    """Add up two prices."""

    @vf.reward
    async def right(self, trace: vf.Trace) -> float:
        """Return 1 if the last reply names the sum."""
        return float("42" in (trace.last_reply or ""))


class PricesTaskset(vf.Taskset[PricesTask, PricesConfig]):
    """The same question, three times."""

    @classmethod
    def toolsets(cls, config: PricesConfig) -> list[vf.Toolset]:
        """Return the prices."""
        return [PricesToolset(config.tools)]

    def load(self) -> list[PricesTask]:
        """Return the tasks."""
        question = "What do a lamp and a table cost together?"
        return [PricesTask(vf.TaskData(prompt=question), self.config.task) for _ in range(3)]
