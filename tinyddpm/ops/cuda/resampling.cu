// Doubling and halving of NHWC images: tinyddpm/ops/resampling.py. Upsampling and average pooling are made of the
// same two kernels, each the other's transpose.
//
// One block a pixel of the coarse image, (n, i, j), its threads over the channels.
#include "common.cuh"

// Where the upper left of the four fine pixels under the coarse pixel of this block begins.
__device__ inline size_t fine_pixel(int width, int channels) {
    size_t j = blockIdx.x % width, row = blockIdx.x / width;  // row counts through all images, and so does 2 row
    return (2 * row * 2 * width + 2 * j) * channels;
}

// fine[n, 2i + (0|1), 2j + (0|1)] = coarse[n, i, j]
extern "C" __global__ void doubled(const scalar* coarse, scalar* fine, int width, int channels) {
    size_t right = channels, below = (size_t)2 * width * channels;
    scalar* corner = fine + fine_pixel(width, channels);
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
        scalar value = coarse[(size_t)blockIdx.x * channels + c];
        corner[c] = corner[right + c] = corner[below + c] = corner[below + right + c] = value;
    }
}

// coarse[n, i, j] = the sum of the four
extern "C" __global__ void squares_summed(const scalar* fine, scalar* coarse, int width, int channels) {
    size_t right = channels, below = (size_t)2 * width * channels;
    const scalar* corner = fine + fine_pixel(width, channels);
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
        float left_pair = load(corner[c]) + load(corner[below + c]);
        float right_pair = load(corner[right + c]) + load(corner[below + right + c]);
        coarse[(size_t)blockIdx.x * channels + c] = store(left_pair + right_pair);
    }
}
