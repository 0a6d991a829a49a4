// What the TypeScript client does against a server: `node episodes.mjs CLIENT URL` prints its results as JSON.
import { pathToFileURL } from "node:url";

const [client, url] = process.argv.slice(2);
const { Upturn, UpturnError } = await import(pathToFileURL(client).href);
const upturn = new Upturn(`${url}/`);
const found = {};

async function ask(episode) {
  const answer = await fetch(`${episode.baseURL}/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${episode.apiKey}` },
    body: JSON.stringify({ model: "policy", messages: [{ role: "user", content: "Hi" }] }),
  });
  return answer.json();
}

const rewarded = await upturn.withEpisode({ group: "typed", metadata: { a: 1 } }, async (episode) => {
  const { id } = await ask(episode);
  await episode.reward(0.25, { turn: 0 });
  return { episode: episode.id, completion: id };
});
await upturn.reward(rewarded.completion, 0.5, { source: "survey", key: "once" });
await upturn.reward(rewarded.completion, 0.5, { source: "survey", key: "once" });
const read = await upturn.transcript(rewarded.episode);
found.rewarded = [read.status, read.turns.length, read.reward, read.rewards.length, read.metadata];

class Mishap extends Error {}
let failed;
try {
  await upturn.withEpisode({}, async (episode) => {
    failed = episode.id;
    throw new Mishap("secret");
  });
} catch (error) {
  found.thrown = error.message;
}
const ended = await upturn.transcript(failed);
found.failed = [ended.status, ended.reason];

const { tasks } = await upturn.request("get", "/v1/environments/{name}/tasks", {
  path: { name: "textcraft" },
  query: { split: "train", limit: 2 },
});
found.steps = await upturn.withEpisode({ environment: "textcraft", task: tasks[0], horizon: 2 }, async (episode) => {
  const taken = [];
  const agent = async (messages) => {
    await ask(episode);
    return messages.length === episode.messages.length ? "Action: inventory" : "Action: look";
  };
  for await (const step of episode.steps(agent)) taken.push([step.action, step.truncated]);
  return taken;
});

const opened = [];
for (let number = 0; number < 5; number++) opened.push((await upturn.openEpisode({ group: "pages" })).id);
const listed = [];
for await (const episode of upturn.episodes({ group: "pages", limit: 2 })) listed.push(episode.id);
found.pages = JSON.stringify(listed) === JSON.stringify(opened.toReversed());
found.champion = (await upturn.policies()).filter((policy) => policy.champion).map((policy) => policy.id);
found.runs = (await upturn.runs()).length;

try {
  await upturn.transcript("../runs?x=/#");
} catch (error) {
  found.unknown = [error instanceof UpturnError, error.status, error.code];
}

// The network loses the first answer to each kind of request, after the server has given it.
const lost = new Set();
const losing = async (address, options) => {
  const answer = await fetch(address, options);
  const what = `${options.method} ${new URL(address).pathname}`;
  if (lost.has(what) || new URL(address).pathname === "/v1/episodes") return answer;
  await answer.text();
  lost.add(what);
  throw new TypeError("fetch failed");
};
const unlucky = new Upturn(url, { fetch: losing });
const episode = await unlucky.openEpisode({ environment: "textcraft", task: tasks[0], horizon: 5 });
await unlucky.reward(episode.id, 1);
found.step = await episode.step("Action: inventory").catch((error) => [error.status, error.code]);
await episode.close();
const seen = await unlucky.transcript(episode.id);
found.lost = [seen.rewards.length, seen.steps.length, seen.status];

const away = new Upturn("http://127.0.0.1:9", { retryMs: 0 });
found.away = await away.runs().catch((error) => [error.status, error.code]);
console.log(JSON.stringify(found));
