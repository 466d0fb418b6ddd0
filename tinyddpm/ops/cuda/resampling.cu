// Doubling and halving of NHWC images (tinyddpm/ops/resampling.py). Upsampling and average pooling use the same two
// kernels, which are each other's transpose. Rows are pixels of the coarse image, (n, i, j); threads are (strip, row).
#include "common.cuh"

// The index of the upper left of the four fine pixels of a coarse pixel; `width` is that of the coarse image.
__device__ inline size_t fine_pixel(unsigned pixel, int width, int channels) {
    size_t row = pixel / width, j = pixel % width;  // row counts through all images, and so does 2 row
    return (2 * row * 2 * width + 2 * j) * channels;
}

template <int lanes>
__device__ void copy_to_four(const scalar* coarse, scalar* fine, int width, int channels, int pixels) {
    size_t right = channels, below = (size_t)2 * width * channels;
    auto read = [&](size_t pixel, int c) { return *(const Pack<lanes>*)(coarse + pixel * channels + c); };
    auto write = [&](unsigned pixel, int c, Pack<lanes> pack) {
        scalar* corner = fine + fine_pixel(pixel, width, channels) + c;
        *(Pack<lanes>*)corner = *(Pack<lanes>*)(corner + right) = pack;
        *(Pack<lanes>*)(corner + below) = *(Pack<lanes>*)(corner + below + right) = pack;
    };
    by_rows<lanes>(pixels, channels, read, write);
}

// fine[n, 2i + (0|1), 2j + (0|1)] = coarse[n, i, j]
extern "C" __global__ void doubled(
    const scalar* coarse, scalar* fine, int width, int channels, int pixels, int lanes
) {
    if (lanes == PACK && in_packs<PACK>(coarse, fine)) copy_to_four<PACK>(coarse, fine, width, channels, pixels);
    else copy_to_four<1>(coarse, fine, width, channels, pixels);
}

template <int lanes>
__device__ void sum_of_four(const scalar* fine, scalar* coarse, int width, int channels, int pixels) {
    size_t right = channels, below = (size_t)2 * width * channels;
    auto read = [&](unsigned pixel, int c) {
        const scalar* corner = fine + fine_pixel(pixel, width, channels) + c;
        float four[4][lanes], sum[lanes];
        load_pack<lanes>(corner, four[0]);
        load_pack<lanes>(corner + below, four[1]);
        load_pack<lanes>(corner + right, four[2]);
        load_pack<lanes>(corner + below + right, four[3]);
        for (int lane = 0; lane < lanes; lane++) {
            sum[lane] = (four[0][lane] + four[1][lane]) + (four[2][lane] + four[3][lane]);
        }
        return packed<lanes>(sum);
    };
    auto write = [&](size_t pixel, int c, Pack<lanes> pack) { *(Pack<lanes>*)(coarse + pixel * channels + c) = pack; };
    by_rows<lanes>(pixels, channels, read, write);
}

// coarse[n, i, j] = the sum of fine[n, 2i + (0|1), 2j + (0|1)]
extern "C" __global__ void squares_summed(
    const scalar* fine, scalar* coarse, int width, int channels, int pixels, int lanes
) {
    if (lanes == PACK && in_packs<PACK>(fine, coarse)) sum_of_four<PACK>(fine, coarse, width, channels, pixels);
    else sum_of_four<1>(fine, coarse, width, channels, pixels);
}
