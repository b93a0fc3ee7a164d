// The table of settings and the TOML file; see settings.h.
#include "server/settings.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <utility>

#include "base/check.h"

namespace kvasir {
namespace {

constexpr int64_t kMaxBytes = int64_t{1} << 50;

Error bad_value(std::string_view seen, std::string_view expected) {
  return Error{ErrorCode::kInvalid, fmt::format("saw '{}', expected {}", seen, expected)};
}

template <class T>
bool parse_whole(std::string_view text, T& out) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size();
}

// "64MiB", "1.5GiB" or plain bytes. Powers of 1024 only: a limit that means two things is no limit.
bool parse_bytes(std::string_view text, int64_t& out) {
  double factor = 1;
  for (auto [suffix, size] : {std::pair<std::string_view, double>{"KiB", 1024.0},
                              {"MiB", 1048576.0},
                              {"GiB", 1073741824.0},
                              {"TiB", 1099511627776.0}}) {
    if (text.size() > suffix.size() && text.ends_with(suffix)) {
      text.remove_suffix(suffix.size());
      factor = size;
      break;
    }
  }
  double value = 0;
  if (!parse_whole(text, value) || !(value >= 0) || value * factor > static_cast<double>(kMaxBytes))
    return false;
  out = static_cast<int64_t>(value * factor);
  return true;
}

std::string bytes_text(int64_t bytes) {
  for (auto [suffix, size] : {std::pair<const char*, int64_t>{"TiB", int64_t{1} << 40},
                              {"GiB", 1 << 30},
                              {"MiB", 1 << 20},
                              {"KiB", 1 << 10}}) {
    if (bytes != 0 && bytes % size == 0) return fmt::format("\"{}{}\"", bytes / size, suffix);
  }
  return fmt::format("{}", bytes);
}

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      out += fmt::format("\\u{:04x}", c);
    } else {
      out += c;
    }
  }
  return out + "\"";
}

Setting text_setting(const char* key, const char* flag, const char* type, const char* help,
                     std::string Settings::* field, bool secret = false) {
  return {key,
          flag,
          type,
          help,
          secret,
          [field](Settings& s, std::string_view text) -> Status {
            return s.*field = std::string(text), Status();
          },
          [field](const Settings& s) { return quoted(s.*field); }};
}

template <class T>
Setting number_setting(const char* key, const char* flag, const char* help, T Settings::* field, T low,
                       T high, const char* type = "N") {
  return {key,
          flag,
          type,
          help,
          false,
          [=](Settings& s, std::string_view text) -> Status {
            T value{};
            if (!parse_whole(text, value) || !(value >= low && value <= high))
              return bad_value(text, fmt::format("a number from {} to {}", low, high));
            s.*field = value;
            return {};
          },
          [field](const Settings& s) { return fmt::format("{}", s.*field); }};
}

Setting bytes_setting(const char* key, const char* flag, const char* help, int64_t Settings::* field,
                      int64_t low) {
  return {key,
          flag,
          "BYTES",
          help,
          false,
          [=](Settings& s, std::string_view text) -> Status {
            int64_t value = 0;
            if (!parse_bytes(text, value) || value < low)
              return bad_value(text, fmt::format("bytes, such as {} or 2GiB, at least {}", low, low));
            s.*field = value;
            return {};
          },
          [field](const Settings& s) { return bytes_text(s.*field); }};
}

Setting seconds_setting(const char* key, const char* flag, const char* help, double Settings::* field) {
  return number_setting<double>(key, flag, help, field, 0.0, 1e9, "SECONDS");
}

Setting switch_setting(const char* key, const char* flag, const char* help, bool Settings::* field) {
  return {key,
          flag,
          "on|off",
          help,
          false,
          [field](Settings& s, std::string_view text) -> Status {
            if (text != "on" && text != "off" && text != "true" && text != "false")
              return bad_value(text, "on, off, true or false");
            s.*field = text == "on" || text == "true";
            return {};
          },
          [field](const Settings& s) { return std::string(s.*field ? "true" : "false"); }};
}

template <class Enum>
using Choices = std::vector<std::pair<const char*, Enum>>;

