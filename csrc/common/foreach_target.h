// Compiles PI_TARGET_BODY once per instruction set, each in a namespace of its own.
//
// No include guard. Usage, in a .cc file after all system headers (they must not be compiled for a wider
// target):
//   #define PI_TARGET_BODY "op/op_body.h"
//   #define PI_TARGET_BF16  // optional
//   #include "common/foreach_target.h"
// and then float_target() picks portable::, avx2:: or avx512::. With PI_TARGET_BF16 there are also
// avx512_bf16::, amx:: and emulate_amx::, and cpu_target() picks; processors other than x86 have portable::
// and emulate_amx::. The body sees PI_LANES, floats in a vector, and PI_BF16, how it may multiply bfloat16:
//   0 by floats only, 1 AVX512_BF16 dot products, 2 AMX tiles (and dot products), 3 AMX tiles in plain C++.
// One file and pragmas, not one file per compiler flag: inline functions of the standard library that were
// compiled with -mavx512f could otherwise be chosen by the linker for every caller and crash an older
// processor.

#if defined(__x86_64__)

#ifdef PI_TARGET_BF16

#pragma GCC push_options
#pragma GCC target( \
    "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,avx512bf16,amx-tile,amx-bf16,prefer-vector-width=512")
namespace amx {
#define PI_LANES 16
#define PI_BF16 2
#include PI_TARGET_BODY
#undef PI_BF16
#undef PI_LANES
#undef PI_INLINE
}  // namespace amx
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,avx512bf16,prefer-vector-width=512")
namespace avx512_bf16 {
#define PI_LANES 16
#define PI_BF16 1
#include PI_TARGET_BODY
#undef PI_BF16
#undef PI_LANES
#undef PI_INLINE
}  // namespace avx512_bf16
#pragma GCC pop_options

#endif  // PI_TARGET_BF16

#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,prefer-vector-width=512")
namespace avx512 {
#define PI_LANES 16
#define PI_BF16 0
#include PI_TARGET_BODY
#undef PI_BF16
#undef PI_LANES
#undef PI_INLINE
}  // namespace avx512
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#define PI_LANES 8
#define PI_BF16 0
#include PI_TARGET_BODY
#undef PI_BF16
#undef PI_LANES
#undef PI_INLINE
}  // namespace avx2
#pragma GCC pop_options

#endif  // __x86_64__

namespace portable {
#define PI_LANES 4
#define PI_BF16 0
#include PI_TARGET_BODY
#undef PI_BF16
#undef PI_LANES
#undef PI_INLINE
}  // namespace portable

#ifdef PI_TARGET_BF16
namespace emulate_amx {
#define PI_LANES 4
#define PI_BF16 3
#include PI_TARGET_BODY
#undef PI_BF16
#undef PI_LANES
#undef PI_INLINE
}  // namespace emulate_amx
#undef PI_TARGET_BF16
#endif

#undef PI_TARGET_BODY
