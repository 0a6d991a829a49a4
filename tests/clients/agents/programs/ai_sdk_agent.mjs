// An agent on the AI SDK: `node ai_sdk_agent.mjs NODE_MODULES responses|chat URL QUESTION` prints its answer.
import { createRequire } from "node:module";

const [modules, api, baseURL, prompt] = process.argv.slice(2);
const require = createRequire(modules + "/");
const { generateText, stepCountIs, tool } = await import(require.resolve("ai"));
const { createOpenAI } = await import(require.resolve("@ai-sdk/openai"));
const { z } = await import(require.resolve("zod"));

const prices = { lamp: 12, table: 30 };
const price = tool({
  description: "Tell the price of an item.",
  inputSchema: z.object({ item: z.string() }),
  execute: async ({ item }) => {
    if (!(item in prices)) throw new Error(`no item '${item}'; items: ${Object.keys(prices).join(", ")}`);
    return prices[item];
  },
});
const openai = createOpenAI({ baseURL, apiKey: "sk-ai-sdk" });
const model = api === "chat" ? openai.chat("policy") : openai("policy");
const { text } = await generateText({ model, prompt, tools: { price }, stopWhen: stepCountIs(6), maxRetries: 0 });
console.log(text);
