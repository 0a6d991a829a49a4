"""SkyRL's search environment: `skyrl_search.py RETRIEVE_URL` plays an episode and prints its outcome as JSON."""

import json
import sys

from skyrl_gym.envs.search.env import SearchEnv, SearchEnvConfig

env = SearchEnv(
    SearchEnvConfig(search_url=sys.argv[1]), {"reward_spec": {"ground_truth": {"target": ["Lusaka"]}}, "max_turns": 3}
)
env.init([{"role": "user", "content": "What is the capital of the country formerly named Northern Rhodesia?"}])
first = env.step("<search>former name Northern Rhodesia</search>")
second = env.step("<search>Zambia capital</search>")
last = env.step("<answer>Lusaka</answer>")
print(
    json.dumps(
        {
            "seen": [first["observations"][0]["content"], second["observations"][0]["content"]],
            "done": [first["done"], second["done"], last["done"]],
            "reward": last["reward"],
        }
    )
)
