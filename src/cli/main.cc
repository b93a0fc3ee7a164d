// The kvasir binary: which subcommands it has. Their flags are in command_line.cc, their work in a file each.
#include "cli/command_line.h"
#include "cli/inspect.h"
#include "cli/memory.h"

int main(int argc, char** argv) {
  kvasir::CommandLine line;
  line.add(kvasir::run_inspect);
  line.add(kvasir::run_memory);
  return line.run(argc, argv);
}
