// What the tests of the disk tier share: options over a small folder, and a file layer that fails on demand.
// Tests only.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <random>

#include "cache/cache_fixture_test.h"
#include "cache/disk_store.h"
#include "io/temp_dir.h"

namespace kvasir {

inline DiskOptions disk_options(const std::string& folder) {
  DiskOptions o;
  o.folder = folder;
  o.max_bytes = 64 << 20;
  o.segment_bytes = 1 << 20;
  o.read_threads = 2;
  o.model = {.weights = {1, 2}, .numerics = 3, .layout = 4, .name = "test"};
  o.page_tokens = kSpanTokens;
  o.section_bytes = {kPageBytes / 4, kPageBytes / 2, kPageBytes / 4};
  return o;
}

inline std::unique_ptr<DiskStore> open_store(DiskOptions options) {
  auto store = DiskStore::open(std::move(options));
  EXPECT_TRUE(store) << (store ? "" : store.error().message);
  return store ? std::move(*store) : nullptr;
}

// The system's files, until it is told to stop: then write number `die_at` is torn at a random byte and
// everything after it fails, as if the process had been killed there.
class FailingFiles : public DiskFiles {
 public:
  std::atomic<int64_t> die_at{-1};  // < 0: never
  std::atomic<int> error{0};        // 1: disk full, 2: I/O error on writes, 3: sync fails, 4: reads fail
  std::atomic<int64_t> writes{0};
  std::atomic<bool> dead{false};
  uint32_t seed = 1;

  Status make_folder(const std::string& path) override { return system_files().make_folder(path); }
  Result<std::vector<Entry>> list(const std::string& folder) override { return system_files().list(folder); }
  Result<std::unique_ptr<DiskFile>> create(const std::string& path) override {
    KVASIR_TRY_STATUS(step());
    if (error == 1 || error == 2) return failure();
    KVASIR_TRY(auto file, system_files().create(path));
    return std::unique_ptr<DiskFile>(std::make_unique<File>(*this, std::move(file)));
  }
  Result<std::unique_ptr<DiskFile>> open(const std::string& path, bool writable) override {
    KVASIR_TRY(auto file, system_files().open(path, writable));
    return std::unique_ptr<DiskFile>(std::make_unique<File>(*this, std::move(file)));
  }
  Status remove(const std::string& path) override {
    KVASIR_TRY_STATUS(step());
    return system_files().remove(path);
  }
  Status sync_folder(const std::string& path) override {
    (void)path;
    return step();
  }

 private:
  static Error failure() { return {ErrorCode::kIo, "injected: No space left on device"}; }
  // Counts a change of the disk; from the one at which it dies on, nothing happens any more.
  Status step() {
    if (dead) return failure();
    if (die_at >= 0 && writes == die_at) {
      dead = true;
      return failure();
    }
    ++writes;
    return {};
  }

  class File : public DiskFile {
   public:
    File(FailingFiles& owner, std::unique_ptr<DiskFile> file) : owner_(owner), file_(std::move(file)) {}
    Result<int64_t> size() override { return file_->size(); }
    Status read(int64_t offset, std::span<const iovec> parts) override {
      if (owner_.error == 4) return failure();
      return file_->read(offset, parts);
    }
    Status write(int64_t offset, std::span<const iovec> parts) override {
      if (owner_.dead) return failure();
      int64_t bytes = 0;
      for (const iovec& part : parts) bytes += static_cast<int64_t>(part.iov_len);
      bool dies = owner_.die_at >= 0 && owner_.writes == owner_.die_at;
      if (!dies && owner_.error == 0) {
        ++owner_.writes;
        return file_->write(offset, parts);
      }
      if (!dies && owner_.error == 3) return file_->write(offset, parts);
      if (dies) owner_.dead = true;
      std::mt19937_64 random(owner_.seed + static_cast<uint32_t>(owner_.writes));
      int64_t torn = static_cast<int64_t>(random() % static_cast<uint64_t>(bytes + 1));
      std::vector<iovec> some;
      for (iovec part : parts) {
        part.iov_len = std::min<size_t>(part.iov_len, torn);
        torn -= static_cast<int64_t>(part.iov_len);
        some.push_back(part);
      }
      (void)file_->write(offset, some);
      return failure();
    }
    Status sync() override {
      KVASIR_TRY_STATUS(owner_.step());
      if (owner_.error == 3) return failure();
      return {};  // a process that is killed loses nothing that it wrote; syncing for real is slow
    }
    Status truncate(int64_t size) override {
      KVASIR_TRY_STATUS(owner_.step());
      return file_->truncate(size);
    }
    void drop_cached() override { file_->drop_cached(); }

   private:
    FailingFiles& owner_;
    std::unique_ptr<DiskFile> file_;
  };
};

}  // namespace kvasir
