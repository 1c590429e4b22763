// Runs the blocks of a launch.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <thread>

#include "simt/block.h"
#include "simt/launch_log.h"

namespace paddle_infra::simt {

// How launches run; tests set it.
struct Settings {
  unsigned seed = 0;  // 0: threads and blocks in their order
  int threads = 1;    // workers that run blocks
};
inline Settings& settings() {
  static Settings settings;
  return settings;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kStackBytes = 256 << 10;
#else
constexpr size_t kStackBytes = 64 << 10;
#endif
constexpr size_t kSharedAlignment = 1024;

inline bool can_go_on(const Block& b, const Fiber& f) {
  switch (f.wait) {
    case Wait::kNothing:
      return true;
    case Wait::kWarp:
      return f.warp->generation != f.generation;
    case Wait::kBlock:
      return b.generation != f.generation;
    case Wait::kDone:
      return false;
  }
  return false;
}

// ThreadSanitizer notes calls and returns per fiber: what switches has neither, as it calls on one fiber and
// returns on another.
PI_SIMT_NO_TSAN inline void resume(Block& b, Fiber& f) {
  f.wait = Wait::kNothing;
  fiber = &f;
  f.tsan.enter();
  void* fake = nullptr;
  AsanSwitch::start(&fake, f.stack, kStackBytes);
  switch_context(&b.scheduler, &f.context);
  AsanSwitch::finish(fake, nullptr, nullptr);
  fiber = nullptr;
}

inline void report_deadlock(const Block& b) {
  const auto waiting = [&](Wait what) {
    return std::count_if(b.fibers.begin(), b.fibers.end(), [=](const Fiber& f) { return f.wait == what; });
  };
  fail("block (" + std::to_string(b.index.x) + ", " + std::to_string(b.index.y) + ", " +
       std::to_string(b.index.z) + ") waits forever: " + std::to_string(waiting(Wait::kBlock)) +
       " threads at __syncthreads, " + std::to_string(waiting(Wait::kWarp)) +
       " in an instruction of their warp, " + std::to_string(waiting(Wait::kDone)) + " have ended");
}

// Runs a warp until all of its lanes are at a barrier of the block, or done; returns whether any lane ran.
inline bool run_warp(Block& b, size_t warp, const unsigned* lanes) {
  bool ran = false;
  for (bool goes_on = true; goes_on;) {
    goes_on = false;
    for (int i = 0; i < kWarpSize; ++i) {
      Fiber& f = b.fibers[warp * kWarpSize + lanes[i]];
      if (!can_go_on(b, f)) continue;
      resume(b, f);
      ran = goes_on = true;
    }
    b.warps[warp].accesses.flush(false);
  }
  return ran;
}

inline void run_block(Block& b, std::mt19937* random) {
  const Quiet quiet;
  block = &b;
  std::memset(b.shared, 0xFF, b.shared_bytes);  // a NaN in every format
  b.alive = static_cast<unsigned>(b.fibers.size());
  b.arrived = 0;
  b.scheduler_tsan.take_current();
  for (Warp& w : b.warps) w.arrived = 0;
  for (Fiber& f : b.fibers) {
    AsanSwitch::reuse(f.stack, kStackBytes);
    make_context(&f.context, f.stack, kStackBytes, run_fiber);
    f.wait = Wait::kNothing;
    note_release(f.tsan.key());
  }
  std::vector<unsigned> warps(b.warps.size()), lanes(kWarpSize);
  std::iota(warps.begin(), warps.end(), 0u);
  std::iota(lanes.begin(), lanes.end(), 0u);
  while (b.alive > 0) {
    bool ran = false;
    if (random != nullptr) std::shuffle(warps.begin(), warps.end(), *random);
    for (unsigned warp : warps) {
      if (random != nullptr) std::shuffle(lanes.begin(), lanes.end(), *random);
      ran |= run_warp(b, warp, lanes.data());
    }
    if (!ran) report_deadlock(b);
  }
  for (Warp& w : b.warps) w.accesses.flush(true);
  for (Fiber& f : b.fibers) note_acquire(f.tsan.key());
  block = nullptr;
}

// A block's fibers, stacks and shared memory, used again for every block that one worker runs. What its
// threads did before is ordered before what they do in the next block, as it would be with other fibers.
class Worker {
 public:
  Worker(Index3 grid, Index3 size, size_t shared_bytes, const std::function<void()>* body)
      : threads_(size_t{size.x} * size.y * size.z),
        memory_(new unsigned char[shared_bytes + kSharedAlignment]) {
    stacks_ = static_cast<char*>(mmap(nullptr, threads_ * kStackBytes, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (stacks_ == MAP_FAILED) fail("no memory for the stacks");
    // Its end is the end of the allocation, where AddressSanitizer watches.
    const uintptr_t end = reinterpret_cast<uintptr_t>(memory_.get()) + shared_bytes + kSharedAlignment;
    block_.shared = reinterpret_cast<unsigned char*>((end - shared_bytes) & ~(kSharedAlignment - 1));
    block_.grid = grid;
    block_.size = size;
    block_.shared_bytes = shared_bytes;
    block_.body = body;
    block_.warps.resize(threads_ / kWarpSize);
    block_.fibers.resize(threads_);
    for (unsigned i = 0; i < threads_; ++i) {
      Fiber& f = block_.fibers[i];
      f.number = i;
      f.lane = i % kWarpSize;
      f.warp = &block_.warps[i / kWarpSize];
      f.stack = stacks_ + i * kStackBytes;
      f.tsan.take();
      f.index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    }
  }
  ~Worker() {
    for (Fiber& f : block_.fibers) f.tsan.give_back();
    munmap(stacks_, threads_ * kStackBytes);
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  void run(uint64_t number, std::mt19937* random) {
    const Index3& grid = block_.grid;
    block_.index = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                    static_cast<unsigned>(number / grid.x / grid.y)};
    run_block(block_, random);
  }

 private:
  size_t threads_;
  std::unique_ptr<unsigned char[]> memory_;
  char* stacks_;
  Block block_;
};

inline void launch(const void* kernel, Index3 grid, Index3 size, size_t shared_bytes,
                   const std::function<void()>& body) {
  counters().add(Count::kLaunches);
  launch_log().add({kernel, uint64_t{size.x} * size.y * size.z, shared_bytes});
  if (size_t{size.x} * size.y * size.z % kWarpSize != 0) fail("a block has to consist of whole warps");
  std::vector<uint64_t> blocks(uint64_t{grid.x} * grid.y * grid.z);
  std::iota(blocks.begin(), blocks.end(), uint64_t{0});
  const unsigned seed = settings().seed;
  if (seed != 0) std::shuffle(blocks.begin(), blocks.end(), std::mt19937(seed));
  std::atomic<size_t> next{0};
  const auto work = [&](unsigned worker) {
    Worker runs(grid, size, shared_bytes, &body);
    std::mt19937 random(seed * 7919u + worker);
    for (size_t i = next++; i < blocks.size(); i = next++) runs.run(blocks[i], seed != 0 ? &random : nullptr);
  };
  const int workers = std::max(1, std::min<int>(settings().threads, static_cast<int>(blocks.size())));
  if (workers == 1) return work(0);
  std::vector<std::thread> team;
  for (int i = 0; i < workers; ++i) team.emplace_back(work, i);
  for (std::thread& member : team) member.join();
}

}  // namespace paddle_infra::simt
