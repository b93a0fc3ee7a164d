// The openai library: chat stream with a tool call, the next step of the loop, and a responses stream.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { end_of_thinking, tool_block } from "./server.mjs";

const call = '<｜DSML｜invoke name="weather">\n<｜DSML｜parameter name="city" string="true">Oslo</｜DSML｜parameter>\n</｜DSML｜invoke>';
export const answers = [
  { text: "I ask." + end_of_thinking + tool_block(call) },
  { text: "It said sun." + end_of_thinking + "Sunny." },
  { text: "I ask." + end_of_thinking + tool_block(call) },
  { text: "It said sun." + end_of_thinking + "Sunny." },
];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };

export async function test({ folder, port, completions, expect, check_tool_loop }) {
  const entry = createRequire(folder + "/index.js").resolve("openai");
  const { default: OpenAI } = await import(pathToFileURL(entry));
  const client = new (OpenAI.OpenAI ?? OpenAI)({ apiKey: "dummy", baseURL: `http://127.0.0.1:${port}/v1`, maxRetries: 0 });

  const models = [];
  for await (const m of client.models.list()) models.push(m.id);
  expect(models.includes("deepseek-v4-flash"), `models: ${models}`);

  const messages = [{ role: "user", content: "Weather in Oslo?" }];
  const tools = [{ type: "function", function: { name: "weather", description: "Looks.", parameters } }];
  const chat = async () => {
    const stream = await client.chat.completions.create({ model: "deepseek-v4-flash", messages, tools, stream: true,
      stream_options: { include_usage: true } });
    const out = { content: "", reasoning_content: "", calls: [], finish: null, usage: null };
    for await (const chunk of stream) {
      const choice = chunk.choices[0];
      out.content += choice?.delta?.content ?? "";
      out.reasoning_content += choice?.delta?.reasoning_content ?? "";
      for (const c of choice?.delta?.tool_calls ?? []) {
        out.calls[c.index] ??= { id: c.id, type: "function", function: { name: c.function.name, arguments: "" } };
        out.calls[c.index].function.arguments += c.function.arguments ?? "";
      }
      out.finish = choice?.finish_reason ?? out.finish;
      out.usage = chunk.usage ?? out.usage;
    }
    return out;
  };
  const first = await chat();
  expect(first.finish === "tool_calls" && first.reasoning_content === "I ask." && first.content === "", JSON.stringify(first));
  expect(first.calls.length === 1 && JSON.parse(first.calls[0].function.arguments).city === "Oslo", JSON.stringify(first.calls));
  messages.push({ role: "assistant", content: "", reasoning_content: first.reasoning_content, tool_calls: first.calls },
    { role: "tool", tool_call_id: first.calls[0].id, content: "sun" });
  const second = await chat();
  expect(second.finish === "stop" && second.content === "Sunny.", JSON.stringify(second));
  const usage = second.usage;
  expect(usage.prompt_cache_hit_tokens + usage.prompt_cache_miss_tokens === usage.prompt_tokens, JSON.stringify(usage));
  expect(usage.prompt_tokens_details.cached_tokens === usage.prompt_cache_hit_tokens, JSON.stringify(usage));
  check_tool_loop(completions());

  const input = [{ role: "user", content: "Weather in Bergen?" }];
  const respond = async () => {
    const stream = await client.responses.create({ model: "deepseek-v4-flash", input, stream: true,
      tools: [{ type: "function", name: "weather", description: "Looks.", parameters, strict: false }] });
    let done = null;
    const types = [];
    for await (const event of stream) {
      types.push(event.type);
      if (event.type === "response.completed") done = event.response;
    }
    expect(done, `no response.completed: ${types}`);
    return done;
  };
  const response = await respond();
  const item = response.output.find((o) => o.type === "function_call");
  expect(item && JSON.parse(item.arguments).city === "Oslo", JSON.stringify(response.output));
  input.push(...response.output, { type: "function_call_output", call_id: item.call_id, output: "sun" });
  const answer = await respond();
  expect(answer.output.some((o) => o.type === "message" && o.content[0].text === "Sunny."), JSON.stringify(answer.output));
  expect(answer.usage.input_tokens_details.cached_tokens > 0, JSON.stringify(answer.usage));
  check_tool_loop(completions().slice(2));

  let refused = null;
  try {
    await client.chat.completions.create({ model: "deepseek-v4-flash", messages: "hello" });
  } catch (error) {
    refused = error;
  }
  expect(refused?.status === 400 && /messages/.test(refused.message), `a wrong body: ${refused}`);
}
