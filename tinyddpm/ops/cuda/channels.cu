// Two arrays side by side along the channels, and apart again: `concat` of tinyddpm/ops/resampling.py. One block a pixel,
// its threads over the channels.
#include "common.cuh"

// y[pixel] = a[pixel], b[pixel]
extern "C" __global__ void joined(const scalar* a, const scalar* b, scalar* y, int c_a, int c_b) {
    size_t pixel = blockIdx.x;
    for (int c = threadIdx.x; c < c_a + c_b; c += blockDim.x) {
        y[pixel * (c_a + c_b) + c] = c < c_a ? a[pixel * c_a + c] : b[pixel * c_b + c - c_a];
    }
}

// da[pixel], db[pixel] = dy[pixel]
extern "C" __global__ void cut(const scalar* dy, scalar* da, scalar* db, int c_a, int c_b) {
    size_t pixel = blockIdx.x;
    for (int c = threadIdx.x; c < c_a + c_b; c += blockDim.x) {
        scalar value = dy[pixel * (c_a + c_b) + c];
        *(c < c_a ? da + pixel * c_a + c : db + pixel * c_b + c - c_a) = value;
    }
}
