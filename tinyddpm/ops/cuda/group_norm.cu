// Group norm, followed by an optional modulation, SiLU and dropout (tinyddpm/ops/normalisation.py, norm_activation.py
// and activation.py). Layer norm is the case of one pixel and one group. x is (N, pixels, channels). One block computes
// one sample and a chunk of whole groups, `width` adjacent channels. Its threads are (strip, pixel); a strip is `lanes`
// adjacent channels, 4 or 1.
//
// Macros choose, as 0 or 1, whether a block first copies its elements to tiles of shared memory, (pixels, width), which
// may be too small for that (TILED), and whether SiLU (SILU) and dropout (MASKED) follow.
//
//     x^ = (x - mean) r,  z = x^ A + B,  A = scale (1 + m_scale),  B = shift (1 + m_scale) + m_shift,
//     y = silu(z) keep / (1 - rate)
#include "common.cuh"
#include "philox.cuh"
#include "tensor_cores.cuh"

// The arrays of a norm, and this block's place in them. Without a modulation, m_scale and m_shift are null.
struct Norm {
    const scalar* x;
    const float *scale, *shift;
    const scalar *m_scale, *m_shift;
    int pixels, channels, chunk, each, width;
    size_t n, group;    // the sample, and the block's first group among those of all samples
    int first_channel;  // of the block, in the sample

    __device__ Norm(
        const scalar* x, const float* scale, const float* shift, const scalar* m_scale, const scalar* m_shift,
        int pixels, int channels, int groups, int chunk
    )
        : x(x), scale(scale), shift(shift), m_scale(m_scale), m_shift(m_shift), pixels(pixels), channels(channels),
          chunk(chunk), each(channels / groups), width(chunk * each), n(blockIdx.x / (groups / chunk)),
          group((size_t)blockIdx.x * chunk), first_channel((int)(group - n * groups) * each) {}

    // The index of the block's first element in an array of x's shape.
    __device__ size_t corner() const { return n * pixels * channels + first_channel; }
    // The index within sample n of an element of this block.
    __device__ size_t in_sample(int p, int c) const { return (size_t)p * channels + first_channel + c; }
    // A and B of one of the block's channels.
    __device__ float a(int c) const { return scale[first_channel + c] * more(c); }
    __device__ float b(int c) const {
        float moved = m_shift ? load(m_shift[n * channels + first_channel + c]) : 0;
        return shift[first_channel + c] * more(c) + moved;
    }
    __device__ float more(int c) const { return m_scale ? 1 + load(m_scale[n * channels + first_channel + c]) : 1; }
};

// The groups, counted within the block, of `lanes` channels from `first` on.
template <int lanes>
struct Groups {
    int at[lanes];

    __device__ Groups(const Norm& norm, int first) {
        int g = first / norm.each, left = (g + 1) * norm.each - first;
        for (int lane = 0; lane < lanes; lane++) {
            at[lane] = g;
            if (--left == 0) g++, left = norm.each;
        }
    }
};

// A, B, mean and r of the channels of a strip; `means` and `rs` are those of the block's groups.
template <int lanes>
struct Strip {
    float a[lanes], b[lanes], mean[lanes], r[lanes];

    __device__ Strip(const Norm& norm, const Groups<lanes>& groups, const float* means, const float* rs, int first) {
        for (int lane = 0; lane < lanes; lane++) {
            a[lane] = norm.a(first + lane);
            b[lane] = norm.b(first + lane);
            mean[lane] = means[groups.at[lane]];
            r[lane] = rs[groups.at[lane]];
        }
    }
};

// Writes, for each group of the block, the mean over its channels and all pixels, from the channels' sums over pixels.
__device__ inline void group_means(const Norm& norm, const float* sums, float* means) {
    for (int g = threadIdx.y * blockDim.x + threadIdx.x; g < norm.chunk; g += blockDim.x * blockDim.y) {
        float sum = 0;
        for (int c = g * norm.each; c < (g + 1) * norm.each; c++) sum += sums[c];
        means[g] = sum / ((float)norm.each * norm.pixels);
    }
    __syncthreads();
}

// The tile, after `count` floats of shared memory.
__device__ inline scalar* tile_behind(size_t count) { return (scalar*)(shared + (count + 3) / 4 * 4); }

