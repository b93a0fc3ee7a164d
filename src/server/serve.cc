// From settings to a running server and back to nothing: the order in which parts are made and unmade.
#include "server/serve.h"

#include <fmt/core.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <future>
#include <map>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "cache/disk_store.h"
#include "model/fingerprint.h"
#include "model/kv_layout.h"
#include "model/load.h"
#include "model/place.h"
#include "server/app.h"

namespace kvasir {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kExitInterrupted = 130;  // 128 + SIGINT, as shells count
constexpr size_t kReplayMemoryBytes = size_t{256} << 20;
constexpr std::string_view kReplayNote = "replay/";

std::string folder_name(const std::string& dir) {
  std::string name = dir;
  while (name.size() > 1 && name.back() == '/') name.pop_back();
  return name.substr(name.rfind('/') + 1);
}

Result<std::unique_ptr<DiskStore>> open_disk(const Settings& settings, const Model& model,
                                             const std::string& name) {
  if (!settings.disk_cache) return std::unique_ptr<DiskStore>();
  DiskOptions options;
  KVASIR_TRY(options.folder, cache_folder(settings.cache_dir));
  KVASIR_TRY(Fingerprint weights, checkpoint_fingerprint(settings.model_dir));
  options.max_bytes = settings.disk_bytes;
  options.model.weights = {weights.high, weights.low};
  Engine::describe_pages(model, settings.chosen_numerics(), options);
  options.model.name = name.substr(0, 40);
  return DiskStore::open(std::move(options));
}

// Answers remembered for exact replay live as notes beside the KV they belong to (RPL-4). They are read once,
// at start.
ReplayStore replay_store(DiskStore* disk) {
  if (!disk) return {};
  auto found = std::make_shared<std::map<std::string, std::string>>();
  disk->for_each_note([&](std::string_view key, std::span<const std::byte> value) {
    if (!key.starts_with(kReplayNote)) return;
    (*found)[std::string(key.substr(kReplayNote.size()))] =
        std::string(reinterpret_cast<const char*>(value.data()), value.size());
  });
  ReplayStore store;
  store.save = [disk](const std::string& key, const std::string& value) {
    // A note that cannot be written costs an exact replay after a restart and nothing else; the disk counts
    // it.
    (void)disk->put_note(std::string(kReplayNote) + key, std::as_bytes(std::span(value)));
  };
  store.load = [found](const std::string& key) -> std::optional<std::string> {
    auto at = found->find(key);
    return at == found->end() ? std::nullopt : std::optional(at->second);
  };
  return store;
}

HttpServerOptions server_options(const Settings& s) {
  auto ms = [](double seconds) { return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000)); };
  HttpServerOptions o;
  o.host = s.host;
  o.port = s.port;
  o.threads = s.network_threads;
  o.allowed_hosts = s.allowed_hosts;
  if (!s.tls_certificate.empty()) o.tls = TlsFiles{s.tls_certificate, s.tls_key};
  o.limits.head.header_bytes = static_cast<size_t>(s.max_header_bytes);
  o.limits.body_bytes = static_cast<uint64_t>(s.max_body_bytes);
  o.limits.all_bodies_bytes = s.max_buffered_bytes;
  o.limits.connections = static_cast<int>(s.max_connections);
  o.limits.header_timeout = ms(s.header_seconds);
  o.limits.body_timeout = ms(s.body_seconds);
  o.limits.idle_timeout = ms(s.idle_seconds);
  o.limits.write_timeout = ms(s.write_seconds);
  return o;
}

EngineOptions engine_options(const Settings& s) {
  EngineOptions o;
  o.step_tokens = s.chosen_step_tokens();
  o.max_running = static_cast<int>(s.max_running);
  o.max_waiting = static_cast<int>(s.max_waiting);
  o.cache_bytes = s.memory_bytes;
  o.snapshot_bytes = s.snapshot_bytes;
  o.max_context = s.max_context;
  o.draft_tokens = s.draft == DraftSetting::kAuto ? 1 : 0;
  return o;
}

sigset_t end_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

