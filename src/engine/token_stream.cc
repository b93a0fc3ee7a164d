// The reader's end of a request; see engine.h.
#include "engine/stream_state.h"

namespace kvasir {

TokenStream::TokenStream(std::shared_ptr<StreamState> state) : state_(std::move(state)) {}

TokenStream::~TokenStream() {
  {
    std::lock_guard lock(state_->mutex);
    state_->notify = nullptr;
  }
  cancel();
}

void TokenStream::set_notify(std::function<void()> notify) {
  std::lock_guard lock(state_->mutex);
  state_->notify = std::move(notify);
  if (!state_->events.empty() && state_->notify) state_->notify();
}

bool TokenStream::try_next(StreamEvent& event) {
  std::lock_guard lock(state_->mutex);
  if (state_->events.empty()) return false;
  event = std::move(state_->events.front());
  state_->events.pop_front();
  return true;
}

void TokenStream::cancel() {
  state_->cancelled.store(true, std::memory_order_relaxed);
  state_->wake_up->signal();
}

}  // namespace kvasir