// Begins to copy the elements that this thread works on, from an array of x's shape to a tile. All are on their way at
// once, so that a block waits for memory once.
template <int lanes>
__device__ void begin_tile(const Norm& norm, scalar* tile, const scalar* from) {
    for (int c = lanes * threadIdx.x; c < norm.width; c += lanes * blockDim.x) {
#pragma unroll 4
        for (int p = threadIdx.y; p < norm.pixels; p += blockDim.y) {
            scalar* to = tile + p * norm.width + c;
            if constexpr (sizeof(Pack<lanes>) < 4) *to = from[p * norm.channels + c];
            else begin_copy<sizeof(Pack<lanes>)>(to, from + p * norm.channels + c);
        }
    }
}

template <int lanes>
__device__ void forward(const Norm& norm, const Mask& mask, scalar* y, float* mean, float* r, float eps) {
    int width = norm.width, pixels = norm.pixels, channels = norm.channels;
    float* sums = shared;                           // (blockDim.y, width)
    float* group_mean = sums + blockDim.y * width;  // (chunk)
    float* group_r = group_mean + norm.chunk;       // (chunk)
    scalar* tile = tile_behind(blockDim.y * width + 2 * norm.chunk);
    const scalar* x = norm.x + norm.corner();
    y += norm.corner();
    int stride = TILED ? width : channels;  // numbers per pixel of what x points to
    if (TILED) {
        begin_tile<lanes>(norm, tile, x);
        end_group();
        wait_for_groups<0>();
        x = tile;
    }

    for (int c = lanes * threadIdx.x; c < width; c += lanes * blockDim.x) {
        float sum[lanes] = {}, value[lanes];
#pragma unroll 4
        for (int p = threadIdx.y; p < pixels; p += blockDim.y) {
            load_pack<lanes>(x + p * stride + c, value);
            for (int lane = 0; lane < lanes; lane++) sum[lane] += value[lane];
        }
        for (int lane = 0; lane < lanes; lane++) sums[threadIdx.y * width + c + lane] = sum[lane];
    }
    sum_columns(sums, width);
    group_means(norm, sums, group_mean);
    for (int c = lanes * threadIdx.x; c < width; c += lanes * blockDim.x) {
        float sum[lanes] = {}, value[lanes], centre[lanes];
        Groups<lanes> groups(norm, c);
        for (int lane = 0; lane < lanes; lane++) centre[lane] = group_mean[groups.at[lane]];
#pragma unroll 4
        for (int p = threadIdx.y; p < pixels; p += blockDim.y) {
            load_pack<lanes>(x + p * stride + c, value);
            for (int lane = 0; lane < lanes; lane++) {
                float centred = value[lane] - centre[lane];
                sum[lane] += centred * centred;
            }
        }
        for (int lane = 0; lane < lanes; lane++) sums[threadIdx.y * width + c + lane] = sum[lane];
    }
    sum_columns(sums, width);
    group_means(norm, sums, group_r);
    for (int g = threadIdx.y * blockDim.x + threadIdx.x; g < norm.chunk; g += blockDim.x * blockDim.y) {
        mean[norm.group + g] = group_mean[g];
        r[norm.group + g] = group_r[g] = 1 / sqrtf(group_r[g] + eps);
    }
    __syncthreads();

    float by = 1 / mask.kept;
    SampleStream sample = MASKED ? mask.stream.of(norm.n) : SampleStream{};
    for (int c = lanes * threadIdx.x; c < width; c += lanes * blockDim.x) {
        Strip<lanes> strip(norm, Groups<lanes>(norm, c), group_mean, group_r, c);
        float r_a[lanes];
        for (int lane = 0; lane < lanes; lane++) r_a[lane] = strip.r[lane] * strip.a[lane];
#pragma unroll 2
        for (int p = threadIdx.y; p < pixels; p += blockDim.y) {
            float value[lanes];
            load_pack<lanes>(x + p * stride + c, value);
            for (int lane = 0; lane < lanes; lane++) {
                float z = (value[lane] - strip.mean[lane]) * r_a[lane] + strip.b[lane];
                value[lane] = SILU ? z * sigmoid(z) : z;
            }
            if (MASKED) mask.drop<lanes>(sample, norm.in_sample(p, c), by, value);
            store_pack<lanes>(y + p * channels + c, value);
        }
    }
}

// Writes y, and for the backward mean and r of each sample and group, (N, groups).
extern "C" __global__ void __launch_bounds__(256, 3) group_norm_forward(
    const scalar* x, const float* scale, const float* shift, const scalar* m_scale, const scalar* m_shift,
    const long long* samples, const long long* step, unsigned stream, unsigned k0, unsigned k1, long long least,
    float kept, scalar* y, float* mean, float* r, int pixels, int channels, int groups, int chunk, float eps, int lanes
) {
    Norm norm(x, scale, shift, m_scale, m_shift, pixels, channels, groups, chunk);
    Mask mask = {{samples, step, stream, k0, k1}, least, kept};
    if (lanes == 4 && in_packs<4>(x, y)) forward<4>(norm, mask, y, mean, r, eps);
    else forward<1>(norm, mask, y, mean, r, eps);
}

