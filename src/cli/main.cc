// The kvasir binary: which subcommands it has. Their flags are in command_line.cc, their work in a file each.
#include "cli/bench.h"
#include "cli/cache_command.h"
#include "cli/chat.h"
#include "cli/command_line.h"
#include "cli/error.h"
#include "cli/export_gguf.h"
#include "cli/generate.h"
#include "cli/inspect.h"
#include "cli/key.h"
#include "cli/logits.h"
#include "cli/memory.h"
#include "cli/perplexity.h"
#include "cli/serve.h"
#include "cli/tokenize.h"

int main(int argc, char** argv) {
  kvasir::CommandLine line;
  line.add(kvasir::run_generate);
  line.add(kvasir::run_chat);
  line.add(kvasir::run_serve);
  line.add(kvasir::run_key);
  line.add(kvasir::run_logits);
  line.add(kvasir::run_perplexity);
  line.add(kvasir::run_tokenize);
  line.add(kvasir::run_inspect);
  line.add(kvasir::run_memory);
  line.add(kvasir::run_cache);
  line.add(kvasir::run_export_gguf);
  line.add(kvasir::run_bench);
  return kvasir::finish_output(line.run(argc, argv));
}
