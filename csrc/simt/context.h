// Switching stacks: the smallest part of a coroutine.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simt/sanitizers.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace paddle_infra::simt {

#if defined(__x86_64__)

struct Context {
  void* stack_pointer = nullptr;
};

// Saves the registers that a callee must keep, on the running stack; goes on with the other one. ucontext
// would make two system calls per switch.
extern "C" void paddle_infra_simt_switch(void** from, void* to);
__asm__(R"(
.text
.weak paddle_infra_simt_switch
.type paddle_infra_simt_switch, @function
paddle_infra_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size paddle_infra_simt_switch, .-paddle_infra_simt_switch
)");

inline void make_context(Context* context, char* stack, size_t size, void (*entry)()) {
  constexpr int kSavedRegisters = 6;
  auto** top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack + size) & ~uintptr_t{15});
  *--top = nullptr;  // where `entry` would return to; it never does
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
  context->stack_pointer = top;
}

PI_SIMT_NO_TSAN inline void switch_context(Context* from, Context* to) {
  paddle_infra_simt_switch(&from->stack_pointer, to->stack_pointer);
}

#else

struct Context {
  ucontext_t context;
};

inline void make_context(Context* context, char* stack, size_t size, void (*entry)()) {
  getcontext(&context->context);
  context->context.uc_stack.ss_sp = stack;
  context->context.uc_stack.ss_size = size;
  context->context.uc_link = nullptr;
  makecontext(&context->context, entry, 0);
}

PI_SIMT_NO_TSAN inline void switch_context(Context* from, Context* to) {
  swapcontext(&from->context, &to->context);
}

#endif

}  // namespace paddle_infra::simt
