// What can be done with a cache folder without its model: what is in it, whether it is whole, and taking
// prefixes out into one file and back. The file is a segment (disk_format.h), so it is checksummed, versioned
// and names its model.
//
// Threading: none. Reading needs no lock, so it may be done beside a running server; what that one writes
// meanwhile may be missing.
#pragma once

#include <string>
#include <vector>

#include "cache/disk_store.h"
#include "cache/prefix_cache.h"

namespace kvasir {

struct FolderModel {
  DiskModel model;
  int64_t page_tokens = 0;
  std::vector<int64_t> section_bytes;
  int64_t segments = 0;
  int64_t bytes = 0;

  int64_t page_bytes() const;
  // To open the folder for this model.
  DiskOptions options(const std::string& folder) const;
};

// Whose segments lie in a folder. kNotFound: there is no such folder.
Result<std::vector<FolderModel>> folder_models(const std::string& folder);

struct VerifyReport {
  int64_t pages = 0, snapshots = 0, notes = 0;  // read and right
  int64_t lost = 0;                             // pages, snapshots and notes that are not
};
Result<VerifyReport> verify_folder(const std::string& folder, const FolderModel& model);

// The prefixes of one model in a folder.
Result<std::vector<PrefixInfo>> folder_prefixes(const std::string& folder, const FolderModel& model);

struct ArchiveReport {
  int64_t pages = 0, snapshots = 0, bytes = 0;
};
// Writes the prefix `id`, or everything if it is not given, to `path`. kIo: a record could not be read.
Result<ArchiveReport> export_folder(const std::string& folder, const FolderModel& model,
                                    const std::optional<SpanHash>& id, const std::string& path);
// Adds what `path` holds and the folder does not. Takes the folder's lock. kInvalid: the file is not whole.
Result<ArchiveReport> import_folder(const std::string& folder, const std::string& path);

// Forgets the prefix `id`, and shrinks the folder to `max_bytes` (0: as it is). Takes the folder's lock.
Status prune_folder(const std::string& folder, const FolderModel& model, const std::optional<SpanHash>& id,
                    int64_t max_bytes);

}  // namespace kvasir
