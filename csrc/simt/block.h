// Runs the threads of a block as fibers of one CPU thread.
//
// A fiber runs until it meets the others: at a barrier of the block, or in a collective of its warp. Which
// fiber goes on is up to the scheduler, and to a seed: results must not depend on it. A launch ends with an
// error if threads wait for each other forever, if lanes of a warp meet in different collectives, or if
// memory is used where there is none.
//
// Limits: collectives are of whole warps; blocks run one after another in each worker thread, so races
// between blocks are seen only as results that depend on the order, which the seed changes too.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "simt/access_log.h"
#include "simt/context.h"
#include "simt/sanitizers.h"

namespace paddle_infra::simt {

struct Index3 {
  unsigned x = 1, y = 1, z = 1;
};

enum class Wait : uint8_t { kNothing, kWarp, kBlock, kDone };

// An asynchronous copy to shared memory that has not arrived yet.
struct PendingCopy {
  void* to;
  unsigned char bytes[16];
};

struct Warp;

struct Fiber {
  Context context;
  char* stack = nullptr;
  Index3 index;
  unsigned number = 0, lane = 0;
  Warp* warp = nullptr;
  Wait wait = Wait::kNothing;
  uint64_t generation = 0;  // of what it waits for
  std::vector<PendingCopy> open;
  std::deque<std::vector<PendingCopy>> groups;
  TsanFiber tsan;
};

constexpr size_t kMostCollected = 64;  // bytes that a lane gives to, or gets from, a collective

struct Warp {
  unsigned arrived = 0;
  uint64_t generation = 0;
  int collective = 0;
  alignas(16) unsigned char in[kWarpSize][kMostCollected];
  alignas(16) unsigned char out[2][kWarpSize][kMostCollected];  // a lane may be one collective behind
  uint64_t orders[2] = {};                                      // see Block
  WarpAccesses accesses;
};

struct Block {
  Index3 index, grid, size;
  unsigned alive = 0, arrived = 0;
  uint64_t generation = 0;
  // What ThreadSanitizer knows a barrier by. Two take turns: with one, a thread that has reached the next
  // barrier already would be ordered before those that have not left this one.
  uint64_t orders[2] = {};
  unsigned char* shared = nullptr;
  size_t shared_bytes = 0;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  const std::function<void()>* body = nullptr;
  Context scheduler;
  TsanFiber scheduler_tsan;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_size = 0;
};

inline thread_local Block* block = nullptr;
inline thread_local Fiber* fiber = nullptr;

// The functions below are not inlined into kernels: a fiber may go on with other values of these variables.
PI_SIMT_NO_TSAN __attribute__((noinline)) inline Block& this_block() { return *block; }
PI_SIMT_NO_TSAN __attribute__((noinline)) inline Fiber& this_fiber() { return *fiber; }

[[noreturn]] inline void fail(const std::string& message) {
  std::fprintf(stderr, "simt: %s", message.c_str());
  if (block != nullptr && fiber != nullptr) {
    const Index3& b = block->index;
    std::fprintf(stderr, " [block (%u, %u, %u), thread %u]", b.x, b.y, b.z, fiber->number);
  }
  std::fprintf(stderr, "\n");
  std::fflush(stderr);
  std::abort();
}

PI_SIMT_NO_TSAN __attribute__((noinline)) inline void to_scheduler() {
  Fiber& me = *fiber;
  Block& of = *block;
  of.scheduler_tsan.enter();
  void* fake = nullptr;
  AsanSwitch::start(me.wait == Wait::kDone ? nullptr : &fake, of.scheduler_stack, of.scheduler_stack_size);
  switch_context(&me.context, &of.scheduler);
  AsanSwitch::finish(fake, &of.scheduler_stack, &of.scheduler_stack_size);
}

// Where every fiber starts.
PI_SIMT_NO_TSAN inline void run_fiber() {
  AsanSwitch::finish(nullptr, &block->scheduler_stack, &block->scheduler_stack_size);
  note_acquire(fiber->tsan.key());
  (*block->body)();
  {
    const Quiet quiet;
    note_release(fiber->tsan.key());
    if (!fiber->open.empty() || !fiber->groups.empty()) {
      fail("the thread ends before its asynchronous copies have arrived");
    }
    fiber->wait = Wait::kDone;
    --block->alive;
    if (block->alive > 0 && block->arrived == block->alive) {
      block->arrived = 0;
      ++block->generation;
    }
  }
  to_scheduler();
  std::abort();  // nobody resumes it
}

// __syncthreads.
inline void wait_for_block() {
  const Quiet quiet;
  Block& b = this_block();
  Fiber& me = this_fiber();
  counters().add(Count::kBarriers);
  uint64_t* const order = &b.orders[b.generation & 1];
  note_release(order);
  if (++b.arrived == b.alive) {
    b.arrived = 0;
    ++b.generation;
  } else {
    me.wait = Wait::kBlock;
    me.generation = b.generation;
    to_scheduler();
  }
  note_acquire(order);
}

// Lanes of a warp meet: each gives `in`, the last one to arrive calls finish(warp, outs), each gets its out.
// Only __syncwarp orders memory; instructions that exchange registers do not.
template <class Out, class In, class Finish>
Out collect(int collective, bool orders_memory, const In& in, Finish finish) {
  static_assert(sizeof(In) <= kMostCollected && sizeof(Out) <= kMostCollected);
  const Quiet quiet;
  Fiber& me = this_fiber();
  Warp& warp = *me.warp;
  const uint64_t generation = warp.generation;
  if (warp.arrived == 0) warp.collective = collective;
  if (warp.collective != collective) fail("lanes of a warp meet in different instructions");
  std::memcpy(warp.in[me.lane], &in, sizeof in);
  uint64_t* const order = &warp.orders[generation & 1];
  if (orders_memory) note_release(order);
  if (++warp.arrived == kWarpSize) {
    finish(warp, warp.out[generation & 1]);
    warp.arrived = 0;
    ++warp.generation;
  } else {
    me.wait = Wait::kWarp;
    me.generation = generation;
    to_scheduler();
  }
  if (orders_memory) note_acquire(order);
  Out out;
  std::memcpy(&out, warp.out[generation & 1][me.lane], sizeof out);
  return out;
}

}  // namespace paddle_infra::simt