// As many open files as connections may need: shells give 1024, whatever the machine would allow.
void raise_file_limit(const Settings& settings, Log& log) {
  constexpr int64_t kOtherFiles = 512;  // cache segments, files of the checkpoint, the log
  auto wanted = static_cast<rlim_t>(settings.max_connections + kOtherFiles);
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur >= wanted) return;
  files.rlim_cur = std::min(wanted, files.rlim_max);
  setrlimit(RLIMIT_NOFILE, &files);
  if (files.rlim_cur < wanted) {
    log.warning("files", {{"open_files", static_cast<int64_t>(files.rlim_cur)},
                          {"note", "the system allows fewer than limits.connections may need"}});
  }
}

void wait_for_signal() {
  sigset_t set = end_signals();
  int signal = 0;
  sigwait(&set, &signal);
}

// What SIGINT and SIGTERM mean, on a thread of its own: before the server is ready the process ends at once,
// later the first is an order to stop, and whoever asks twice does not want to wait for streams or disks.
struct EndSignal {
  std::atomic<bool> ready{false};
  std::promise<void> ordered;
};

std::shared_ptr<EndSignal> watch_signals() {
  sigset_t set = end_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  auto end = std::make_shared<EndSignal>();
  std::thread([end] {
    wait_for_signal();
    if (!end->ready) _exit(kExitInterrupted);
    end->ordered.set_value();
    wait_for_signal();
    _exit(kExitInterrupted);
  }).detach();
  return end;
}

void log_settings(const Settings& settings, Log& log) {
  for (const Setting& setting : setting_list()) {
    std::string now = setting.write(settings), usual = setting.write(Settings());
    if (now != usual)
      log.info("setting", {{"key", setting.key}, {"value", setting.secret ? std::string("***") : now}});
  }
}

}  // namespace

Status check_files(const Settings& settings) {
  if (!settings.key_file.empty()) KVASIR_TRY_STATUS(ApiKeys::load(settings.key_file));
  if (!settings.replay_file.empty()) KVASIR_TRY_STATUS(ReplayScript::load(settings.replay_file));
  if (!settings.tls_certificate.empty())
    KVASIR_TRY_STATUS(make_tls_context({settings.tls_certificate, settings.tls_key}));
  KVASIR_TRY_STATUS(load_checkpoint(settings.model_dir, {}));
  return {};
}

// In the order in which they are made; unmade the other way round.
struct Server::Parts {
  Settings settings;
  Log log;
  std::string name;
  std::unique_ptr<ApiKeys> keys;
  std::unique_ptr<ReplayScript> script;
  std::unique_ptr<Tokenizer> tokenizer;
  std::shared_ptr<const Vocabulary> vocabulary;
  LoadedModel loaded;
  SignalBatch news;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<ReplayMemory> memory;
  std::unique_ptr<Sessions> sessions;
  Metrics metrics;
  std::unique_ptr<App> app;
  std::unique_ptr<HttpServer> http;

  explicit Parts(const Settings& s) : settings(s), log(s.log_level, s.log_format, s.log_prompts) {}
  Status read_files();
  Status start_engine(ProgressSink* progress);
  Status listen();
};

Status Server::Parts::read_files() {
  if (!settings.key_file.empty()) {
    KVASIR_TRY(keys, ApiKeys::load(settings.key_file));
  }
  if (!settings.replay_file.empty()) {
    KVASIR_TRY(script, ReplayScript::load(settings.replay_file));
    log.warning("replay", {{"file", settings.replay_file}, {"note", "answers are scripted: a test aid"}});
  }
  if (!keys && settings.host != "127.0.0.1" && settings.host != "::1" && settings.host != "localhost") {
    log.warning("open", {{"host", settings.host},
                         {"note", "other machines may use this server without a key (server.key_file)"}});
  }
  return {};
}

