// Sums in a fixed order, so that repeated runs give the same bits.
#include "common.cuh"

// Writes dw, (taps, c_in, c_out), the transpose of cuDNN's, (c_out, taps, c_in). Block `block`, of 256 threads,
// transposes 32 x 32 numbers of one tap.
__device__ inline void turn(const scalar* turned, float* dw, int taps, int c_in, int c_out, int block) {
    int across = (c_out + 31) / 32, down = (c_in + 31) / 32, tap = block / across / down;
    int first_i = block / across % down * 32, first_o = block % across * 32;
    int thread = threadIdx.y * blockDim.x + threadIdx.x, x = thread % 32, above = thread / 32;
    float *tile = shared, read[4];  // (32, 33)
    for (int k = 0; k < 4; k++) {  // in place of channels past the last, the last
        int o = min(first_o + 8 * k + above, c_out - 1), i = min(first_i + x, c_in - 1);
        read[k] = load(turned[((size_t)o * taps + tap) * c_in + i]);
    }
    for (int k = 0; k < 4; k++) tile[(8 * k + above) * 33 + x] = read[k];
    __syncthreads();
    for (int k = 0; k < 4; k++) {
        int y = 8 * k + above, i = first_i + y, o = first_o + x;
        if (o < c_out && i < c_in) dw[((size_t)tap * c_in + i) * c_out + o] = tile[x * 33 + y];
    }
}

// Loads numbers that another block has written, bypassing the L1 cache, which may hold older ones.
template <int lanes>
__device__ void load_fresh(const float* from, float* values) {
    for (int lane = 0; lane < lanes; lane += 4) {
        if (lanes == 1) values[0] = __ldcg(from);
        else *(float4*)(values + lane) = __ldcg((const float4*)(from + lane));
    }
}

// Writes db, the sum of dy, (rows, c_out), over its rows. Block `block` sums `each` rows of `width` channels; the block
// that finishes last among those of the same channels adds up the sums of all of them, in order.
template <int lanes>
__device__ void sum_rows(
    const scalar* dy, float* partial, float* db, unsigned* arrived, int c_out, int rows, int each, int width, int block,
    int blocks
) {
    int across = (c_out + width - 1) / width, chunks = blocks / across, chunk = block / across;
    int first_c = block % across * width, first = chunk * each, last = min(first + each, rows);
    unsigned* count = (unsigned*)(shared + blockDim.y * width);  // (1), after the sums

    // For each strip of the block, to[c] = the sum over rows of the numbers that value(row, c, found) writes.
    auto sum_strips = [&](int rows, float* to, auto value) {
        for (int c = first_c + lanes * threadIdx.x; c < first_c + width; c += lanes * blockDim.x) {
            auto of_row = [&](int row, float* found) { value(row, c, found); };
            channel_sums<lanes>(of_row, shared, c < c_out ? rows : 0);
            if (threadIdx.y == 0 && c < c_out) {
                for (int lane = 0; lane < lanes; lane++) to[c + lane] = shared[threadIdx.x * lanes + lane];
            }
            __syncthreads();
        }
    };
    sum_strips(last - first, partial + (size_t)chunk * c_out, [&](int row, int c, float* found) {
        load_pack<lanes>(dy + (size_t)(first + row) * c_out + c, found);
    });
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0 && threadIdx.y == 0) *count = atomicInc(arrived + block % across, chunks - 1);
    __syncthreads();
    if (*count != chunks - 1) return;
    sum_strips(chunks, db, [&](int row, int c, float* found) {
        load_fresh<lanes>(partial + (size_t)row * c_out + c, found);
    });
}

// Completes the gradients of cuDNN's convolution: transposes its dw and sums db. The first `sums` blocks do the sum,
// which takes longer; `arrived` counts finished blocks for each `width` of channels, and is 0 before and after.
extern "C" __global__ void turned_gradients(
    const scalar* turned, const scalar* dy, float* dw, float* partial, float* db, unsigned* arrived, int taps, int c_in,
    int c_out, int rows, int each, int sums, int lanes
) {
    int block = blockIdx.x, width = lanes * blockDim.x;
    if (block >= sums) turn(turned, dw, taps, c_in, c_out, block - sums);
    else if (lanes == PACK && in_packs<PACK>(dy) && (size_t)partial % 16 == 0) {
        sum_rows<PACK>(dy, partial, db, arrived, c_out, rows, each, width, block, sums);
    } else {
        sum_rows<1>(dy, partial, db, arrived, c_out, rows, each, width, block, sums);
    }
}

// Writes dw, the sum of its parts, (parts, size), and db, the sum of (parts, channels). One thread per element.
extern "C" __global__ void sum_of_parts(
    const float* dw_parts, const float* db_parts, float* dw, float* db, int parts, long long size, int channels
) {
    long long i = element();
    if (i >= size + channels) return;
    bool of_w = i < size;
    const float* first = of_w ? dw_parts + i : db_parts + (i - size);
    float sum = 0;
    for (int part = 0; part < parts; part++) sum += first[part * (of_w ? size : channels)];
    *(of_w ? dw + i : db + (i - size)) = sum;
}

// dtable[k, d] = the sum of dy[n, d] over the samples with index[n] = k (tinyddpm/ops/linear.py). One thread per
// element of dtable, (classes, width).
extern "C" __global__ void embedding_backward(
    const scalar* dy, const long long* index, float* dtable, int samples, int width, long long size
) {
    long long i = element();
    if (i >= size) return;
    int d = i % width;
    float sum = 0;
    for (int n = 0; n < samples; n++) {
        if (index[n] == i / width) sum += load(dy[(size_t)n * width + d]);
    }
    dtable[i] = sum;
}