template <class Enum, class Field>
Setting choice_setting(const char* key, const char* flag, const char* type, const char* help,
                       Field Settings::* field, Choices<Enum> choices) {
  return {key,
          flag,
          type,
          help,
          false,
          [=](Settings& s, std::string_view text) -> Status {
            for (const auto& [name, value] : choices) {
              if (text == name) return s.*field = value, Status();
            }
            return bad_value(text, type);
          },
          [=](const Settings& s) {
            for (const auto& [name, value] : choices) {
              if (s.*field == value) return quoted(name);
            }
            KVASIR_CHECK(false, "{} has a value without a name", key);
            return std::string();
          }};
}

// Comma-separated on the command line; an array of strings in TOML reaches it joined the same way.
Setting list_setting(const char* key, const char* flag, const char* type, const char* help,
                     std::vector<std::string> Settings::* field) {
  return {key,
          flag,
          type,
          help,
          false,
          [field](Settings& s, std::string_view text) -> Status {
            (s.*field).clear();
            while (!text.empty()) {
              size_t comma = std::min(text.find(','), text.size());
              if (comma > 0) (s.*field).emplace_back(text.substr(0, comma));
              text.remove_prefix(std::min(comma + 1, text.size()));
            }
            return {};
          },
          [field](const Settings& s) {
            std::string out = "[";
            for (const std::string& item : s.*field) out += (out.size() > 1 ? ", " : "") + quoted(item);
            return out + "]";
          }};
}

std::vector<Setting> model_settings() {
  return {
      text_setting("model.dir", "--model", "DIR", "Checkpoint folder (default: the bundled model)",
                   &Settings::model_dir),
      text_setting("model.name", "--model-name", "NAME",
                   "Name that /v1/models lists (default: from the checkpoint)", &Settings::model_name),
      choice_setting<BackendKind>("model.backend", "--backend", "reference|cpu|cuda",
                                  "The scalar oracle, the CPU kernels or an NVIDIA GPU", &Settings::backend,
                                  {{"reference", BackendKind::kReference}, {"cpu", BackendKind::kCpu}, {"cuda", BackendKind::kCuda}}),
      number_setting<int>("model.device", "--device", "GPU of the CUDA backend, counted as nvidia-smi does",
                          &Settings::device, 0, 1023),
      choice_setting<std::optional<Numerics>>("model.numerics", "--numerics", "auto|exact|native|fast",
                                              "Roundings; auto: fast, or native with deterministic",
                                              &Settings::numerics,
                                              {{"auto", std::nullopt},
                                               {"exact", Numerics::kExact},
                                               {"native", Numerics::kNative},
                                               {"fast", Numerics::kFast}}),
      switch_setting("model.deterministic", "--deterministic",
                     "Batch-invariant numerics: a seeded request gives the same text in any mix",
                     &Settings::deterministic),
      number_setting<int>("model.threads", "--threads", "Threads that compute; 0: one per core",
                          &Settings::threads, 0, 1024),
      choice_setting<DraftSetting>(
          "model.draft", "--draft", "off|auto",
          "Speculate with the MTP block while it pays; never changes what is sampled", &Settings::draft,
          {{"off", DraftSetting::kOff}, {"auto", DraftSetting::kAuto}}),
  };
}

std::vector<Setting> server_settings() {
  return {
      text_setting("server.host", "--host", "ADDRESS",
                   "Address to listen on; anything but loopback lets other machines in", &Settings::host),
      number_setting<int>("server.port", "--port", "Port; 0: any free one", &Settings::port, 0, 65535),
      number_setting<int>("server.network_threads", "--network-threads", "Threads for connections",
                          &Settings::network_threads, 1, 64),
      list_setting("server.allowed_hosts", "--allowed-hosts", "NAME,...",
                   "Names that a Host header may have beside the loopback ones", &Settings::allowed_hosts),
      text_setting("server.tls_certificate", "--tls-certificate", "FILE",
                   "PEM chain; with tls_key the server speaks TLS only", &Settings::tls_certificate),
      text_setting("server.tls_key", "--tls-key", "FILE", "PEM private key", &Settings::tls_key, true),
      text_setting("server.key_file", "--key-file", "FILE",
                   "Hashed API keys (kvasir key); default: any key is accepted", &Settings::key_file),
      seconds_setting("server.drain_seconds", "--drain", "How long running requests may go on after SIGTERM",
                      &Settings::drain_seconds),
      number_setting<double>("server.keep_alive_seconds", "--keep-alive",
                             "A sign of life to whoever waits for an answer so often", &Settings::keep_alive_seconds,
                             0.1, 10.0, "SECONDS"),
  };
}

