// Settings: everything `kvasir serve` can be told, from one TOML file, then the command line, which wins.
//
// One table (setting_list) names each setting once: its TOML key, its flag, what it means, how its text is
// read and written. The file reader, the command line, --check-config and the start-up print all walk that
// table. Nothing else reads configuration: no environment variable changes what the server does.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "base/result.h"

namespace kvasir {

enum class LogFormat { kText, kJson };
enum class LogLevel { kDebug, kInfo, kWarning, kError };
enum class DraftSetting { kOff, kAuto };

struct Settings {
  // model
  std::string model_dir;   // empty: the bundled model
  std::string model_name;  // empty: from the checkpoint
  BackendKind backend = BackendKind::kCpu;
  int device = 0;  // of the CUDA backend
  std::optional<Numerics> numerics;  // unset: fast, or native with `deterministic`; see chosen_numerics()
  bool deterministic = false;
  int threads = 0;  // 0: one per core
  DraftSetting draft = DraftSetting::kAuto;

  // server
  std::string host = "127.0.0.1";
  int port = 8000;  // 0: any free one
  int network_threads = 1;
  std::vector<std::string> allowed_hosts;  // names beside loopback ones that a Host header may have
  std::string tls_certificate, tls_key;
  std::string key_file;  // empty: every key is accepted, as a local server does
  double drain_seconds = 30;
  double keep_alive_seconds = 8;  // STR-1 asks for 10 at most

  // limits
  int64_t max_connections = 4096;
  int64_t max_header_bytes = 64 << 10;
  int64_t max_body_bytes = int64_t{64} << 20;
  int64_t max_buffered_bytes = int64_t{1} << 30;  // of all bodies together
  int64_t max_json_depth = 128;
  int64_t max_messages = 16384;
  int64_t max_tools = 128;
  int64_t max_schema_bytes = int64_t{1} << 20;  // of all tools of a request
  int64_t max_streams_per_key = 0;  // 0: no limit
  double max_request_seconds = 0;   // 0: no limit
  double header_seconds = 30, body_seconds = 120, idle_seconds = 120, write_seconds = 60;

  // engine
  int64_t max_context = 0;  // 0: the model's
  int64_t step_tokens = 512;
  int64_t max_running = 64;
  int64_t max_waiting = 1024;
  int64_t memory_bytes = 0;    // pages; 0: a share of the machine's
  int64_t snapshot_bytes = 0;  // 0: a share of memory_bytes

  // cache
  bool disk_cache = true;
  std::string cache_dir;  // empty: ~/.cache/kvasir
  int64_t disk_bytes = int64_t{32} << 30;
  bool namespace_per_key = false;

  // protocol
  bool constrain = true;          // grammar inside tool blocks
  bool strict_reasoning = false;  // THK-3
  bool strict_tool_choice =
      false;                    // THK-4: refuse a forced tool_choice while thinking, as the hosted API does
  bool lenient_images = false;  // ENC-5
  bool sort_tools = false;      // rule 19 of protocol.md section 10
  bool thinking_sampling = false;  // honour temperature and top_p in thinking mode too

  // log
  LogLevel log_level = LogLevel::kInfo;
  LogFormat log_format = LogFormat::kText;
  bool log_prompts = false;

  // test aid
  std::string replay_file;

  Numerics chosen_numerics() const {
    return numerics.value_or(deterministic ? Numerics::kNative : Numerics::kFast);
  }
};

// One setting. `read` takes the text of a flag or of a TOML value; `write` gives the text that reads back the
// same.
struct Setting {
  const char* key;   // "server.port"
  const char* flag;  // "--port"
  const char* type;  // "N", "BYTES", "on|off", ...
  const char* help;
  bool secret = false;  // not printed
  std::function<Status(Settings&, std::string_view)> read;
  std::function<std::string(const Settings&)> write;
};

const std::vector<Setting>& setting_list();

// Sets one by its key. An error says what was seen and expected, or which key is nearest to an unknown one.
Status set_setting(Settings& settings, std::string_view key, std::string_view text);

// Reads `file` into `settings`. An error names the file, line and column: a syntax error, a key that is not
// in the table (with the nearest one that is), a value that does not fit.
Status read_settings_file(const std::string& file, Settings& settings);

// What the settings contradict one another in: TLS with half a pair, deterministic with numerics fast, ...
Status check_settings(const Settings& settings);

// All settings as TOML, secrets as "***": what --check-config and the start print.
std::string settings_text(const Settings& settings);

}  // namespace kvasir
