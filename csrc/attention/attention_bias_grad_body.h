// The gradient of the bias: gradients of scores, summed over the axes along which the bias is broadcast. No
// include guard: see common/foreach_target.h.

// Adds the gradients [key][lane] of the keys [key, key + keys); lanes without a query hold zeros.
static void add_bias_grad(const PanelRows& rows, int64_t key, int64_t keys, const float* grads) {
  const AttentionParams& p = rows.p;
  const int64_t* stride = p.grad_bias_stride;
  float* to =
      p.grad_bias + rows.b * stride[0] + rows.head * stride[1] + rows.first * stride[2] + key * stride[3];
  if (stride[2] == 0) {  // one number for all queries
    for (int64_t j = 0; j < keys; ++j) {
      Vec sum{};
      for (int64_t r = 0; r < rows.width; r += kLanes) sum += load(grads + j * rows.width + r);
      to[j * stride[3]] += static_cast<float>(reduce_add(sum));
    }
    return;
  }
  for (int64_t r = 0; r < rows.count; r += kLanes) {
    const int64_t count = std::min<int64_t>(kLanes, rows.count - r);
    if (stride[3] == 0) {  // one number for all keys
      Vec sum{};
      for (int64_t j = 0; j < keys; ++j) sum += load(grads + j * rows.width + r);
      for (int64_t i = 0; i < count; ++i) to[(r + i) * stride[2]] += sum[i];
      continue;
    }
    for (int64_t j = 0; j < keys; j += kLanes) {
      const int valid = static_cast<int>(std::min<int64_t>(kLanes, keys - j));
      Vec tile[kLanes];
      for (int i = 0; i < kLanes; ++i) tile[i] = i < valid ? load(grads + (j + i) * rows.width + r) : Vec{};
      transpose(tile);
      for (int64_t i = 0; i < count; ++i) {
        float* row = to + (r + i) * stride[2] + j;
        if (valid == kLanes) {
          store(row, load(row) + tile[i]);
        } else {
          store_partial(row, load_partial(row, valid) + tile[i], valid);
        }
      }
    }
  }
}