Status Server::Parts::start_engine(ProgressSink* progress) {
  KVASIR_TRY(Tokenizer loaded_tokenizer, Tokenizer::load(settings.model_dir));
  tokenizer = std::make_unique<Tokenizer>(std::move(loaded_tokenizer));
  if (settings.constrain) {
    KVASIR_TRY(vocabulary, Vocabulary::make(*tokenizer));
  }
  KVASIR_TRY(auto ops,
             make_ops(BackendOptions{settings.backend, settings.chosen_numerics(), {}, settings.threads, settings.device,
                                     settings.deterministic}));
  LoadOptions load;
  load.prefetch = true;
  load.progress = progress;
  KVASIR_TRY(loaded, load_checkpoint(settings.model_dir, load));
  for (const std::string& note : loaded.notes) log.info("checkpoint", {{"note", note}});
  if (!ops->memory().on_host()) {
    KVASIR_TRY(loaded.model, place_model(loaded.model, ops->memory(), progress));
  }
  name = settings.model_name.empty() ? folder_name(settings.model_dir) : settings.model_name;

  EngineOptions options = engine_options(settings);
  KVASIR_TRY(options.disk, open_disk(settings, loaded.model, name));
  DiskStore* disk = options.disk.get();
  options.told = [this] { news.notify_all(); };
  KVASIR_TRY(engine, Engine::make(loaded.model, std::move(ops), std::move(options)));
  memory = std::make_unique<ReplayMemory>(kReplayMemoryBytes, replay_store(disk));
  sessions = std::make_unique<Sessions>(*engine, disk, SessionLimits{});
  KvLayout layout = KvLayout::make(loaded.model.config, settings.chosen_numerics());
  TemplateRevision revision =
      loaded.revision == ChatRevision::kB ? TemplateRevision::kB : TemplateRevision::kA;
  app = std::make_unique<App>(AppParts{settings, *tokenizer, *engine, log, metrics, keys.get(), script.get(),
                                       *memory, *sessions, name, revision, loaded.model.config.eos_id, unix_seconds(),
                                       layout.page_bytes, vocabulary, news});
  return {};
}

Status Server::Parts::listen() {
  raise_file_limit(settings, log);
  HttpServerOptions options = server_options(settings);
  options.error_response = [this](const HttpError& error) { return app->refusal(error); };
  options.on_exchange = [this](const HttpExchange& e) {
    log.debug("exchange", {{"id", e.request_id},
                           {"client", e.client_address},
                           {"method", e.method},
                           {"path", e.path},
                           {"status", e.status},
                           {"bytes_in", e.body_bytes_in},
                           {"bytes_out", e.bytes_out},
                           {"seconds", e.seconds}});
    if (!e.failure.empty())
      log.error("handler", {{"id", e.request_id}, {"path", e.path}, {"failure", e.failure}});
  };
  KVASIR_TRY(http,
             HttpServer::make(std::move(options), [this](const HttpRequest& request, ResponseWriter& out) {
               return app->handle(request, out);
             }));
  log.info("ready", {{"url", http->url()}, {"model", name}, {"context", engine->max_context()}});
  return {};
}

Server::Server(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

Result<std::unique_ptr<Server>> Server::start(const Settings& settings, ProgressSink* progress) {
  auto parts = std::make_unique<Parts>(settings);
  log_settings(settings, parts->log);
  KVASIR_TRY_STATUS(parts->read_files());
  KVASIR_TRY_STATUS(parts->start_engine(progress));
  KVASIR_TRY_STATUS(parts->listen());
  return std::unique_ptr<Server>(new Server(std::move(parts)));
}

Server::~Server() {
  if (parts_->http) stop(Clock::now());
}

std::string Server::url() const { return parts_->http->url(); }
int Server::port() const { return parts_->http->port(); }
const std::string& Server::model_name() const { return parts_->name; }

void Server::stop(Clock::time_point deadline) {
  parts_->http->stop(deadline);
  parts_->http.reset();
  parts_->engine->drain(deadline);
  Status flushed;
  parts_->engine->call([&](PrefixCache& cache) { flushed = cache.flush(); });
  if (!flushed) parts_->log.error("cache", {{"failure", flushed.error().message}});
  parts_->log.info("end", {});
}

Status serve(const Settings& settings, ProgressSink* progress,
             const std::function<void(const std::string&)>& ready) {
  std::shared_ptr<EndSignal> end = watch_signals();
  KVASIR_TRY(auto server, Server::start(settings, progress));
  end->ready = true;
  ready(fmt::format("kvasir serves {} at {}", server->model_name(), server->url()));
  end->ordered.get_future().wait();
  server->stop(Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                  std::chrono::duration<double>(settings.drain_seconds)));
  return {};
}

}  // namespace kvasir