std::vector<Setting> limit_settings() {
  return {
      number_setting<int64_t>("limits.connections", "--max-connections", "Open connections",
                              &Settings::max_connections, 1, 1 << 20),
      bytes_setting("limits.header_bytes", "--max-header", "Head of one request", &Settings::max_header_bytes,
                    1024),
      bytes_setting("limits.body_bytes", "--max-body", "Body of one request", &Settings::max_body_bytes,
                    1024),
      bytes_setting("limits.buffered_bytes", "--max-buffered", "Bodies of all requests together",
                    &Settings::max_buffered_bytes, 1024),
      number_setting<int64_t>("limits.json_depth", "--max-json-depth", "Nesting of a request body",
                              &Settings::max_json_depth, 8, 1024),
      number_setting<int64_t>("limits.messages", "--max-messages", "Messages of one request",
                              &Settings::max_messages, 1, 1 << 24),
      number_setting<int64_t>("limits.tools", "--max-tools", "Tools of one request", &Settings::max_tools, 0,
                              1 << 16),
      bytes_setting("limits.schema_bytes", "--max-schema", "Tool schemas of one request",
                    &Settings::max_schema_bytes, 0),
      number_setting<int64_t>("limits.streams_per_key", "--max-streams-per-key",
                              "Running requests of one API key; 0: no limit", &Settings::max_streams_per_key,
                              0, 1 << 20),
      seconds_setting("limits.request_seconds", "--max-request-seconds", "Life of one request; 0: no limit",
                      &Settings::max_request_seconds),
      seconds_setting("limits.header_seconds", "--header-timeout", "Until the head of a request is there",
                      &Settings::header_seconds),
      seconds_setting("limits.body_seconds", "--body-timeout", "Between two pieces of a body",
                      &Settings::body_seconds),
      seconds_setting("limits.idle_seconds", "--idle-timeout", "Between two requests of a connection",
                      &Settings::idle_seconds),
      seconds_setting("limits.write_seconds", "--write-timeout",
                      "Until a slow reader has taken what was written", &Settings::write_seconds),
  };
}

std::vector<Setting> engine_settings() {
  return {
      number_setting<int64_t>("engine.context", "--context", "Tokens of one sequence; 0: the model's",
                              &Settings::max_context, 0, 1 << 30),
      number_setting<int64_t>("engine.step_tokens", "--step-tokens",
                              "Tokens of one step: decode first, prefill fills the rest",
                              &Settings::step_tokens, 16, 1 << 16),
      number_setting<int64_t>("engine.running", "--max-running", "Sequences in one step",
                              &Settings::max_running, 1, 4096),
      number_setting<int64_t>("engine.waiting", "--max-waiting",
                              "Requests that may wait; more are answered 503", &Settings::max_waiting, 0,
                              1 << 20),
      bytes_setting("engine.memory", "--memory", "Memory for KV pages; 0: a share of the machine's",
                    &Settings::memory_bytes, 0),
      bytes_setting("engine.snapshots", "--snapshot-memory", "Memory for snapshots; 0: a share",
                    &Settings::snapshot_bytes, 0),
  };
}

std::vector<Setting> cache_settings() {
  return {
      switch_setting("cache.disk", "--disk-cache", "Keep the prefix cache on disk too",
                     &Settings::disk_cache),
      text_setting("cache.dir", "--cache-dir", "DIR", "Where (default: ~/.cache/kvasir)",
                   &Settings::cache_dir),
      bytes_setting("cache.disk_bytes", "--cache-disk", "Size limit of that folder", &Settings::disk_bytes,
                    1 << 20),
      switch_setting("cache.namespace_per_key", "--namespace-per-key", "API keys share no cached prefix",
                     &Settings::namespace_per_key),
  };
}

