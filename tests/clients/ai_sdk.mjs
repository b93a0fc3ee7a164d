// @ai-sdk/deepseek: a stream with reasoning, a tool call, and the cache figures in its usage.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { end_of_thinking, tool_block } from "./server.mjs";

const call = '<｜DSML｜invoke name="weather">\n<｜DSML｜parameter name="city" string="true">Oslo</｜DSML｜parameter>\n</｜DSML｜invoke>';
export const answers = [
  { text: "I ask." + end_of_thinking + tool_block(call) },
  { text: "It said sun." + end_of_thinking + "Sunny." },
];

// The library's own model interface, which `ai` stands on: prompt in, parts out.
export async function test({ folder, port, completions, expect, check_tool_loop }) {
  const entry = createRequire(folder + "/index.js").resolve("@ai-sdk/deepseek");
  const { createDeepSeek } = await import(pathToFileURL(entry));
  const model = createDeepSeek({ apiKey: "dummy", baseURL: `http://127.0.0.1:${port}` })("deepseek-v4-flash");
  const prompt = [{ role: "user", content: [{ type: "text", text: "Weather in Oslo?" }] }];
  const tools = [{ type: "function", name: "weather", description: "Looks.",
    inputSchema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } }];
  const stream = async () => {
    const { stream: parts } = await model.doStream({ prompt, tools });
    const seen = { text: "", reasoning: "", calls: [], finish: null };
    for await (const part of parts) {
      if (part.type === "text-delta") seen.text += part.delta;
      if (part.type === "reasoning-delta") seen.reasoning += part.delta;
      if (part.type === "tool-call") seen.calls.push(part);
      if (part.type === "finish") seen.finish = part;
      if (part.type === "error") throw part.error;
    }
    return seen;
  };
  const first = await stream();
  expect(first.reasoning === "I ask." && first.calls.length === 1 && JSON.parse(first.calls[0].input).city === "Oslo", JSON.stringify(first));
  prompt.push({ role: "assistant", content: [{ type: "reasoning", text: first.reasoning },
    { type: "tool-call", toolCallId: first.calls[0].toolCallId, toolName: "weather", input: { city: "Oslo" } }] },
  { role: "tool", content: [{ type: "tool-result", toolCallId: first.calls[0].toolCallId, toolName: "weather",
    output: { type: "text", value: "sun" } }] });
  const second = await stream();
  expect(second.text === "Sunny.", JSON.stringify(second));
  expect(second.finish.providerMetadata.deepseek.promptCacheHitTokens > 0, JSON.stringify(second.finish));
  check_tool_loop(completions());
}
