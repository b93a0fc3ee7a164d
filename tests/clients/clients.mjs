// The clients that are tested, one entry each: which package and version, how it is told where the server is, how it
// is run without a human, what its shell tool is called. Copy-and-paste forms of the same stand in docs/clients.md.
//
//   package   npm name@version, installed alone into build/clients/NAME
//   ci        runs in CI; the others with `scripts/test --clients`
//   files     written before the run, paths relative to the scratch home; PORT is replaced
//   env       added to a clean environment
//   setup     commands run once before the first turn
//   turn      arguments of a turn; `again` true: it continues the last conversation
//   second_turn  why its history does not begin with what the first turn computed; absent: it does
//   call      the DSML invoke that makes its shell tool run `command`
const parameter = (name, value, string = true) =>
  `<｜DSML｜parameter name="${name}" string="${string}">${value}</｜DSML｜parameter>`;
const invoke = (tool, ...parameters) => `<｜DSML｜invoke name="${tool}">\n${parameters.join("\n")}\n</｜DSML｜invoke>`;
const model = "deepseek-v4-flash";

export const clients = [
  {
    name: "claude-code",
    package: "@anthropic-ai/claude-code@2.1.197",
    command: "claude",
    ci: true,
    env: {
      ANTHROPIC_BASE_URL: "http://127.0.0.1:PORT", ANTHROPIC_AUTH_TOKEN: "dummy", ANTHROPIC_MODEL: model,
      ANTHROPIC_DEFAULT_OPUS_MODEL: model, ANTHROPIC_DEFAULT_SONNET_MODEL: model,
      ANTHROPIC_DEFAULT_HAIKU_MODEL: model, CLAUDE_CODE_SUBAGENT_MODEL: model,
      CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1", DISABLE_TELEMETRY: "1", DISABLE_ERROR_REPORTING: "1",
      DISABLE_AUTOUPDATER: "1", IS_SANDBOX: "1",
    },
    turn: (prompt, again) => [...(again ? ["-c"] : []), "-p", prompt, "--allowedTools", "Bash", "--max-turns", "6",
      "--output-format", "json"],
    call: (command) => invoke("Bash", parameter("command", command), parameter("description", "a test step")),
  },
  {
    name: "opencode",
    package: "opencode-ai@1.18.33",
    command: "opencode",
    ci: true,
    files: {
      "work/opencode.json": JSON.stringify({
        "$schema": "https://opencode.ai/config.json", autoupdate: false, share: "disabled", model: `local/${model}`,
        small_model: `local/${model}`, enabled_providers: ["local"], permission: { "*": "allow" },
        provider: { local: { npm: "@ai-sdk/openai-compatible", name: "Local V4",
          options: { baseURL: "http://127.0.0.1:PORT/v1", apiKey: "dummy" },
          models: { [model]: { name: "V4", reasoning: true, tool_call: true,
            interleaved: { field: "reasoning_content" }, limit: { context: 1048576, output: 65536 } } } } },
      }),
    },
    env: { OPENCODE_DISABLE_AUTOUPDATE: "1", OPENCODE_DISABLE_MODELS_FETCH: "1", OPENCODE_DISABLE_LSP_DOWNLOAD: "1",
      OPENCODE_DISABLE_DEFAULT_PLUGINS: "1" },
    turn: (prompt, again) => ["run", ...(again ? ["--continue"] : []), "--format", "json", prompt],
    call: (command) => invoke("bash", parameter("command", command), parameter("description", "a test step")),
  },
  {
    name: "codex",
    package: "@openai/codex@0.169.0",
    command: "codex",
    ci: true,
    files: {
      ".codex/config.toml": `model = "${model}"
model_provider = "local"
model_context_window = 1048576
model_reasoning_effort = "high"
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false
web_search = "disabled"
[analytics]
enabled = false
[otel]
exporter = "none"
[model_providers.local]
name = "local"
base_url = "http://127.0.0.1:PORT/v1"
wire_api = "responses"
env_key = "LOCAL_KEY"
requires_openai_auth = false
supports_websockets = false
`,
    },
    env: { LOCAL_KEY: "dummy" },
    turn: (prompt, again) => ["exec", ...(again ? ["resume", "--last"] : []), "--skip-git-repo-check", "--json", prompt],
    call: (command) => invoke("exec_command", parameter("cmd", command)),
  },
  {
    name: "qwen-code",
    second_turn: "changed",  // it lists the folder in its first message, and the first turn made files
    package: "@qwen-code/qwen-code@0.15.10",
    command: "qwen",
    files: {
      ".qwen/settings.json": JSON.stringify({
        privacy: { usageStatisticsEnabled: false }, telemetry: { enabled: false },
        general: { disableAutoUpdate: true, enableAutoUpdate: false }, security: { auth: { selectedType: "openai" } },
      }),
    },
    env: { OPENAI_API_KEY: "dummy", OPENAI_BASE_URL: "http://127.0.0.1:PORT/v1", OPENAI_MODEL: model },
    turn: (prompt, again) => [...(again ? ["--continue"] : []), "-p", prompt, "--yolo"],
    call: (command) => invoke("run_shell_command", parameter("command", command),
      parameter("description", "a test step"), parameter("is_background", "false", false)),
  },
  {
    name: "cline",
    package: "cline@3.0.65",
    command: "cline",
    env: { CLINE_TELEMETRY_DISABLED: "1", DO_NOT_TRACK: "1", CLINE_NO_AUTO_UPDATE: "1" },
    setup: [["auth", "openai-compatible", "--apikey", "dummy", "--modelid", model, "--baseurl",
      "http://127.0.0.1:PORT/v1"]],
    turn: (prompt) => ["-P", "openai-compatible", "-k", "dummy", "-m", model, "--json", prompt],
    second_turn: "new",  // has no way to continue without a terminal
    call: (command) => invoke("run_commands", parameter("commands", JSON.stringify([command]), false)),
  },
  {
    name: "pi",
    package: "@mariozechner/pi-coding-agent@0.73.1",
    command: "pi",
    files: {
      ".pi/agent/models.json": JSON.stringify({ providers: { local: {
        baseUrl: "http://127.0.0.1:PORT/v1", api: "openai-completions", apiKey: "dummy",
        models: [{ id: model, reasoning: true, contextWindow: 1048576, maxTokens: 65536,
          compat: { thinkingFormat: "deepseek", supportsDeveloperRole: false, supportsReasoningEffort: true,
            requiresReasoningContentOnAssistantMessages: true } }] } } }),
    },
    env: { PI_OFFLINE: "1", PI_SKIP_VERSION_CHECK: "1" },
    turn: (prompt, again) => [...(again ? ["-c"] : []), "-p", "--provider", "local", "--model", model, "--thinking",
      "high", prompt],
    call: (command) => invoke("bash", parameter("command", command)),
  },
  {
    name: "continue",
    second_turn: "thoughtless",  // it sends answers back without their reasoning
    package: "@continuedev/cli@1.5.47",
    command: "cn",
    files: {
      "config.yaml": `name: local
version: 0.0.1
schema: v1
models:
  - name: v4
    provider: openai
    model: ${model}
    apiBase: http://127.0.0.1:PORT/v1
    apiKey: dummy
    roles: [chat]
    capabilities: [tool_use]
`,
    },
    env: { CONTINUE_TELEMETRY_ENABLED: "0", FORCE_NO_TTY: "true" },
    turn: (prompt, again, home) => ["-p", ...(again ? ["--resume"] : []), "--config", `${home}/config.yaml`, "--auto",
      prompt],
    call: (command) => invoke("Bash", parameter("command", command)),
  },
];

export const libraries = [
  { name: "openai", package: "openai@6.49.0", script: "openai.mjs", ci: true },
  { name: "anthropic-sdk", package: "@anthropic-ai/sdk@1.12.0", script: "anthropic.mjs", ci: true },
  { name: "ai-sdk-deepseek", package: "@ai-sdk/deepseek@2.0.69", script: "ai_sdk.mjs", ci: true },
];
