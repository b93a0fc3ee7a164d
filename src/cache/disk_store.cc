// Not there yet: every folder is refused.
#include "cache/disk_store.h"
namespace kvasir {
struct DiskStore::Impl { DiskOptions options; };
struct DiskRead::Shared {};
DiskRead::DiskRead() = default;
DiskRead::~DiskRead() = default;
bool DiskRead::done() const { return true; }
int DiskRead::sections_ready() const { return 0; }
void DiskRead::wait_section(int) {}
void DiskRead::wait() {}
bool DiskRead::arrived(size_t) const { return false; }
std::shared_ptr<const std::vector<std::byte>> DiskRead::snapshot() const { return nullptr; }
DiskStore::DiskStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DiskStore::~DiskStore() = default;
Result<std::unique_ptr<DiskStore>> DiskStore::open(DiskOptions o) { return Error{ErrorCode::kUnsupported, o.folder + ": the disk tier is not built yet"}; }
const DiskOptions& DiskStore::options() const { return impl_->options; }
std::vector<RecordHead> DiskStore::take_found() { return {}; }
std::optional<RecordId> DiskStore::put_pages(ExtentHead, std::vector<const std::byte*>, DiskWorth) { return {}; }
std::optional<RecordId> DiskStore::put_snapshot(SnapshotHead, std::shared_ptr<const std::vector<std::byte>>, DiskWorth) { return {}; }
std::vector<DiskEvent> DiskStore::take_events() { return {}; }
void DiskStore::wait_event() {}
Status DiskStore::flush() { return {}; }
void DiskStore::touch(RecordId, DiskWorth) {}
void DiskStore::drop(RecordId, uint64_t) {}
std::shared_ptr<DiskRead> DiskStore::read(std::vector<PageToRead>, std::optional<RecordId>) { return nullptr; }
Status DiskStore::put_note(std::string_view, std::span<const std::byte>) { return {}; }
void DiskStore::for_each_note(const std::function<void(std::string_view, std::span<const std::byte>)>&) {}
DiskMetrics DiskStore::metrics() const { return {}; }
void DiskStore::drop_cached() {}
}  // namespace kvasir