template <int lanes>
__device__ void backward(
    const Norm& norm, const Mask& mask, const scalar* dy, const float* mean, const float* r, const scalar* added,
    const scalar* added_too, scalar* dx, float* sum_dz, float* sum_dz_x
) {
    int width = norm.width, pixels = norm.pixels, channels = norm.channels;
    float* sums = shared;                           // (blockDim.y, 2, width): sums of dz, then of dz x^
    float* mean_g = sums + blockDim.y * 2 * width;  // (chunk)
    float* mean_g_x = mean_g + norm.chunk;          // (chunk)
    scalar* tile = tile_behind(2 * blockDim.y * width + 2 * norm.chunk);  // (2, pixels, width): x, then dy
    size_t corner = norm.corner();
    const scalar* x = norm.x + corner;
    if (added) added += corner;
    if (added_too) added_too += corner;
    dy += corner;
    dx += corner;
    // The mask is drawn once: what it leaves of dy is stored in the tile or in dx. Each thread reads its own again.
    scalar* kept_dy = TILED ? tile + pixels * width : dx;
    int stride = TILED ? width : channels;  // numbers per pixel of what x, dy and kept_dy point to
    if (TILED) {
        begin_tile<lanes>(norm, tile, x);
        begin_tile<lanes>(norm, kept_dy, dy);
        end_group();
        wait_for_groups<0>();
        x = tile, dy = kept_dy;
    }
    float by = 1 / mask.kept;
    SampleStream sample = MASKED ? mask.stream.of(norm.n) : SampleStream{};
    constexpr int AT_ONCE = MASKED ? 1 : 2;  // pixels; drawing a mask takes registers

    // Replaces x by x - mean and dy, of what dropout has kept, by dz (1 - rate). r_a is r A.
    auto derive = [&](const Strip<lanes>& strip, const float* r_a, float* x, float* d) {
        for (int lane = 0; lane < lanes; lane++) {
            x[lane] -= strip.mean[lane];
            if (!SILU) continue;
            float z = x[lane] * r_a[lane] + strip.b[lane], sigma = sigmoid(z);
            d[lane] *= sigma * (1 + z * (1 - sigma));
        }
    };

    for (int c = lanes * threadIdx.x; c < width; c += lanes * blockDim.x) {
        Strip<lanes> strip(norm, Groups<lanes>(norm, c), mean + norm.group, r + norm.group, c);
        float sum[lanes] = {}, sum_x[lanes] = {}, dz[lanes], centred[lanes], r_a[lanes];
        for (int lane = 0; lane < lanes; lane++) r_a[lane] = strip.r[lane] * strip.a[lane];
#pragma unroll AT_ONCE
        for (int p = threadIdx.y; p < pixels; p += blockDim.y) {
            load_pack<lanes>(x + p * stride + c, centred);
            load_pack<lanes>(dy + p * stride + c, dz);
            if (MASKED) {
                mask.drop<lanes>(sample, norm.in_sample(p, c), 1, dz);
                store_pack<lanes>(kept_dy + p * stride + c, dz);
            }
            derive(strip, r_a, centred, dz);
            for (int lane = 0; lane < lanes; lane++) {
                sum[lane] += dz[lane];
                sum_x[lane] += dz[lane] * centred[lane];
            }
        }
        for (int lane = 0; lane < lanes; lane++) {
            sums[threadIdx.y * 2 * width + c + lane] = by * sum[lane];
            sums[(threadIdx.y * 2 + 1) * width + c + lane] = by * strip.r[lane] * sum_x[lane];
        }
    }
    sum_columns(sums, 2 * width);
    size_t nc = norm.n * channels + norm.first_channel;
    for (int c = threadIdx.y * blockDim.x + threadIdx.x; c < width; c += blockDim.x * blockDim.y) {
        float a = norm.a(c);
        sum_dz[nc + c] = sums[c];
        sum_dz_x[nc + c] = sums[width + c];
        sums[c] *= a;
        sums[width + c] *= a;
    }
    __syncthreads();
    group_means(norm, sums, mean_g);
    group_means(norm, sums + width, mean_g_x);

    auto add = [&](const scalar* other, int place, float* to) {
        float value[lanes];
        load_pack<lanes>(other + place, value);
        for (int lane = 0; lane < lanes; lane++) to[lane] += value[lane];
    };
    for (int c = lanes * threadIdx.x; c < width; c += lanes * blockDim.x) {
        Groups<lanes> groups(norm, c);
        Strip<lanes> strip(norm, groups, mean + norm.group, r + norm.group, c);
        float r_a[lanes], of_dz[lanes], of_x[lanes], rest[lanes];  // dx = of_dz dz - (of_x (x - mean) + rest)
        for (int lane = 0; lane < lanes; lane++) {
            r_a[lane] = strip.r[lane] * strip.a[lane];
            of_dz[lane] = by * r_a[lane];
            of_x[lane] = strip.r[lane] * strip.r[lane] * mean_g_x[groups.at[lane]];
            rest[lane] = strip.r[lane] * mean_g[groups.at[lane]];
        }
#pragma unroll 2
        for (int p = threadIdx.y; p < pixels; p += blockDim.y) {
            float dz[lanes], centred[lanes];
            load_pack<lanes>(x + p * stride + c, centred);
            load_pack<lanes>((MASKED ? kept_dy : dy) + p * stride + c, dz);
            derive(strip, r_a, centred, dz);
            for (int lane = 0; lane < lanes; lane++) {
                dz[lane] = of_dz[lane] * dz[lane] - (of_x[lane] * centred[lane] + rest[lane]);
            }
            if (added) add(added, p * channels + c, dz);
            if (added_too) add(added_too, p * channels + c, dz);
            store_pack<lanes>(dx + p * channels + c, dz);
        }
    }
}

