// Hashes, the file of keys and the comparison; see api_keys.h.
#include "server/api_keys.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include "io/file.h"

namespace kvasir {
namespace {

constexpr int64_t kMaxFileBytes = 16 << 20;

std::string hex(const KeyHash& hash) {
  std::string out;
  for (unsigned char byte : hash) out += fmt::format("{:02x}", byte);
  return out;
}

bool parse_hex(std::string_view text, KeyHash& out) {
  auto digit = [](char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  if (text.size() != 2 * out.size()) return false;
  for (size_t i = 0; i < out.size(); ++i) {
    int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    out[i] = static_cast<unsigned char>(high * 16 + low);
  }
  return true;
}

Error at(const std::string& file, const toml::node& node, std::string_view what) {
  return Error{ErrorCode::kInvalid, fmt::format("{}:{}: {}", file, node.source().begin.line, what)};
}

Result<std::unique_ptr<ApiKey>> read_entry(const std::string& file, const toml::node& node) {
  const toml::table* table = node.as_table();
  if (!table) return at(file, node, "expected [[key]] entries");
  auto key = std::make_unique<ApiKey>();
  key->name = (*table)["name"].value_or(std::string());
  if (key->name.empty()) return at(file, node, "a key without a name");
  if (!parse_hex((*table)["sha256"].value_or(std::string()), key->hash)) {
    return at(file, node, fmt::format("key '{}': sha256 is not 64 lower-case hex digits", key->name));
  }
  key->max_streams = (*table)["max_streams"].value_or(int64_t{0});
  if (key->max_streams < 0)
    return at(file, node,
              fmt::format("key '{}': max_streams is {}, expected 0 or more", key->name, key->max_streams));
  for (const auto& [name, value] : *table) {
    if (name != "name" && name != "sha256" && name != "max_streams") {
      return at(file, value,
                fmt::format("key '{}': unknown field '{}'; there are name, sha256 and max_streams", key->name,
                            name.str()));
    }
  }
  std::memcpy(&key->cache_namespace, key->hash.data(), sizeof(key->cache_namespace));
  key->cache_namespace |= 1;
  return key;
}

}  // namespace

KeyHash hash_key(std::string_view key) {
  KeyHash hash;
  unsigned size = 0;
  EVP_Digest(key.data(), key.size(), hash.data(), &size, EVP_sha256(), nullptr);
  return hash;
}

Result<std::unique_ptr<ApiKeys>> ApiKeys::load(const std::string& file) {
  struct stat info{};
  if (stat(file.c_str(), &info) == 0 && (info.st_mode & (S_IROTH | S_IWOTH)) != 0) {
    return Error{ErrorCode::kInvalid,
                 fmt::format("{}: everyone may read or write it (mode {:03o}), expected 600 or 640", file,
                             info.st_mode & 0777)};
  }
  KVASIR_TRY(std::string text, read_text_file(file, kMaxFileBytes));
  toml::parse_result parsed = toml::parse(text, file);
  if (!parsed)
    return Error{ErrorCode::kInvalid, fmt::format("{}:{}: {}", file, parsed.error().source().begin.line,
                                                  parsed.error().description())};
  auto keys = std::make_unique<ApiKeys>();
  if (const toml::array* entries = parsed.table()["key"].as_array()) {
    for (const toml::node& entry : *entries) {
      KVASIR_TRY(auto key, read_entry(file, entry));
      keys->keys_.push_back(std::move(key));
    }
  }
  if (keys->keys_.empty())
    return Error{ErrorCode::kInvalid, fmt::format("{}: no [[key]] in it; nobody could use the server", file)};
  return keys;
}

const ApiKey* ApiKeys::find(std::string_view key) const {
  KeyHash hash = hash_key(key);
  const ApiKey* found = nullptr;
  for (const auto& entry : keys_) {  // all of them, whatever was found before
    if (CRYPTO_memcmp(entry->hash.data(), hash.data(), hash.size()) == 0) found = entry.get();
  }
  return found;
}

Result<std::string> make_key() {
  unsigned char random[33];  // 44 characters of base64 without padding
  if (RAND_bytes(random, sizeof(random)) != 1)
    return Error{ErrorCode::kIo, "the system's random source gave nothing"};
  static constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  std::string key = "kv-";
  for (size_t i = 0; i < sizeof(random); i += 3) {
    unsigned bits = (unsigned{random[i]} << 16) | (unsigned{random[i + 1]} << 8) | random[i + 2];
    for (int shift = 18; shift >= 0; shift -= 6) key += kDigits[(bits >> shift) & 63];
  }
  return key;
}

Status append_key(const std::string& file, const std::string& name, const KeyHash& hash,
                  int64_t max_streams) {
  for (char c : name) {
    if (static_cast<unsigned char>(c) < 0x20 || c == '"' || c == '\\') {
      return Error{ErrorCode::kInvalid, "a key's name has no quotes, backslashes or control characters"};
    }
  }
  int fd = open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd < 0) return Error{ErrorCode::kIo, fmt::format("{}: {}", file, std::strerror(errno))};
  std::string entry = fmt::format("[[key]]\nname = \"{}\"\nsha256 = \"{}\"\n", name, hex(hash));
  if (max_streams > 0) entry += fmt::format("max_streams = {}\n", max_streams);
  bool written =
      write(fd, entry.data(), entry.size()) == static_cast<ssize_t>(entry.size()) && fsync(fd) == 0;
  int error = errno;
  close(fd);
  if (!written) return Error{ErrorCode::kIo, fmt::format("{}: {}", file, std::strerror(error))};
  return {};
}

StreamSlot StreamSlot::take(const ApiKey* key, int64_t limit) {
  if (!key) return StreamSlot(nullptr, true);
  if (key->running.fetch_add(1) >= limit && limit > 0) {
    key->running.fetch_sub(1);
    return StreamSlot(nullptr, false);
  }
  return StreamSlot(key, true);
}

}  // namespace kvasir
