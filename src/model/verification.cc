// Reads a whole checkpoint through pread, so that a disk's read error is an Error and not a signal, in
// pieces that the workers of a pool take in file order.
#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <map>

#include "base/thread_pool.h"
#include "io/file.h"
#include "model/inspection.h"
#include "tensor/buffer.h"

namespace kvasir {
namespace {

constexpr int64_t kPieceBytes = 8 << 20;
constexpr int64_t kPiecesPerTick = 16;
constexpr size_t kMaxProblems = 20;

struct Piece {
  size_t tensor;  // in Checkpoint::tensors()
  int64_t begin;  // in the tensor
  int64_t bytes;
};

// What one piece held: how many bad elements, and where the first was.
struct Finding {
  int64_t bad = 0;
  int64_t first = 0;  // element, in the tensor
  int error = 0;      // errno of the read; -1: the file ended
};

template <class T, class Bad>
void scan(const std::byte* data, int64_t bytes, Finding& out, Bad&& bad) {
  const auto* values = reinterpret_cast<const T*>(data);
  const auto count = bytes / static_cast<int64_t>(sizeof(T));
  int64_t sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += bad(values[i]) ? 1 : 0;
  out.bad = sum;
  if (sum > 0) out.first = std::find_if(values, values + count, bad) - values;
}

// `hash_experts` > 0: the tensor is a token table of that many experts.
void scan_piece(DType dtype, int64_t hash_experts, const std::byte* data, int64_t bytes, Finding& out) {
  switch (dtype) {
    case DType::kF8E8M0:
      return scan<uint8_t>(data, bytes, out, [](uint8_t b) { return b == 255; });
    case DType::kF8E4M3:
      return scan<uint8_t>(data, bytes, out, [](uint8_t b) { return (b & 0x7f) == 0x7f; });
    case DType::kBF16:
      return scan<uint16_t>(data, bytes, out, [](uint16_t b) { return (b & 0x7f80) == 0x7f80; });
    case DType::kF32:
      return scan<uint32_t>(data, bytes, out, [](uint32_t b) { return (b & 0x7f800000u) == 0x7f800000u; });
    case DType::kI64:
      if (hash_experts > 0)
        scan<int64_t>(data, bytes, out, [=](int64_t id) { return id < 0 || id >= hash_experts; });
      return;
    default:
      return;  // every code of the other types is a value
  }
}

std::string_view what_is_bad(DType dtype) {
  switch (dtype) {
    case DType::kF8E8M0:
      return "an E8M0 scale of 255 (NaN)";
    case DType::kF8E4M3:
      return "NaN";
    case DType::kI64:
      return "no expert's number";
    default:
      return "NaN or infinity";
  }
}

int read_all(int fd, std::byte* out, int64_t bytes, int64_t offset) {
  while (bytes > 0) {
    ssize_t n = pread(fd, out, static_cast<size_t>(bytes), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) return -1;
    out += n, bytes -= n, offset += n;
  }
  return 0;
}

// The files of a checkpoint, opened for reading.
class OpenFiles {
 public:
  ~OpenFiles() {
    for (auto& [file, fd] : fds_) close(fd);
  }
  Status open(const SafetensorsFile* file) {
    if (fds_.count(file)) return {};
    int fd = ::open(file->file().path().c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0)
      return Error{ErrorCode::kIo,
                   fmt::format("{}: cannot open: {}", file->file().path(), std::strerror(errno))};
    posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    fds_.emplace(file, fd);
    return {};
  }
  int fd(const SafetensorsFile* file) const { return fds_.at(file); }

