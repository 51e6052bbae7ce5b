// The channel mixer on the CPU: two block-diagonal layers with an activation between them, and
// channel covariance attention, forward and backward, in float32.
//
// Tokens are the vector dimension: a panel of PANEL tokens is turned to channels x tokens, so
// that every weight is read in its own layout, one value at a time, and multiplies whole vectors
// of tokens. Hidden values live in a buffer of a few KiB for the time between the two layers.
//
// Plain C++ with the compiler's vector types; no library but OpenMP. All matrices are row-major.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>

#if defined(__AVX512F__)
#define LANES 16
#define ROWS 8
#elif defined(__AVX__)
#define LANES 8
#define ROWS 4
#else
#define LANES 4
#if defined(__aarch64__)
#define ROWS 8
#else
#define ROWS 4
#endif
#endif

namespace {

constexpr int VECTORS = 3;  // of tokens in a panel
constexpr long PANEL = VECTORS * LANES;
constexpr long HIDDEN = 64;  // hidden channels at a time
constexpr long BLOCK = 4;  // panels that pass through a piece of the weights in a row
constexpr long DEEP = 96;  // tokens that are summed up at a time in products over tokens

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef float loose_vec __attribute__((vector_size(LANES * 4), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(LANES * 4)));

inline vec load(const float* p) { return *reinterpret_cast<const loose_vec*>(p); }
inline void store(float* p, vec v) { *reinterpret_cast<loose_vec*>(p) = v; }
inline vec splat(float x) { return x - vec{}; }
// Of a number and NaN, the second argument.
inline vec min_(vec a, vec b) { return a < b ? a : b; }
inline vec max_(vec a, vec b) { return a > b ? a : b; }

inline float total(vec v) {
  float sum = 0;
  for (int l = 0; l < LANES; ++l) sum += v[l];
  return sum;
}

inline long round_up(long n, long to) { return (n + to - 1) / to * to; }

struct Free {
  void operator()(float* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<float, Free>;

// 64-byte aligned floats; null when there is no memory.
Buffer allocate(long n) {
  return Buffer(static_cast<float*>(std::aligned_alloc(64, round_up(std::max(n, 1L), 16) * 4)));
}

// Says that a thread has no memory.
inline void lack(bool& enough) {
#pragma omp atomic write
  enough = false;
}

// exp, within two units in the last place; zero below -87, and 1.65e38 from 88 on.
inline vec exponential(vec x) {
  const vec low = splat(-87.f);
  const vec y = min_(splat(88.f), max_(low, x));
  const vec magic = splat(12582912.f);  // 1.5 * 2^23: rounds to integer
  const vec shifted = y * splat(1.44269504088896341f) + magic;
  const vec n = shifted - magic;
  const vec r = (y - n * splat(0.693145751953125f)) - n * splat(1.42860682030941723e-6f);
  vec p = splat(1.f / 5040);
  p = p * r + splat(1.f / 720);
  p = p * r + splat(1.f / 120);
  p = p * r + splat(1.f / 24);
  p = p * r + splat(1.f / 6);
  p = p * r + splat(.5f);
  p = p * r + splat(1.f);
  p = p * r + splat(1.f);
  const ivec power = (ivec)shifted << 23;
  const vec result = (vec)((ivec)p + power);
  return x < low ? vec{} : result;
}

#if LANES == 16
// An odd function plus 1/2: by a polynomial in |x| for each of 32 intervals, whose coefficients are
// picked from registers, and constant above the last interval's middle.
template <int DEGREE>
struct Table {
  static constexpr float STEPS = 31 / 5.6f;  // intervals in a unit
  alignas(64) float c[DEGREE + 1][32];

  explicit Table(double (*odd)(double)) {
    constexpr int N = DEGREE + 1;
    for (int i = 0; i < 32; ++i) {
      double u[N], d[N], power[N] = {};
      for (int k = 0; k < N; ++k) {
        u[k] = .5 * std::cos((2 * k + 1) * std::acos(-1.) / (2 * N));
        d[k] = i == 31 ? .5 : odd((i + u[k]) / STEPS);
      }
      // Divided differences through the Chebyshev nodes, then powers of the distance.
      for (int n = 1; n < N; ++n)
        for (int k = N - 1; k >= n; --k) d[k] = (d[k] - d[k - 1]) / (u[k] - u[k - n]);
      for (int n = N - 1; n >= 0; --n) {
        for (int k = N - 1; k > 0; --k) power[k] = power[k - 1] - u[n] * power[k];
        power[0] = d[n] - u[n] * power[0];
      }
      for (int k = 0; k < N; ++k) c[k][i] = power[k];
    }
  }

  vec operator()(vec x) const {
    const ivec sign = (ivec)x & INT32_MIN;
    const vec magic = splat(12582912.f);  // 1.5 * 2^23: rounds to integer
    const vec position = min_(splat(31.f), (vec)((ivec)x ^ sign) * splat(STEPS));
    const vec shifted = position + magic;
    const vec r = position - (shifted - magic);
    const ivec i = (ivec)shifted;
    vec p = __builtin_shuffle(load(c[DEGREE]), load(c[DEGREE] + 16), i);
#pragma GCC unroll 4
    for (int k = DEGREE - 1; k >= 0; --k)
      p = p * r + __builtin_shuffle(load(c[k]), load(c[k] + 16), i);
    return splat(.5f) + (vec)((ivec)p ^ sign);
  }
};

double half_erf(double x) { return .5 * std::erf(x / std::sqrt(2.)); }

const Table<3> normal_cdf(half_erf);
const Table<4> gelu_slope([](double x) {
  return half_erf(x) + x * std::exp(-.5 * x * x) * 0.39894228040143268;
});
#else
// The normal distribution function, within 2e-7: 1/2 + x R(x^2) in [-5.5, 5.5], R a polynomial
// (a minimax fit) in x^2 scaled to [-1, 1].
inline vec normal_cdf(vec x) {
  constexpr float R[] = {0.1285519365823788f, -0.06417247505581014f, 0.04773698971992113f,
                         -0.038787266904972695f, 0.03208174137170705f, -0.026112467985670296f,
                         0.02028798072136359f, -0.014671368329649971f, 0.01046862254536348f,
                         -0.0076746655631958f, 0.004236379065310047f, -0.0012294053161358252f,
                         0.001023843214888841f, -0.0013688279148690828f, 0.0005380785408241736f};
  const vec s = x * x * splat(2 / 30.25f) - splat(1.f);
  vec r = splat(R[14]);
#pragma GCC unroll 14
  for (int i = 13; i >= 0; --i) r = r * s + splat(R[i]);
  const vec phi = splat(.5f) + x * r;
  return x > splat(5.5f) ? splat(1.f) : (x < splat(-5.5f) ? vec{} : phi);
}

inline vec gelu_slope(vec x) {
  return normal_cdf(x) + x * exponential(x * x * splat(-.5f)) * splat(0.398942280401432678f);
}
#endif

enum Activation { GELU, SILU, RELU, STAR_RELU };

template <int ACT>
inline vec activate(vec x, float scale, float shift) {
  if (ACT == GELU) return x * normal_cdf(x);
  if (ACT == SILU) return x / (splat(1.f) + exponential(-x));
  const vec positive = max_(vec{}, x);
  if (ACT == RELU) return positive;
  return positive * positive * splat(scale) + splat(shift);
}

// The activation and its derivative.
template <int ACT>
inline vec activate(vec x, float scale, float shift, vec* slope) {
  if (ACT == GELU) {
    *slope = gelu_slope(x);
    return x * normal_cdf(x);
  }
  if (ACT == SILU) {
    const vec sigmoid = splat(1.f) / (splat(1.f) + exponential(-x));
    const vec y = x * sigmoid;
    *slope = sigmoid + y * (splat(1.f) - sigmoid);
    return y;
  }
  const vec positive = max_(vec{}, x);
  if (ACT == RELU) {
    *slope = x > vec{} ? splat(1.f) : vec{};
    return positive;
  }
  *slope = splat(2 * scale) * positive;
  return positive * positive * splat(scale) + splat(shift);
}

// C (M x NV vectors) = start or C, plus A B. A is (M, K), either row-major with rows ``lda``
// apart, or column-major with columns ``lda`` apart.
template <int M, int NV, bool COLUMNS>
inline __attribute__((always_inline)) void tile(const float* a, long lda, const float* b, long ldb,
                                                float* c, long ldc, long K, const float* start,
                                                bool zero) {
  vec sum[M][NV];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 3
    for (int v = 0; v < NV; ++v)
      sum[m][v] = start ? splat(start[m]) : zero ? vec{} : load(c + m * ldc + v * LANES);
  for (long k = 0; k < K; ++k) {
    vec right[NV];
#pragma GCC unroll 3
    for (int v = 0; v < NV; ++v) right[v] = load(b + k * ldb + v * LANES);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const vec left = splat(COLUMNS ? a[k * lda + m] : a[m * lda + k]);
#pragma GCC unroll 3
      for (int v = 0; v < NV; ++v) sum[m][v] += left * right[v];
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 3
    for (int v = 0; v < NV; ++v) store(c + m * ldc + v * LANES, sum[m][v]);
}

template <int M, bool COLUMNS>
inline void strip(const float* a, long lda, const float* b, long ldb, float* c, long ldc, long K,
                  long vectors, const float* start, bool zero) {
  for (; vectors >= 3; vectors -= 3, b += 3 * LANES, c += 3 * LANES)
    tile<M, 3, COLUMNS>(a, lda, b, ldb, c, ldc, K, start, zero);
  if (vectors == 2) tile<M, 2, COLUMNS>(a, lda, b, ldb, c, ldc, K, start, zero);
  if (vectors == 1) tile<M, 1, COLUMNS>(a, lda, b, ldb, c, ldc, K, start, zero);
}

enum Mode { ADD, ZERO };

// C (M x vectors) = A B, plus C with ADD, plus ``start`` (a value a row) where that is given.
template <bool COLUMNS>
void multiply(long M, long vectors, long K, const float* a, long lda, const float* b, long ldb,
              float* c, long ldc, Mode mode, const float* start = nullptr) {
  const bool zero = mode == ZERO;
  const long step = COLUMNS ? 1 : lda;
  long m = 0;
  for (; m + ROWS <= M; m += ROWS)
    strip<ROWS, COLUMNS>(a + m * step, lda, b, ldb, c + m * ldc, ldc, K, vectors,
                         start ? start + m : nullptr, zero);
  for (; m < M; ++m)
    strip<1, COLUMNS>(a + m * step, lda, b, ldb, c + m * ldc, ldc, K, vectors,
                      start ? start + m : nullptr, zero);
}

// A square of LANES x LANES floats, turned in registers.
inline void turn_square(const float* from, long ld, float* to, long ldt) {
  vec r[LANES];
#pragma GCC unroll 16
  for (int i = 0; i < LANES; ++i) r[i] = load(from + i * ld);
  // Rows i and i + half swap halves, then quarters, ...
#pragma GCC unroll 4
  for (int half = LANES / 2; half; half /= 2) {
    ivec low, high;
#pragma GCC unroll 16
    for (int l = 0; l < LANES; ++l) {
      low[l] = l & half ? LANES + l - half : l;
      high[l] = l & half ? LANES + l : l + half;
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i)
      if (!(i & half)) {
        const vec a = __builtin_shuffle(r[i], r[i + half], low);
        r[i + half] = __builtin_shuffle(r[i], r[i + half], high);
        r[i] = a;
      }
  }
#pragma GCC unroll 16
  for (int i = 0; i < LANES; ++i) store(to + i * ldt, r[i]);
}

// to (columns x ldt) = from (rows x columns), turned.
void turn(const float* from, long ld, long rows, long columns, float* to, long ldt) {
  long i = 0;
  for (; i + LANES <= rows; i += LANES) {
    long j = 0;
    for (; j + LANES <= columns; j += LANES)
      turn_square(from + i * ld + j, ld, to + j * ldt + i, ldt);
    for (; j < columns; ++j)
      for (long k = i; k < i + LANES; ++k) to[j * ldt + k] = from[k * ld + j];
  }
  for (; i < rows; ++i)
    for (long j = 0; j < columns; ++j) to[j * ldt + i] = from[i * ld + j];
}

// Tokens (n x width) as channels x PANEL, the missing ones zero.
void load_panel(const float* tokens, long ld, long n, long width, float* panel) {
  if (n < PANEL) std::memset(panel, 0, width * PANEL * 4);
  turn(tokens, ld, n, width, panel, PANEL);
}

// A piece of the second layer's weight (width x part of hidden) in a row: steps of a power of two
// would put its rows into the same few sets of the cache.
void gather(const float* weight, long hidden, long width, long part, float* to) {
  for (long c = 0; c < width; ++c)
    std::memcpy(to + c * part, weight + c * hidden, part * 4);
}

void multiply_by(float gain, float* p, long n) {
  if (gain != 1)
    for (long i = 0; i < n; ++i) p[i] *= gain;
}

inline long vectors_of(long tokens) { return (std::min(tokens, PANEL) + LANES - 1) / LANES; }

template <int ACT>
bool mlp_forward(const float* x, const float* w1, const float* b1, const float* w2,
                 const float* b2, float* y, long tokens, long groups, long width, long hidden,
                 float scale, float shift, float gain, int threads) {
  const long channels = groups * width, blocks = (tokens + BLOCK * PANEL - 1) / (BLOCK * PANEL);
  // Weights of all groups in the cache: token by token; if not: group by group.
  const bool small = channels * hidden * 8 <= (1 << 19);
  const long chunk = std::min(HIDDEN, hidden), size = BLOCK * width * PANEL;
  bool enough = true;
#pragma omp parallel num_threads(threads)
  {
    const Buffer memory = allocate(2 * size + chunk * PANEL + chunk * width);
    float* const in = memory.get();
    float* const out = in + size;
    float* const h = out + size;
    float* const w2c = h + chunk * PANEL;
    if (!in) lack(enough);
#pragma omp for schedule(static)
    for (long task = 0; task < groups * blocks; ++task) {
      if (!in) continue;
      const long g = small ? task % groups : task / blocks;
      const long first = (small ? task / groups : task % blocks) * BLOCK * PANEL;
      const long count = std::min(tokens - first, BLOCK * PANEL);
      const float* const source = x + first * channels + g * width;
      float* const target = y + first * channels + g * width;
      const float *w1g = w1 + g * hidden * width, *w2g = w2 + g * width * hidden;
      for (long t = 0; t < count; t += PANEL)
        load_panel(source + t * channels, channels, std::min(count - t, PANEL), width,
                   in + t * width);
      for (long f = 0; f < hidden; f += chunk) {
        const long part = std::min(hidden - f, chunk);
        gather(w2g + f, hidden, width, part, w2c);
        for (long t = 0; t < count; t += PANEL) {
          const long vectors = vectors_of(count - t);
          multiply<false>(part, vectors, width, w1g + f * width, width, in + t * width, PANEL, h,
                          PANEL, ZERO, b1 ? b1 + g * hidden + f : nullptr);
#pragma GCC unroll 4
          for (long i = 0; i < part * PANEL; i += LANES)
            store(h + i, activate<ACT>(load(h + i), scale, shift));
          multiply<false>(width, vectors, part, w2c, part, h, PANEL, out + t * width, PANEL,
                          f ? ADD : ZERO, !f && b2 ? b2 + g * width : nullptr);
        }
      }
      for (long t = 0; t < count; t += PANEL) {
        float* const panel = out + t * width;
        const long n = std::min(count - t, PANEL);
        multiply_by(gain, panel, width * PANEL);
        turn(panel, PANEL, width, n, target + t * channels, channels);
      }
    }
  }
  return enough;
}

struct Gradients {
  float *w1, *b1, *w2, *b2, *scale, *shift, *gain;
};

template <int ACT>
bool mlp_backward(const float* grad, const float* x, const float* w1, const float* b1,
                  const float* w2, const float* b2, float* dx, Gradients d, long tokens,
                  long groups, long width, long hidden, float scale, float shift, float gain, int threads) {
  const long channels = groups * width, padded = round_up(width, LANES);
  const long panels = (tokens + PANEL - 1) / PANEL;
  // Every thread has as many tasks: a group and a part of the tokens each.
  long a = threads, b = groups;
  while (b) std::swap(a %= b, b);
  const long splits = std::min(threads / a, panels);
  const long chunk = std::min(HIDDEN, hidden), size = BLOCK * width * PANEL;
  const long rows = BLOCK * PANEL * padded;
  // Of each task: both weights as (hidden, padded width), the biases, scale, shift, gain; all as
  // if the gain were 1, which would otherwise be divided by.
  const long own = 2 * hidden * padded + hidden + width + 3;
  const long stride = round_up(own, 16);
  const Buffer partial = allocate(groups * splits * stride);
  if (!partial) return false;
  bool enough = true;
#pragma omp parallel num_threads(threads)
  {
    const Buffer memory = allocate(3 * size + 2 * rows + chunk * (2 * PANEL + width));
    float* const in = memory.get();
    float* const gradient = in + size;
    float* const out = gradient + size;
    float* const in_rows = out + size;
    float* const gradient_rows = in_rows + rows;
    float* const h = gradient_rows + rows;
    float* const dh = h + chunk * PANEL;
    float* const w2c = dh + chunk * PANEL;
    if (!in) lack(enough);
    if (in) std::memset(in_rows, 0, 2 * rows * 4);
#pragma omp for schedule(static)
    for (long task = 0; task < groups * splits; ++task) {
      if (!in) continue;
      const long g = task / splits, s = task % splits;
      const float *w1g = w1 + g * hidden * width, *w2g = w2 + g * width * hidden;
      float* const dw1 = partial.get() + task * stride;
      float* const dw2 = dw1 + hidden * padded;
      float* const db1 = dw2 + hidden * padded;
      float* const db2 = db1 + hidden;
      std::memset(dw1, 0, own * 4);
      double dscale = 0, dshift = 0, dgain = 0;  // sums over everything, which may cancel
      const long end = std::min(tokens, panels * (s + 1) / splits * PANEL);
      for (long first = panels * s / splits * PANEL; first < end; first += BLOCK * PANEL) {
        const long count = std::min(end - first, BLOCK * PANEL);
        const float* const source = x + first * channels + g * width;
        const float* const from = grad + first * channels + g * width;
        for (long t = 0; t < count; t += PANEL) {
          const long n = std::min(count - t, PANEL);
          load_panel(source + t * channels, channels, n, width, in + t * width);
          load_panel(from + t * channels, channels, n, width, gradient + t * width);
          for (long i = t; i < t + n; ++i) {
            std::memcpy(in_rows + i * padded, source + i * channels, width * 4);
            std::memcpy(gradient_rows + i * padded, from + i * channels, width * 4);
          }
          for (long c = 0; c < width; ++c) {
            const float* const p = gradient + t * width + c * PANEL;
            float sum = 0;
            for (long i = 0; i < n; ++i) sum += p[i];
            db2[c] += sum;
          }
        }
        for (long f = 0; f < hidden; f += chunk) {
          const long part = std::min(hidden - f, chunk);
          gather(w2g + f, hidden, width, part, w2c);
          for (long t = 0; t < count; t += PANEL) {
            const long n = std::min(count - t, PANEL), vectors = vectors_of(n);
            multiply<false>(part, vectors, width, w1g + f * width, width, in + t * width, PANEL,
                            h, PANEL, ZERO, b1 ? b1 + g * hidden + f : nullptr);
            multiply<true>(part, vectors, width, w2c, part, gradient + t * width, PANEL, dh,
                           PANEL, ZERO);
            vec scales{}, shifts{}, gains{};
            for (long i = 0; i < part; ++i) {
              vec sum{};
              for (long v = 0; v < vectors; ++v) {
                float* const p = h + i * PANEL + v * LANES;
                float* const q = dh + i * PANEL + v * LANES;
                const vec pre = load(p), after = load(q);
                vec slope;
                const vec act = activate<ACT>(pre, scale, shift, &slope);
                gains += act * after;
                store(p, act);
                store(q, after * slope);
                sum += after * slope;
                if (ACT == STAR_RELU) {
                  const vec positive = max_(vec{}, pre);
                  scales += positive * positive * after;
                  shifts += after;
                }
              }
              db1[f + i] += total(sum);
            }
            dscale += total(scales), dshift += total(shifts), dgain += total(gains);
            multiply<true>(width, vectors, part, w1g + f * width, width, dh, PANEL,
                           out + t * width, PANEL, f ? ADD : ZERO);
            multiply<false>(part, padded / LANES, n, dh, PANEL, in_rows + t * padded, padded,
                            dw1 + f * padded, padded, ADD);
            multiply<false>(part, padded / LANES, n, h, PANEL, gradient_rows + t * padded, padded,
                            dw2 + f * padded, padded, ADD);
          }
        }
        for (long t = 0; t < count; t += PANEL) {
          multiply_by(gain, out + t * width, width * PANEL);
          turn(out + t * width, PANEL, width, std::min(count - t, PANEL),
               dx + (first + t) * channels + g * width, channels);
        }
      }
      float* const last = db2 + width;
      last[0] = dscale, last[1] = dshift, last[2] = dgain;
    }
    // The parts of the tokens are added up in their order.
#pragma omp for schedule(static)
    for (long row = 0; row < groups * hidden; ++row) {
      if (!in) continue;
      const long g = row / hidden, f = row % hidden;
      const float* part = partial.get() + g * splits * stride;
      for (long c = 0; c < width; ++c) {
        float first = 0, second = 0;
        for (long s = 0; s < splits; ++s) {
          first += part[s * stride + f * padded + c];
          second += part[s * stride + (hidden + f) * padded + c];
        }
        d.w1[row * width + c] = gain * first;
        d.w2[(g * width + c) * hidden + f] = gain * second;
      }
      float sum = 0;
      for (long s = 0; s < splits; ++s) sum += part[s * stride + 2 * hidden * padded + f];
      d.b1[row] = gain * sum;
    }
  }
  if (!enough) return false;
  double dscale = 0, dshift = 0, dgain = 0;
  std::fill(d.b2, d.b2 + channels, 0.f);
  for (long g = 0; g < groups; ++g)
    for (long s = 0; s < splits; ++s) {
      const float* const db2 = partial.get() + (g * splits + s) * stride + 2 * hidden * padded +
                               hidden;
      for (long c = 0; c < width; ++c) {
        d.b2[g * width + c] += gain * db2[c];
        if (b2) dgain += double(b2[g * width + c]) * db2[c];
      }
      dscale += db2[width], dshift += db2[width + 1], dgain += db2[width + 2];
    }
  *d.scale = gain * dscale, *d.shift = gain * dshift, *d.gain = dgain;
  return true;
}

// A piece of a product of a sample, in a buffer of its own: M rows x all columns.
struct Strip {
  long columns, padded;
  Buffer memory;
  float *sum, *left, *right;

  Strip(long rows, long columns)
      : columns(columns), padded(round_up(columns, PANEL)),
        memory(allocate(rows * padded + rows * DEEP + DEEP * PANEL)) {
    sum = memory.get();
    left = sum + rows * padded;
    right = left + rows * DEEP;
  }

  // sum (M x columns) = or += A B, B being (K, columns). A is as in ``tile``; ``pack(k, depth, j,
  // n)`` writes B's rows k to k + depth and columns j to j + n to ``right``, PANEL apart.
  template <bool COLUMNS, class Pack>
  void multiply_by(long M, long K, const float* a, long lda, Mode mode, Pack pack) {
    for (long k = 0; k < K; k += DEEP) {
      const long depth = std::min(K - k, DEEP), rows = COLUMNS ? depth : M;
      const long each = COLUMNS ? M : depth;
      for (long i = 0; i < rows; ++i)
        std::memcpy(left + i * each, a + (COLUMNS ? (k + i) * lda : i * lda + k), each * 4);
      for (long j = 0; j < columns; j += PANEL) {
        pack(k, depth, j, std::min(columns - j, PANEL));
        multiply<COLUMNS>(M, vectors_of(columns - j), depth, left, each, right, PANEL, sum + j,
                          padded, k ? ADD : mode);
      }
    }
  }

  // to (n x columns) = or += weight times the sum.
  void write(long n, float weight, bool add, float* to) const {
    for (long i = 0; i < n; ++i, to += columns) {
      const float* const from = sum + i * padded;
      for (long j = 0; j < columns; ++j) to[j] = (add ? to[j] : 0) + weight * from[j];
    }
  }

  void pack_rows(const float* b, long ldb, long depth, long n) {
    for (long i = 0; i < depth; ++i) {
      std::memcpy(right + i * PANEL, b + i * ldb, n * 4);
      if (n < PANEL) std::memset(right + i * PANEL + n, 0, (PANEL - n) * 4);
    }
  }
};

// Rows of a sample's matrix that a task takes: few enough that every thread has one.
long rows_of(long rows, long most, long samples, long threads) {
  const long tasks = (threads + samples - 1) / samples;
  return std::max(std::min(most, round_up((rows + tasks - 1) / tasks, ROWS)), 1L);
}

// attention (samples, C, C), transposed: of column i the softmax over j of tau * sum_t x_ti x_tj.
bool cca_attention(const float* x, float* attention, long samples, long tokens, long channels,
                   float tau, int threads) {
  const long rows = rows_of(channels, 64, samples, threads);
  const long bands = (channels + rows - 1) / rows;
  const Buffer statistics = allocate(samples * channels * 2);
  if (!statistics) return false;
  bool enough = true;
#pragma omp parallel num_threads(threads)
  {
    Strip strip(rows, channels);
    const bool can = strip.sum;
    if (!can) lack(enough);
#pragma omp for schedule(static)
    for (long task = 0; task < samples * bands; ++task) {
      if (!can) continue;
      const long sample = task / bands, first = task % bands * rows;
      const long n = std::min(channels - first, rows);
      const float* const source = x + sample * tokens * channels;
      strip.multiply_by<true>(n, tokens, source + first, channels, ZERO,
                              [&](long k, long depth, long j, long m) {
        strip.pack_rows(source + k * channels + j, channels, depth, m);
      });
      for (long i = 0; i < n; ++i) {
        const float* const row = strip.sum + i * strip.padded;
        float* const to = attention + (sample * channels + first + i) * channels;
        std::memcpy(to, row, channels * 4);
        const float* const last = row + channels;
        const float top = tau * *(tau < 0 ? std::min_element(row, last)
                                          : std::max_element(row, last));
        vec sums{};
        float sum = 0;
        long j = 0;
        for (; j + LANES <= channels; j += LANES)
          sums += exponential(load(row + j) * splat(tau) - splat(top));
        for (; j < channels; ++j) sum += std::exp(row[j] * tau - top);
        sum += total(sums);
        float* const at = statistics.get() + sample * channels * 2 + first + i;
        at[0] = top, at[channels] = 1 / sum;
      }
    }
#pragma omp for schedule(static)
    for (long row = 0; row < samples * channels; ++row) {
      if (!can) continue;
      const float* const top = statistics.get() + row / channels * channels * 2;
      const float* const inverse = top + channels;
      float* const at = attention + row * channels;
      long j = 0;
      for (; j + LANES <= channels; j += LANES)
        store(at + j, exponential(load(at + j) * splat(tau) - load(top + j)) * load(inverse + j));
      for (; j < channels; ++j) at[j] = std::exp(at[j] * tau - top[j]) * inverse[j];
    }
  }
  return enough;
}

bool cca_forward(const float* x, const float* attention, float* y, long samples, long tokens,
                 long channels, float weight, bool add, int threads) {
  const long part = rows_of(tokens, 192, samples, threads);
  const long parts = (tokens + part - 1) / part;
  bool enough = true;
#pragma omp parallel num_threads(threads)
  {
    Strip strip(part, channels);
    const bool can = strip.sum;
    if (!can) lack(enough);
#pragma omp for schedule(static)
    for (long task = 0; task < samples * parts; ++task) {
      if (!can) continue;
      const long sample = task / parts, first = task % parts * part;
      const long n = std::min(tokens - first, part);
      const long offset = (sample * tokens + first) * channels;
      const float* const weights = attention + sample * channels * channels;
      strip.multiply_by<false>(n, channels, x + offset, channels, ZERO,
                               [&](long k, long depth, long j, long m) {
        strip.pack_rows(weights + k * channels + j, channels, depth, m);
      });
      strip.write(n, weight, add, y + offset);
    }
  }
  return enough;
}

bool cca_backward(const float* grad, const float* x, const float* attention, float* dx,
                  float* dweight, long samples, long tokens, long channels, float tau,
                  float weight, bool add, int threads) {
  const long rows = rows_of(channels, 64, samples, threads);
  const long bands = (channels + rows - 1) / rows;
  const long part = rows_of(tokens, 192, samples, threads);
  const long parts = (tokens + part - 1) / part, square = channels * channels;
  // Gradients of the scores, transposed as the attention is, and each band's share of the sums
  // of attention times its gradient.
  const Buffer scores = allocate(samples * square);
  const Buffer shares = allocate(samples * bands * channels);
  if (!scores || !shares) return false;
  bool enough = true;
#pragma omp parallel num_threads(threads)
  {
    Strip strip(std::max(rows, part), channels);
    const Buffer spare = allocate(std::max(DEEP * PANEL, channels));
    const bool can = strip.sum && spare;
    if (!can) lack(enough);
#pragma omp for schedule(static)
    for (long task = 0; task < samples * bands; ++task) {
      if (!can) continue;
      const long sample = task / bands, first = task % bands * rows;
      const long n = std::min(channels - first, rows);
      const float* const from = grad + sample * tokens * channels;
      strip.multiply_by<true>(n, tokens, x + sample * tokens * channels + first, channels, ZERO,
                              [&](long k, long depth, long j, long m) {
        strip.pack_rows(from + k * channels + j, channels, depth, m);
      });
      float* const share = shares.get() + task * channels;
      std::memset(share, 0, channels * 4);
      for (long i = 0; i < n; ++i) {
        const float* const row = strip.sum + i * strip.padded;
        const long at = sample * square + (first + i) * channels;
        for (long j = 0; j < channels; ++j) {
          const float product = row[j] * attention[at + j];
          scores.get()[at + j] = row[j];
          share[j] += product;
        }
      }
    }
#pragma omp for schedule(static)
    for (long task = 0; task < samples * bands; ++task) {
      if (!can) continue;
      const long sample = task / bands, first = task % bands * rows;
      float* const sum = spare.get();
      std::memcpy(sum, shares.get() + sample * bands * channels, channels * 4);
      for (long b = 1; b < bands; ++b)
        for (long j = 0; j < channels; ++j)
          sum[j] += shares.get()[(sample * bands + b) * channels + j];
      for (long i = first; i < std::min(channels, first + rows); ++i) {
        const long at = sample * square + i * channels;
        for (long j = 0; j < channels; ++j)
          scores.get()[at + j] = tau * attention[at + j] * (scores.get()[at + j] - sum[j]);
      }
    }
#pragma omp for schedule(static)
    for (long task = 0; task < samples * parts; ++task) {
      if (!can) continue;
      const long sample = task / parts, first = task % parts * part;
      const long n = std::min(tokens - first, part);
      const long offset = (sample * tokens + first) * channels;
      const float* const weights = attention + sample * square;
      const float* const score = scores.get() + sample * square;
      strip.multiply_by<false>(n, channels, grad + offset, channels, ZERO,
                               [&](long k, long depth, long j, long m) {
        if (m < PANEL) std::memset(strip.right, 0, depth * PANEL * 4);
        turn(weights + j * channels + k, channels, m, depth, strip.right, PANEL);
      });
      // The Gram matrix is X^T X: its gradient reaches X from both sides.
      strip.multiply_by<false>(n, channels, x + offset, channels, ADD,
                               [&](long k, long depth, long j, long m) {
        strip.pack_rows(score + k * channels + j, channels, depth, m);
        if (m < PANEL) std::memset(spare.get(), 0, depth * PANEL * 4);
        turn(score + j * channels + k, channels, m, depth, spare.get(), PANEL);
        for (long i = 0; i < depth * PANEL; ++i) strip.right[i] += spare.get()[i];
      });
      strip.write(n, weight, add, dx + offset);
    }
  }
  if (enough) {
    const float* const first = shares.get();
    *dweight = std::accumulate(first, first + samples * bands * channels, 0.);
  }
  return enough;
}

}  // namespace

// All return 0, or 1 when there is no memory. Maps are (tokens, groups * width) and contiguous.
extern "C" {

// y = gain * (W2 act(W1 x + b1) + b2); w1 (groups * hidden, width), w2 (groups * width, hidden).
int mmscheme_mlp_forward(const float* x, const float* w1, const float* b1, const float* w2,
                         const float* b2, float* y, long tokens, long groups, long width,
                         long hidden, int act, float scale, float shift, float gain,
                         int threads) {
  const auto run = act == GELU   ? mlp_forward<GELU>
                   : act == SILU ? mlp_forward<SILU>
                   : act == RELU ? mlp_forward<RELU>
                                 : mlp_forward<STAR_RELU>;
  return !run(x, w1, b1, w2, b2, y, tokens, groups, width, hidden, scale, shift, gain, threads);
}

int mmscheme_mlp_backward(const float* grad, const float* x, const float* w1, const float* b1,
                          const float* w2, const float* b2, float* dx, float* dw1, float* db1,
                          float* dw2, float* db2, float* dscale, float* dshift, float* dgain,
                          long tokens, long groups, long width, long hidden, int act, float scale,
                          float shift, float gain, int threads) {
  const auto run = act == GELU   ? mlp_backward<GELU>
                   : act == SILU ? mlp_backward<SILU>
                   : act == RELU ? mlp_backward<RELU>
                                 : mlp_backward<STAR_RELU>;
  return !run(grad, x, w1, b1, w2, b2, dx, {dw1, db1, dw2, db2, dscale, dshift, dgain}, tokens,
              groups, width, hidden, scale, shift, gain, threads);
}

// attention (samples, channels, channels) = softmax(tau * x^T x), transposed, of samples (tokens,
// channels).
int mmscheme_cca_attention(const float* x, float* attention, long samples, long tokens,
                           long channels, float tau, int threads) {
  return !cca_attention(x, attention, samples, tokens, channels, tau, threads);
}

// y += weight * (attention x^T)^T, or = with ``add`` 0.
int mmscheme_cca_forward(const float* x, const float* attention, float* y, long samples,
                         long tokens, long channels, float weight, int add, int threads) {
  return !cca_forward(x, attention, y, samples, tokens, channels, weight, add, threads);
}

// The gradient for x, through the attention as well, and for the weight.
int mmscheme_cca_backward(const float* grad, const float* x, const float* attention, float* dx,
                          float* dweight, long samples, long tokens, long channels, float tau,
                          float weight, int add, int threads) {
  return !cca_backward(grad, x, attention, dx, dweight, samples, tokens, channels, tau, weight,
                       add, threads);
}
}
