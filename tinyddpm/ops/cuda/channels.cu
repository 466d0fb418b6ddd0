// Concatenation of two arrays along the channels, and its reverse: `concat` of tinyddpm/ops/resampling.py. Rows are
// pixels; threads are (strip, row).
#include "common.cuh"

// Two arrays and their concatenation, with the addresses of a pixel's channels in them.
struct Halves {
    scalar *a, *b, *both;
    int c_a, c_b;

    template <int lanes> __device__ Pack<lanes>* apart(size_t pixel, int c) const {
        return (Pack<lanes>*)(c < c_a ? a + pixel * c_a + c : b + pixel * c_b + c - c_a);
    }
    template <int lanes> __device__ Pack<lanes>* joined(size_t pixel, int c) const {
        return (Pack<lanes>*)(both + pixel * (c_a + c_b) + c);
    }
};

template <int lanes>
__device__ void join(const Halves& halves, int pixels) {
    auto read = [&](size_t pixel, int c) { return *halves.apart<lanes>(pixel, c); };
    auto write = [&](size_t pixel, int c, Pack<lanes> pack) { *halves.joined<lanes>(pixel, c) = pack; };
    by_rows<lanes>(pixels, halves.c_a + halves.c_b, read, write);
}

// y[pixel] = a[pixel], b[pixel]
extern "C" __global__ void joined(
    const scalar* a, const scalar* b, scalar* y, int pixels, int c_a, int c_b, int lanes
) {
    Halves halves = {(scalar*)a, (scalar*)b, y, c_a, c_b};
    if (lanes == PACK && in_packs<PACK>(a, b, y)) join<PACK>(halves, pixels);
    else join<1>(halves, pixels);
}

template <int lanes>
__device__ void part(const Halves& halves, int pixels) {
    auto read = [&](size_t pixel, int c) { return *halves.joined<lanes>(pixel, c); };
    auto write = [&](size_t pixel, int c, Pack<lanes> pack) { *halves.apart<lanes>(pixel, c) = pack; };
    by_rows<lanes>(pixels, halves.c_a + halves.c_b, read, write);
}

// da[pixel], db[pixel] = dy[pixel]
extern "C" __global__ void cut(
    const scalar* dy, scalar* da, scalar* db, int pixels, int c_a, int c_b, int lanes
) {
    Halves halves = {da, db, (scalar*)dy, c_a, c_b};
    if (lanes == PACK && in_packs<PACK>(dy, da, db)) part<PACK>(halves, pixels);
    else part<1>(halves, pixels);
}
