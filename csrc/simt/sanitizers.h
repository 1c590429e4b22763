// What the emulator tells ThreadSanitizer and AddressSanitizer, and nothing where they are off.
//
// ThreadSanitizer then sees every CUDA thread as one of its fibers, ordered by barriers only: a missing one
// is a data race. AddressSanitizer must know that stacks are switched.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_THREAD__)
#include <mutex>
#include <vector>

extern "C" {
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void __tsan_write_range(void* address, unsigned long size);
void __tsan_read_range(void* address, unsigned long size);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#define PI_SIMT_NO_TSAN __attribute__((no_sanitize("thread"), noinline))
#else
#define PI_SIMT_NO_TSAN
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace paddle_infra::simt {

#if defined(__SANITIZE_THREAD__)

// The emulator's own bookkeeping is not part of the program under test.
class Quiet {
 public:
  PI_SIMT_NO_TSAN Quiet() {
    AnnotateIgnoreReadsBegin(__FILE__, 0);
    AnnotateIgnoreWritesBegin(__FILE__, 0);
  }
  PI_SIMT_NO_TSAN ~Quiet() {
    AnnotateIgnoreWritesEnd(__FILE__, 0);
    AnnotateIgnoreReadsEnd(__FILE__, 0);
  }
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;
};

// What hardware does on behalf of the running thread.
inline void note_write(void* p, size_t size) { __tsan_write_range(p, size); }
inline void note_read(const void* p, size_t size) { __tsan_read_range(const_cast<void*>(p), size); }
inline void note_release(void* p) { __tsan_release(p); }
inline void note_acquire(void* p) { __tsan_acquire(p); }

// Fibers that nobody uses: to make 256 of them takes ThreadSanitizer longer than a block of a small kernel.
class TsanPool {
 public:
  void* take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) return __tsan_create_fiber(0);
    void* const fiber = free_.back();
    free_.pop_back();
    return fiber;
  }
  void give_back(void* fiber) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(fiber);
  }
  static TsanPool& all() {
    static TsanPool* const pool = new TsanPool;  // never destroyed: fibers may be given back at any time
    return *pool;
  }

 private:
  std::mutex mutex_;
  std::vector<void*> free_;
};

class TsanFiber {
 public:
  void take() { fiber_ = TsanPool::all().take(); }
  void take_current() { fiber_ = __tsan_get_current_fiber(); }
  void give_back() { TsanPool::all().give_back(fiber_); }
  // Not instrumented: a fiber that has ended, and released what it did, still reads them.
  PI_SIMT_NO_TSAN void enter() const { __tsan_switch_to_fiber(fiber_, 1); }  // 1: a switch orders nothing
  PI_SIMT_NO_TSAN void* key() const { return fiber_; }

 private:
  void* fiber_ = nullptr;
};

#else

class Quiet {
 public:
  Quiet() {}
  ~Quiet() {}
};
inline void note_write(void*, size_t) {}
inline void note_read(const void*, size_t) {}
inline void note_release(void*) {}
inline void note_acquire(void*) {}

class TsanFiber {
 public:
  void take() {}
  void take_current() {}
  void give_back() {}
  void enter() const {}
  void* key() const { return nullptr; }
};

#endif

#if defined(__SANITIZE_ADDRESS__)

// Around every switch of stacks: start() before it, finish() after it, on the other stack.
struct AsanSwitch {
  static void start(void** fake, const void* stack, size_t size) {
    __sanitizer_start_switch_fiber(fake, stack, size);
  }
  static void finish(void* fake, const void** from, size_t* size) {
    __sanitizer_finish_switch_fiber(fake, from, size);
  }
  static void reuse(void* stack, size_t size) { __asan_unpoison_memory_region(stack, size); }
};

#else

struct AsanSwitch {
  static void start(void**, const void*, size_t) {}
  static void finish(void*, const void**, size_t*) {}
  static void reuse(void*, size_t) {}
};

#endif

}  // namespace paddle_infra::simt
