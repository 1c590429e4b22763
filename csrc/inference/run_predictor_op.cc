// Runs a predictor of Paddle Inference without Python's lock: Paddle's own binding keeps the lock while it
// computes, so that two threads take turns. ctypes gives the lock up around a call of C.
#include <cstddef>
#include <cstdio>
#include <exception>

#include "common/abi.h"

// Paddle's wheel exports these but ships no header of them: the name is checked when this library is loaded.
namespace paddle_infer {
class Predictor {
 public:
  bool Run();
};
}  // namespace paddle_infer
extern "C" const void* const paddle_infra_vtable[] __asm__("_ZTVN6paddle17AnalysisPredictorE");

// `holder` is what a Python object of Paddle's binding keeps: a paddle_infer::Predictor, whose only member
// points to an AnalysisPredictor. Returns whether it does: anything else must not be run.
PADDLE_INFRA_EXPORT int paddle_infra_is_predictor(const void* holder) {
  if (holder == nullptr) return 0;
  const auto* const* predictor = *static_cast<const void* const* const*>(holder);
  // A table of virtual functions starts with two words that are not part of what objects point to.
  return predictor != nullptr && *predictor == static_cast<const void*>(paddle_infra_vtable + 2);
}

// Returns 0 if the predictor ran; else 1, and up to `capacity` bytes of the reason, with a final zero, in
// `message`. An exception must not leave a function of C.
PADDLE_INFRA_EXPORT int paddle_infra_run_predictor(void* holder, char* message, size_t capacity) {
  try {
    if (static_cast<paddle_infer::Predictor*>(holder)->Run()) return 0;
    std::snprintf(message, capacity, "Paddle says only that the run failed");
  } catch (const std::exception& error) {
    std::snprintf(message, capacity, "%s", error.what());
  } catch (...) {
    std::snprintf(message, capacity, "an exception of an unknown type");
  }
  return 1;
}
