// The Anthropic library: models, count_tokens, a messages stream with thinking and a tool, and the next step.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { end_of_thinking, tool_block } from "./server.mjs";

const call = '<｜DSML｜invoke name="weather">\n<｜DSML｜parameter name="city" string="true">Oslo</｜DSML｜parameter>\n</｜DSML｜invoke>';
export const answers = [
  { text: "I ask." + end_of_thinking + tool_block(call) },
  { text: "It said sun." + end_of_thinking + "Sunny." },
];

export async function test({ folder, port, completions, expect, check_tool_loop }) {
  const entry = createRequire(folder + "/index.js").resolve("@anthropic-ai/sdk");
  const { default: Anthropic } = await import(pathToFileURL(entry));
  const client = new (Anthropic.Anthropic ?? Anthropic)({ apiKey: "dummy", baseURL: `http://127.0.0.1:${port}`, maxRetries: 0 });

  const models = await client.models.list();
  expect(models.data.some((m) => m.id === "deepseek-v4-flash"), JSON.stringify(models.data));

  const messages = [{ role: "user", content: "Weather in Oslo?" }];
  const request = () => ({ model: "deepseek-v4-flash", max_tokens: 1000, messages,
    system: [{ type: "text", text: "Be brief.", cache_control: { type: "ephemeral" } }],
    thinking: { type: "enabled", budget_tokens: 1024 },
    tools: [{ name: "weather", description: "Looks.", input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } }] });
  const { max_tokens, ...counted } = request();
  const count = await client.messages.countTokens(counted);

  const first = await client.messages.stream(request()).finalMessage();
  expect(first.stop_reason === "tool_use", JSON.stringify(first));
  expect(first.content.map((b) => b.type).join() === "thinking,tool_use", JSON.stringify(first.content));
  expect(first.content[0].thinking === "I ask." && first.content[0].signature, JSON.stringify(first.content[0]));
  expect(first.content[1].input.city === "Oslo", JSON.stringify(first.content[1]));
  const all = (u) => u.input_tokens + u.cache_read_input_tokens + (u.cache_creation_input_tokens ?? 0);
  expect(all(first.usage) === count.input_tokens, `${JSON.stringify(first.usage)} against ${count.input_tokens} counted`);

  messages.push({ role: "assistant", content: first.content },
    { role: "user", content: [{ type: "tool_result", tool_use_id: first.content[1].id, content: "sun" }] });
  const second = await client.messages.create(request());
  expect(second.stop_reason === "end_turn" && second.content.at(-1).text === "Sunny.", JSON.stringify(second));
  expect(second.usage.cache_read_input_tokens > 0, JSON.stringify(second.usage));
  check_tool_loop(completions());
}
