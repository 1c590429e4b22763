#include "common/thread_count.h"

#include <dlfcn.h>
#include <link.h>
#include <omp.h>

#include <algorithm>
#include <atomic>

namespace {

using Count = int (*)();

int read_loads(dl_phdr_info* info, size_t, void* loads) {
  *static_cast<unsigned long long*>(loads) = info->dlpi_adds;
  return 1;  // the first library tells
}

// Paddle gives every number also to MKL, for the whole process. MKL is loaded when it is first needed;
// looking for it in vain takes 20 microseconds, so that is done only if any library was loaded since.
Count find_mkl() {
  static std::atomic<Count> found{nullptr};
  static std::atomic<unsigned long long> loads_then{0};
  Count count = found;
  if (count != nullptr) return count;
  unsigned long long loads = 0;
  dl_iterate_phdr(read_loads, &loads);
  if (loads == loads_then) return nullptr;
  void* library = dlopen("libmklml_intel.so", RTLD_LAZY | RTLD_NOLOAD);
  if (library != nullptr) count = reinterpret_cast<Count>(dlsym(library, "MKL_Get_Max_Threads"));
  found = count;
  loads_then = loads;
  return count;
}

}  // namespace

int paddle_infra_thread_count() {
  const Count mkl = find_mkl();
  return std::max(omp_get_max_threads(), mkl != nullptr ? mkl() : 1);
}