std::vector<Setting> protocol_settings() {
  return {
      switch_setting("protocol.constrain", "--constrain", "Constrain tool calls by their schemas",
                     &Settings::constrain),
      switch_setting("protocol.strict_reasoning", "--strict-reasoning",
                     "Refuse a history without its reasoning, as the hosted API does",
                     &Settings::strict_reasoning),
      switch_setting("protocol.strict_tool_choice", "--strict-tool-choice",
                     "Refuse a forced tool_choice while thinking, as the hosted API does",
                     &Settings::strict_tool_choice),
      switch_setting("protocol.lenient_images", "--lenient-images",
                     "Put [Unsupported image] in the prompt where the default is an error",
                     &Settings::lenient_images),
      switch_setting("protocol.sort_tools", "--sort-tools",
                     "Order tools by name, for clients that shuffle them", &Settings::sort_tools),
      switch_setting("protocol.thinking_sampling", "--thinking-sampling",
                     "Honour temperature, top_p and penalties in thinking mode too", &Settings::thinking_sampling),
  };
}

std::vector<Setting> log_settings() {
  return {
      choice_setting<LogLevel>("log.level", "--log-level", "debug|info|warning|error", "What is logged",
                               &Settings::log_level,
                               {{"debug", LogLevel::kDebug},
                                {"info", LogLevel::kInfo},
                                {"warning", LogLevel::kWarning},
                                {"error", LogLevel::kError}}),
      choice_setting<LogFormat>("log.format", "--log-format", "text|json",
                                "One line per event, for people or for machines", &Settings::log_format,
                                {{"text", LogFormat::kText}, {"json", LogFormat::kJson}}),
      switch_setting("log.prompts", "--log-prompts", "Log prompts and answers", &Settings::log_prompts),
      text_setting("test.replay", "--replay", "FILE.jsonl",
                   "Force the sampled tokens from a script: a test aid (docs/api.md)",
                   &Settings::replay_file),
  };
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

}  // namespace

const std::vector<Setting>& setting_list() {
  static const std::vector<Setting> list = [] {
    std::vector<Setting> all;
    for (auto part : {model_settings(), server_settings(), limit_settings(), engine_settings(),
                      cache_settings(), protocol_settings(), log_settings()}) {
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }();
  return list;
}

Status set_setting(Settings& settings, std::string_view key, std::string_view text) {
  const Setting* nearest = nullptr;
  for (const Setting& setting : setting_list()) {
    if (setting.key == key) return setting.read(settings, text);
    if (!nearest || edit_distance(key, setting.key) < edit_distance(key, nearest->key)) nearest = &setting;
  }
  return Error{ErrorCode::kInvalid, fmt::format("no such setting; the nearest is {}", nearest->key)};
}

Status check_settings(const Settings& s) {
  auto contradiction = [](std::string text) { return Error{ErrorCode::kInvalid, std::move(text)}; };
  if (s.tls_certificate.empty() != s.tls_key.empty())
    return contradiction("server.tls_certificate and server.tls_key come together: saw one of them");
  if (s.device != 0 && s.backend != BackendKind::kCuda) return contradiction("model.device is for model.backend cuda only");
  if (s.deterministic && s.numerics == Numerics::kFast) {
    return contradiction(
        "model.deterministic needs numerics exact or native: fast uses other kernels for larger batches");
  }
  if (s.max_body_bytes > s.max_buffered_bytes)
    return contradiction(
        "limits.body_bytes is larger than limits.buffered_bytes: no such body could ever be read");
  return {};
}

std::string settings_text(const Settings& settings) {
  std::string out;
  std::string_view table;
  for (const Setting& setting : setting_list()) {
    std::string_view key = setting.key;
    std::string_view part = key.substr(0, key.find('.'));
    if (part != table) out += fmt::format("{}[{}]\n", out.empty() ? "" : "\n", part);
    table = part;
    std::string text = setting.write(settings);
    if (setting.secret && text != "\"\"") text = "\"***\"";
    out += fmt::format("{} = {}\n", key.substr(part.size() + 1), text);
  }
  return out;
}

}  // namespace kvasir
