// Products of bfloat16 pairs on the matrix unit of x86 (AMX). No include guard: part of tile_product_body.h,
// where PI_BF16 is 2 (instructions) or 3 (the same tiles in plain C++, for tests on other processors).
//
// A tile is 16 rows of 64 bytes. One instruction adds to a tile of C (16 * 16 floats) the product of a tile
// of A (16 rows of 16 pairs) and one of B (16 pairs of rows, 16 columns).

#if PI_BF16 == 2

struct TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Around the products of a thread: the matrix unit must be configured, and given back.
static void begin_thread() {
  TileConfig config;
  for (int t = 0; t < 8; ++t) config.row_bytes[t] = 64, config.rows[t] = 16;
  _tile_loadconfig(&config);
}

static void end_thread() { _tile_release(); }

// GCC's intrinsics do not say that they read or write memory.
#define PI_TILE_FENCE() __asm__ volatile("" ::: "memory")
#define PI_TILE_ZERO(t) _tile_zero(t)
#define PI_TILE_LOAD(t, from, stride) _tile_loadd(t, from, 4 * (stride))
#define PI_TILE_STORE(t, to, stride) _tile_stored(t, to, 4 * (stride))
#define PI_TILE_MULTIPLY(c, a, b) _tile_dpbf16ps(c, a, b)

#else

static void begin_thread() {}
static void end_thread() {}

struct Tile {
  uint32_t row[16][16];
};

static float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// In the order of the instruction, which rounds a little differently.
static void multiply_tiles(Tile* c, const Tile& a, const Tile& b) {
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 16; ++n) {
      float sum = float_of_bits(c->row[m][n]);
      for (int k = 0; k < 16; ++k) {
        const uint32_t left = a.row[m][k], right = b.row[k][n];
        sum += float_of_bits(left << 16) * float_of_bits(right << 16);
        sum += float_of_bits(left & 0xFFFF0000u) * float_of_bits(right & 0xFFFF0000u);
      }
      std::memcpy(&c->row[m][n], &sum, 4);
    }
  }
}

static void load_tile(Tile* tile, const void* from, int64_t stride) {
  for (int i = 0; i < 16; ++i) std::memcpy(tile->row[i], static_cast<const char*>(from) + 4 * i * stride, 64);
}

static void store_tile(const Tile& tile, void* to, int64_t stride) {
  for (int i = 0; i < 16; ++i) std::memcpy(static_cast<char*>(to) + 4 * i * stride, tile.row[i], 64);
}

#define PI_TILE_FENCE() Tile tile[8]
#define PI_TILE_ZERO(t) \
  tile[t] = Tile {}
#define PI_TILE_LOAD(t, from, stride) load_tile(&tile[t], from, stride)
#define PI_TILE_STORE(t, to, stride) store_tile(tile[t], to, stride)
#define PI_TILE_MULTIPLY(c, a, b) multiply_tiles(&tile[c], tile[a], tile[b])

#endif

// One to two tiles of rows by one to two tiles of columns of C. a_stride, b_stride count pairs, c_stride
// floats.
template <int kTileRows, int kTileColumns, bool kAdds>
static void tile_block(const uint32_t* a, int64_t a_stride, const uint32_t* b, int64_t b_stride, float* c,
                       int64_t c_stride, int64_t depth) {
  PI_TILE_FENCE();
  if constexpr (kAdds) {
    PI_TILE_LOAD(0, c, c_stride);
    if constexpr (kTileColumns > 1) PI_TILE_LOAD(1, c + 16, c_stride);
    if constexpr (kTileRows > 1) PI_TILE_LOAD(2, c + 16 * c_stride, c_stride);
    if constexpr (kTileRows > 1 && kTileColumns > 1) PI_TILE_LOAD(3, c + 16 * c_stride + 16, c_stride);
  } else {
    PI_TILE_ZERO(0);
    if constexpr (kTileColumns > 1) PI_TILE_ZERO(1);
    if constexpr (kTileRows > 1) PI_TILE_ZERO(2);
    if constexpr (kTileRows > 1 && kTileColumns > 1) PI_TILE_ZERO(3);
  }
  for (int64_t k = 0; k < depth; k += 16) {
    PI_TILE_LOAD(4, a + k, a_stride);
    PI_TILE_LOAD(6, b + k * b_stride, b_stride);
    PI_TILE_MULTIPLY(0, 4, 6);
    if constexpr (kTileColumns > 1) {
      PI_TILE_LOAD(7, b + k * b_stride + 16, b_stride);
      PI_TILE_MULTIPLY(1, 4, 7);
    }
    if constexpr (kTileRows > 1) {
      PI_TILE_LOAD(5, a + 16 * a_stride + k, a_stride);
      PI_TILE_MULTIPLY(2, 5, 6);
    }
    if constexpr (kTileRows > 1 && kTileColumns > 1) PI_TILE_MULTIPLY(3, 5, 7);
  }
  PI_TILE_STORE(0, c, c_stride);
  if constexpr (kTileColumns > 1) PI_TILE_STORE(1, c + 16, c_stride);
  if constexpr (kTileRows > 1) PI_TILE_STORE(2, c + 16 * c_stride, c_stride);
  if constexpr (kTileRows > 1 && kTileColumns > 1) PI_TILE_STORE(3, c + 16 * c_stride + 16, c_stride);
#if PI_BF16 == 2
  PI_TILE_FENCE();
#endif
}

// Rows, columns and depth (in pairs) are multiples of 16; a.depth_stride is 1.
template <Into kInto>
static void tile_product(int64_t rows, int64_t columns, int64_t depth, LeftMatrix<uint32_t> a,
                         const uint32_t* b, int64_t b_stride, float* c, int64_t c_stride,
                         const float* factor) {
  if constexpr (kInto == Into::kScale) {
    for (int64_t m = 0; m < rows; ++m) {
      for (int64_t n = 0; n < columns; n += kLanes) {
        store(c + m * c_stride + n, load(c + m * c_stride + n) * load(factor + n));
      }
    }
  }
  constexpr bool kAdds = kInto != Into::kOverwrite;
  for (int64_t n = 0; n < columns; n += 32) {
    for (int64_t m = 0; m < rows; m += 32) {
      const bool two_rows = rows - m > 16, two_columns = columns - n > 16;
      const auto block = two_rows ? (two_columns ? tile_block<2, 2, kAdds> : tile_block<2, 1, kAdds>)
                                  : (two_columns ? tile_block<1, 2, kAdds> : tile_block<1, 1, kAdds>);
      block(a.data + m * a.row_stride, a.row_stride, b + n, b_stride, c + m * c_stride + n, c_stride, depth);
    }
  }
}

#undef PI_TILE_FENCE
#undef PI_TILE_ZERO
#undef PI_TILE_LOAD
#undef PI_TILE_STORE
#undef PI_TILE_MULTIPLY
