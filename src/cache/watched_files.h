// DiskFiles with hooks around every read, for tests and benches of what reads from the disk tier.
#pragma once

#include <atomic>
#include <functional>
#include <memory>

#include "cache/disk_files.h"

namespace kvasir {

// The system's files, whose reads are counted, held up and spoiled by whoever sets the hooks.
class WatchedFiles : public DiskFiles {
 public:
  // Of read number `n` since it was set, from 0: before and after the bytes came.
  std::function<void(int n, std::span<const iovec> parts)> before_read;
  std::function<Status(int n, std::span<const iovec> parts)> after_read;
  std::atomic<int> reads{0};

  Status make_folder(const std::string& path) override { return system_files().make_folder(path); }
  Result<std::vector<Entry>> list(const std::string& folder) override { return system_files().list(folder); }
  Result<std::unique_ptr<DiskFile>> create(const std::string& path) override {
    return watch(system_files().create(path));
  }
  Result<std::unique_ptr<DiskFile>> open(const std::string& path, bool writable) override {
    return watch(system_files().open(path, writable));
  }
  Status remove(const std::string& path) override { return system_files().remove(path); }
  Status sync_folder(const std::string& path) override { return system_files().sync_folder(path); }

 private:
  class File : public DiskFile {
   public:
    File(WatchedFiles& owner, std::unique_ptr<DiskFile> file) : owner_(owner), file_(std::move(file)) {}
    Result<int64_t> size() override { return file_->size(); }
    Status read(int64_t offset, std::span<const iovec> parts) override {
      int n = owner_.reads++;
      if (owner_.before_read) owner_.before_read(n, parts);
      KVASIR_TRY_STATUS(file_->read(offset, parts));
      return owner_.after_read ? owner_.after_read(n, parts) : Status();
    }
    Status write(int64_t offset, std::span<const iovec> parts) override {
      return file_->write(offset, parts);
    }
    Status sync() override { return file_->sync(); }
    Status truncate(int64_t size) override { return file_->truncate(size); }
    void drop_cached() override { file_->drop_cached(); }

   private:
    WatchedFiles& owner_;
    std::unique_ptr<DiskFile> file_;
  };
  Result<std::unique_ptr<DiskFile>> watch(Result<std::unique_ptr<DiskFile>> file) {
    KVASIR_TRY(auto whole, std::move(file));
    return std::unique_ptr<DiskFile>(std::make_unique<File>(*this, std::move(whole)));
  }
};

}  // namespace kvasir
