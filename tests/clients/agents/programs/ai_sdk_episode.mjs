// An agent on the AI SDK in an episode of the TypeScript client:
// `node ai_sdk_episode.mjs NODE_MODULES CLIENT URL QUESTION` prints its answer.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, client, url, prompt] = process.argv.slice(2);
const require = createRequire(modules + "/");
const { generateText, stepCountIs, tool } = await import(require.resolve("ai"));
const { createOpenAI } = await import(require.resolve("@ai-sdk/openai"));
const { z } = await import(require.resolve("zod"));
const { Upturn } = await import(pathToFileURL(client).href);

const prices = { lamp: 12, table: 30 };
const price = tool({
  description: "Tell the price of an item.",
  inputSchema: z.object({ item: z.string() }),
  execute: async ({ item }) => {
    if (!(item in prices)) throw new Error(`no item '${item}'; items: ${Object.keys(prices).join(", ")}`);
    return prices[item];
  },
});
const text = await new Upturn(url).withEpisode({ metadata: { agent: "ai-sdk" } }, async (episode) => {
  const model = createOpenAI(episode.openai).chat("policy");
  const answer = await generateText({ model, prompt, tools: { price }, stopWhen: stepCountIs(6), maxRetries: 0 });
  await episode.reward(answer.text.includes("42") ? 1 : 0);
  return answer.text;
});
console.log(text);
