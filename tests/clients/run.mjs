// Runs real clients against `kvasir serve` on loopback: node run.mjs BINARY --ci|--all [NAME...]
//
// Each client gets a scratch home, a clean environment and a server of its own whose answers are scripted: a thought
// and a shell call, twice, then a final text; then a second turn. Checked: both commands ran, both texts arrived, and
// in the tool loop every request hits all that the one before it had computed (CACHE-3).
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { clients, libraries } from "./clients.mjs";
import { end_of_thinking, start_server, tool_block } from "./server.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const seconds_per_turn = 120;

function install(client) {
  const folder = resolve(here, "../../build/clients", client.name);
  const marker = join(folder, ".installed");
  if (existsSync(marker) && readFileSync(marker, "utf8") === client.package) return folder;
  mkdirSync(folder, { recursive: true });
  execFileSync("npm", ["install", "--no-audit", "--no-fund", "--silent", client.package], { cwd: folder, stdio: "inherit" });
  writeFileSync(marker, client.package);
  return folder;
}

// stdin is closed, so that no client waits for a human.
function run(command, args, options) {
  return new Promise((done) => {
    const child = spawn(command, args, { ...options, stdio: ["ignore", "pipe", "pipe"], detached: true });
    let out = "", err = "";
    child.stdout.on("data", (b) => (out += b));
    child.stderr.on("data", (b) => (err += b));
    const timer = setTimeout(() => process.kill(-child.pid, "SIGKILL"), seconds_per_turn * 1000);
    child.on("error", (e) => done({ code: -1, out, err: String(e) }));
    child.on("close", (code) => { clearTimeout(timer); done({ code, out, err }); });
  });
}

function expect(condition, what) {
  if (!condition) throw new Error(what);
}

// In a tool loop each prompt begins with the last prompt and what was sampled; the last sampled token may be computed
// again, everything before it may not.
function check_tool_loop(loop) {
  for (let i = 1; i < loop.length; i++) {
    const had = loop[i - 1].prompt_tokens + loop[i - 1].output_tokens;
    expect(loop[i].hit_tokens >= had - 1,
      `request ${i + 1} of the tool loop hit ${loop[i].hit_tokens} tokens; ${had} had been computed: ${JSON.stringify(loop)}`);
    expect(loop[i].hit_tokens + loop[i].miss_tokens === loop[i].prompt_tokens, `hit + miss is not the prompt: ${JSON.stringify(loop[i])}`);
  }
}

async function test_agent(binary, client) {
  const folder = install(client);
  const home = mkdtempSync(join(tmpdir(), "kvasir-client-"));
  const work = join(home, "work");
  mkdirSync(work);
  const say = (thought, rest, more = {}) => ({ text: thought + end_of_thinking + rest, tools: true, ...more });
  const server = await start_server(binary, [
    say("First I write a file.", tool_block(client.call("echo first > one.txt"))),
    say("Then another one.", tool_block(client.call("cat one.txt one.txt > two.txt"))),
    say("Both are there.", "KVASIR-DONE-ONE"),
    say("A short answer will do.", "KVASIR-DONE-TWO", { repeat: true }),
    { text: "A title", tools: false, repeat: true },
  ]);
  try {
    for (const [path, text] of Object.entries(client.files ?? {})) {
      mkdirSync(dirname(join(home, path)), { recursive: true });
      writeFileSync(join(home, path), text.replaceAll("PORT", server.port));
    }
    const env = { PATH: process.env.PATH, HOME: home, TERM: "dumb", LANG: "C.UTF-8" };
    for (const [name, value] of Object.entries(client.env ?? {})) env[name] = value.replaceAll("PORT", server.port);
    const command = join(folder, "node_modules/.bin", client.command);
    for (const args of client.setup ?? []) await run(command, args.map((a) => a.replaceAll("PORT", server.port)), { cwd: work, env });

    const first = await run(command, client.turn("Write one.txt, then double it into two.txt.", false, home), { cwd: work, env });
    const told = () => `\n--- stdout\n${first.out.slice(-3000)}\n--- stderr\n${first.err.slice(-2000)}\n--- server\n${server.log.slice(-4000)}`;
    expect(existsSync(join(work, "one.txt")), `the first command did not run${told()}`);
    expect(existsSync(join(work, "two.txt")) && readFileSync(join(work, "two.txt"), "utf8") === "first\nfirst\n",
      `the second command did not run${told()}`);
    expect(first.out.includes("KVASIR-DONE-ONE"), `the final text is not on standard output${told()}`);
    const loop = server.completions().filter((c) => c.tools > 0);
    expect(loop.length >= 3, `expected 3 requests of a tool loop, saw ${loop.length}${told()}`);
    check_tool_loop(loop.slice(0, 3));

    const second = await run(command, client.turn("Thank you. Anything else?", true, home), { cwd: work, env });
    expect(second.out.includes("KVASIR-DONE-TWO"), `the second turn's text is not on standard output\n${second.out.slice(-3000)}\n${second.err.slice(-2000)}\n${server.log.slice(-3000)}`);
    const after = server.completions().filter((c) => c.tools > 0)[3];
    if (!client.second_turn) check_tool_loop([loop[2], after]);
    if (client.second_turn === "thoughtless") {
      expect(after.hit_tokens >= loop[2].prompt_tokens - 1, `the second turn hit ${after.hit_tokens} of ${loop[2].prompt_tokens}`);
    }
    await server.stop();
    return [...loop.slice(0, 3), after].map((c) => `${c.hit_tokens}+${c.miss_tokens}`).join(" ");
  } finally {
    server.child.kill("SIGKILL");
    spawnSync("pkill", ["-f", home]);  // one of the clients leaves a daemon behind
    rmSync(home, { recursive: true, force: true });
  }
}

async function test_library(binary, library) {
  const folder = install(library);
  const script = await import(`./${library.script}`);
  const server = await start_server(binary, script.answers);
  try {
    await script.test({ folder, port: server.port, completions: server.completions, expect, check_tool_loop });
    await server.stop();
    return "";
  } finally {
    server.child.kill("SIGKILL");
  }
}

const args = process.argv.slice(2);
const [binary, which, ...names] = args;
const ci = which === "--ci";
let failed = 0, passed = 0;
for (const entry of [...libraries, ...clients]) {
  if (names.length ? !names.includes(entry.name) : ci && !entry.ci) continue;
  const begin = Date.now();
  try {
    const note = await (entry.script ? test_library : test_agent)(resolve(binary), entry);
    console.log(`ok   ${entry.package} ${((Date.now() - begin) / 1000).toFixed(1)} s ${note}`);
    passed++;
  } catch (error) {
    console.log(`FAIL ${entry.package}: ${error.message}`);
    failed++;
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed || !passed ? 1 : 0);
