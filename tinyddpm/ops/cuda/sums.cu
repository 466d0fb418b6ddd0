// Sums in a fixed order, the same in each run.
#include "common.cuh"

// What cuDNN leaves to do of a convolution's gradients: its dw, (c_out, taps, c_in), becomes float32 and (taps, c_in,
// c_out), and db is the sum of dy, (rows, c_out), over its rows. Blocks (32, 8): the first `tiles` of them turn 32 x 32
// numbers of a tap each. Each of the others adds up `each` rows of 32 channels, and the last to be done with its channels
// adds up what all of them have found, in order; `arrived` counts them, and is 0 again when it is left.
extern "C" __global__ void turned_gradients(
    const scalar* turned, const scalar* dy, float* dw, float* partial, float* db, unsigned* arrived, int taps, int c_in,
    int c_out, int rows, int each, int tiles
) {
    int across = (c_out + 31) / 32, block = blockIdx.x;
    if (block < tiles) {
        int down = (c_in + 31) / 32, tap = block / across / down;
        int first_i = block / across % down * 32, first_o = block % across * 32;
        float* tile = shared;  // (32, 33)
        for (int y = threadIdx.y; y < 32; y += blockDim.y) {
            int o = first_o + y, i = first_i + threadIdx.x;
            if (o < c_out && i < c_in) tile[y * 33 + threadIdx.x] = load(turned[((size_t)o * taps + tap) * c_in + i]);
        }
        __syncthreads();
        for (int y = threadIdx.y; y < 32; y += blockDim.y) {
            int i = first_i + y, o = first_o + threadIdx.x;
            if (o < c_out && i < c_in) dw[((size_t)tap * c_in + i) * c_out + o] = tile[threadIdx.x * 33 + y];
        }
        return;
    }
    block -= tiles;
    int chunk = block / across, chunks = (gridDim.x - tiles) / across, c = block % across * 32 + threadIdx.x;
    int first = chunk * each, last = min(first + each, rows);
    float* sums = shared;                                               // (blockDim.y, 32)
    unsigned* count = (unsigned*)(shared + blockDim.x * blockDim.y);  // (1)
    auto sum_over_y = [&](int begin, int end, auto value) {
        float sum = 0;
        for (int i = begin + threadIdx.y; c < c_out && i < end; i += blockDim.y) sum += value(i);
        sums[threadIdx.y * 32 + threadIdx.x] = sum;
        sum_columns(sums, 32);
        return sums[threadIdx.x];
    };
    float sum = sum_over_y(first, last, [&](int row) { return load(dy[(size_t)row * c_out + c]); });
    bool writes = threadIdx.y == 0 && c < c_out;
    if (writes) partial[(size_t)chunk * c_out + c] = sum;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0 && threadIdx.y == 0) *count = atomicInc(arrived + block % across, chunks - 1);
    __syncthreads();
    if (*count != chunks - 1) return;
    sum = sum_over_y(0, chunks, [&](int i) { return __ldcg(partial + (size_t)i * c_out + c); });
    if (writes) db[c] = sum;
}

// dw = the sum of its parts, (parts, size), and db of its own, (parts, channels). One thread an element of either.
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

// dtable[k, d] = the sum of dy[n, d] over the samples with index[n] = k (tinyddpm/ops/linear.py). One thread an element
// of dtable, (classes, width).
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