// Writes dx and, for each sample and channel, the sums over pixels of dz and of dz x^, (N, channels), from which the
// gradients of scale, shift and modulation follow. With g = dz A, dx = r (g - mean(g) - x^ mean(g x^)); both means
// follow from the same sums. `added` and `added_too` are added to dx before it is rounded. The launch bounds, here and
// in the forward, let three blocks of NORM_THREADS (geometry.py) share the registers.
extern "C" __global__ void __launch_bounds__(256, 3) group_norm_backward(
    const scalar* x, const float* scale, const float* shift, const scalar* m_scale, const scalar* m_shift,
    const long long* samples, const long long* step, unsigned stream, unsigned k0, unsigned k1, long long least,
    float kept, const scalar* dy, const float* mean, const float* r, const scalar* added, const scalar* added_too,
    scalar* dx, float* sum_dz, float* sum_dz_x, int pixels, int channels, int groups, int chunk, int lanes
) {
    Norm norm(x, scale, shift, m_scale, m_shift, pixels, channels, groups, chunk);
    Mask mask = {{samples, step, stream, k0, k1}, least, kept};
    if (lanes == 4 && in_packs<4>(x, dy, added, added_too, dx)) {
        backward<4>(norm, mask, dy, mean, r, added, added_too, dx, sum_dz, sum_dz_x);
    } else {
        backward<1>(norm, mask, dy, mean, r, added, added_too, dx, sum_dz, sum_dz_x);
    }
}

// Writes the gradients of the parameters, sums over samples: dshift = sum (1 + m_scale) sum_dz, and dscale likewise
// from sum_dz_x. Those of the modulation are per sample and channel: dm_shift = sum_dz, dm_scale = sum dz (x^ scale +
// shift). Threads are (channel, sample).
extern "C" __global__ void group_norm_parameters(
    const float* sum_dz, const float* sum_dz_x, const float* scale, const float* shift, const scalar* m_scale,
    float* dscale, float* dshift, scalar* dm_scale, scalar* dm_shift, int samples, int channels
) {
    int c = blockIdx.y * blockDim.x + threadIdx.x;
    auto weighted = [&](int n, float* found) {
        size_t nc = (size_t)n * channels + c;
        float weight = m_scale ? 1 + load(m_scale[nc]) : 1;
        found[0] = weight * sum_dz_x[nc];
        found[1] = weight * sum_dz[nc];
    };
    channel_sums<2>(weighted, shared, c < channels ? samples : 0);
    if (c >= channels) return;
    if (threadIdx.y == 0) dscale[c] = shared[2 * threadIdx.x], dshift[c] = shared[2 * threadIdx.x + 1];
    if (!m_scale) return;
    for (int n = threadIdx.y; n < samples; n += blockDim.y) {
        size_t nc = (size_t)n * channels + c;
        dm_scale[nc] = store(scale[c] * sum_dz_x[nc] + shift[c] * sum_dz[nc]);
        dm_shift[nc] = store(sum_dz[nc]);
    }
}
