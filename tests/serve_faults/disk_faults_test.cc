// A disk that is full, read-only or lies: the server goes on, no token changes, and /metrics tells.
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "serve_faults/faults_fixture.h"

namespace kvasir {
namespace {

constexpr unsigned kNobody = 65534;

// A file system in memory of its own size.
class SmallDisk {
 public:
  SmallDisk(const std::string& folder, const std::string& size) : folder_(folder) {
    std::filesystem::create_directories(folder);
    mounted_ = mount("kvasir-test", folder.c_str(), "tmpfs", 0, ("size=" + size).c_str()) == 0;
  }
  ~SmallDisk() {
    if (mounted_) umount2(folder_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  bool remount(unsigned long flags, const std::string& size) const {
    return mount("kvasir-test", folder_.c_str(), "tmpfs", MS_REMOUNT | flags, ("size=" + size).c_str()) == 0;
  }

 private:
  std::string folder_;
  bool mounted_ = false;
};

using DiskFaults = FaultsTest;

TEST_F(DiskFaults, AFullDiskCostsNoAnswerAndRecovers) {
  SmallDisk disk(cache(), "1m");
  if (!disk.mounted()) GTEST_SKIP() << "only root can mount a small disk";
  {
    ChildServer server(start());
    ASSERT_TRUE(server.wait_ready()) << error_text();
    expect_all_right(server.port(), "while the disk fills");
    expect_all_right(server.port(), "on the full disk");
    EXPECT_GT(events(server.port(), "disk_error"), 0);
    int refused = 0;
    for (const KnownPrompt& prompt : prompts()) {
      Answer saved = post(server.port(), "/v1/sessions/save", {{"id", prompt.session}});
      if (saved.status == 200) continue;
      ++refused;
      EXPECT_GE(saved.status, 500) << saved.body;
      EXPECT_TRUE(saved.json().contains("error")) << saved.body;
    }
    EXPECT_GT(refused, 0) << "not all of it fits";
    EXPECT_EQ(ask(server.port(), "GET", "/health").status, 200);
    server.kill_now();
  }
  ChildServer server(start());
  ASSERT_TRUE(server.wait_ready()) << "on a full disk: " << error_text();
  expect_all_right(server.port(), "after a restart on the full disk");
  ASSERT_TRUE(disk.remount(0, "64m"));
  Answer saved;
  for (auto end = SteadyClock::now() + 30s; saved.status != 200 && SteadyClock::now() < end; usleep(500000))
    saved = post(server.port(), "/v1/sessions/save", {{"id", prompts()[0].session}});
  EXPECT_EQ(saved.status, 200) << "there is room again: " << saved.body;
  stop(server);
}

TEST_F(DiskFaults, AFolderThatTurnsReadOnlyCostsNoAnswer) {
  if (getuid() != 0) GTEST_SKIP() << "only root can become another user, who may not write";
  std::filesystem::create_directories(cache());
  ASSERT_EQ(chmod(dir_.path().c_str(), 0755), 0);
  ASSERT_EQ(chown(cache().c_str(), kNobody, kNobody), 0);
  std::ofstream(errors()).close();
  ASSERT_EQ(chmod(errors().c_str(), 0666), 0);
  {
    ChildServer server(start({}, kNobody));
    ASSERT_TRUE(server.wait_ready()) << error_text();
    ASSERT_EQ(chmod(cache().c_str(), 0500), 0);
    expect_all_right(server.port(), "after the folder was made read-only");
    EXPECT_EQ(ask(server.port(), "GET", "/health").status, 200);
    stop(server);
  }
  {
    ChildServer server(start({}, kNobody));
    if (server.wait_ready()) {
      expect_all_right(server.port(), "in a read-only folder");
      EXPECT_GT(events(server.port(), "disk_error"), 0);
      stop(server);
    } else {
      ExitStatus ended = server.wait(1s);
      EXPECT_TRUE(ended.exited && (ended.code == 1 || ended.code == 2)) << ended.code << " " << ended.signal;
      EXPECT_NE(error_text().find(cache()), std::string::npos) << error_text();
    }
  }
}

TEST_F(DiskFaults, AReadOnlyFileSystemIsNamedInOneLineOrDoneWithout) {
  SmallDisk disk(cache(), "64m");
  if (!disk.mounted()) GTEST_SKIP() << "only root can mount a small disk";
  {
    ChildServer server(start());
    ASSERT_TRUE(server.wait_ready()) << error_text();
    expect_all_right(server.port(), "while it may write");
    stop(server);
  }
  ASSERT_TRUE(disk.remount(MS_RDONLY, "64m"));
  ChildServer server(start());
  if (server.wait_ready()) {
    expect_all_right(server.port(), "on a read-only file system");
    stop(server);
  } else {
    ExitStatus ended = server.wait(1s);
    EXPECT_TRUE(ended.exited && (ended.code == 1 || ended.code == 2)) << ended.code << " " << ended.signal;
    EXPECT_NE(error_text().find("Read-only file system"), std::string::npos) << error_text();
  }
}

TEST_F(DiskFaults, AThousandWrongBytesChangeNoToken) {
  constexpr int kRounds = 5, kBytesARound = 200;
  {
    ChildServer server(start());
    ASSERT_TRUE(server.wait_ready()) << error_text();
    expect_all_right(server.port(), "at first");
    stop(server);
  }
  std::mt19937 random(17);
  double corrupt = 0, hits = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<std::string> files;
    for (const auto& entry : std::filesystem::directory_iterator(cache()))
      if (entry.path().extension() == ".kv" && entry.file_size() > 0) files.push_back(entry.path());
    ASSERT_FALSE(files.empty());
    for (int i = 0; i < kBytesARound; ++i) {
      std::fstream file(files[random() % files.size()], std::ios::in | std::ios::out | std::ios::binary);
      file.seekg(0, std::ios::end);
      auto at = static_cast<std::streamoff>(random() % static_cast<uint64_t>(file.tellg()));
      file.seekg(at);
      char byte = static_cast<char>(file.get());
      file.seekp(at);
      file.put(static_cast<char>(byte ^ (1 + random() % 255)));
      ASSERT_TRUE(file.good());
    }
    ChildServer server(start());
    ASSERT_TRUE(server.wait_ready()) << "round " << round << ": " << error_text();
    expect_all_right(server.port(), "with wrong bytes in the segments");
    corrupt += events(server.port(), "corrupt_record");
    hits += metric(server.port(), "kvasir_engine_tokens_total{kind=\"hit_disk\"}");
    stop(server);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(corrupt, 0) << "what is lost is counted";
  EXPECT_GT(hits, 0) << "what is whole is used";
  RecordProperty("corrupt_records", static_cast<int>(corrupt));
}

}  // namespace
}  // namespace kvasir
