// Starts and stops a `kvasir serve` for one test and reads what it logs.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export const end_of_thinking = "</think>";
export const tool_block = (...calls) =>
  `\n\n<｜DSML｜tool_calls>\n${calls.join("\n")}\n</｜DSML｜tool_calls>`;

// `answers`: lines of the replay script (docs/api.md). Resolves when the server has said where it listens.
export async function start_server(binary, answers) {
  const folder = mkdtempSync(join(tmpdir(), "kvasir-serve-"));
  const script = join(folder, "answers.jsonl");
  writeFileSync(script, answers.map((a) => JSON.stringify(a)).join("\n") + "\n");
  const child = spawn(binary, ["serve", "--port", "0", "--replay", script, "--cache-dir", join(folder, "cache"),
    "--log-format", "json", "--model-name", "deepseek-v4-flash"], { stdio: ["ignore", "pipe", "pipe"] });
  const server = { child, folder, port: 0, log: "", events: [] };
  let rest = "";
  child.stderr.on("data", (bytes) => {
    server.log += bytes;
    const lines = (rest + bytes).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      try { server.events.push(JSON.parse(line)); } catch { /* a notice, not an event */ }
    }
  });
  const ended = new Promise((resolve) => child.on("exit", (code) => resolve(code)));
  server.port = await new Promise((resolve, reject) => {
    let out = "";
    child.stdout.on("data", (bytes) => {
      out += bytes;
      const match = out.match(/http:\/\/127\.0\.0\.1:(\d+)/);
      if (match) resolve(Number(match[1]));
    });
    ended.then((code) => reject(new Error(`kvasir serve ended with ${code}: ${server.log}`)));
  });
  server.completions = () => server.events.filter((e) => e.event === "completion");
  server.stop = async () => {
    child.kill("SIGTERM");
    const code = await ended;
    rmSync(folder, { recursive: true, force: true });
    if (code !== 0) throw new Error(`kvasir serve ended with ${code} after SIGTERM: ${server.log}`);
  };
  return server;
}
