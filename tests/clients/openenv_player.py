"""OpenEnv's own client: `openenv_player.py URL TASK ACTION...` plays, and prints the result as JSON."""

import json
import sys

from openenv.core import GenericEnvClient

_, url, task, *actions = sys.argv
client = GenericEnvClient(base_url=url).sync()
with client:
    begun = client.reset(task=task, seed=3, episode_id="theirs")
    seen = [{"text": begun.observation["message"], "reward": begun.reward, "done": begun.done}]
    for action in actions:
        result = client.step({"message": action})
        seen.append({"text": result.observation["message"], "reward": result.reward, "done": result.done})
    state = client.state()
    try:
        client.step({"message": "one more"})
        refused = None
    except RuntimeError as error:
        refused = str(error)
print(json.dumps({"seen": seen, "state": state, "refused": refused}))
