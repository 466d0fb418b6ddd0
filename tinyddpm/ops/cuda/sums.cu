// Sums in a fixed order, the same in each run: no atomics.
#include "common.cuh"

// partial[chunk, c] = the sum of x[row, c] over `each` rows of (rows, channels), chunk = blockIdx.y. Block (32, 8):
// channels, and rows in turn.
extern "C" __global__ void column_sums(const scalar* x, float* partial, int rows, int channels, int each) {
    int c = blockIdx.x * blockDim.x + threadIdx.x, first = blockIdx.y * each, last = min(first + each, rows);
    float* sums = shared;  // (blockDim.y, blockDim.x)
    float sum = 0;
    if (c < channels) {
        for (int row = first + threadIdx.y; row < last; row += blockDim.y) sum += load(x[(size_t)row * channels + c]);
    }
    sums[threadIdx.y * blockDim.x + threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || c >= channels) return;
    for (int y = 1; y < blockDim.y; y++) sum += sums[y * blockDim.x + threadIdx.x];
    partial[(size_t)blockIdx.y * channels + c] = sum;
}

// total[i] = the sum of partial[part, i]; partial is (parts, size). One thread an element.
extern "C" __global__ void sum_of_parts(const float* partial, float* total, int parts, long long size) {
    long long i = element();
    if (i >= size) return;
    float sum = 0;
    for (int part = 0; part < parts; part++) sum += partial[part * size + i];
    total[i] = sum;
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