 private:
  std::map<const SafetensorsFile*, int> fds_;
};

// Every tensor in pieces, file by file, in the order of the bytes.
std::vector<Piece> cut(const Checkpoint& checkpoint) {
  const auto& tensors = checkpoint.tensors();
  std::vector<size_t> order;
  for (size_t i = 0; i < tensors.size(); ++i) order.push_back(i);
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const auto &x = tensors[a], &y = tensors[b];
    return x.file != y.file ? x.file->file().path() < y.file->file().path() : x.info->begin < y.info->begin;
  });
  std::vector<Piece> pieces;
  for (size_t i : order) {
    for (int64_t at = 0; at < tensors[i].info->bytes; at += kPieceBytes) {
      pieces.push_back({i, at, std::min(kPieceBytes, tensors[i].info->bytes - at)});
    }
  }
  return pieces;
}

bool is_token_table(const TensorInfo& info) { return info.name.ends_with("tid2eid"); }

// Adds up findings; tensors come in runs of consecutive pieces.
class Tally {
 public:
  explicit Tally(Verification& out) : out_(out) {}

  void add(const Checkpoint::Tensor& tensor, const Piece& piece, const Finding& f) {
    if (f.bad == 0 || tensor.info == last_) return;
    last_ = tensor.info;
    out_.bad_tensors += 1;
    if (out_.problems.size() >= kMaxProblems) return;
    int64_t first = piece.begin * 8 / dtype_bits(tensor.info->dtype) + f.first;
    out_.problems.push_back(fmt::format("{}: tensor {}: element {} is {}, expected a {} weight",
                                        tensor.file->file().path(), printable(tensor.info->name), first,
                                        what_is_bad(tensor.info->dtype),
                                        is_token_table(*tensor.info) ? "routing" : "finite"));
  }

 private:
  Verification& out_;
  const TensorInfo* last_ = nullptr;
};

}  // namespace

Result<Verification> verify_checkpoint(const OpenedCheckpoint& opened, int threads, ProgressSink* progress) {
  const auto& tensors = opened.checkpoint.tensors();
  OpenFiles files;
  for (const auto& file : opened.checkpoint.files()) KVASIR_TRY_STATUS(files.open(file.get()));
  ThreadPool pool(threads);
  KVASIR_TRY(Buffer buffer, Buffer::make(kPieceBytes * pool.size(), "reading"));
  const std::vector<Piece> pieces = cut(opened.checkpoint);
  Verification out;
  Tally tally(out);
  std::array<Finding, kPiecesPerTick> findings;

  auto start = std::chrono::steady_clock::now();
  if (progress) progress->begin("verifying weights", ProgressUnit::kBytes, opened.checkpoint.bytes());
  for (size_t first = 0; first < pieces.size(); first += kPiecesPerTick) {
    auto now = std::min<size_t>(kPiecesPerTick, pieces.size() - first);
    findings.fill({});
    pool.run(static_cast<int64_t>(now), [&](int64_t task, int worker) {
      const Piece& piece = pieces[first + static_cast<size_t>(task)];
      const auto& [file, info] = tensors[piece.tensor];
      Finding& finding = findings[static_cast<size_t>(task)];
      std::byte* memory = buffer.data() + worker * kPieceBytes;
      finding.error = read_all(files.fd(file), memory, piece.bytes, info->begin + piece.begin);
      if (finding.error == 0)
        scan_piece(info->dtype, is_token_table(*info) ? opened.config.num_experts : 0, memory, piece.bytes,
                   finding);
    });
    for (size_t i = 0; i < now; ++i) {
      const Piece& piece = pieces[first + i];
      if (int error = findings[i].error) {
        if (progress) progress->end();
        return Error{ErrorCode::kIo,
                     fmt::format("{}: cannot read tensor {}: {}", tensors[piece.tensor].file->file().path(),
                                 printable(tensors[piece.tensor].info->name),
                                 error > 0 ? std::strerror(error) : "the file ends")};
      }
      tally.add(tensors[piece.tensor], piece, findings[i]);
      out.bytes += piece.bytes;
    }
    if (progress) progress->tick(out.bytes);
  }
  if (progress) progress->end();
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return out;
}

}  // namespace kvasir
