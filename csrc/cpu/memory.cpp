#include "cpu/memory.h"

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

namespace pysr {
namespace {

struct Kept;

// The threads that keep memory: any of them can release all of it.
struct Keepers {
  std::mutex mutex;
  std::vector<Kept*> all;
};

Keepers& keepers() {
  static auto* const keepers = new Keepers;  // outlives threads that end after main
  return *keepers;
}

// What one thread keeps between calls.
struct Kept {
  std::mutex mutex;
  CallMemory::Block block;

  Kept() {
    const std::lock_guard lock(keepers().mutex);
    keepers().all.push_back(this);
  }
  ~Kept() {
    const std::lock_guard lock(keepers().mutex);
    auto& all = keepers().all;
    all.erase(std::find(all.begin(), all.end(), this));
  }

  // The block, if it is of that many bytes at least.
  CallMemory::Block take(size_t bytes) {
    const std::lock_guard lock(mutex);
    return block.bytes >= bytes ? std::exchange(block, {}) : CallMemory::Block{};
  }
  // Keeps the larger one.
  void give(CallMemory::Block& other) {
    const std::lock_guard lock(mutex);
    if (other.bytes > block.bytes) std::swap(block, other);
  }
};

Kept& kept() {
  static thread_local Kept kept;
  return kept;
}

}  // namespace

CallMemory::CallMemory(size_t bytes) : block_(kept().take(bytes)) {
  if (block_.data != nullptr) return;
  block_.data.reset(operator new(bytes, kCacheLine));
  block_.bytes = bytes;
}

CallMemory::~CallMemory() {
  if (block_.bytes <= kKept) kept().give(block_);
}

void CallMemory::release() {
  const std::lock_guard lock(keepers().mutex);
  for (Kept* each : keepers().all) each->take(0);
}

}  // namespace pysr
