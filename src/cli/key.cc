// kvasir key: see key.h.
#include "cli/key.h"

#include <cstdio>

#include "cli/error.h"
#include "server/api_keys.h"

namespace kvasir {

int run_key(const KeyOptions& options) {
  auto key = make_key();
  if (!key) return report_error(key.error());
  if (auto added = append_key(options.file, options.name, hash_key(*key), options.max_streams); !added) {
    return report_error(added.error());
  }
  std::printf("%s\n", key->c_str());
  std::fprintf(stderr, "kvasir: this is the only time the key is shown; %s has its hash\n",
               options.file.c_str());
  return kExitOk;
}

}  // namespace kvasir
