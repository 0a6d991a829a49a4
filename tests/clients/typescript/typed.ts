// Compiled, never run: what the types of the client accept, and what they refuse.
import { Upturn, type Opening, type Run } from "./upturn.js";

const upturn = new Upturn("http://127.0.0.1:8000", { key: "up-1" });
const opening: Opening = { environment: "textcraft", task: "t", horizon: 3 };

export async function accepted(): Promise<[number, string]> {
  const length: number = await upturn.withEpisode(opening, async (episode) => {
    for await (const step of episode.steps(async (messages) => messages.at(-1)?.content ?? "")) step.reward.toFixed();
    return episode.messages.length;
  });
  const run = await upturn.request("post", "/v1/runs", { body: { config: { algorithm: "grpo", steps: 2 } } });
  const again: Run = await upturn.request("get", "/v1/runs/{run_id}", { path: { run_id: run.id } });
  for await (const episode of upturn.episodes({ status: ["closed"] })) episode.reward?.toFixed();
  return [length, again.state];
}

export async function refused(): Promise<void> {
  // @ts-expect-error There is no such route.
  await upturn.request("get", "/v1/nothing");
  // @ts-expect-error There is no such method of the route.
  await upturn.request("delete", "/v1/runs");
  // @ts-expect-error A horizon is a number.
  await upturn.openEpisode({ horizon: "three" });
  // @ts-expect-error There is no such algorithm.
  await upturn.request("post", "/v1/runs", { body: { config: { algorithm: "magic", steps: 2 } } });
  // @ts-expect-error A status is one of five.
  for await (const episode of upturn.episodes({ status: ["ended"] })) void episode;
}
