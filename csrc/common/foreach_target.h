// Compiles PI_TARGET_BODY once per instruction set, each in a namespace of its own.
//
// No include guard. Usage, in a .cc file after all system headers (they must not be compiled for a wider
// target):
//   #define PI_TARGET_BODY "op/op_body.h"
//   #include "common/foreach_target.h"
// and then table_of(cpu_target()) picks baseline::, avx2:: or avx512::.
// One file and pragmas, not one file per compiler flag: inline functions of the standard library that were
// compiled with -mavx512f could otherwise be chosen by the linker for every caller and crash an older
// processor.

#if defined(__x86_64__)

#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,prefer-vector-width=512")
namespace avx512 {
#define PI_LANES 16
#include PI_TARGET_BODY
#undef PI_LANES
#undef PI_INLINE
}  // namespace avx512
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#define PI_LANES 8
#include PI_TARGET_BODY
#undef PI_LANES
#undef PI_INLINE
}  // namespace avx2
#pragma GCC pop_options

#endif

namespace baseline {
#define PI_LANES 4
#include PI_TARGET_BODY
#undef PI_LANES
#undef PI_INLINE
}  // namespace baseline

#undef PI_TARGET_BODY
