// Rows of tensors as vectors of floats, whatever their element type. No include guard: see
// common/foreach_target.h.

// Rows of a tensor, of any element type.
struct Rows {
  const char* data;
  int64_t stride;  // bytes
  int64_t count, dim;
  DataType type;
  const float* factor;  // of each row, or null for 1
};

// Row i as floats, followed by zeros up to a multiple of `unit`: where it lies if it can be read there, else
// in `buffer`.
PI_INLINE const float* float_row(const Rows& rows, int64_t i, int64_t unit, float* buffer) {
  const char* at = rows.data + i * rows.stride;
  if (rows.type == DataType::kFloat32 && rows.dim % unit == 0) return reinterpret_cast<const float*>(at);
  convert_to_float(rows.type, at, buffer, rows.dim);
  for (int64_t d = rows.dim; d < round_up(rows.dim, unit); ++d) buffer[d] = 0.0f;
  return buffer;
}

constexpr int64_t kRowBuffer = 256 + 2 * kMostLanes;
